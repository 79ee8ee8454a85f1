"""Rules of what moves elements about, and the slices that loops take and put together."""

import math
from collections.abc import Sequence

import numpy as np
from jax.extend import core

from cnnjax.analysis import _edges
from cnnjax.analysis._course import Course
from cnnjax.analysis._equations import shape_of
from cnnjax.analysis._rules import (
    Report,
    Rule,
    Shape,
    cut,
    lost_elsewhere,
    renumbered,
    table,
    the_seen,
)
from cnnjax.analysis._values import (
    Constant,
    Known,
    Merge,
    Seen,
    Unknown,
    Value,
    branch,
    join,
    varying,
)

__all__ = ["RULES", "at_index", "stacked"]

RULES: dict[str, Rule] = {}
rule = table(RULES)


@rule("slice")
def slice_(
    equation: core.JaxprEqn, operands: list[Value], scope: str, report: Report
) -> Sequence[Value]:
    """Every so many elements from one to another."""
    params, shape = equation.params, shape_of(equation.invars[0])
    steps = params["strides"] or (1,) * len(shape)
    return [cut(the_seen(operands), shape, params["start_indices"], params["limit_indices"], steps)]


@rule("pad")
def pad(
    equation: core.JaxprEqn, operands: list[Value], scope: str, report: Report
) -> Sequence[Value]:
    """Padding at the ends and between elements; negative padding crops."""
    seen, shape = the_seen(operands), shape_of(equation.invars[0])
    config = equation.params["padding_config"]
    none = np.full(2, _edges.EMPTY, np.int32)

    def course(law: Course, edges: np.ndarray) -> Course | None:
        if law.axis is None:
            return None if any(map(any, config)) and not law.is_still else law
        low, _, interior = config[law.axis]
        return law.spread(low, interior)

    return [seen.moved(lambda e: _edges.padded(e, shape, config, none), course)]


@rule("transpose")
def transpose(
    equation: core.JaxprEqn, operands: list[Value], scope: str, report: Report
) -> Sequence[Value]:
    """Axes in another order."""
    return [_transposed(the_seen(operands), tuple(equation.params["permutation"]))]


def _transposed(seen: Seen, order: tuple[int, ...]) -> Seen:
    def course(law: Course, edges: np.ndarray) -> Course:
        return law if law.axis is None else law.moved(order.index(law.axis))

    axes = (0, *(axis + 1 for axis in order))
    return seen.moved(lambda e: e.transpose(axes), course)


@rule("rev")
def reverse(
    equation: core.JaxprEqn, operands: list[Value], scope: str, report: Report
) -> Sequence[Value]:
    """The last element first."""
    axes = tuple(axis + 1 for axis in equation.params["dimensions"])

    def course(law: Course, edges: np.ndarray) -> Course | None:
        turned = [axis - 1 for axis in axes]
        return None if law.axis in turned or lost_elsewhere(law, edges, turned) else law

    return [the_seen(operands).moved(lambda e: np.flip(e, axes), course)]


@rule("squeeze")
def squeeze(
    equation: core.JaxprEqn, operands: list[Value], scope: str, report: Report
) -> Sequence[Value]:
    """Without axes of size 1."""
    gone = [axis % len(shape_of(equation.invars[0])) for axis in equation.params["dimensions"]]
    return [_without(the_seen(operands), gone)]


def _without(seen: Seen, gone: Sequence[int]) -> Seen:
    """The first element of these axes, which vanish."""

    def edges(e: np.ndarray) -> np.ndarray:
        return e[(slice(None), *(0 if axis in gone else slice(None) for axis in range(e.ndim - 1)))]

    return seen.moved(edges, lambda law, _: renumbered(law, gone))


@rule("reshape")
def reshape(
    equation: core.JaxprEqn, operands: list[Value], scope: str, report: Report
) -> Sequence[Value]:
    """Axes split and merged, in row-major order."""
    seen, order = the_seen(operands), equation.params.get("dimensions")
    old, new = shape_of(equation.invars[0]), shape_of(equation.outvars[0])
    if order is not None:
        seen, old = _transposed(seen, tuple(order)), tuple(old[axis] for axis in order)
    return [
        seen.moved(
            lambda e: _edges.reshaped(e, old, new), lambda law, e: _reshaped(law, e, old, new)
        )
    ]


def _reshaped(law: Course, edges: np.ndarray, old: Shape, new: Shape) -> Course | None:
    if law.axis is None or 0 in old:
        return law
    before, after = next(group for group in _edges.groups(old, new) if law.axis in group[0])
    long_before = [axis for axis in before if old[axis] > 1]
    long_after = [axis for axis in after if new[axis] > 1]
    if law.axis not in long_before:  # A single position.
        return law.moved(after[0]) if len(after) == 1 else law.fixed()
    others = [axis for axis in long_before if axis != law.axis]
    if law.axis != long_before[0] or lost_elsewhere(law, edges, others):
        return None
    flat = law.repeated(math.prod(old[axis] for axis in others))
    outer, *inner = long_after
    return flat.divided(math.prod(new[axis] for axis in inner)).moved(outer)


