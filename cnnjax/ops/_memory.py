"""What is to be kept in memory, though XLA would compute it anew for every reader."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.ops._layers import ALWAYS_HOLDS, as_layer


def kept(function: Callable[..., Any], *arrays: jax.Array) -> Any:
    """`function(*arrays)`, whose results XLA's CPU backend keeps in memory for all who read them.

    Left alone it would compute them anew inside every reader, several times for each pixel, and
    it drops `lax.optimization_barrier` before it decides so. It does not look through a
    conditional; the condition is one that holds always, which the compiler does not see.
    """
    if jax.default_backend() != "cpu" or not arrays[0].size:
        return function(*arrays)
    condition = _holds(lax.stop_gradient(arrays[0]))

    def zeros(*arrays: jax.Array) -> Any:
        shapes = jax.eval_shape(function, *arrays)
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    return lax.cond(condition, function, zeros, *arrays)


@jax.custom_batching.custom_vmap
def _holds(x: jax.Array) -> jax.Array:
    if not x.size:
        return jnp.bool_(True)
    return as_layer(_equals_itself_or_not, ALWAYS_HOLDS)(x[(0,) * x.ndim])


def _equals_itself_or_not(value: jax.Array) -> jax.Array:
    return (value == value) | (value != value)


@_holds.def_vmap
def _holds_for_all(axis_size: int, in_batched: list[bool], x: jax.Array) -> tuple[jax.Array, bool]:
    # One condition for all: one each would turn the conditional into a selection.
    del axis_size, in_batched
    return _holds(x), False
