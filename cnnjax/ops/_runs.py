"""Runs of pixels along one axis: under a window that slides, or between boundaries drawn.

A region of an image is the product of a run of rows and a run of columns, and so on for each
axis. Everything here works on flat batches, (N, *spatial, channels).
"""

import functools
import math
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax import geometry

# The first pixel and one past the last of each drawn run: () for an axis with a sliding window,
# two arrays of shape (runs,) shared by the batch, or of shape (N, runs).
Bounds: TypeAlias = tuple[jax.Array, ...]


@dataclass(frozen=True)
class Sliding:
    """Runs of `widest` pixels, `stride` apart, the first one starting `low` before the axis.

    The pixels of one run are `dilation` apart.
    """

    size: int
    num_runs: int
    widest: int
    stride: int
    low: int
    dilation: int = 1

    @property
    def span(self) -> int:
        """Pixels from a run's first to its last."""
        return geometry.window_span(self.widest, self.dilation)

    @property
    def period(self) -> int:
        """How many runs lie from one that sees a pixel to the next that may see it."""
        return self.dilation // math.gcd(self.stride, self.dilation)

    @property
    def covering(self) -> int:
        """The most runs that see one pixel."""
        return min(-(-self.span // (self.stride * self.period)), self.num_runs)

    @property
    def untouched(self) -> bool:
        """Whether each pixel is a run of its own, so that there is nothing to do."""
        return self.widest == self.stride == 1 and self.num_runs == self.size

    @property
    def tiles(self) -> bool:
        """Whether the runs touch without overlap or padding, from the first pixel on."""
        return (
            self.widest == self.stride
            and self.low == 0
            and self.dilation == 1
            and self.num_runs * self.widest <= self.size
        )

    def starts(self, bounds: Bounds) -> np.ndarray:
        """The first place of each run, which may lie before the axis."""
        del bounds
        return np.arange(self.num_runs) * self.stride - self.low

    def taps(self, x: jax.Array, axis: int, bounds: Bounds, fill: Any) -> list[jax.Array]:
        """For each place of a run its pixel in every run; `fill` beyond the ends of the axis."""
        del bounds
        reach = (self.num_runs - 1) * self.stride + 1
        high = self.span - 1 + reach - self.low - self.size
        padding = [(0, 0, 0)] * x.ndim
        # Pixels that no run reaches are left out by the slices; lax.pad would crop them too.
        padding[axis] = (self.low, max(high, 0), 0)
        padded = lax.pad(x, np.asarray(fill, x.dtype), padding) if any(padding[axis]) else x
        return [
            lax.slice_in_dim(padded, first, first + reach, self.stride, axis)
            for first in range(0, self.span, self.dilation)
        ]

    def seen(self, tap: int) -> np.ndarray | None:
        """Which runs have this place on the axis, not beyond its ends; None for all of them."""
        pixels = self.starts(()) + tap * self.dilation
        seen = (pixels >= 0) & (pixels < self.size)
        return None if seen.all() else seen

    def readers(self, bounds: Bounds) -> list[tuple[Any, Any, Any]]:
        """The runs that may see each pixel: which run, at which place, and whether it does."""
        del bounds
        pixels = np.arange(self.size) + self.low
        last = np.minimum(pixels // self.stride, self.num_runs - 1)
        # Runs that have a tap on the pixel solve pixel = run * stride + tap * dilation: they are
        # a period apart, and below the last run that starts in time is the last of them.
        common = math.gcd(self.stride, self.dilation)
        one = pixels // common * pow(self.stride // common, -1, self.period)
        last = last - (last - one) % self.period
        found = []
        for earlier in range(self.covering):
            run = last - earlier * self.period
            place, beside = np.divmod(pixels - run * self.stride, self.dilation)
            sees = (run >= 0) & (place < self.widest) & (beside == 0)
            found.append((np.maximum(run, 0), place, sees))
        return found


@dataclass(frozen=True)
class Drawn:
    """Runs whose bounds are arrays, of at most `widest` pixels, starting in rising order."""

    size: int
    num_runs: int
    widest: int
    covering: int
    dilation: ClassVar[int] = 1
    untouched: ClassVar[bool] = False

    def starts(self, bounds: Bounds) -> jax.Array:
        """The first pixel of each run."""
        return bounds[0]

    def taps(self, x: jax.Array, axis: int, bounds: Bounds, fill: Any) -> list[jax.Array]:
        """As `Sliding.taps`; places past a short run's end repeat its last pixel."""
        del fill
        starts, ends = bounds
        return [take(x, jnp.minimum(starts + tap, ends - 1), axis) for tap in range(self.widest)]

    def seen(self, tap: int) -> None:
        """Every place counts: a repeated pixel wins no tie, since the first one does."""
        del tap

    def readers(self, bounds: Bounds) -> list[tuple[Any, Any, Any]]:
        """As `Sliding.readers`."""
        starts, ends = bounds
        pixels = jnp.arange(self.size, dtype=starts.dtype)
        column = pixels.reshape((1,) * (starts.ndim - 1) + (-1, 1))
        last = jnp.sum(starts[..., None, :] <= column, axis=-1, dtype=starts.dtype) - 1
        pixels = jnp.broadcast_to(pixels.reshape((1,) * (starts.ndim - 1) + (-1,)), last.shape)
        found = []
        for earlier in range(self.covering):
            run = jnp.maximum(last - earlier, 0)
            first, end = (jnp.take_along_axis(edge, run, -1) for edge in (starts, ends))
            inside = (last >= earlier) & (first <= pixels) & (pixels < end)
            found.append((run, pixels - first, inside))
        return found


Axis: TypeAlias = Sliding | Drawn
Axes: TypeAlias = tuple[Axis, ...]


def take(x: jax.Array, places: Any, axis: int) -> jax.Array:
    """The slices of x at these places of one axis; places of shape (N, n) differ by image."""
    if places.ndim == 1:
        return jnp.take(x, places, axis, mode="clip")
    pick = functools.partial(jnp.take, axis=axis - 1, mode="clip")
    return jax.vmap(pick)(x, places)


def along(values: Any, axis: int, ndim: int) -> Any:
    """Values of one axis, (n,) or (N, n), in a shape that broadcasts against (N, ..., channels)."""
    shape = [1] * ndim
    shape[axis] = values.shape[-1]
    if values.ndim == 2:
        shape[0] = values.shape[0]
    return values.reshape(shape)


def touched(axes: Axes) -> list[int]:
    """The numbers of the axes that there is something to do for, the last one first."""
    return [number for number in reversed(range(len(axes))) if not axes[number].untouched]
