"""Convolution: a kernel slid over the spatial axes of a channels-last array."""

import jax
import jax.numpy as jnp

from cnnjax.geometry import Padding, PerAxis
from cnnjax.ops import _conv_checks as checks
from cnnjax.ops._conv_forms import correlate
from cnnjax.ops._depthwise import depthwise, suits
from cnnjax.ops._pointwise import pointwise
from cnnjax.ops._windows import Windows, check_floating

__all__ = ["conv"]


def conv(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    stride: PerAxis = 1,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    groups: int = 1,
) -> jax.Array:
    """Cross-correlate `x` with `kernel`, as every deep-learning framework calls convolution.

    out[..., u, k] = sum over taps t and channels c of x[..., u S + t d - low, c] kernel[t, c, k]
    (+ bias[k]), per group. The kernel decides the spatial rank: 1-D, 2-D and 3-D are the same
    function. Positions that do not fit are dropped (floor) as in every framework; ask
    `cnnjax.geometry.output_size`, whose default raises, whether that happens.

    Args:
      x: input of shape (*batch, *spatial, channels); any number of batch axes, none included.
      kernel: weights of shape (*window, channels // groups, num_filters), of the dtype of `x`.
      bias: one value a filter, shape (num_filters,), or None.
      stride: step of the window in pixels, one integer or one an axis.
      padding: "VALID", "SAME" (XLA's rule), "FULL", an integer, or (low, high) pairs an axis.
      dilation: spacing of the taps, 1 for none.
      groups: how many blocks the channels are split into; `channels` for a depthwise layer.

    Returns:
      Array of shape (*batch, *output_spatial, num_filters) and the dtype of `x`.

    Raises:
      TypeError: integer images, or dtypes that differ.
      ValueError: ranks, channels, groups or sizes that do not go together.

    >>> import jax.numpy as jnp
    >>> x = jnp.ones((2, 227, 227, 3))
    >>> conv(x, jnp.ones((11, 11, 3, 96)), stride=4).shape  # AlexNet's first layer
    (2, 55, 55, 96)

    The numbers are those of `jax.lax.conv_general_dilated`; the derivatives are laid out so that
    XLA's CPU backend keeps its fast path inside loops and its process alive (see
    `cnnjax/ops/_conv_forms.py`). `conv_as_matmul` is the same map by patches, `conv_matrix` its
    dense matrix, `conv_transpose` its adjoint, and `locally_connected` does not share the kernel.

    Source: LeCun et al., "Backpropagation Applied to Handwritten Zip Code Recognition" (1989).
    """
    rank = checks.check_kernel("conv", kernel.shape)
    windows = Windows.of(
        "conv", x.shape, kernel.shape[:-2], stride=stride, padding=padding, dilation=dilation
    )
    check_floating("conv", x=x, kernel=kernel, bias=bias)
    groups = checks.check_groups("conv", groups, windows.channels, kernel.shape)
    checks.check_bias("conv", bias, kernel.shape[-1])
    form = checks.form_of(windows, groups)
    flat = x.reshape(windows.flat_shape)
    if form.is_pointwise:
        out = pointwise(flat, kernel)
    elif suits(kernel, form):
        out = depthwise(flat, kernel, form)
    else:
        out = correlate(flat, kernel, form)
    if bias is not None:
        out = out + jnp.reshape(bias, (1,) * (rank + 1) + (-1,))
    return out.reshape(*windows.batch, *out.shape[1:])
