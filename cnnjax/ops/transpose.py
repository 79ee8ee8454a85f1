"""Convolution backwards: the transposed convolution, and both gradients written out."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cnnjax import geometry
from cnnjax.geometry import Padding, PerAxis
from cnnjax.ops import _conv_checks as checks
from cnnjax.ops._conv_forms import gather_kernel, spread
from cnnjax.ops._layers import as_layer
from cnnjax.ops._windows import Windows, check_floating

__all__ = ["conv_input_gradient", "conv_kernel_gradient", "conv_transpose"]


def conv_transpose(
    y: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    stride: PerAxis = 1,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    groups: int = 1,
    output_shape: PerAxis | None = None,
) -> jax.Array:
    """The adjoint of `conv` in its input, with the same kernel array: what upsamples in decoders.

    out[..., p, c] = sum of y[..., u, k] kernel[t, c, k] over all u, t, k with u S + t d - low = p
    (+ bias[c]), per group, so that sum(conv(x, kernel) * y) == sum(x * conv_transpose(y, kernel))
    whenever the statics are equal. It is neither an inverse nor a resize.

    Args:
      y: input of shape (*batch, *spatial, num_filters): what `conv` with this kernel would give.
      kernel: the kernel of that `conv`, of shape (*window, channels // groups, num_filters) and
        the dtype of `y`. Mind that the channels of `y` come last in it.
      bias: one value a channel of the result, shape (channels,), or None.
      stride: step of the window over the result in pixels; so many times larger is the result.
      padding: that of `conv`: pixels around the result that are dropped. "VALID", "SAME", "FULL",
        an integer, or (low, high) pairs an axis.
      dilation: spacing of the taps, 1 for none.
      groups: how many blocks the channels are split into.
      output_shape: pixels of the result an axis, among the S sizes that `conv` takes to the
        size of `y`. By default the smallest, or size * S on axes with "SAME" padding.

    Returns:
      Array of shape (*batch, *output_shape, channels) and the dtype of `y`.

    Raises:
      TypeError: integer arrays, or dtypes that differ.
      ValueError: ranks, channels or groups that do not go together; an output_shape that `conv`
        does not take to the size of `y` (the message lists those that it does).

    >>> import jax.numpy as jnp
    >>> y = jnp.ones((2, 7, 7, 64))
    >>> conv_transpose(y, jnp.ones((4, 4, 32, 64)), stride=2, padding=1).shape
    (2, 14, 14, 32)
    >>> conv_transpose(y, jnp.ones((3, 3, 32, 64)), stride=2, padding=1).shape
    (2, 13, 13, 32)
    >>> conv_transpose(y, jnp.ones((3, 3, 32, 64)), stride=2, padding=1, output_shape=14).shape
    (2, 14, 14, 32)

    PyTorch's `conv_transpose2d` is the same function: its weight (in, out // groups, *window) is
    this kernel with the axes moved, its output_padding=p is the default size plus p. Keras's
    `Conv2DTranspose` and `jax.lax.conv_transpose(transpose_kernel=True)` agree for "SAME"; without
    that argument, as in Flax by default, the kernel is flipped and its last axes are exchanged.
    `conv_input_gradient` is the same map with the size required.

    Source: Zeiler, Krishnan, Taylor and Fergus, "Deconvolutional Networks" (2010); Dumoulin and
    Visin, "A guide to convolution arithmetic for deep learning" (2016), chapter 4.
    """
    name = "conv_transpose"
    rank = checks.check_kernel(name, kernel.shape)
    batch, outputs = checks.split_output(name, "y", y.shape, rank)
    check_floating(name, y=y, kernel=kernel, bias=bias)
    groups = checks.check_filters(name, "y", groups, y.shape[-1], kernel.shape)
    channels = kernel.shape[-2] * groups
    checks.check_bias(name, bias, channels)
    sizes = _image_sizes(
        name,
        outputs,
        kernel.shape[:-2],
        stride=stride,
        padding=padding,
        dilation=dilation,
        wanted=output_shape,
    )
    windows = checks.windows_over(
        name, sizes, kernel.shape[:-2], stride=stride, padding=padding, dilation=dilation
    )
    form = checks.form_of(windows, groups)
    transposed = as_layer(spread, windows.named("transposed_convolution"), form=form)
    out = transposed(checks.flatten_batch(y, rank), kernel)
    if bias is not None:
        out = out + jnp.reshape(bias, (1,) * (rank + 1) + (-1,))
    return out.reshape(*batch, *sizes, channels)


def conv_input_gradient(
    cotangent: jax.Array,
    kernel: jax.Array,
    input_shape: PerAxis,
    *,
    stride: PerAxis = 1,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    groups: int = 1,
) -> jax.Array:
    """Gradient of a loss with respect to the input of `conv`, from that to its output.

    A convolution itself: the spatially flipped filters, input and output channels exchanged,
    slide by single pixels over the cotangent, between whose pixels S - 1 zeros stand, padded by
    span - 1 - low: x_bar[..., p, c] = sum of cotangent[..., u, k] kernel[t, c, k] over all u, t,
    k with u S + t d - low = p, per group.

    Args:
      cotangent: gradient with respect to the output, (*batch, *output_spatial, num_filters).
      kernel: the kernel of `conv`, (*window, channels // groups, num_filters).
      input_shape: pixels of the input an axis, without batch axes and channels. The output does
        not tell them: S sizes have the same number of positions.
      stride: as given to `conv`.
      padding: as given to `conv`.
      dilation: as given to `conv`.
      groups: as given to `conv`.

    Returns:
      Array of shape (*batch, *input_shape, channels) and the dtype of `cotangent`.

    Raises:
      TypeError: integer arrays, or dtypes that differ.
      ValueError: ranks, channels, groups or sizes that do not go together.

    >>> import jax, jax.numpy as jnp
    >>> from cnnjax.ops import conv
    >>> x, kernel = jnp.arange(6.0).reshape(6, 1), jnp.array([1.0, 2.0, 3.0]).reshape(3, 1, 1)
    >>> conv_input_gradient(jnp.ones((2, 1)), kernel, (6,), stride=2).ravel()
    Array([1., 2., 4., 2., 3., 0.], dtype=float32)
    >>> jax.grad(lambda x: conv(x, kernel, stride=2).sum())(x).ravel()
    Array([1., 2., 4., 2., 3., 0.], dtype=float32)

    `conv_transpose` is the same map as a layer of its own, with a bias and a default size.

    Source: Rumelhart, Hinton and Williams (1986), for convolutions LeCun et al., "Backpropagation
    Applied to Handwritten Zip Code Recognition" (1989).
    """
    name = "conv_input_gradient"
    rank = checks.check_kernel(name, kernel.shape)
    batch, outputs = checks.split_output(name, "cotangent", cotangent.shape, rank)
    check_floating(name, cotangent=cotangent, kernel=kernel)
    groups = checks.check_filters(name, "cotangent", groups, cotangent.shape[-1], kernel.shape)
    sizes = geometry.per_axis(name, "input_shape", input_shape, rank)
    windows = checks.windows_over(
        name, sizes, kernel.shape[:-2], stride=stride, padding=padding, dilation=dilation
    )
    _check_outputs(name, outputs, windows)
    out = spread(checks.flatten_batch(cotangent, rank), kernel, checks.form_of(windows, groups))
    return out.reshape(*batch, *out.shape[1:])


def conv_kernel_gradient(
    x: jax.Array,
    cotangent: jax.Array,
    window: PerAxis,
    *,
    stride: PerAxis = 1,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    groups: int = 1,
) -> jax.Array:
    """Gradient of a loss with respect to the kernel of `conv`, from that to its output.

    A convolution itself: the cotangent, its pixels S apart, slides over the input in steps of
    the dilation, and what is summed over are the images: kernel_bar[t, c, k] = sum over images
    and positions u of x[..., u S + t d - low, c] cotangent[..., u, k], per group. The gradient
    with respect to the bias is the cotangent's sum over everything but its last axis.

    Args:
      x: the input of `conv`, (*batch, *spatial, channels).
      cotangent: gradient with respect to the output, (*batch, *output_spatial, num_filters).
      window: taps of the kernel; an integer stands for two axes.
      stride: as given to `conv`.
      padding: as given to `conv`.
      dilation: as given to `conv`.
      groups: as given to `conv`.

    Returns:
      Array of shape (*window, channels // groups, num_filters) and the dtype of `x`, summed over
      the batch.

    Raises:
      TypeError: integer arrays, or dtypes that differ.
      ValueError: ranks, channels, groups or sizes that do not go together.

    >>> import jax, jax.numpy as jnp
    >>> from cnnjax.ops import conv
    >>> x, kernel = jnp.arange(6.0).reshape(6, 1), jnp.array([1.0, 2.0, 3.0]).reshape(3, 1, 1)
    >>> conv_kernel_gradient(x, jnp.ones((2, 1)), (3,), stride=2).ravel()
    Array([2., 4., 6.], dtype=float32)
    >>> jax.grad(lambda kernel: conv(x, kernel, stride=2).sum())(kernel).ravel()
    Array([2., 4., 6.], dtype=float32)

    Source: as `conv_input_gradient`.
    """
    name = "conv_kernel_gradient"
    windows = Windows.of(name, x.shape, window, stride=stride, padding=padding, dilation=dilation)
    batch, outputs = checks.split_output(name, "cotangent", cotangent.shape, windows.rank)
    check_floating(name, x=x, cotangent=cotangent)
    if batch != windows.batch:
        raise ValueError(
            f"{name}: x has batch axes {windows.batch} and cotangent {batch}; give one cotangent "
            "for each image"
        )
    _check_outputs(name, outputs, windows)
    (groups,) = geometry.per_axis(name, "groups", groups, 1)
    if windows.channels % groups or cotangent.shape[-1] % groups:
        raise ValueError(
            f"{name}: groups={groups} must divide the {windows.channels} channels of x and the "
            f"{cotangent.shape[-1]} of cotangent"
        )
    return gather_kernel(
        x.reshape(windows.flat_shape),
        checks.flatten_batch(cotangent, windows.rank),
        checks.form_of(windows, groups),
    )


def _check_outputs(name: str, outputs: tuple[int, ...], windows: Windows) -> None:
    if outputs != windows.outputs:
        raise ValueError(
            f"{name}: conv takes {windows.spatial} pixels to {windows.outputs} positions, got a "
            f"cotangent of {outputs}"
        )


def _image_sizes(
    name: str,
    outputs: tuple[int, ...],
    window: tuple[int, ...],
    *,
    stride: PerAxis,
    padding: Padding,
    dilation: PerAxis,
    wanted: PerAxis | None,
) -> tuple[int, ...]:
    """Pixels an axis of an image that `conv` takes to these positions: those wanted, or default."""
    rank = len(outputs)
    strides = geometry.per_axis(name, "stride", stride, rank)
    dilations = geometry.per_axis(name, "dilation", dilation, rank)
    multiples = tuple(n * s for n, s in zip(outputs, strides, strict=True))
    # Only "SAME" padding depends on the image; for it this is the image.
    pairs = geometry.padding_pairs(
        name, padding, multiples, window, stride=strides, dilation=dilations
    )
    same = tuple(
        entry == "SAME"
        for entry in (
            padding
            if isinstance(padding, Sequence) and not isinstance(padding, str)
            else (padding,) * rank
        )
    )
    ranges = tuple(
        (
            max(n_s - s + 1 if keeps else n_s - s + geometry.window_span(w, d) - low - high, 1),
            n_s if keeps else n_s + geometry.window_span(w, d) - low - high - 1,
        )
        for n_s, s, w, d, (low, high), keeps in zip(
            multiples, strides, window, dilations, pairs, same, strict=True
        )
    )
    for axis, (smallest, largest) in enumerate(ranges):
        if largest < smallest:
            raise ValueError(
                f"{name}: y has {outputs[axis]} position(s) on spatial axis {axis}, fewer than "
                f"conv gives for any image with padding {pairs[axis]}; pad less"
            )
    if wanted is None:
        return tuple(
            largest if keeps else smallest
            for (smallest, largest), keeps in zip(ranges, same, strict=True)
        )
    sizes = geometry.per_axis(name, "output_shape", wanted, rank)
    if any(not low <= size <= high for size, (low, high) in zip(sizes, ranges, strict=True)):
        possible = ", ".join(f"{low} to {high}" for low, high in ranges)
        raise ValueError(
            f"{name}: conv does not take {sizes} pixels to the {outputs} positions of y; "
            f"output_shape must lie, axis by axis, in {possible}"
        )
    return sizes
