"""The maximum over regions, which pixel won it, and a gradient made of gathers.

The gradient of the maximum needs to know which pixel of each region won: its *tap*, the
row-major place within the region, kept in the smallest integers that hold it. Backwards, each
pixel asks the few regions that see it whether it won there: gathers, of all channels at once,
where transposing the forward pass would give scatters, which XLA's CPU backend runs number by
number.
`python -m experiments.benchmark --suite=ops` measures it.
"""

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.ops._memory import kept
from cnnjax.ops._runs import Axes, Axis, Bounds, Sliding, along, take, touched

# Up to so many pixels a region is searched, and its gradient handed out, in one piece; beyond,
# one axis after another, whose numbers add up instead of multiplying.
_MOST_PIXELS = 16


def maximum(x: jax.Array, bounds: tuple[Bounds, ...], axes: Axes) -> jax.Array:
    """The maximum of each region, (N, *runs, channels); NaN where a region holds one."""
    if _in_one_piece(axes):
        return _maximum(x, bounds, axes)
    for number in touched(axes):
        # The other axes as they are: runs of one pixel.
        alone: list[Axis] = [Sliding(size, size, 1, 1, 0) for size in x.shape[1:-1]]
        edges: list[Bounds] = [()] * len(axes)
        alone[number], edges[number] = axes[number], bounds[number]
        x = _maximum(x, tuple(edges), tuple(alone))
    return x


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _maximum(x: jax.Array, bounds: tuple[Bounds, ...], axes: Axes) -> jax.Array:
    return _largest(x, bounds, axes)


