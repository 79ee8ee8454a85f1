"""Fractional pooling: regions of drawn sizes, so that an axis may shrink by less than two.

Three meanings of "overlapping" are about; here each has a name of its own. "overlapping_window":
windows of one fixed size at drawn places (Graham's programs, PyTorch). "overlapping_edge":
neighbours share one row or column (the paper's text). "overlapping_edge_clipped": the same laid
over the boundaries of disjoint regions, the last region cut off at the image's end (TensorFlow).
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cnnjax import geometry
from cnnjax.geometry import PerAxis
from cnnjax.ops import _drawing, _maximum, _runs, _total
from cnnjax.ops._drawing import Randomness, Ratio, Regions, Share
from cnnjax.ops._dtypes import check_mean, wide
from cnnjax.ops._layers import as_layer, layer_name

__all__ = [
    "average_over_grids",
    "fractional_avg_pool",
    "fractional_boundaries",
    "fractional_max_pool",
    "fractional_max_pool_with_switches",
    "fractional_sizes",
]


def fractional_max_pool(
    x: jax.Array,
    key: jax.Array | None = None,
    *,
    output_size: PerAxis | None = None,
    ratio: Ratio | None = None,
    window: PerAxis | None = None,
    randomness: Randomness = "pseudorandom",
    regions: Regions = "disjoint",
    share: Share = "image",
    u: Any = None,
) -> jax.Array:
    """Maximum over a grid of drawn regions: out[..., i, j, c] = max of x over rows i, columns j.

    Rows and columns are cut by boundaries that step by k or k + 1 pixels, k = floor(in / out), and
    end at the image's size; a region is the product of a run of rows and a run of columns. The
    output's size is static: one program for all keys, and `vmap` over keys. The gradient goes to
    each region's first maximum in row-major order. The boundaries of axis a are those that
    `fractional_boundaries` draws from `jax.random.fold_in(key, a)`, or, where images or channels
    have grids of their own, from its `jax.random.split` into a key for each.

    Args:
      x: input of shape (*batch, *spatial, channels); any number of batch axes, none included.
      key: a `jax.random.key`, unless `u` is given.
      output_size: runs an axis; a bare integer means two axes. Either this or `ratio`.
      ratio: in / out, at least 1, one number (two axes) or one an axis. The output has
        floor(in / ratio + 1/2) runs, the inverse of `fractional_sizes`, and at least one less
        than the input has pixels unless the ratio is 1.
      window: pixels of a run, for "overlapping_window" alone; by default the smallest window of
        at least 2 that leaves no pixel out.
      randomness: "pseudorandom" (one offset an axis, floor(a (j + u)), evenly spread) or "random"
        (steps in random order). The paper found the first better without augmentation.
      regions: "disjoint" (tiles), "overlapping_window" (fixed windows, as in PyTorch and
        Graham's programs), "overlapping_edge" (neighbours share one row or column, the paper's)
        or "overlapping_edge_clipped" (TensorFlow's).
      share: one grid for the whole "batch", for each "image" or for each image's "channel".
      u: pseudorandom offsets in [0, 1) in place of a key: shape (axes,) with share="batch",
        (*batch, axes) or (*batch, channels, axes); axes in order, so (height, width).

    Returns:
      Array of shape (*batch, *output_size, channels) and the dtype of `x`.

    Raises:
      TypeError: a key of the wrong kind, sizes that are not integers.
      ValueError: a ratio below 1, a size that the regions cannot reach, unknown names.

    >>> import jax, jax.numpy as jnp
    >>> x = jnp.arange(25.0).reshape(25, 1)
    >>> fractional_max_pool(x, jax.random.key(0), output_size=(18,)).shape
    (18, 1)
    >>> fractional_max_pool(jnp.ones((8, 36, 36, 3)), jax.random.key(0), ratio=2**0.5).shape
    (8, 25, 25, 3)

    Siblings: `max_pool` has its windows at fixed places; PyTorch's `FractionalMaxPool2d` is
    regions="overlapping_window", share="channel".
    Source: Graham, "Fractional max-pooling" (2014).
    """
    plan = _drawing.plan_pooling(
        "fractional_max_pool", x, key, output_size, ratio, window, randomness, regions, share, u
    )
    pool = as_layer(_maximum.maximum, layer_name("fractional_max_pool"), axes=plan.axes)
    return plan.restore(pool(plan.flat, plan.bounds))


def fractional_max_pool_with_switches(
    x: jax.Array,
    key: jax.Array | None = None,
    *,
    output_size: PerAxis | None = None,
    ratio: Ratio | None = None,
    window: PerAxis | None = None,
    randomness: Randomness = "pseudorandom",
    regions: Regions = "disjoint",
    share: Share = "image",
    u: Any = None,
) -> tuple[jax.Array, jax.Array]:
    """`fractional_max_pool`, and the position of the pixel that each maximum came from.

    Args:
      x: input of shape (*batch, *spatial, channels); any number of batch axes, none included.
      key: a `jax.random.key`, unless `u` is given.
      output_size: as in `fractional_max_pool`, like all that follow.
      ratio: in / out, at least 1.
      window: pixels of a run, for "overlapping_window" alone.
      randomness: "pseudorandom" or "random".
      regions: "disjoint", "overlapping_window", "overlapping_edge", "overlapping_edge_clipped".
      share: "batch", "image" or "channel".
      u: pseudorandom offsets in place of a key.

    Returns:
      The maxima and their switches: int32 of the same shape, flat row-major positions in the
      spatial plane, ties to the first; `max_unpool` takes them.

    Raises:
      TypeError: as `fractional_max_pool`.
      ValueError: as `fractional_max_pool`.

    >>> import jax, jax.numpy as jnp
    >>> x = jnp.arange(5.0).reshape(5, 1)
    >>> fractional_max_pool_with_switches(x, u=(0.5,), output_size=(3,))[1][:, 0]
    Array([1, 3, 4], dtype=int32)

    Source: Graham, "Fractional max-pooling" (2014).
    """
    function = "fractional_max_pool_with_switches"
    plan = _drawing.plan_pooling(
        function, x, key, output_size, ratio, window, randomness, regions, share, u
    )
    pool = as_layer(_max_with_switches, layer_name(function), axes=plan.axes)
    out, switches = pool(plan.flat, plan.bounds)
    return plan.restore(out), plan.restore(switches)


def _max_with_switches(
    x: jax.Array, bounds: tuple[_runs.Bounds, ...], *, axes: _runs.Axes
) -> tuple[jax.Array, jax.Array]:
    out, taps = _maximum.maximum_and_tap(x, bounds, axes)
    return out, _maximum.pixel_of(taps, bounds, axes, x.shape[1:-1])


def fractional_avg_pool(
    x: jax.Array,
    key: jax.Array | None = None,
    *,
    output_size: PerAxis | None = None,
    ratio: Ratio | None = None,
    window: PerAxis | None = None,
    randomness: Randomness = "pseudorandom",
    regions: Regions = "disjoint",
    share: Share = "image",
    u: Any = None,
) -> jax.Array:
    """Mean over a grid of drawn regions.

    Args:
      x: floating input of shape (*batch, *spatial, channels), any number of batch axes.
      key: a `jax.random.key`, unless `u` is given.
      output_size: as in `fractional_max_pool`, like all that follow.
      ratio: in / out, at least 1.
      window: pixels of a run, for "overlapping_window" alone.
      randomness: "pseudorandom" or "random".
      regions: "disjoint", "overlapping_window", "overlapping_edge", "overlapping_edge_clipped".
      share: "batch", "image" or "channel".
      u: pseudorandom offsets in place of a key.

    Returns:
      Array of shape (*batch, *output_size, channels) and the dtype of `x`; summed in float32 or
      wider.

    Raises:
      TypeError: integer input, whose mean would be floored; else as `fractional_max_pool`.
      ValueError: as `fractional_max_pool`.

    >>> import jax, jax.numpy as jnp
    >>> x = jnp.arange(5.0).reshape(5, 1)
    >>> fractional_avg_pool(x, u=(0.5,), output_size=(3,))[:, 0]
    Array([0.5, 2.5, 4. ], dtype=float32)

    Source: Graham (2014), of whose regions TensorFlow's `fractional_avg_pool` takes the mean.
    """
    check_mean("fractional_avg_pool", x)
    plan = _drawing.plan_pooling(
        "fractional_avg_pool", x, key, output_size, ratio, window, randomness, regions, share, u
    )
    pool = as_layer(_mean_of_regions, layer_name("fractional_avg_pool"), axes=plan.axes)
    return plan.restore(pool(plan.flat, plan.bounds))


def _mean_of_regions(
    x: jax.Array, bounds: tuple[_runs.Bounds, ...], *, axes: _runs.Axes
) -> jax.Array:
    out = _total.total(wide(x), bounds, axes)
    for number, (starts, ends) in enumerate(bounds):
        out = out / _runs.along(ends - starts, number + 1, out.ndim).astype(out.dtype)
    return out.astype(x.dtype)


def fractional_boundaries(
    key: jax.Array | None,
    size: int,
    output_size: int,
    *,
    window: int | None = None,
    randomness: Randomness = "pseudorandom",
    regions: Regions = "disjoint",
    u: Any = None,
) -> tuple[jax.Array, jax.Array]:
    """The runs of one axis: their first pixels and their ends, one past the last pixel.

    "disjoint": b_j = floor((j + u) a) - floor(u a) with a = in / out, run j is [b_j, b_(j+1)),
    or the same numbers of steps k and k + 1 in random order. "overlapping_window": starts by the
    same rule over in - window and out - 1. "overlapping_edge": boundaries over in - 1 pixels, both
    ends belonging to the run. All in integers, so that `jit`, `vmap` and eager agree bit for bit:
    of u nothing but floor(u in) matters.

    Args:
      key: a `jax.random.key`, or None where `u` is given.
      size: pixels of the axis, in.
      output_size: number of runs, out.
      window: pixels of a run, for "overlapping_window" alone.
      randomness: "pseudorandom" or "random".
      regions: "disjoint", "overlapping_window", "overlapping_edge", "overlapping_edge_clipped".
      u: the pseudorandom offset in [0, 1) in place of a key.

    Returns:
      Starts and ends, int32 of shape (output_size,).

    Raises:
      TypeError: a key of the wrong kind, sizes that are not integers.
      ValueError: a size that the regions cannot reach, unknown names.

    >>> starts, ends = fractional_boundaries(None, 7, 3, regions="overlapping_window", window=2,
    ...                                      u=0.3)
    >>> starts
    Array([0, 3, 5], dtype=int32)

    Source: Graham, "Fractional max-pooling" (2014), whose ceil(a (j + u)) breaks the rule of the
    steps at the ends; this form does not.
    """
    function = "fractional_boundaries"
    runs = _drawing.Runs.of(function, size, output_size, window, randomness, regions)
    key = _drawing.check_source(function, key, u, randomness)
    if key is not None:
        return runs.draw(key)
    return runs.from_offset(_drawing.offsets_of(function, u, ()))


def fractional_sizes(num_layers: int, ratio: float, *, window: int = 2) -> tuple[int, ...]:
    """Plan a net's sizes backwards from one pixel: convolution and pooling in turn.

    Graham's nets end in a convolution and a 1x1 classifier. Before each pooling to `out` pixels
    the volume has floor(out ratio + 1/2) of them, or one more where that changes nothing, and
    before each VALID convolution window - 1 more.

    Args:
      num_layers: number of fractional poolings.
      ratio: in / out of each pooling, above 1.
      window: taps of the convolutions between them; 1 for none.

    Returns:
      Pixels an axis, from the input on: sizes[2 i] enters convolution i, sizes[2 i + 1] pooling
      i, and the last two the last convolution and the classifier.

    Raises:
      TypeError: numbers of the wrong kind.
      ValueError: no layers, or a ratio of 1 or below.

    >>> fractional_sizes(6, 2**0.5)
    (36, 35, 25, 24, 17, 16, 11, 10, 7, 6, 4, 3, 2, 1)

    Source: Graham, "Fractional max-pooling" (2014), and his programs.
    """
    function = "fractional_sizes"
    (num_layers,) = geometry.per_axis(function, "num_layers", num_layers, 1)
    (window,) = geometry.per_axis(function, "window", window, 1)
    ratio = _drawing.check_ratio(function, ratio)
    if ratio == 1:
        raise ValueError(f"{function}: ratio must be above 1, got 1, which keeps every size")
    sizes = [1, window]
    for _ in range(num_layers):
        pooled = sizes[-1]
        before = max(math.floor(pooled * ratio + 0.5), pooled + 1)
        sizes += [before, before + window - 1]
    return tuple(reversed(sizes))


def average_over_grids(
    apply: Callable[[jax.Array, Any], Any],
    keys: jax.Array,
    x: Any,
    *,
    mapped: bool = False,
) -> Any:
    """Mean of `apply(key, x)` over keys: predictions over many grids, at test time.

    Args:
      apply: function of a key and `x`; what it returns, an array or a tree of arrays, is
        averaged as it is, so let it return probabilities.
      keys: `jax.random.split(key, num_grids)`, of shape (num_grids,).
      x: handed to `apply` each time.
      mapped: one grid after another in one compiled loop, in the memory of one; otherwise all
        grids at once under `vmap`.

    Returns:
      The mean, of the shape and dtype of `apply(keys[0], x)`; summed in float32 or wider.

    Raises:
      TypeError: keys of the wrong kind.
      ValueError: no keys.

    >>> import jax, jax.numpy as jnp
    >>> def apply(key, x):
    ...     return jnp.mean(fractional_max_pool(x, key, output_size=4), (-3, -2))
    >>> keys = jax.random.split(jax.random.key(0), 12)
    >>> average_over_grids(apply, keys, jnp.ones((2, 6, 6, 3))).shape
    (2, 3)

    Source: Graham (2014), section 5.
    """
    num_grids = _drawing.check_keys("average_over_grids", keys)
    shapes = jax.eval_shape(apply, keys[0], x)
    for leaf in jax.tree.leaves(shapes):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise TypeError(
                f"average_over_grids: apply returns {leaf.dtype}, whose mean would be floored; "
                "let it return probabilities, not labels"
            )
    if mapped:

        def add(total: Any, key: jax.Array) -> tuple[Any, None]:
            return jax.tree.map(lambda a, b: a + wide(b), total, apply(key, x)), None

        zeros = jax.tree.map(lambda leaf: wide(jnp.zeros(leaf.shape, leaf.dtype)), shapes)
        total, _ = jax.lax.scan(add, zeros, keys)
    else:
        every = jax.vmap(apply, in_axes=(0, None))(keys, x)
        total = jax.tree.map(lambda leaf: jnp.sum(wide(leaf), axis=0), every)
    return jax.tree.map(lambda a, leaf: (a / num_grids).astype(leaf.dtype), total, shapes)
