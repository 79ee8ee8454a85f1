"""Convolution: a kernel slid over the spatial axes of a channels-last array."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from cnnjax import geometry
from cnnjax.geometry import Padding, PerAxis

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

    The derivatives are those of `jax.lax.conv_general_dilated`, laid out so that XLA's CPU
    backend keeps its fast path inside loops (see `_conv_jvp`).
    """
    rank = kernel.ndim - 2
    if rank < 1:
        raise ValueError(
            "conv: kernel must have shape (*window, channels // groups, num_filters) with at "
            f"least one window axis, got {kernel.shape}"
        )
    if x.ndim < rank + 1:
        raise ValueError(
            f"conv: a kernel of shape {kernel.shape} slides over {rank} spatial axes, so x needs "
            f"at least {rank + 1} axes (*batch, *spatial, channels), got shape {x.shape}"
        )
    for name, array in (("x", x), ("kernel", kernel), ("bias", bias)):
        if array is not None and not jnp.issubdtype(array.dtype, jnp.inexact):
            raise TypeError(
                f"conv: {name} has dtype {array.dtype}; cast to a floating dtype first, images "
                "for example with x.astype(jnp.float32) / 255"
            )
        if array is not None and array.dtype != x.dtype:
            raise TypeError(
                f"conv: x has dtype {x.dtype} and {name} {array.dtype}; cast one to the other"
            )
    channels, num_filters = x.shape[-1], kernel.shape[-1]
    (groups,) = geometry.per_axis("conv", "groups", groups, 1)
    if channels % groups or num_filters % groups:
        raise ValueError(
            f"conv: groups={groups} must divide the {channels} channels of x and the "
            f"{num_filters} filters of the kernel"
        )
    if kernel.shape[-2] * groups != channels:
        raise ValueError(
            f"conv: x has {channels} channels in {groups} group(s), so the kernel needs "
            f"{channels // groups} input channels, got kernel shape {kernel.shape}"
        )
    if bias is not None and bias.shape != (num_filters,):
        raise ValueError(f"conv: bias must have shape ({num_filters},), got {bias.shape}")

    batch, spatial, window = x.shape[: -rank - 1], x.shape[-rank - 1 : -1], kernel.shape[:-2]
    strides = geometry.per_axis("conv", "stride", stride, rank)
    dilations = geometry.per_axis("conv", "dilation", dilation, rank)
    pairs = geometry.padding_pairs(
        "conv", padding, spatial, window, stride=strides, dilation=dilations
    )
    try:
        geometry.output_shape(
            spatial, window, stride=strides, padding=pairs, dilation=dilations, fit="floor"
        )
    except ValueError as error:
        raise ValueError(f"conv: {error}") from None

    flat = x.reshape(math.prod(batch), *x.shape[-rank - 1 :])
    out = _conv(flat, kernel, strides, pairs, dilations, groups)
    if bias is not None:
        out = out + jnp.reshape(bias, (1,) * (rank + 1) + (-1,))
    return out.reshape(*batch, *out.shape[1:])


def _conv_in_layout(
    x: jax.Array, kernel: jax.Array, statics: tuple, layout: lax.ConvDimensionNumbers
) -> jax.Array:
    strides, pairs, dilations, groups = statics
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=strides,
        padding=pairs,
        rhs_dilation=dilations,
        dimension_numbers=layout,
        feature_group_count=groups,
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4, 5))
def _conv(
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, ...],
    pairs: tuple[tuple[int, int], ...],
    dilations: tuple[int, ...],
    groups: int,
) -> jax.Array:
    rank = kernel.ndim - 2
    # (batch, feature, *spatial) of the input, (out, in, *window) of the kernel, as axis numbers.
    channels_last = (0, rank + 1, *range(1, rank + 1))
    layout = lax.ConvDimensionNumbers(channels_last, (rank + 1, rank, *range(rank)), channels_last)
    return _conv_in_layout(x, kernel, (strides, pairs, dilations, groups), layout)


def _conv_jvp(
    strides: tuple[int, ...],
    pairs: tuple[tuple[int, int], ...],
    dilations: tuple[int, ...],
    groups: int,
    primals: tuple[jax.Array, jax.Array],
    tangents: tuple[jax.Array | SymbolicZero, jax.Array | SymbolicZero],
) -> tuple[jax.Array, jax.Array]:
    """Derivative of a bilinear map, in the layouts whose transposes XLA's CPU backend likes.

    Reverse mode is the transpose of this rule, and JAX transposes a convolution by exchanging
    the roles of its axes. From the channels-last layout that gives convolutions which the CPU
    backend runs by a naive loop nest when they stand inside a `lax.scan` or `while` body, about
    twenty times slower than outside it. So each tangent is written in the layout whose
    transpose is the canonical one, with the exchange of axes as an explicit `transpose`: the
    input gradient becomes a channels-last convolution with the flipped kernel, the kernel
    gradient one with batch and channels exchanged. Standard primitives throughout, hence
    forward mode, higher orders and `vmap` hold as usual.
    `python -m experiments.benchmark --suite=forms` measures it.
    """
    x, kernel = primals
    x_dot, kernel_dot = tangents
    rank = kernel.ndim - 2
    statics = (strides, pairs, dilations, groups)
    channels_last = (0, rank + 1, *range(1, rank + 1))
    out = _conv(x, kernel, strides, pairs, dilations, groups)
    parts = []
    if not isinstance(x_dot, SymbolicZero):
        layout = lax.ConvDimensionNumbers(
            channels_last, (rank, rank + 1, *range(rank)), channels_last
        )
        parts.append(_conv_in_layout(x_dot, jnp.swapaxes(kernel, -1, -2), statics, layout))
    if not isinstance(kernel_dot, SymbolicZero):
        layout = lax.ConvDimensionNumbers(
            (rank + 1, 0, *range(1, rank + 1)),
            (rank + 1, 0, *range(1, rank + 1)),
            (rank, rank + 1, *range(rank)),
        )
        channels_first = (rank + 1, *range(1, rank + 1), 0)
        in_first = (rank, *range(rank), rank + 1)
        batch_inner = _conv_in_layout(
            x.transpose(channels_first), kernel_dot.transpose(in_first), statics, layout
        )
        parts.append(batch_inner.transpose(rank, *range(rank), rank + 1))
    return out, sum(parts[1:], parts[0])


_conv.defjvp(_conv_jvp, symbolic_zeros=True)
