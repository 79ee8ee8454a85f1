"""Switches: which pixel won each window of a max pooling, and putting values back there."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import geometry
from cnnjax.geometry import Fit, Padding, PerAxis
from cnnjax.ops import _maximum, _runs
from cnnjax.ops._layers import as_layer, layer_name
from cnnjax.ops._windows import Windows
from cnnjax.ops.pool import pool_windows, sliding_axes

__all__ = ["max_pool_with_switches", "max_unpool"]


def max_pool_with_switches(
    x: jax.Array,
    *,
    window: PerAxis,
    stride: PerAxis | None = None,
    padding: Padding = "VALID",
    dilation: PerAxis = 1,
    fit: Fit = "floor",
) -> tuple[jax.Array, jax.Array]:
    """Maximum over each window, and the position of the pixel that it came from.

    Args:
      x: input of shape (*batch, *spatial, channels); any number of batch axes, none included.
      window: pixels of the window, one value an axis; a bare integer means two axes, (F, F).
      stride: step between windows; the window's own size by default.
      padding: "VALID", "SAME" (XLA's rule), an integer, or (low, high) pairs an axis.
      dilation: spacing of the window's pixels, as in `max_pool`.
      fit: "floor", "ceil" or "exact", as in `max_pool`.

    Returns:
      The maxima, as from `max_pool`, and the switches: int32 of the same shape, flat row-major
      positions in the image's spatial plane (for two axes row * width + column, padding not
      counted), as PyTorch's `return_indices`. Ties go to the first, a NaN wins over any number.

    Raises:
      ValueError: ranks or sizes that do not go together, or a window that sees only padding.

    >>> import jax.numpy as jnp
    >>> y, switches = max_pool_with_switches(jnp.arange(16.0).reshape(4, 4, 1), window=2)
    >>> switches[..., 0]
    Array([[ 5,  7],
           [13, 15]], dtype=int32)

    Source: Zeiler and Fergus, "Visualizing and understanding convolutional networks" (2013).
    """
    function = "max_pool_with_switches"
    windows = pool_windows(function, x, window, stride, padding, dilation, fit)
    name = windows.named(function)
    return as_layer(_max_pool_with_switches, name, windows=windows)(x)


def _max_pool_with_switches(x: jax.Array, *, windows: Windows) -> tuple[jax.Array, jax.Array]:
    axes = sliding_axes(windows)
    nothing: tuple[_runs.Bounds, ...] = ((),) * windows.rank
    out, taps = _maximum.maximum_and_tap(x.reshape(windows.flat_shape), nothing, axes)
    switches = _maximum.pixel_of(taps, nothing, axes, windows.spatial)
    shape = (*windows.batch, *windows.outputs, windows.channels)
    return out.reshape(shape), switches.reshape(shape)


def max_unpool(y: jax.Array, switches: jax.Array, output_shape: Sequence[int]) -> jax.Array:
    """Put each value back at the pixel that its switch names; zero everywhere else.

    Where several windows name one pixel, the last of them in row-major order is kept, as in
    PyTorch on one thread, but on every device; `max_unpool(*max_pool_with_switches(x, ...), ...)`
    thus keeps the maxima in place whether windows overlap or not.

    Args:
      y: values of shape (*batch, *spatial, channels).
      switches: integers of the shape of `y`, flat positions in the output's spatial plane.
      output_shape: pixels an axis of the output, without batch and channels.

    Returns:
      Array of shape (*batch, *output_shape, channels) and the dtype of `y`.

    Raises:
      TypeError: switches that are not integers.
      ValueError: shapes that do not go together; a position outside the output, where the
        values are known. Under `jit` such a value is dropped.

    >>> import jax.numpy as jnp
    >>> y, switches = max_pool_with_switches(jnp.arange(4.0).reshape(2, 2, 1), window=2)
    >>> max_unpool(y, switches, (2, 2))[..., 0]
    Array([[0., 0.],
           [0., 3.]], dtype=float32)

    Sibling: the gradient of `max_pool` sums where windows overlap; this keeps one.
    Source: Zeiler and Fergus (2013), section 2.1.
    """
    if not isinstance(output_shape, Sequence):
        raise TypeError(
            f"max_unpool: output_shape must hold the pixels of each spatial axis, got "
            f"{output_shape!r}"
        )
    rank = len(output_shape)
    sizes = geometry.per_axis("max_unpool", "output_shape", output_shape, rank)
    if y.shape != switches.shape:
        raise ValueError(
            f"max_unpool: every value needs its switch, got y of shape {y.shape} and switches of "
            f"shape {switches.shape}"
        )
    if rank < 1 or y.ndim < rank + 1:
        raise ValueError(
            f"max_unpool: output_shape {sizes} has {rank} spatial axes, so y needs at least "
            f"{rank + 1} axes (*batch, *spatial, channels), got shape {y.shape}"
        )
    if not jnp.issubdtype(switches.dtype, jnp.integer):
        raise TypeError(
            f"max_unpool: switches must be integers, flat positions, got dtype {switches.dtype}"
        )
    num_pixels = math.prod(sizes)
    if not isinstance(switches, jax.core.Tracer) and switches.size:
        lowest, highest = np.min(switches), np.max(switches)
        if lowest < 0 or highest >= num_pixels:
            raise ValueError(
                f"max_unpool: switches from {lowest} to {highest} do not fit an output of shape "
                f"{sizes}, whose positions are 0 to {num_pixels - 1}"
            )
    batch, channels = y.shape[: -rank - 1], y.shape[-1]
    flat = (math.prod(batch), math.prod(y.shape[-rank - 1 : -1]), channels)
    place = as_layer(_place, layer_name("max_unpool"), num_pixels=num_pixels)
    out = place(y.reshape(flat), switches.reshape(flat).astype(jnp.int32))
    return out.reshape(*batch, *sizes, channels)


def _place(y: jax.Array, switches: jax.Array, *, num_pixels: int) -> jax.Array:
    """(N, values, channels) to (N, num_pixels, channels): the last value of each pixel."""
    images, values, channels = y.shape
    image = np.arange(images).reshape(-1, 1, 1)
    channel = np.arange(channels).reshape(1, 1, -1)
    order = jnp.broadcast_to(np.arange(values, dtype=np.int32).reshape(1, -1, 1), y.shape)
    # Which value comes last is a maximum of integers: no order of updates to depend on, and what
    # remains is a gather, whose gradient goes to the value that was kept alone.
    nobody = jnp.full((images, num_pixels, channels), -1, jnp.int32)
    # JAX counts negative places from the end; one beyond the end is dropped, as it should be.
    switches = jnp.where(switches < 0, num_pixels, switches)
    last = nobody.at[image, switches, channel].max(order, mode="drop")
    kept = (
        jnp.take_along_axis(y, jnp.maximum(last, 0), axis=1) if values else nobody.astype(y.dtype)
    )
    return jnp.where(last >= 0, kept, jnp.zeros_like(kept))
