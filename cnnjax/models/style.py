"""What the layers of one network share: norm, activation and dtypes.

Blocks are Flax modules with a `Style` among their attributes; inside `compact` it makes the layers
that the network's options ask for.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax.models.layers import BatchNorm, Conv

__all__ = ["ACTIVATIONS", "NORMS", "Style"]

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    # Graham's "very leaky" slope, as his programs have it.
    "very_leaky_relu": functools.partial(jax.nn.leaky_relu, negative_slope=0.333),
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
}
NORMS = ("batch", "group", "layer")
_MOST_GROUPS = 32
_ONES = nn.initializers.ones_init()


@dataclasses.dataclass(frozen=True)
class Style:
    """Norm, activation and dtypes of a network's layers.

    Attributes:
      norm: "batch", "group" (32 groups, or the largest number below that divides the channels),
        "layer" (over the channels of a position), None, or a function of `name` that gives a
        Flax module.
      activation: a key of `ACTIVATIONS`, or a function.
      dtype: compute dtype; that of the input by default.
      param_dtype: dtype the parameters are kept in.
      epsilon: what batch normalisation adds to the variance.

    >>> Style(activation="tanh").activate(jnp.zeros(2))
    Array([0., 0.], dtype=float32)
    """

    norm: str | Callable[..., nn.Module] | None = None
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    dtype: Any = None
    param_dtype: Any = jnp.float32
    epsilon: float = 1e-5

    @property
    def dtypes(self) -> dict[str, Any]:
        """Keyword arguments of a layer."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    def conv(self, name: str, features: int, window: int, **settings: Any) -> Conv:
        """A convolution with square windows."""
        return Conv(features, (window, window), name=name, **(self.dtypes | settings))

    def activate(self, x: jax.Array) -> jax.Array:
        """The activation function."""
        function = self.activation
        return (ACTIVATIONS[function] if isinstance(function, str) else function)(x)

    def normalize(
        self,
        name: str,
        x: jax.Array,
        train: bool,
        scale_init: nn.initializers.Initializer = _ONES,
    ) -> jax.Array:
        """The norm as the submodule of that name, or `x` itself where there is none.

        Args:
          name: of the submodule.
          x: (*batch, *spatial, channels).
          train: whether a batch's own statistics are used.
          scale_init: initialiser of the scale; a function as norm brings its own.
        """
        common = {"name": name, "scale_init": scale_init, **self.dtypes}
        if self.norm is None:
            return x
        if self.norm == "batch":
            return BatchNorm(epsilon=self.epsilon, **common)(x, train=train)
        if self.norm == "layer":
            return nn.LayerNorm(**common)(x)
        if self.norm == "group":
            channels = x.shape[-1]
            fitting = (g for g in range(min(_MOST_GROUPS, channels), 0, -1) if channels % g == 0)
            return nn.GroupNorm(next(fitting), **common)(x)
        return self.norm(name=name)(x)  # type: ignore[operator]
