"""Which input pixels each element of an array can depend on: exact intervals, moved like data.

Along one axis of the input an element sees pixels from `first` to `last`. An array's *edges* are
the numbers (-first, last) of each element, stacked in front: shape (2, *shape). With that sign a
union of intervals is a maximum, so that whatever a program does to an array happens to its edges
with every sum turned into a maximum: a slice is a slice, padding pads with `EMPTY`, a convolution
is a sliding maximum. Axes along which the edges do not change have size 1.
"""

import functools
import math
from collections.abc import Iterable, Sequence

import numpy as np

__all__ = [
    "EMPTY",
    "accumulated",
    "along",
    "compressed",
    "concatenated",
    "differ",
    "expanded",
    "hull",
    "nothing",
    "padded",
    "pixels",
    "reduced",
    "reshaped",
    "sliced",
    "union",
    "window_hull",
]

# An element that sees nothing: below every pixel of any image, and its negation above.
EMPTY = -(2**30)

Shape = Sequence[int]


def pixels(shape: Shape, axis: int) -> np.ndarray:
    """Edges of the input itself: each element sees its own place along `axis`."""
    places = np.arange(shape[axis], dtype=np.int32)
    return np.stack([-places, places]).reshape(2, *along(shape, axis))


def nothing(ndim: int) -> np.ndarray:
    """Edges of an array that sees nothing."""
    return np.full((2,) + (1,) * ndim, EMPTY, np.int32)


def along(shape: Shape, axis: int) -> tuple[int, ...]:
    """The shape with ones everywhere but at `axis`."""
    return tuple(size if number == axis else 1 for number, size in enumerate(shape))


def expanded(edges: np.ndarray, shape: Shape, axes: Iterable[int]) -> np.ndarray:
    """The edges with these axes at their full size."""
    wanted = list(edges.shape)
    for axis in axes:
        wanted[axis + 1] = shape[axis]
    return np.broadcast_to(edges, wanted)


def compressed(edges: np.ndarray) -> np.ndarray:
    """The edges with size 1 along every axis where they do not change."""
    for axis in range(1, edges.ndim):
        if edges.shape[axis] > 1:
            one = edges.take([0], axis)
            if np.array_equal(np.broadcast_to(one, edges.shape), edges):
                edges = one
    return edges


def differ(edges: np.ndarray, axis: int) -> bool:
    """Whether elements that see anything see different pixels along an axis."""
    if edges.shape[axis + 1] == 1:
        return False
    most = edges.max(axis=axis + 1, keepdims=True)
    return bool(((edges != most) & (edges != EMPTY)).any())


def union(*all_edges: np.ndarray) -> np.ndarray:
    """What any of several arrays of one shape sees (scalars among them), element by element."""
    ndim = max(edges.ndim for edges in all_edges)
    # A scalar meets an array.
    wide = (e if e.ndim == ndim else e.reshape(2, *(1,) * (ndim - 1)) for e in all_edges)
    return compressed(functools.reduce(np.maximum, wide))


def hull(edges: np.ndarray) -> np.ndarray:
    """(-first, last) of all elements together."""
    return edges.max(axis=tuple(range(1, edges.ndim)), initial=EMPTY)


def reduced(edges: np.ndarray, axes: Iterable[int], *, keep: bool = False) -> np.ndarray:
    """The union along these axes, which vanish or keep size 1."""
    return edges.max(axis=tuple(axis + 1 for axis in axes), keepdims=keep, initial=EMPTY)


def accumulated(edges: np.ndarray, shape: Shape, axis: int, reverse: bool) -> np.ndarray:
    """The union with all that lies before (or after) along an axis, as a cumulative sum sees."""
    if edges.shape[axis + 1] == 1:
        return edges
    ordered = np.flip(edges, axis + 1) if reverse else edges
    result = np.maximum.accumulate(expanded(ordered, shape, [axis]), axis=axis + 1)
    return np.flip(result, axis + 1) if reverse else result


def sliced(edges: np.ndarray, starts: Shape, limits: Shape, steps: Shape) -> np.ndarray:
    """A slice with steps; axes of size 1 stay as they are."""
    index = [
        slice(None) if size == 1 else slice(start, limit, step)
        for size, start, limit, step in zip(edges.shape[1:], starts, limits, steps, strict=True)
    ]
    return edges[(slice(None), *index)]


