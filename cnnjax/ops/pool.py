"""Pooling: the maximum, the mean or the L2 norm of each window, channel by channel."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax import geometry
from cnnjax.geometry import Fit, Padding, PerAxis
from cnnjax.ops import _maximum, _runs, _total
from cnnjax.ops._dtypes import check_mean, wide
from cnnjax.ops._layers import as_layer, layer_name
from cnnjax.ops._windows import Windows

__all__ = ["avg_pool", "global_avg_pool", "global_max_pool", "l2_pool", "max_pool"]


def max_pool(
    x: jax.Array,
    *,
    window: PerAxis,
    stride: PerAxis | None = None,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    fit: Fit = "floor",
) -> jax.Array:
    """Maximum over each window: out[..., u, c] = max over taps t of x[..., u S + t - low, c].

    Padding never wins: it counts as the lowest value of the dtype. NaN in a window gives NaN.
    The gradient goes to the window's first maximum in row-major order, as in PyTorch (the mean
    over tied maxima, which `jnp.max` takes, differs wherever a ReLU left several zeros).

    Args:
      x: input of shape (*batch, *spatial, channels); any number of batch axes, none included.
      window: pixels of the window, one value an axis; a bare integer means two axes, (F, F).
      stride: step between windows; the window's own size (tiles that touch) by default.
      padding: "VALID", "SAME" (XLA's rule), an integer, or (low, high) pairs an axis.
      dilation: spacing of the window's pixels; F of them span d(F - 1) + 1.
      fit: "floor" leaves the pixels unseen that fill no window, "ceil" adds a window that hangs
        over the end (Caffe, GoogLeNet), "exact" raises when the windows do not tile the input.

    Returns:
      Array of shape (*batch, *output_spatial, channels) and the dtype of `x`.

    Raises:
      ValueError: ranks or sizes that do not go together, or a window that sees only padding.

    >>> import jax.numpy as jnp
    >>> x = jnp.arange(16.0).reshape(4, 4, 1)
    >>> max_pool(x, window=2)[..., 0]
    Array([[ 5.,  7.],
           [13., 15.]], dtype=float32)

    Siblings: `max_pool_with_switches` also says which pixel won, `fractional_max_pool` draws its
    windows, `avg_pool` takes the mean and must decide whether padding counts.
    """
    windows = pool_windows("max_pool", x, window, stride, padding, dilation, fit)
    return as_layer(_max_pool, windows.named("max_pool"), windows=windows)(x)


def _max_pool(x: jax.Array, *, windows: Windows) -> jax.Array:
    axes = sliding_axes(windows)
    out = _maximum.maximum(x.reshape(windows.flat_shape), ((),) * windows.rank, axes)
    return out.reshape(*windows.batch, *windows.outputs, windows.channels)


def avg_pool(
    x: jax.Array,
    *,
    window: PerAxis,
    stride: PerAxis | None = None,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    fit: Fit = "floor",
    count_padding: bool = False,
) -> jax.Array:
    """Mean over each window of the pixels it sees.

    Args:
      x: floating input of shape (*batch, *spatial, channels), any number of batch axes.
      window: pixels of the window, one value an axis; a bare integer means two axes, (F, F).
      stride: step between windows; the window's own size by default.
      padding: "VALID", "SAME" (XLA's rule), an integer, or (low, high) pairs an axis.
      dilation: spacing of the window's pixels; F of them span d(F - 1) + 1.
      fit: "floor", "ceil" or "exact", as in `max_pool`.
      count_padding: divide by the pixels seen (False, as Haiku does) or by the window's part
        that lies on the padded input (True, the default of Flax, Equinox and PyTorch). What
        `fit="ceil"` hangs over the end of the padding never counts.

    Returns:
      Array of shape (*batch, *output_spatial, channels) and the dtype of `x`.

    Raises:
      TypeError: integer input, whose mean would be floored.
      ValueError: ranks or sizes that do not go together, or a window that sees only padding.

    >>> import jax.numpy as jnp
    >>> avg_pool(jnp.ones((3, 3, 1)), window=2, stride=1, padding=1)[0, :, 0]
    Array([1., 1., 1., 1.], dtype=float32)
    >>> avg_pool(jnp.ones((3, 3, 1)), window=2, stride=1, padding=1, count_padding=True)[0, :, 0]
    Array([0.25, 0.5 , 0.5 , 0.25], dtype=float32)
    """
    check_mean("avg_pool", x)
    windows = pool_windows("avg_pool", x, window, stride, padding, dilation, fit)
    name = windows.named("avg_pool")
    return as_layer(_avg_pool, name, windows=windows, count_padding=bool(count_padding))(x)


def _avg_pool(x: jax.Array, *, windows: Windows, count_padding: bool) -> jax.Array:
    count = _pixels_counted(windows, count_padding)
    total = _window_sum(wide(x), windows)
    return (total / jnp.asarray(count, total.dtype)).astype(x.dtype)


def l2_pool(
    x: jax.Array,
    *,
    window: PerAxis,
    stride: PerAxis | None = None,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    fit: Fit = "floor",
) -> jax.Array:
    """L2 norm of each window: out[..., u, c] = sqrt(sum over taps t of x[..., u S + t - low, c]^2).

    The gradient x / out is taken as zero where a window holds nothing but zeros, which after a
    ReLU is common; `jnp.sqrt` alone, and PyTorch's `lp_pool2d`, give NaN there.

    Args:
      x: floating input of shape (*batch, *spatial, channels), any number of batch axes.
      window: pixels of the window, one value an axis; a bare integer means two axes, (F, F).
      stride: step between windows; the window's own size by default.
      padding: "VALID", "SAME" (XLA's rule), an integer, or (low, high) pairs an axis; it adds
        nothing to the norm.
      dilation: spacing of the window's pixels.
      fit: "floor", "ceil" or "exact", as in `max_pool`.

    Returns:
      Array of shape (*batch, *output_spatial, channels) and the dtype of `x`. Squares are summed
      in float32 or wider; beyond 1e19 (and below 1e-19) they overflow (vanish) in float32.

    Raises:
      TypeError: integer input.
      ValueError: ranks or sizes that do not go together, or a window that sees only padding.

    >>> import jax.numpy as jnp
    >>> l2_pool(jnp.array([[3.0, 0.0], [4.0, 0.0]])[..., None], window=2)
    Array([[[5.]]], dtype=float32)

    Sibling: the root of `avg_pool` of squares is this divided by the root of the pixels counted.
    Source: Hyvärinen and Köster, "Complex cell pooling and the statistics of natural images"
    (2007); CS231n course notes, "Convolutional Networks", general pooling.
    """
    check_mean("l2_pool", x)
    windows = pool_windows("l2_pool", x, window, stride, padding, dilation, fit)
    return as_layer(_l2_pool, windows.named("l2_pool"), windows=windows)(x)


def _l2_pool(x: jax.Array, *, windows: Windows) -> jax.Array:
    squares = _window_sum(jnp.square(wide(x)), windows)
    zero = squares == 0
    # The root of one instead of zero: the branch not taken has a gradient too, and 0 * inf is NaN.
    root = jnp.sqrt(jnp.where(zero, jnp.ones_like(squares), squares))
    return jnp.where(zero, jnp.zeros_like(root), root).astype(x.dtype)


def global_max_pool(x: jax.Array, *, num_spatial_axes: int = 2) -> jax.Array:
    """Maximum over the whole image: (*batch, *spatial, channels) to (*batch, channels).

    The gradient goes to the first maximum in row-major order, as in `max_pool`.

    Args:
      x: input of shape (*batch, *spatial, channels); any number of batch axes, none included.
      num_spatial_axes: how many axes before the channels are reduced, at least 1.

    Returns:
      Array of shape (*batch, channels) and the dtype of `x`.

    Raises:
      ValueError: too few axes, or an image without pixels.
      TypeError: `num_spatial_axes` that is not an integer.

    >>> import jax.numpy as jnp
    >>> global_max_pool(jnp.arange(12.0).reshape(2, 3, 2))
    Array([10., 11.], dtype=float32)

    Source: Oquab et al., "Is object localization for free?" (2015).
    """
    batch, pixels = _whole_image("global_max_pool", x, num_spatial_axes)
    shape = (math.prod(batch), pixels, x.shape[-1])
    return as_layer(_global_max, layer_name("global_max_pool"), batch=batch, shape=shape)(x)


def _global_max(x: jax.Array, *, batch: tuple[int, ...], shape: tuple[int, ...]) -> jax.Array:
    return _first_maximum(x.reshape(shape)).reshape(*batch, shape[-1])


def global_avg_pool(x: jax.Array, *, num_spatial_axes: int = 2) -> jax.Array:
    """Mean over the whole image: (*batch, *spatial, channels) to (*batch, channels).

    Args:
      x: floating input of shape (*batch, *spatial, channels); any number of batch axes.
      num_spatial_axes: how many axes before the channels are reduced, at least 1.

    Returns:
      Array of shape (*batch, channels) and the dtype of `x`, summed in float32 or wider.

    Raises:
      TypeError: integer input, or `num_spatial_axes` that is not an integer.
      ValueError: too few axes, or an image without pixels.

    >>> import jax.numpy as jnp
    >>> global_avg_pool(jnp.arange(12.0).reshape(2, 3, 2))
    Array([5., 6.], dtype=float32)

    Source: Lin, Chen and Yan, "Network in network" (2013).
    """
    check_mean("global_avg_pool", x)
    batch, pixels = _whole_image("global_avg_pool", x, num_spatial_axes)
    shape = (*batch, pixels, x.shape[-1])
    return as_layer(_global_mean, layer_name("global_avg_pool"), shape=shape)(x)


def _global_mean(x: jax.Array, *, shape: tuple[int, ...]) -> jax.Array:
    return (jnp.sum(wide(x).reshape(shape), axis=-2) / shape[-2]).astype(x.dtype)


def pool_windows(
    function: str,
    x: jax.Array,
    window: PerAxis,
    stride: PerAxis | None,
    padding: Padding,
    dilation: PerAxis,
    fit: Fit,
) -> Windows:
    """The windows of a pooling, every one of which sees at least one pixel."""
    windows = Windows.of(
        function, x.shape, window, stride=stride, padding=padding, dilation=dilation, fit=fit
    )
    spans = tuple(map(geometry.window_span, windows.window, windows.dilation))
    if any(span <= max(pair) for span, pair in zip(spans, windows.padding, strict=True)):
        raise ValueError(
            f"{function}: padding {windows.padding} must stay below the window {spans} on "
            "every axis, else a window sees only padding"
        )
    if max(windows.dilation) > 1 and not _pixels_counted(windows, count_padding=False).all():
        raise ValueError(
            f"{function}: a window of {windows.window} pixels, {windows.dilation} apart, at stride "
            f"{windows.stride} with padding {windows.padding} steps over all of the "
            f"{windows.spatial} pixels; use a smaller dilation or less padding"
        )
    return windows


def sliding_axes(windows: Windows) -> tuple[_runs.Sliding, ...]:
    """The windows as runs of pixels, axis by axis."""
    return tuple(
        _runs.Sliding(size, out, w, s, low, d)
        for size, out, w, s, (low, _), d in zip(
            windows.spatial,
            windows.outputs,
            windows.window,
            windows.stride,
            windows.padding,
            windows.dilation,
            strict=True,
        )
    )


def _window_sum(x: jax.Array, windows: Windows) -> jax.Array:
    flat = x.reshape(windows.flat_shape)
    total = _total.total(flat, ((),) * windows.rank, sliding_axes(windows))
    return total.reshape(*windows.batch, *windows.outputs, windows.channels)


def _pixels_counted(windows: Windows, count_padding: bool) -> np.ndarray:
    """How many pixels the mean of each window divides by, in a shape that broadcasts."""
    counts = np.ones((), int)
    for axis, size, (low, high) in zip(
        sliding_axes(windows), windows.spatial, windows.padding, strict=True
    ):
        first, last = (-low, size + high) if count_padding else (0, size)
        pixels = axis.starts(()).reshape(-1, 1) + np.arange(0, axis.span, axis.dilation)
        seen = np.sum((pixels >= first) & (pixels < last), axis=1)
        counts = np.multiply.outer(counts, seen)
    return counts.reshape((1,) * len(windows.batch) + (*windows.outputs, 1))


def _whole_image(function: str, x: jax.Array, num_spatial_axes: int) -> tuple[tuple[int, ...], int]:
    (rank,) = geometry.per_axis(function, "num_spatial_axes", num_spatial_axes, 1)
    if x.ndim < rank + 1:
        raise ValueError(
            f"{function}: {rank} spatial axes and the channels need at least {rank + 1} axes, "
            f"(*batch, *spatial, channels), got shape {x.shape}"
        )
    batch, spatial = x.shape[: -rank - 1], x.shape[-rank - 1 : -1]
    pixels = math.prod(spatial)
    if not pixels:
        raise ValueError(f"{function}: an image of shape {spatial} has no pixels to reduce")
    return batch, pixels


@jax.custom_jvp
def _first_maximum(x: jax.Array) -> jax.Array:
    return jnp.max(x, axis=1)


@_first_maximum.defjvp
def _first_maximum_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (x,), (x_dot,) = primals, tangents
    winner = jnp.argmax(lax.stop_gradient(x), axis=1, keepdims=True)
    places = lax.broadcasted_iota(winner.dtype, (1, x.shape[1], 1), 1)
    won = jnp.where(places == winner, x_dot, jnp.zeros_like(x_dot))
    return _first_maximum(x), jnp.sum(won, axis=1)
