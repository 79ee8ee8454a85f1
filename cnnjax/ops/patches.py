"""Convolution as a matrix product: patches as rows, patches put back, and the dense matrix."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax import geometry
from cnnjax.geometry import Padding, PerAxis
from cnnjax.ops import _conv_checks as checks
from cnnjax.ops._conv_forms import shifted_taps
from cnnjax.ops._windows import Windows, check_floating

__all__ = ["conv_as_matmul", "conv_matrix", "extract_patches", "fold_patches"]

# A slice a tap is the fastest form up to some ten by ten of them, from there on one gather; the
# program of the first grows with the taps, too.
_MOST_SLICES = 64


def extract_patches(
    x: jax.Array,
    window: PerAxis,
    *,
    stride: PerAxis = 1,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
) -> jax.Array:
    """What each window of a convolution sees, as one row a position (im2col).

    out[..., u, t * channels + c] = x[..., u S + t d - low, c], zero outside the image, with the
    taps t counted in row-major order. So the columns are those of `kernel.reshape(-1,
    num_filters)`: taps outermost, the last window axis faster than the first, channels fastest.

    Args:
      x: input of shape (*batch, *spatial, channels); any number of batch axes, none included.
      window: taps an axis; an integer stands for two axes.
      stride: step of the window in pixels, one integer or one an axis.
      padding: "VALID", "SAME" (XLA's rule), "FULL", an integer, or (low, high) pairs an axis.
      dilation: spacing of the taps, 1 for none.

    Returns:
      Array of shape (*batch, *output_spatial, taps * channels) and the dtype of `x`. Values are
      copied, so infinities and NaNs stay where they are.

    Raises:
      TypeError: integer images.
      ValueError: ranks or sizes that do not go together.

    >>> import jax.numpy as jnp
    >>> x = jnp.ones((227, 227, 3))
    >>> extract_patches(x, 11, stride=4).shape  # AlexNet's first layer: 55 * 55 = 3025 rows
    (55, 55, 363)
    >>> extract_patches(jnp.arange(5.0).reshape(5, 1), (3,), stride=2)
    Array([[0., 1., 2.],
           [2., 3., 4.]], dtype=float32)

    PyTorch's `unfold` has the channels outermost, c * taps + t, the positions flattened, and rows
    where these are columns: (batch, channels * taps, positions). `jax.lax`'s
    `conv_general_dilated_patches` has PyTorch's order too; it convolves with an identity kernel,
    which multiplies infinities by zero and so spreads NaNs. `fold_patches` is the adjoint.

    Source: Chellapilla, Puri and Simard, "High Performance Convolutional Neural Networks for
    Document Processing" (2006).
    """
    name = "extract_patches"
    windows = Windows.of(name, x.shape, window, stride=stride, padding=padding, dilation=dilation)
    check_floating(name, x=x)
    patches = _extract(x.reshape(windows.flat_shape), windows)
    return patches.reshape(*windows.batch, *windows.outputs, windows.taps * windows.channels)


def fold_patches(
    patches: jax.Array,
    output_shape: PerAxis,
    window: PerAxis,
    *,
    stride: PerAxis = 1,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
) -> jax.Array:
    """Put patches back where they were cut out, and add where they overlap (col2im).

    out[..., p, c] = sum of patches[..., u, t * channels + c] over all u and t with
    u S + t d - low = p: the adjoint of `extract_patches`, sum(extract_patches(x) * patches) ==
    sum(x * fold_patches(patches)), and its gradient. Not its inverse: a pixel that n windows see
    comes back n times. Fold patches of ones to divide by n.

    Args:
      patches: rows of shape (*batch, *output_spatial, taps * channels).
      output_shape: pixels of the image an axis, without batch axes and channels.
      window: taps an axis; an integer stands for two axes.
      stride: as given to `extract_patches`.
      padding: as given to `extract_patches`; what lies there is dropped.
      dilation: as given to `extract_patches`.

    Returns:
      Array of shape (*batch, *output_shape, channels) and the dtype of `patches`.

    Raises:
      TypeError: integer patches.
      ValueError: ranks or sizes that do not go together.

    >>> import jax.numpy as jnp
    >>> fold_patches(jnp.ones((2, 3)), (5,), (3,), stride=2).ravel()
    Array([1., 1., 2., 1., 1.], dtype=float32)

    PyTorch's `fold` is the same sum over its own order of the columns, for two axes.

    Source: as `extract_patches`.
    """
    name = "fold_patches"
    rank = len(window) if isinstance(window, Sequence) else 2
    sizes = geometry.per_axis(name, "output_shape", output_shape, rank)
    windows = Windows.of(
        name, (*sizes, 1), window, stride=stride, padding=padding, dilation=dilation
    )
    check_floating(name, patches=patches)
    batch, outputs = checks.split_output(name, "patches", patches.shape, rank)
    if outputs != windows.outputs:
        raise ValueError(
            f"{name}: an image of {sizes} has patches at {windows.outputs} positions, got "
            f"{outputs}; patches must have shape (*batch, *output_spatial, taps * channels)"
        )
    channels, rest = divmod(patches.shape[-1], windows.taps)
    if rest:
        raise ValueError(
            f"{name}: a window of {windows.taps} taps has a multiple of {windows.taps} columns, "
            f"got {patches.shape[-1]}"
        )
    flat = patches.reshape(math.prod(batch), *patches.shape[len(batch) :])
    return _fold(flat, windows).reshape(*batch, *sizes, channels)


def conv_as_matmul(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    stride: PerAxis = 1,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    groups: int = 1,
) -> jax.Array:
    """`conv`, computed as the product of `extract_patches(x)` and the kernel's filters as columns.

    out = extract_patches(x) @ kernel.reshape(-1, num_filters) (+ bias), a product a group.

    Args:
      x: input of shape (*batch, *spatial, channels); any number of batch axes, none included.
      kernel: weights of shape (*window, channels // groups, num_filters), of the dtype of `x`.
      bias: one value a filter, shape (num_filters,), or None.
      stride: as for `conv`.
      padding: as for `conv`.
      dilation: as for `conv`.
      groups: as for `conv`.

    Returns:
      Array of shape (*batch, *output_spatial, num_filters) and the dtype of `x`.

    Raises:
      TypeError: integer images, or dtypes that differ.
      ValueError: ranks, channels, groups or sizes that do not go together.

    >>> import jax.numpy as jnp
    >>> conv_as_matmul(jnp.ones((2, 9, 9, 3)), jnp.ones((3, 3, 3, 8)), stride=2).shape
    (2, 4, 4, 8)

    `conv` gives the same numbers up to rounding without holding the patches, which take as many
    times the memory of `x` as the window has taps (at stride 1).

    Source: as `extract_patches`.
    """
    name = "conv_as_matmul"
    rank = checks.check_kernel(name, kernel.shape)
    windows = Windows.of(
        name, x.shape, kernel.shape[:-2], stride=stride, padding=padding, dilation=dilation
    )
    check_floating(name, x=x, kernel=kernel, bias=bias)
    groups = checks.check_groups(name, groups, windows.channels, kernel.shape)
    checks.check_bias(name, bias, kernel.shape[-1])
    in_group, num_filters = kernel.shape[-2:]
    patches = _extract(x.reshape(windows.flat_shape), windows)
    if groups == 1:
        out = patches @ kernel.reshape(-1, num_filters)
    else:
        out = jnp.einsum(
            "nutgc,tcgk->nugk",
            patches.reshape(
                len(patches), math.prod(windows.outputs), windows.taps, groups, in_group
            ),
            kernel.reshape(windows.taps, in_group, groups, num_filters // groups),
        )
    out = out.reshape(*windows.batch, *windows.outputs, num_filters)
    if bias is not None:
        out = out + jnp.reshape(bias, (1,) * (len(windows.batch) + rank) + (-1,))
    return out


def conv_matrix(
    kernel: jax.Array,
    input_shape: PerAxis,
    *,
    stride: PerAxis = 1,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    groups: int = 1,
) -> jax.Array:
    """The dense matrix that a convolution of one image is: conv(x).ravel() == M @ x.ravel().

    M[(u, k), (p, c)] = kernel[t, c, k] where p = u S + t d - low for a tap t, and zero elsewhere:
    the same block of weights at every position, and mostly zeros.

    Args:
      kernel: weights of shape (*window, channels // groups, num_filters).
      input_shape: pixels of the image an axis, without batch axes and channels.
      stride: as for `conv`.
      padding: as for `conv`.
      dilation: as for `conv`.
      groups: as for `conv`.

    Returns:
      Array of shape (output pixels * num_filters, input pixels * channels) and the dtype of
      `kernel`. It grows with the square of the image: for small ones.

    Raises:
      TypeError: integer kernels.
      ValueError: ranks, groups or sizes that do not go together.

    >>> import jax.numpy as jnp
    >>> conv_matrix(jnp.array([1.0, 2.0, 3.0]).reshape(3, 1, 1), (5,))
    Array([[1., 2., 3., 0., 0.],
           [0., 1., 2., 3., 0.],
           [0., 0., 1., 2., 3.]], dtype=float32)

    `conv_transpose` is the product with the transposed matrix.

    Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning" (2016),
    section 4.1.
    """
    name = "conv_matrix"
    rank = checks.check_kernel(name, kernel.shape)
    sizes = geometry.per_axis(name, "input_shape", input_shape, rank)
    check_floating(name, kernel=kernel)
    windows = Windows.of(
        name, (*sizes, 1), kernel.shape[:-2], stride=stride, padding=padding, dilation=dilation
    )
    groups = checks.check_filters(name, "the result", groups, kernel.shape[-1], kernel.shape)
    in_group, num_filters = kernel.shape[-2:]
    blocks = kernel.reshape(windows.taps, in_group, num_filters)
    if groups > 1:
        # Filters of one group against channels of another: zeros, even if a weight is not finite.
        own = np.arange(num_filters) // (num_filters // groups)
        channels = np.arange(groups * in_group)
        same = (channels[:, np.newaxis] // in_group == own)[np.newaxis]
        blocks = jnp.where(same, blocks[:, channels % in_group], jnp.zeros((), kernel.dtype))
    with_none = jnp.pad(blocks, ((0, 1), (0, 0), (0, 0)))
    dense = with_none[_tap_between(windows)].transpose(0, 3, 1, 2)
    return dense.reshape(math.prod(windows.outputs) * num_filters, -1)


def _tap_between(windows: Windows) -> np.ndarray:
    """For each position and each pixel the tap that joins them, or the number of taps if none."""
    tap = np.zeros((1, 1), np.int32)
    joined = np.ones((1, 1), bool)
    for size, window, outputs, stride, (low, _), dilation in zip(
        windows.spatial,
        windows.window,
        windows.outputs,
        windows.stride,
        windows.padding,
        windows.dilation,
        strict=True,
    ):
        offset = np.arange(size) + low - np.arange(outputs)[:, np.newaxis] * stride
        on_axis, between = np.divmod(offset, dilation)
        sees = (between == 0) & (on_axis >= 0) & (on_axis < window)
        tap = np.kron(tap, np.full_like(on_axis, window)) + np.kron(np.ones_like(tap), on_axis)
        joined = np.kron(joined, sees)
    return np.where(joined, tap, windows.taps)


def _tap_indices(windows: Windows) -> tuple[np.ndarray, ...]:
    """For each axis the pixels of the extent that positions (first axes) and taps (last) see."""
    rank = windows.rank
    indices = []
    for axis in range(rank):
        n, w = windows.outputs[axis], windows.window[axis]
        steps = np.arange(n)[:, np.newaxis] * windows.stride[axis]
        pixels = steps + np.arange(w) * windows.dilation[axis]
        shape = [1] * (2 * rank)
        shape[axis], shape[rank + axis] = n, w
        indices.append(pixels.reshape(shape))
    return tuple(indices)


def _extract(x: jax.Array, windows: Windows) -> jax.Array:
    """Patches of (batch, *spatial, channels)."""
    form = checks.form_of(windows, 1)
    if windows.taps <= _MOST_SLICES:
        return jnp.concatenate(shifted_taps(x, form), axis=-1)
    x = jnp.pad(x, [(0, 0), *form.margins, (0, 0)])
    patches = x.at[(slice(None), *_tap_indices(windows))].get(mode="promise_in_bounds")
    return patches.reshape(len(x), *windows.outputs, windows.taps * windows.channels)


def _fold(patches: jax.Array, windows: Windows) -> jax.Array:
    """The adjoint of `_extract`."""
    channels = patches.shape[-1] // windows.taps
    form = checks.form_of(windows, 1)
    extents = form.extents
    if windows.taps > _MOST_SLICES:
        blocks = patches.reshape(len(patches), *windows.outputs, *windows.window, channels)
        total = jnp.zeros((len(patches), *extents, channels), patches.dtype)
        index = (slice(None), *_tap_indices(windows))
        total = total.at[index].add(blocks, mode="promise_in_bounds")
    else:
        zero = jnp.zeros((), patches.dtype)
        parts = []
        for tap, (start, end) in enumerate(form.tap_slices):
            margins = [
                (first, extent - last, step - 1)
                for first, last, extent, step in zip(
                    start, end, extents, windows.stride, strict=True
                )
            ]
            part = patches[..., tap * channels : (tap + 1) * channels]
            parts.append(lax.pad(part, zero, [(0, 0, 0), *margins, (0, 0, 0)]))
        total = sum(parts[1:], parts[0])
    seen = [
        slice(low, low + size)
        for (low, _), size in zip(windows.padding, windows.spatial, strict=True)
    ]
    total = total[(slice(None), *seen)]
    unseen = [
        (0, size - kept) for size, kept in zip(windows.spatial, total.shape[1:], strict=False)
    ]
    return jnp.pad(total, [(0, 0), *unseen, (0, 0)])