@rule("broadcast_in_dim")
def broadcast_in_dim(
    equation: core.JaxprEqn, operands: list[Value], scope: str, report: Report
) -> Sequence[Value]:
    """New axes, and axes of size 1 repeated."""
    params, old = equation.params, shape_of(equation.invars[0])
    new, targets = params["shape"], params["broadcast_dimensions"]

    def edges(e: np.ndarray) -> np.ndarray:
        wide = [1] * len(new)
        for axis, target in enumerate(targets):
            wide[target] = e.shape[axis + 1]
        return e.reshape(2, *wide)

    def course(law: Course, e: np.ndarray) -> Course:
        if law.axis is None:
            return law
        target = targets[law.axis]
        return law.fixed() if old[law.axis] != new[target] else law.moved(target)

    return [the_seen(operands).moved(edges, course)]


@rule("concatenate")
def concatenate(
    equation: core.JaxprEqn, operands: list[Value], scope: str, report: Report
) -> Sequence[Value]:
    """Arrays one after another."""
    axis, shapes = equation.params["dimension"], [shape_of(v) for v in equation.invars]
    seen = [value for value in operands if isinstance(value, Seen)]
    ndim, tracked = len(shapes[0]), seen[0].tracked
    parts = [
        value.edges if isinstance(value, Seen) else [_edges.nothing(ndim)] * len(tracked)
        for value in operands
    ]
    edges = [_edges.concatenated(e, shapes, axis) for e in zip(*parts, strict=True)]
    if len(seen) == 1:
        (position,) = (n for n, value in enumerate(operands) if isinstance(value, Seen))
        offset = sum(shape[axis] for shape in shapes[:position])
        courses = [
            law.spread(offset, 0) if law and law.axis == axis else law for law in seen[0].courses
        ]
        return [Seen(edges, courses, tracked, seen[0].origin)]
    if len({value.origin for value in seen}) == 1:
        value = join(seen, edges)
    else:
        value = branch(seen, scope, "concatenate", _unless_along(axis, seen, report), edges)
    courses = [None if law and law.axis == axis else law for law in value.courses]
    return [Seen(edges, courses, tracked, value.origin)]


def _unless_along(axis: int, seen: Sequence[Seen], report: Report) -> Report:
    """Pieces put one after another along an axis do not meet there."""

    def filtered(merge: Merge) -> None:
        laws = [value.courses[number] for value in seen for number in numbers(merge)]
        if all(law is None or law.axis != axis for law in laws):
            report(merge)

    def numbers(merge: Merge) -> list[int]:
        return [n for n, t in enumerate(seen[0].tracked) if t.axis == merge.axis]

    return filtered


@rule("split")
def split(
    equation: core.JaxprEqn, operands: list[Value], scope: str, report: Report
) -> Sequence[Value]:
    """One array as several along an axis."""
    seen, shape = the_seen(operands), shape_of(equation.invars[0])
    axis, start, parts = equation.params["axis"], 0, []
    for size in equation.params["sizes"]:
        starts, limits = [0] * len(shape), list(shape)
        starts[axis], limits[axis] = start, start + size
        parts.append(cut(seen, shape, starts, limits, (1,) * len(shape)))
        start += size
    return parts


def at_index(value: Value, index: int) -> Value:
    """The slice of a value at an index of its first axis."""
    if isinstance(value, Known):
        return Known(value.array[index])
    if not isinstance(value, Seen):
        return value

    def edges(e: np.ndarray) -> np.ndarray:
        return e[:, min(index, e.shape[1] - 1)]

    def course(law: Course, e: np.ndarray) -> Course | None:
        if 0 in varying(e) and law.axis != 0:
            return None
        return renumbered(law.strided(index, 1) if law.axis == 0 else law, [0])

    return value.moved(edges, course)


def stacked(values: Sequence[Value], shape: Shape) -> Value:
    """Values as the slices of one, along a new first axis."""
    if unknown := Unknown.among(values):
        return unknown
    seen = [value for value in values if isinstance(value, Seen)]
    if not seen:
        return Constant.of(values)
    tracked, one = seen[0].tracked, (1, *shape[1:])
    parts = [
        [e[:, None] for e in value.edges]
        if isinstance(value, Seen)
        else [_edges.nothing(len(shape))] * len(tracked)
        for value in values
    ]
    edges = [_edges.concatenated(e, [one] * len(values), 0) for e in zip(*parts, strict=True)]
    laws = (
        branch(seen, "", "stack", lambda merge: None).courses if len(seen) > 1 else seen[0].courses
    )
    courses = [
        None
        if _edges.differ(e, 0)
        else law
        if law is None or law.axis is None
        else law.moved(law.axis + 1)
        for law, e in zip(laws, edges, strict=True)
    ]
    return Seen(edges, courses, tracked)