@_maximum.defjvp
def _maximum_jvp(axes: Axes, primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (x, bounds), (x_dot, _) = primals, tangents
    out, taps = maximum_and_tap(x, bounds, axes)
    return out, _collect(x_dot, taps, bounds, axes)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
@functools.partial(jax.jit, static_argnums=2)
def maximum_and_tap(
    x: jax.Array, bounds: tuple[Bounds, ...], axes: Axes
) -> tuple[jax.Array, jax.Array]:
    """The maximum of each region and the row-major place within it of its first pixel.

    The places count as if every region had the widest one's shape.
    """
    if _in_one_piece(axes) and not _is_plane(x):
        out = _largest(x, bounds, axes)
        return out, kept(functools.partial(_first, bounds, axes), x, out)
    taps = jnp.zeros(x.shape, _tap_dtype(axes))
    # The last axis first: of the rows that hold the maximum the first one wins, and in it the
    # first pixel, which is row-major order at F + F instead of F x F comparisons.
    for number in touched(axes):
        weight = math.prod(axis.widest for axis in axes[number + 1 :])
        stage = functools.partial(_stage, bounds[number], axes[number], number + 1, weight)
        x, taps = kept(stage, x, taps)
    return x, taps


@maximum_and_tap.defjvp
def _maximum_and_tap_jvp(axes: Axes, primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    (x, bounds), (x_dot, _) = primals, tangents
    out, taps = maximum_and_tap(x, bounds, axes)
    no_tangent = np.zeros(taps.shape, jax.dtypes.float0)
    return (out, taps), (_collect(x_dot, taps, bounds, axes), no_tangent)


def _in_one_piece(axes: Axes) -> bool:
    return math.prod(axis.widest for axis in axes) <= _MOST_PIXELS or len(touched(axes)) < 2


def _is_plane(x: jax.Array) -> bool:
    """Whether images have one channel: what then runs side by side are pixels of a row.

    Their gathers go pixel by pixel as well, and one scatter of the maxima's gradients is less
    work than several gathers for every pixel.
    """
    return x.shape[-1] == 1


def _largest(x: jax.Array, bounds: tuple[Bounds, ...], axes: Axes) -> jax.Array:
    for number in touched(axes):
        taps = axes[number].taps(x, number + 1, bounds[number], _lowest(x.dtype))
        x = functools.reduce(jnp.maximum, taps)
    return x


def _first(bounds: tuple[Bounds, ...], axes: Axes, x: jax.Array, maxima: jax.Array) -> jax.Array:
    """The row-major place within each region of the first pixel that is its maximum."""
    pixels, seen = [x], [np.ones((1,) * x.ndim, bool)]
    for number, axis in enumerate(axes):
        fill = _lowest(x.dtype)
        pixels = [tap for p in pixels for tap in axis.taps(p, number + 1, bounds[number], fill)]
        on_axis = [_along_or_all(axis.seen(tap), number + 1, x.ndim) for tap in range(axis.widest)]
        seen = [before & here for before in seen for here in on_axis]
    dtype = _tap_dtype(axes)
    return _first_of(pixels, seen, maxima, list(map(dtype, range(len(pixels)))))


def _stage(
    bounds: Bounds, axis: Axis, number: int, weight: int, x: jax.Array, taps: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Reduce one axis, carrying the places found on the axes after it."""
    pixels = axis.taps(x, number, bounds, _lowest(x.dtype))
    out = functools.reduce(jnp.maximum, pixels)
    places = [
        later + taps.dtype.type(place * weight)
        for place, later in enumerate(axis.taps(taps, number, bounds, 0))
    ]
    seen = [_along_or_all(axis.seen(place), number, x.ndim) for place in range(axis.widest)]
    return out, _first_of(pixels, seen, out, places)


def _first_of(
    pixels: list[jax.Array], seen: list[np.ndarray], maxima: jax.Array, places: list[Any]
) -> jax.Array:
    """The place of the first pixel that is the maximum."""
    found = jnp.broadcast_to(places[-1], maxima.shape)
    for pixel, sees, place in reversed(list(zip(pixels, seen, places, strict=True))):
        # NaN is a maximum that equals nothing, itself included.
        wins = (pixel == maxima) | (pixel != pixel)
        if not sees.all():  # What lies beyond the ends never wins, as low as all may be.
            wins = wins & sees
        found = jnp.where(wins, place, found)
    return found


def _along_or_all(seen: np.ndarray | None, axis: int, ndim: int) -> np.ndarray:
    return np.ones((1,) * ndim, bool) if seen is None else along(seen, axis, ndim)


def pixel_of(
    taps: jax.Array, bounds: tuple[Bounds, ...], axes: Axes, spatial: tuple[int, ...]
) -> jax.Array:
    """The flat, row-major position in the image of each region's place `taps`."""
    position = jnp.zeros(taps.shape, jnp.int32)
    for number, axis in enumerate(axes):
        weight = math.prod(later.widest for later in axes[number + 1 :])
        place = (taps.astype(jnp.int32) // weight) % axis.widest
        if axis.dilation > 1:
            place = place * axis.dilation
        start = jnp.asarray(axis.starts(bounds[number]), jnp.int32)
        pixel = place + along(start, number + 1, taps.ndim)
        position = position * spatial[number] + pixel
    return position


def _collect(
    x_dot: jax.Array, taps: jax.Array, bounds: tuple[Bounds, ...], axes: Axes
) -> jax.Array:
    """The value of x_dot at each region's winner."""
    many = math.prod(axis.covering for axis in axes) > _MOST_PIXELS
    if (_is_plane(x_dot) or many) and x_dot.size < 2**31:
        *spatial, channels = x_dot.shape[1:]
        positions = pixel_of(taps, bounds, axes, tuple(spatial))
        along_others = (1,) * len(spatial)
        image = np.arange(len(x_dot), dtype=np.int32).reshape(-1, *along_others, 1)
        channel = np.arange(channels, dtype=np.int32).reshape(1, *along_others, -1)
        places = (positions + image * math.prod(spatial)) * channels + channel
        return x_dot.reshape(-1).at[places].get(mode="promise_in_bounds")
    # As a transpose: JAX transposes this once more in reverse mode, which gives `_spread` itself,
    # gathers alone.
    shape = (len(x_dot), *(axis.num_runs for axis in axes), x_dot.shape[-1])
    struct = jax.ShapeDtypeStruct(shape, x_dot.dtype)
    (out,) = jax.linear_transpose(lambda g: _spread(g, taps, bounds, axes), struct)(x_dot)
    return out


@functools.partial(jax.jit, static_argnums=3)
def _spread(
    cotangent: jax.Array, taps: jax.Array, bounds: tuple[Bounds, ...], axes: Axes
) -> jax.Array:
    """Hand each region's cotangent to the pixel that won."""
    ndim = cotangent.ndim
    parts = []
    for readers in _combinations(axes, bounds):
        value, winner, place = cotangent, taps, 0
        inside: Any = np.ones((1,) * ndim, bool)
        # The first axis first: the other way around XLA transposes, and copies back.
        for number in reversed(touched(axes)):
            run, at, sees = readers[number]
            value = take(value, run, number + 1)
            winner = take(winner, run, number + 1)
            inside = inside & along(sees, number + 1, ndim)
            weight = math.prod(axis.widest for axis in axes[number + 1 :])
            place = place + along(at, number + 1, ndim) * weight
        wanted = jnp.where(inside, place, -1).astype(winner.dtype)
        parts.append(jnp.where(winner == wanted, value, jnp.zeros_like(value)))
    return functools.reduce(jnp.add, parts)


def _combinations(axes: Axes, bounds: tuple[Bounds, ...]) -> Iterator[tuple]:
    return itertools.product(
        *(axis.readers(edges) for axis, edges in zip(axes, bounds, strict=True))
    )


def _tap_dtype(axes: Axes) -> Any:
    last = math.prod(axis.widest for axis in axes) - 1
    return next(t for t in (jnp.int8, jnp.int16, jnp.int32) if last <= jnp.iinfo(t).max)


def _lowest(dtype: np.dtype) -> Any:
    if jnp.issubdtype(dtype, jnp.floating):
        return -np.inf
    return False if dtype == jnp.bool_ else jnp.iinfo(dtype).min
