"""The sum over regions, each kind of run in the form that measures best.

`python -m experiments.benchmark --suite=ops` measures it.
"""

import functools
import itertools

import jax
import jax.numpy as jnp

from cnnjax.ops._runs import Axes, Axis, Bounds, Drawn, Sliding, along, take, touched


def total(x: jax.Array, bounds: tuple[Bounds, ...], axes: Axes) -> jax.Array:
    """The sum of each region, (N, *runs, channels)."""
    if all(isinstance(axis, Sliding) and axis.tiles for axis in axes):
        return _total_of_tiles(x, axes)
    # Sums of sums, an axis at a time.
    for number in touched(axes):
        axis = axes[number]
        # Slices with steps transpose to arrays with holes, which beat gathers; those without
        # steps transpose to one padded array a tap, which gathers beat.
        strided = isinstance(axis, Sliding) and axis.stride > 1
        along_axis = _add_along if strided else _total_along
        x = along_axis(x, bounds[number], axis, number + 1)
    return x


def _add_along(x: jax.Array, bounds: Bounds, axis: Axis, number: int) -> jax.Array:
    taps = axis.taps(x, number, bounds, 0)
    if isinstance(axis, Drawn):  # Places past a short run's end repeat its last pixel.
        starts, ends = bounds
        inside = (along(starts + place < ends, number, x.ndim) for place in range(axis.widest))
        taps = [jnp.where(i, tap, jnp.zeros_like(tap)) for i, tap in zip(inside, taps, strict=True)]
    return functools.reduce(jnp.add, taps)


_total_along = jax.custom_jvp(_add_along, nondiff_argnums=(2, 3))


@_total_along.defjvp
def _total_along_jvp(
    axis: Axis, number: int, primals: tuple, tangents: tuple
) -> tuple[jax.Array, jax.Array]:
    (x, bounds), (x_dot, _) = primals, tangents
    out = _total_along(x, bounds, axis, number)
    # A transpose, as in `_collect`, and for its reason.
    (out_dot,) = jax.linear_transpose(lambda g: _spread_along(g, bounds, axis, number), out)(x_dot)
    return out, out_dot


@functools.partial(jax.jit, static_argnums=(2, 3))
def _spread_along(cotangent: jax.Array, bounds: Bounds, axis: Axis, number: int) -> jax.Array:
    """Hand each run's cotangent to all of its pixels."""
    parts = []
    for run, _, sees in axis.readers(bounds):
        value = take(cotangent, run, number)
        sees = along(sees, number, value.ndim)
        parts.append(jnp.where(sees, value, jnp.zeros_like(value)))
    return functools.reduce(jnp.add, parts)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _total_of_tiles(x: jax.Array, axes: Axes) -> jax.Array:
    for number in touched(axes):
        x = _add_along(x, (), axes[number], number + 1)
    return x


@_total_of_tiles.defjvp
def _total_of_tiles_jvp(axes: Axes, primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (x,), (x_dot,) = primals, tangents
    # A sum over axes of their own transposes to one broadcast.
    tiled = x_dot[(slice(None), *(slice(axis.num_runs * axis.widest) for axis in axes))]
    split = itertools.chain(*((axis.num_runs, axis.widest) for axis in axes))
    tiled = tiled.reshape(len(x), *split, x.shape[-1])
    places = tuple(range(2, 2 * len(axes) + 1, 2))
    return _total_of_tiles(x, axes), jnp.sum(tiled, places)
