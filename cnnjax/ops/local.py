"""Locally connected layers: a window slides, but each position has a kernel of its own."""

import math

import jax
import jax.numpy as jnp

from cnnjax import geometry
from cnnjax.geometry import Padding, PerAxis
from cnnjax.ops import _conv_checks as checks
from cnnjax.ops._layers import as_layer
from cnnjax.ops._windows import Windows, check_floating
from cnnjax.ops.patches import extract_patches

__all__ = ["locally_connected", "unshare"]


def locally_connected(
    x: jax.Array,
    kernels: jax.Array,
    bias: jax.Array | None = None,
    *,
    stride: PerAxis = 1,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    groups: int = 1,
) -> jax.Array:
    """`conv` without sharing: out[..., u, k] is what position u's own kernel sees.

    out[..., u, k] = sum over taps t and channels c of x[..., u S + t d - low, c]
    kernels[u, t, c, k] (+ bias[k] or bias[u, k]), per group.

    Args:
      x: input of shape (*batch, *spatial, channels); any number of batch axes, none included.
      kernels: weights of shape (*output_spatial, *window, channels // groups, num_filters) and
        the dtype of `x`: `unshare` makes them from a shared kernel.
      bias: one value a filter, shape (num_filters,), or a filter and position,
        (*output_spatial, num_filters), or None.
      stride: step of the window in pixels, one integer or one an axis.
      padding: "VALID", "SAME" (XLA's rule), "FULL", an integer, or (low, high) pairs an axis.
      dilation: spacing of the taps, 1 for none.
      groups: how many blocks the channels are split into.

    Returns:
      Array of shape (*batch, *output_spatial, num_filters) and the dtype of `x`.

    Raises:
      TypeError: integer images, or dtypes that differ.
      ValueError: ranks, positions, channels or groups that do not go together.

    >>> import jax.numpy as jnp
    >>> kernels = jnp.ones((4, 4, 3, 3, 2, 5))  # 16 positions, each with its own 3x3 filters
    >>> locally_connected(jnp.ones((8, 6, 6, 2)), kernels).shape
    (8, 4, 4, 5)

    With equal kernels it is `conv`. Flax's `ConvLocal` has the taps and channels of a kernel in
    one axis, channels outermost; `jax.lax.conv_general_dilated_local`, which it calls, spreads
    NaNs where an image holds an infinity.

    Source: LeCun, "Generalization and Network Design Strategies" (1989); Taigman et al.,
    "DeepFace" (2014).
    """
    name = "locally_connected"
    if kernels.ndim < 4 or kernels.ndim % 2:
        raise ValueError(
            f"{name}: kernels must have shape (*output_spatial, *window, channels // groups, "
            "num_filters), as many positions' axes as window axes and at least one, got "
            f"{kernels.shape}; unshare(kernel, output_shape) makes them from a shared kernel"
        )
    rank = kernels.ndim // 2 - 1
    outputs, kernel_shape = kernels.shape[:rank], kernels.shape[rank:]
    windows = Windows.of(
        name, x.shape, kernel_shape[:-2], stride=stride, padding=padding, dilation=dilation
    )
    check_floating(name, x=x, kernels=kernels, bias=bias)
    if outputs != windows.outputs:
        raise ValueError(
            f"{name}: the window has {windows.outputs} positions on {windows.spatial} pixels, so "
            f"kernels needs these sizes in front, got shape {kernels.shape}"
        )
    groups = checks.check_groups(name, groups, windows.channels, kernel_shape)
    num_filters = kernel_shape[-1]
    if bias is not None and bias.shape not in ((num_filters,), (*outputs, num_filters)):
        raise ValueError(
            f"{name}: bias must have shape ({num_filters},) or {(*outputs, num_filters)}, got "
            f"{bias.shape}"
        )
    layer = as_layer(_own_products, windows.named(name), windows=windows, groups=groups)
    out = layer(x, kernels)
    if bias is not None:
        out = out + jnp.reshape(bias, (1,) * (out.ndim - bias.ndim) + bias.shape)
    return out


def _own_products(x: jax.Array, kernels: jax.Array, *, windows: Windows, groups: int) -> jax.Array:
    """The product of each position's patch and its own kernel."""
    in_group, num_filters = kernels.shape[-2:]
    patches = extract_patches(
        x.reshape(windows.flat_shape),
        windows.window,
        stride=windows.stride,
        padding=windows.padding,
        dilation=windows.dilation,
    )
    num_positions = math.prod(windows.outputs)
    out = jnp.einsum(
        "nutgc,utcgk->nugk",
        patches.reshape(len(patches), num_positions, windows.taps, groups, in_group),
        kernels.reshape(num_positions, windows.taps, in_group, groups, num_filters // groups),
    )
    return out.reshape(*windows.batch, *windows.outputs, num_filters)


def unshare(kernel: jax.Array, output_shape: PerAxis) -> jax.Array:
    """One copy of a shared kernel for each position: out[u] = kernel.

    Args:
      kernel: weights of shape (*window, channels // groups, num_filters).
      output_shape: positions an axis, those of `conv`'s output (`cnnjax.geometry.output_shape`).

    Returns:
      Array of shape (*output_shape, *kernel.shape), for `locally_connected`. Its gradient is the
      sum over the positions: sharing is what makes a convolution's gradient one.

    Raises:
      ValueError: a kernel without a window, or sizes for another number of axes.
      TypeError: sizes that are not integers.

    >>> import jax.numpy as jnp
    >>> unshare(jnp.ones((3, 3, 2, 5)), (4, 4)).shape
    (4, 4, 3, 3, 2, 5)

    Source: as `locally_connected`.
    """
    rank = checks.check_kernel("unshare", kernel.shape)
    positions = geometry.per_axis("unshare", "output_shape", output_shape, rank)
    return jnp.broadcast_to(kernel, (*positions, *kernel.shape))
