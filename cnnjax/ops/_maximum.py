"""The maximum over regions, which pixel won it, and a gradient made of gathers.

The gradient of the maximum needs to know which pixel of each region won: its *tap*, the
row-major place within the region, kept in the smallest integers that hold it. Backwards, each
pixel asks the few regions that see it whether it won there. That is a gather, where transposing
the forward pass would give a scatter, which XLA's CPU backend runs pixel by pixel.
`python -m experiments.benchmark --suite=ops` measures it.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.ops._runs import Axes, Axis, Bounds, Sliding, along, take, touched

# Up to so many regions over one pixel its gradient asks all of them at once; beyond, one axis
# after another, whose numbers add up instead of multiplying.
_MOST_COVERING = 16


def maximum(x: jax.Array, bounds: tuple[Bounds, ...], axes: Axes) -> jax.Array:
    """The maximum of each region, (N, *runs, channels); NaN where a region holds one."""
    if math.prod(axis.covering for axis in axes) <= _MOST_COVERING:
        return _maximum(x, bounds, axes)
    for number in reversed(range(len(axes))):
        # The other axes as they are: runs of one pixel.
        alone: list[Axis] = [Sliding(size, size, 1, 1, 0) for size in x.shape[1:-1]]
        edges: list[Bounds] = [()] * len(axes)
        alone[number], edges[number] = axes[number], bounds[number]
        x = _maximum(x, tuple(edges), tuple(alone))
    return x


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _maximum(x: jax.Array, bounds: tuple[Bounds, ...], axes: Axes) -> jax.Array:
    for number in touched(axes):
        taps = axes[number].taps(x, number + 1, bounds[number], _lowest(x.dtype))
        x = functools.reduce(jnp.maximum, taps)
    return x


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
    taps = jnp.zeros(x.shape, _tap_dtype(axes))
    # Axis by axis, the last one first: of the rows that hold the maximum the first one wins, and
    # in it the first pixel, which is row-major order at F + F instead of F x F comparisons.
    for number in touched(axes):
        weight = math.prod(axis.widest for axis in axes[number + 1 :])
        stage = functools.partial(_stage, bounds[number], axes[number], number + 1, weight)
        x, taps = _kept(stage, x, taps)
    return x, taps


@maximum_and_tap.defjvp
def _maximum_and_tap_jvp(axes: Axes, primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    (x, bounds), (x_dot, _) = primals, tangents
    out, taps = maximum_and_tap(x, bounds, axes)
    no_tangent = np.zeros(taps.shape, jax.dtypes.float0)
    return (out, taps), (_collect(x_dot, taps, bounds, axes), no_tangent)


def _stage(
    bounds: Bounds, axis: Axis, number: int, weight: int, x: jax.Array, taps: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Reduce one axis, carrying the places found on the axes after it."""
    pixels = axis.taps(x, number, bounds, _lowest(x.dtype))
    places = axis.taps(taps, number, bounds, 0)
    out = functools.reduce(jnp.maximum, pixels)
    found = places[-1] + taps.dtype.type((axis.widest - 1) * weight)
    for place in reversed(range(axis.widest)):
        # NaN is a maximum that equals nothing, itself included.
        wins = (pixels[place] == out) | (pixels[place] != pixels[place])
        seen = axis.seen(place)
        if seen is not None:  # What lies beyond the ends never wins, as low as all may be.
            wins = wins & seen.reshape([-1 if i == number else 1 for i in range(x.ndim)])
        found = jnp.where(wins, places[place] + taps.dtype.type(place * weight), found)
    return out, found


def pixel_of(
    taps: jax.Array, bounds: tuple[Bounds, ...], axes: Axes, spatial: tuple[int, ...]
) -> jax.Array:
    """The flat, row-major position in the image of each region's place `taps`."""
    position = jnp.zeros(taps.shape, jnp.int32)
    for number, axis in enumerate(axes):
        weight = math.prod(later.widest for later in axes[number + 1 :])
        place = (taps.astype(jnp.int32) // weight) % axis.widest
        start = jnp.asarray(axis.starts(bounds[number]), jnp.int32)
        pixel = place + along(start, number + 1, taps.ndim)
        position = position * spatial[number] + pixel
    return position


def _collect(
    x_dot: jax.Array, taps: jax.Array, bounds: tuple[Bounds, ...], axes: Axes
) -> jax.Array:
    """The value of x_dot at each region's winner: as a transpose.

    JAX transposes this once more in reverse mode, which gives `_spread` itself: gathers alone.
    """
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
        for number in touched(axes):
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


def _kept(function: Callable[..., Any], *arrays: jax.Array) -> Any:
    """`function(*arrays)`, whose results XLA's CPU backend keeps in memory for all who read them.

    Left alone it would compute them anew inside every reader, several times for each pixel, and
    it drops `lax.optimization_barrier` before it decides so. It does not look through a
    conditional; the condition is one that holds always, which the compiler does not see.
    """
    if jax.default_backend() != "cpu" or not arrays[0].size:
        return function(*arrays)
    condition = _holds(lax.stop_gradient(arrays[0]))

    def zeros(*arrays: jax.Array) -> Any:
        shapes = jax.eval_shape(function, *arrays)
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    return lax.cond(condition, function, zeros, *arrays)


@jax.custom_batching.custom_vmap
def _holds(x: jax.Array) -> jax.Array:
    if not x.size:
        return jnp.bool_(True)
    first = x[(0,) * x.ndim]
    return (first == first) | (first != first)


@_holds.def_vmap
def _holds_for_all(axis_size: int, in_batched: list[bool], x: jax.Array) -> tuple[jax.Array, bool]:
    # One condition for all: one each would turn the conditional into a selection.
    del axis_size, in_batched
    return _holds(x), False
