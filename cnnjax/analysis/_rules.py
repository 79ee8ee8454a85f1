"""What each primitive does to the fields of its operands: what all rules have in common.

Every rule gets an equation, its operands (at least one of them seen, none unknown), its place and
a function that takes reports of misaligned merges; it returns a value for each result, or raises
`CannotFollowError`. Rules that need a law (`Course`) to go on lose it where the equation follows
none, and keep the exact edges.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from jax.extend import core

from cnnjax.analysis import _course, _edges
from cnnjax.analysis._course import Course
from cnnjax.analysis._values import Merge, Seen, Value, covers

__all__ = [
    "CannotFollowError",
    "Report",
    "Rule",
    "Shape",
    "contracted",
    "cut",
    "lost_elsewhere",
    "renumbered",
    "table",
    "the_seen",
    "widened",
]

Report: TypeAlias = Callable[[Merge], None]
Rule: TypeAlias = Callable[[core.JaxprEqn, list[Value], str, Report], Sequence[Value]]
Shape: TypeAlias = tuple[int, ...]


class CannotFollowError(Exception):
    """An equation whose results' fields the rules cannot tell; the text says why."""


def table(rules: dict[str, Rule]) -> Callable[..., Callable[[Rule], Rule]]:
    """A decorator that enters functions into a table under the names of primitives."""

    def rule(*names: str) -> Callable[[Rule], Rule]:
        def enter(function: Rule) -> Rule:
            rules.update(dict.fromkeys(names, function))
            return function

        return enter

    return rule


def the_seen(operands: Sequence[Value], number: int = 0) -> Seen:
    """The operand of this number, which must be the one that is seen."""
    value = operands[number]
    if not isinstance(value, Seen) or sum(isinstance(o, Seen) for o in operands) > 1:
        raise CannotFollowError("operands that steer it depend on the input")
    return value


def lost_elsewhere(law: Course, edges: np.ndarray, touched: Sequence[int]) -> bool:
    """Whether an operation on these axes treats elements apart that the law took together."""
    return any(axis != law.axis and _edges.differ(edges, axis) for axis in touched)


def widened(seen: Seen, ndim: int) -> Seen:
    """A scalar as an array of so many axes; arrays stay as they are."""
    if all(edges.ndim == ndim + 1 for edges in seen.edges):
        return seen
    edges = [e.reshape(2, *(1,) * ndim) if e.ndim == 1 else e for e in seen.edges]
    return Seen(edges, seen.courses, seen.tracked, seen.origin)


def renumbered(law: Course, gone: Sequence[int]) -> Course:
    """The law after these axes vanished."""
    if law.axis is None:
        return law
    if law.axis in gone:
        return law.fixed()
    return law.moved(law.axis - sum(axis < law.axis for axis in gone))


def cut(seen: Seen, shape: Shape, starts: Any, limits: Any, steps: Any) -> Seen:
    """A slice with steps."""
    touched = [
        axis
        for axis, size in enumerate(shape)
        if (starts[axis], limits[axis], steps[axis]) != (0, size, 1)
    ]

    def course(law: Course, edges: np.ndarray) -> Course | None:
        if lost_elsewhere(law, edges, touched):
            return None
        return law.strided(starts[law.axis], steps[law.axis]) if law.axis in touched else law

    return seen.moved(lambda e: _edges.sliced(e, starts, limits, steps), course)


def contracted(seen: Seen, shape: Shape, axes: Sequence[int]) -> Seen:
    """Each element of the result from all elements along these axes, which vanish."""

    def course(law: Course, edges: np.ndarray) -> Course | None:
        if law.axis is None or law.axis not in axes:
            return renumbered(law, axes)
        every = law.at(np.arange(shape[law.axis]))
        return Course(None, 0, every.max(axis=-1, keepdims=True))

    reduced = seen.moved(lambda e: _edges.reduced(e, axes), course, same_origin=False)
    # All of the image, as its borders have it, is all of it.
    courses = [
        _course.whole() if covers(edges, tracked) and law and law.axis is None else law
        for law, edges, tracked in zip(reduced.courses, reduced.edges, seen.tracked, strict=True)
    ]
    return Seen(reduced.edges, courses, seen.tracked)