def padded(
    edges: np.ndarray, shape: Shape, config: Sequence[tuple[int, int, int]], fill: np.ndarray
) -> np.ndarray:
    """Pad each axis by (low, high, interior) with what the padding value sees (`fill`, (2,))."""
    touched = [axis for axis, widths in enumerate(config) if any(widths)]
    edges = expanded(edges, shape, touched)
    for axis in touched:
        low, high, interior = config[axis]
        size = shape[axis]
        length = max(size + max(size - 1, 0) * interior + low + high, 0)
        wide = list(edges.shape)
        wide[axis + 1] = length
        result = np.empty(wide, np.int32)
        result[...] = fill.reshape(2, *(1,) * (edges.ndim - 1))
        places = low + np.arange(size) * (interior + 1)
        inside = np.flatnonzero((places >= 0) & (places < length))
        target = np.moveaxis(result, axis + 1, 0)
        target[places[inside]] = np.moveaxis(edges, axis + 1, 0)[inside]
        edges = result
    return edges


def window_hull(
    edges: np.ndarray,
    shape: Shape,
    axis: int,
    *,
    window: int,
    stride: int = 1,
    low: int = 0,
    high: int = 0,
    dilation: int = 1,
    base_dilation: int = 1,
) -> np.ndarray:
    """The union over the taps of a window that slides along one axis."""
    if window == stride == dilation == base_dilation == 1 and low == high == 0:
        return edges
    length = (shape[axis] - 1) * base_dilation + 1 + low + high
    count = max((length - (dilation * (window - 1) + 1)) // stride + 1, 0)
    if edges.shape[axis + 1] == 1:
        # Uniform stays uniform where every window meets at least one element.
        meets = np.zeros(count, bool)
        for tap in range(window):
            at = np.arange(count) * stride + tap * dilation - low
            meets |= (at >= 0) & (at < shape[axis] * base_dilation) & (at % base_dilation == 0)
        if meets.all():
            return edges
    none = np.full(2, EMPTY, np.int32)
    config = [(0, 0, 0)] * len(shape)
    config[axis] = (low, high, base_dilation - 1)
    wide = np.moveaxis(padded(expanded(edges, shape, [axis]), shape, config, none), axis + 1, 0)
    reach = (count - 1) * stride + 1
    taps = (wide[tap * dilation : tap * dilation + reach : stride] for tap in range(window))
    result = functools.reduce(np.maximum, taps) if count else wide[:0]
    return np.moveaxis(result, 0, axis + 1)


def concatenated(parts: Sequence[np.ndarray], shapes: Sequence[Shape], axis: int) -> np.ndarray:
    """Several arrays one after another along an axis."""
    ndim = len(shapes[0])
    common = [max(part.shape[number + 1] for part in parts) for number in range(ndim)]
    whole = []
    for part, shape in zip(parts, shapes, strict=True):
        wanted = [*common]
        wanted[axis] = shape[axis]
        whole.append(np.broadcast_to(part, (2, *wanted)))
    return compressed(np.concatenate(whole, axis=axis + 1))


def reshaped(edges: np.ndarray, old: Shape, new: Shape) -> np.ndarray:
    """The edges of a reshaped array; only axes that are split or merged reach full size."""
    if 0 in old or 0 in new:
        return nothing(len(new))
    at_full: list[int] = []
    result: list[int] = []
    for before, after in groups(old, new):
        uniform = all(edges.shape[axis + 1] == 1 for axis in before)
        at_full.extend([] if uniform else before)
        result.extend(1 if uniform else new[axis] for axis in after)
    return expanded(edges, old, at_full).reshape(2, *result)


def groups(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]]:
    """The finest groups of axes whose products agree: which axes become which in a reshape.

    >>> groups((2, 6, 5), (2, 3, 2, 5))
    [([0], [0]), ([1], [1, 2]), ([2], [3])]
    """
    found: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        before, after = [i] if i < len(old) else [], [j] if j < len(new) else []
        i, j = i + len(before), j + len(after)
        while (left := math.prod(old[a] for a in before)) != (
            right := math.prod(new[a] for a in after)
        ):
            if left < right:
                before.append(i)
                i += 1
            else:
                after.append(j)
                j += 1
        found.append((before, after))
    return found
