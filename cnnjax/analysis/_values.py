"""What is known of a value of a traced program while its receptive field is followed."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from cnnjax.analysis import _course, _edges
from cnnjax.analysis._course import Course

__all__ = [
    "CONSTANT",
    "Constant",
    "Known",
    "Merge",
    "Seen",
    "Tracked",
    "Unknown",
    "Value",
    "branch",
    "covers",
    "join",
    "recovered",
    "varying",
]

_origins = itertools.count()


@dataclass(frozen=True)
class Constant:
    """A value that depends on no tracked input, such as a weight.

    Attributes:
      leaves: numbers of the program's inputs that it depends on.
    """

    leaves: frozenset[int] = frozenset()

    @staticmethod
    def of(values: "Sequence[Value]") -> "Constant":
        """What is computed of values none of which is seen."""
        return Constant(frozenset().union(*(v.leaves for v in values if isinstance(v, Constant))))


CONSTANT = Constant()


@dataclass(frozen=True, eq=False)
class Known:
    """A value that the trace itself determines, such as an index or a mask.

    Attributes:
      array: the value.
      fixed: whether the program makes it, so that its zeros mean something; an array of floats
        that a function closes over may be a weight, and then a zero is an accident.
    """

    array: Any
    fixed: bool = True

    @property
    def is_sparse(self) -> bool:
        """Whether it holds zeros that mean something, as a matrix that resizes images does.

        Nothing but zeros stands for weights that someone did not care to draw.
        """
        return self.fixed and bool(np.any(self.array)) and not bool(np.all(self.array))


@dataclass(frozen=True)
class Unknown:
    """A value that went through something that cannot be followed.

    Attributes:
      reasons: what and where, one sentence each.
    """

    reasons: tuple[str, ...]

    @staticmethod
    def among(values: "Sequence[Value]") -> "Unknown | None":
        """All that is unknown of these values, each reason once; None if nothing is."""
        reasons = [r for value in values if isinstance(value, Unknown) for r in value.reasons]
        return Unknown(tuple(dict.fromkeys(reasons))) if reasons else None


@dataclass(frozen=True)
class Tracked:
    """One spatial axis of one input."""

    axis: int
    size: int


@dataclass(frozen=True)
class Merge:
    """Paths that meet with different strides or centres, one pair of Araujo's conditions broken.

    Attributes:
      path: where in the program.
      operation: what joins the paths.
      axis: the input axis along which they differ.
      strides: effective stride of each path, in pixels.
      offset: largest distance between the centres of what the paths see, in pixels; None where
        the strides differ, so that it grows with the position.
    """

    path: str
    operation: str
    axis: int
    strides: tuple[Any, ...]
    offset: float | None


class Seen:
    """A value that depends on the tracked inputs.

    Attributes:
      edges: for each tracked axis what each element sees, as in `_edges`.
      courses: for each tracked axis the law of it, or None where there is none.
      origin: the computation whose result this is, or was cut out of. Pieces of one result that
        meet again are a window; results of two computations are paths of the network.
    """

    def __init__(
        self,
        edges: Sequence[np.ndarray],
        courses: Sequence[Course | None],
        tracked: Sequence[Tracked],
        origin: int | None = None,
    ):
        self.edges = tuple(edges)
        self.courses = tuple(map(recovered, courses, edges, tracked))
        self.tracked = tuple(tracked)
        self.origin = next(_origins) if origin is None else origin

    def moved(
        self,
        edges: Callable[[np.ndarray], np.ndarray],
        course: Callable[[Course, np.ndarray], Course | None],
        *,
        same_origin: bool = True,
    ) -> "Seen":
        """The value after elements were moved about, in the same way for every tracked axis."""
        return Seen(
            [edges(e) for e in self.edges],
            [
                None if c is None else course(c, e)
                for c, e in zip(self.courses, self.edges, strict=True)
            ],
            self.tracked,
            self.origin if same_origin else None,
        )

    def renewed(self) -> "Seen":
        """The same fields as the result of a computation of its own."""
        return Seen(self.edges, self.courses, self.tracked)

    def everything(self) -> "Seen":
        """The union over all elements, as a scalar."""
        edges = [_edges.hull(e) for e in self.edges]
        return Seen(edges, [None] * len(edges), self.tracked)


Value: TypeAlias = Constant | Known | Unknown | Seen


def varying(edges: np.ndarray) -> set[int]:
    """The axes along which elements see different pixels."""
    return {axis for axis, size in enumerate(edges.shape[1:]) if size > 1}


def covers(edges: np.ndarray, tracked: Tracked) -> bool:
    """Whether all elements see all of the image, as its borders have it."""
    return not varying(edges) and edges.reshape(2).tolist() == [0, tracked.size - 1]


def recovered(course: Course | None, edges: np.ndarray, tracked: Tracked) -> Course | None:
    """A law where there was none, when all elements see the same."""
    if course is not None or varying(edges):
        return course
    if covers(edges, tracked):
        return _course.whole()
    negated_first, last = (int(edge) for edge in edges.reshape(2))
    if last == _edges.EMPTY:
        return _course.constant(_course.WHOLE, -_course.WHOLE)
    return _course.constant(-negated_first, last)


def join(seen: Sequence[Seen], edges: Sequence[np.ndarray] | None = None) -> Seen:
    """Pieces of one array that meet again, by default element by element, as a window's taps do."""
    courses: list[Course | None] = []
    for pieces in zip(*(value.courses for value in seen), strict=True):
        present = [course for course in pieces if course is not None]
        try:
            courses.append(_course.joined(present) if len(present) == len(pieces) else None)
        except ValueError:
            courses.append(None)
    edges = _unions(seen) if edges is None else edges
    return Seen(edges, courses, seen[0].tracked, seen[0].origin)


def branch(
    seen: Sequence[Seen],
    path: str,
    operation: str,
    report: Callable[[Merge], None],
    edges: Sequence[np.ndarray] | None = None,
) -> Seen:
    """Paths that meet, element by element (or in `edges`); misaligned ones are reported."""
    courses: list[Course | None] = []
    for tracked, arms in zip(
        seen[0].tracked, zip(*(value.courses for value in seen), strict=True), strict=True
    ):
        present = [course for course in arms if course is not None]
        courses.append(_course.merged(present) if len(present) == len(arms) else None)
        strides, offset = misalignment(present)
        if strides:
            report(Merge(path, operation, tracked.axis, strides, offset))
    return Seen(_unions(seen) if edges is None else edges, courses, seen[0].tracked)


def _unions(seen: Sequence[Seen]) -> list[np.ndarray]:
    return [_edges.union(*edges) for edges in zip(*(s.edges for s in seen), strict=True)]


def misalignment(courses: Sequence[Course]) -> tuple[tuple[Any, ...], float | None]:
    """Strides and offset of paths that do not lie on each other; no strides if they do."""
    moving = [course for course in courses if course.axis is not None and not course.is_whole]
    strides = tuple(course.stride for course in moving)
    if len(moving) < 2:
        return (), None
    if len(set(strides)) > 1 or len({course.axis for course in moving}) > 1:
        return strides, None
    positions = np.arange(np.lcm.reduce([course.period for course in moving]))
    union = np.stack([course.at(positions)[0] for course in moving])  # (arms, 2, positions)
    # Elements that see nothing or everything have no centre to be off.
    counted = (np.abs(union) < _course.WHOLE // 2).all(axis=(0, 1))
    centers = (union[:, 1, counted] - union[:, 0, counted]) / 2
    offset = float(np.ptp(centers, axis=0).max(initial=0))
    return (strides, offset) if offset else ((), None)
