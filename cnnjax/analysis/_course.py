"""The law by which the field of a position depends on the position: a periodic progression.

Position u of an output axis sees input pixels from first(u) to last(u). In a chain of windows both
grow by the stride S with every position. After holes were put between positions (transposed
convolution, upsampling) they do so every `period` positions only. Such a law ignores the image's
borders: what lies in the padding counts as if the image went on, which is what the published sizes,
strides and paddings of receptive fields mean (Araujo, Norris and Sim, 2019).

Three fields are followed side by side: the union over all paths of the program, that of the
smallest path and that of the largest.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

__all__ = ["WHOLE", "Course", "constant", "identity", "joined", "merged", "whole"]

# The whole image, as far as the law knows; its negation is nothing at all.
WHOLE = 2**40
_SIGNS = np.array([-1, 1], np.int64)[:, None]


@dataclass(frozen=True, eq=False)
class Course:
    """Fields along one axis of an array.

    Attributes:
      axis: the array's axis that positions run along; None when all elements see the same.
      step: pixels that the field moves in one period.
      bounds: (-first, last) of each position of one period, for the union, the smallest and the
        largest path: shape (3, 2, period).
    """

    axis: int | None
    step: int
    bounds: np.ndarray

    @property
    def period(self) -> int:
        """Positions after which the law repeats."""
        return self.bounds.shape[-1]

    @property
    def stride(self) -> Fraction:
        """Pixels a position, on average over a period."""
        return Fraction(self.step, self.period)

    @property
    def is_whole(self) -> bool:
        """Whether all paths of all positions see the whole image."""
        return bool((self.bounds > WHOLE // 2).all())

    @property
    def is_still(self) -> bool:
        """Whether the law says nothing of the position: all is seen, or nothing."""
        return bool((np.abs(self.bounds) > WHOLE // 2).all())

    def at(self, positions: np.ndarray) -> np.ndarray:
        """(-first, last) at these positions, (3, 2, n)."""
        periods, places = np.divmod(positions, self.period)
        return _settled(self.bounds[..., places] + _SIGNS * periods * self.step)

    def moved(self, axis: int | None) -> "Course":
        """The same along another axis."""
        return Course(axis, self.step, self.bounds)

    def fixed(self) -> "Course":
        """What the first position sees, along no axis."""
        return Course(None, 0, self.at(np.zeros(1, np.int64)))

    def strided(self, start: int, stride: int) -> "Course":
        """Of positions start, start + stride, ... only."""
        period = self.period // math.gcd(self.period, stride)
        step = self.step * stride * period // self.period
        return _simplest(self.axis, step, self.at(start + stride * np.arange(period)))

    def spread(self, low: int, interior: int) -> "Course":
        """With `low` positions more in front, and holes that see nothing between positions."""
        places, holes = np.divmod(np.arange(self.period * (interior + 1)) - low, interior + 1)
        bounds = np.where(holes == 0, self.at(places), -WHOLE)
        return _simplest(self.axis, self.step, bounds)

    def windowed(self, window: int, stride: int, low: int, dilation: int, holes: int) -> "Course":
        """Of a window that slides over the positions, with `holes` put between them before."""
        wide = self.spread(low, holes)
        taps = [wide.strided(tap * dilation, stride) for tap in range(window)]
        return joined(taps)

    def repeated(self, times: int) -> "Course":
        """Each position `times` in a row."""
        return _simplest(self.axis, self.step, np.repeat(self.bounds, times, axis=-1))

    def divided(self, inner: int) -> "Course":
        """Of runs of `inner` positions, each run taken together."""
        return joined([self.strided(place, inner) for place in range(inner)])


def identity(axis: int) -> Course:
    """Of the input: each position sees itself."""
    return Course(axis, 1, np.zeros((3, 2, 1), np.int64))


def constant(first: int, last: int) -> Course:
    """Of elements that all see the same pixels."""
    return Course(None, 0, np.broadcast_to(np.array([[-first], [last]], np.int64), (3, 2, 1)))


def whole() -> Course:
    """Of elements that see the whole image."""
    return Course(None, 0, np.full((3, 2, 1), WHOLE, np.int64))


def joined(courses: Sequence[Course]) -> Course:
    """The union of pieces of one array, all of one stride: a window, not a choice of paths."""
    aligned = _in_common(courses)
    if aligned is None:
        raise ValueError("joined: pieces of one array have one stride")
    axis, step, bounds = aligned
    return _simplest(axis, step, np.max(bounds, axis=0))


def merged(courses: Sequence[Course]) -> Course | None:
    """Where paths meet: their union, the smallest and the largest; None if the strides differ."""
    aligned = _in_common(courses)
    if aligned is None:
        return None
    axis, step, bounds = aligned
    sizes = bounds.sum(axis=2, keepdims=True)
    empty = bounds[:, :, 1:] < -WHOLE // 2
    smallest = np.where(empty, 4 * WHOLE, sizes)[:, 1].argmin(axis=0)
    largest = np.where(empty, -4 * WHOLE, sizes)[:, 2].argmax(axis=0)
    chosen = [
        bounds[:, 0].max(axis=0),
        np.take_along_axis(bounds[:, 1], smallest[None], axis=0)[0],
        np.take_along_axis(bounds[:, 2], largest[None], axis=0)[0],
    ]
    return _simplest(axis, step, np.stack(chosen))


def _in_common(courses: Sequence[Course]) -> tuple[int | None, int, np.ndarray] | None:
    """One axis, one step and the bounds, (courses, 3, 2, period), if there are such."""
    moving = [course for course in courses if course.axis is not None and not course.is_still]
    others = [course for course in courses if course.axis is None and not course.is_still]
    if moving and others:
        return None
    if len({(course.axis, course.stride) for course in moving}) > 1:
        return None
    period = math.lcm(*(course.period for course in moving)) if moving else 1
    axis = moving[0].axis if moving else None
    step = int(moving[0].stride * period) if moving else 0
    positions = np.arange(period)
    return axis, step, np.stack([course.at(positions) for course in courses])


def _settled(bounds: np.ndarray) -> np.ndarray:
    """With what is everything or nothing at its own number again, wherever it was moved."""
    bounds = np.where(bounds > WHOLE // 2, WHOLE, bounds)
    return np.where(bounds < -WHOLE // 2, -WHOLE, bounds)


def _simplest(axis: int | None, step: int, bounds: np.ndarray) -> Course:
    """With the shortest period that says the same."""
    period = bounds.shape[-1]
    whole = Course(axis, step, _settled(bounds))
    for shorter in range(1, period):
        if period % shorter == 0 and step * shorter % period == 0:
            candidate = Course(axis, step * shorter // period, whole.bounds[..., :shorter])
            if np.array_equal(candidate.at(np.arange(period)), whole.bounds):
                return candidate
    return whole
