"""What dtypes a function takes, and in which it adds up."""

import jax
import jax.numpy as jnp


def check_mean(function: str, x: jax.Array) -> None:
    """Refuse integers, whose mean would be floored."""
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise TypeError(
            f"{function}: x has dtype {x.dtype}, whose mean would be floored; cast to a floating "
            "dtype first, for example x.astype(jnp.float32)"
        )


def wide(x: jax.Array) -> jax.Array:
    """At least 32 bits to add up in: in bfloat16 a sum of ones stops at 256."""
    # Not by jnp.promote_types, which refuses where a caller has set promotion to "strict".
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x
