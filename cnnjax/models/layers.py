"""Flax modules that are the partial application of a pure function of `cnnjax.ops`."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import ops
from cnnjax.geometry import Padding

__all__ = ["Conv"]


class Conv(nn.Module):
    """`cnnjax.ops.conv` with its kernel and bias as parameters.

    Attributes:
      features: number of filters.
      window: taps an axis, one value an axis.
      stride: step of the window in pixels.
      padding: as in `cnnjax.ops.conv`.
      dilation: spacing of the taps.
      groups: blocks the channels are split into.
      use_bias: whether each filter has a bias.
      kernel_init: initialiser; He normal by default (He et al., 2015).
      dtype: compute dtype; that of the input by default.
      param_dtype: dtype the parameters are kept in.

    >>> import jax, jax.numpy as jnp
    >>> layer = Conv(8, (3, 3), padding="SAME")
    >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 5, 5, 3)))
    >>> jax.tree.map(jnp.shape, variables["params"])
    {'bias': (8,), 'kernel': (3, 3, 3, 8)}
    """

    features: int
    window: tuple[int, ...]
    stride: int | tuple[int, ...] = 1
    padding: Padding = "VALID"
    dilation: int | tuple[int, ...] = 1
    groups: int = 1
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolve (*batch, *spatial, channels) to (*batch, *output_spatial, features)."""
        shape = (*self.window, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = None
        if self.use_bias:
            bias = self.param(
                "bias", nn.initializers.zeros_init(), (self.features,), self.param_dtype
            )
        dtype = self.dtype or x.dtype
        x, kernel = x.astype(dtype), kernel.astype(dtype)
        bias = None if bias is None else bias.astype(dtype)
        return ops.conv(
            x,
            kernel,
            bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )
