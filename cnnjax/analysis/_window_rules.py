"""Rules of what slides windows or multiplies matrices."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend import core

from cnnjax.analysis import _edges
from cnnjax.analysis._course import Course
from cnnjax.analysis._equations import shape_of
from cnnjax.analysis._rules import (
    CannotFollowError,
    Report,
    Rule,
    Shape,
    contracted,
    lost_elsewhere,
    table,
    the_seen,
)
from cnnjax.analysis._values import (
    Known,
    Seen,
    Value,
    branch,
)

__all__ = ["RULES"]

RULES: dict[str, Rule] = {}
rule = table(RULES)


@rule(
    *("reduce_window", "reduce_window_sum", "reduce_window_max", "reduce_window_min"),
    *("cumred_reduce_window_impl",),
)
def reduce_window(
    equation: core.JaxprEqn, operands: list[Value], scope: str, report: Report
) -> Sequence[Value]:
    """The elements of each window together."""
    if len(equation.outvars) > 1:
        raise CannotFollowError("it reduces several arrays at once")
    params, shape = equation.params, shape_of(equation.invars[0])
    ones = (1,) * len(shape)
    geometry = zip(
        range(len(shape)),
        params["window_dimensions"],
        params["window_strides"],
        params["padding"],
        params.get("window_dilation") or ones,
        params.get("base_dilation") or ones,
        strict=True,
    )
    return [_slid(the_seen(operands), shape, list(geometry)).renewed()]


def _slid(seen: Seen, shape: Shape, windows: list[tuple]) -> Seen:
    """Windows over the axes: (axis, window, stride, (low, high), dilation, base dilation)."""
    trivial = (1, 1, (0, 0), 1, 1)
    touched = {window[0]: window[1:] for window in windows if tuple(window[1:]) != trivial}

    def edges(e: np.ndarray) -> np.ndarray:
        sizes = list(shape)
        for axis, (window, stride, (low, high), dilation, holes) in touched.items():
            e = _edges.window_hull(
                *(e, sizes, axis),
                window=window,
                stride=stride,
                low=low,
                high=high,
                dilation=dilation,
                base_dilation=holes,
            )
            length = (sizes[axis] - 1) * holes + 1 + low + high
            sizes[axis] = max((length - dilation * (window - 1) - 1) // stride + 1, 0)
        return _edges.compressed(e)

    def course(law: Course, e: np.ndarray) -> Course | None:
        if lost_elsewhere(law, e, list(touched)):
            return None
        if law.axis not in touched:
            return law
        window, stride, (low, _), dilation, holes = touched[law.axis]
        return law.windowed(window, stride, low, dilation, holes - 1)

    return seen.moved(edges, course)


@rule("conv_general_dilated")
def convolution(
    equation: core.JaxprEqn, operands: list[Value], scope: str, report: Report
) -> Sequence[Value]:
    """A kernel slid over an image; a kernel that is seen is seen by every position."""
    params = equation.params
    image, kernel = operands
    out_shape = shape_of(equation.outvars[0])
    arms = []
    if isinstance(image, Seen):
        arms.append(_convolved(image, equation))
    if isinstance(kernel, Seen):
        every = kernel.everything()
        edges = [e.reshape(2, *(1,) * len(out_shape)) for e in every.edges]
        arms.append(Seen(edges, [None] * len(edges), kernel.tracked))
    if params["batch_group_count"] > 1:
        raise CannotFollowError("batch groups, as in the derivative of a grouped convolution")
    return [arms[0] if len(arms) == 1 else branch(arms, scope, "convolution", report)]


def _convolved(image: Seen, equation: core.JaxprEqn) -> Seen:
    params, shape = equation.params, shape_of(equation.invars[0])
    kernel_shape, out_shape = shape_of(equation.invars[1]), shape_of(equation.outvars[0])
    lhs, rhs, out = params["dimension_numbers"]
    windows = [
        (axis, kernel_shape[rhs[2 + number]], stride, pair, dilation, holes)
        for number, (axis, stride, pair, dilation, holes) in enumerate(
            zip(
                lhs[2:],
                params["window_strides"],
                params["padding"],
                params["rhs_dilation"],
                params["lhs_dilation"],
                strict=True,
            )
        )
    ]
    slid = _slid(image, shape, windows)
    groups, feature = params["feature_group_count"], lhs[1]
    num_filters = out_shape[out[1]]
    # The axis of each of (batch, features, *spatial) in the output.
    place = dict(zip(lhs, out, strict=True))

    def edges(e: np.ndarray) -> np.ndarray:
        channels = np.moveaxis(e, feature + 1, -1)
        if channels.shape[-1] > 1:
            by_group = channels.reshape(*channels.shape[:-1], groups, -1).max(axis=-1)
            channels = np.repeat(by_group, num_filters // groups, axis=-1)
        e = np.moveaxis(channels, -1, feature + 1)
        order = sorted(range(len(shape)), key=lambda axis: place[axis])
        return _edges.compressed(e.transpose(0, *(axis + 1 for axis in order)))

    def course(law: Course, e: np.ndarray) -> Course | None:
        if law.axis is None:
            return law
        return None if law.axis == feature else law.moved(place[law.axis])

    return slid.moved(edges, course, same_origin=False)


@rule("dot_general")
def dot_general(
    equation: core.JaxprEqn, operands: list[Value], scope: str, report: Report
) -> Sequence[Value]:
    """Matrix products: dense layers, 1x1 convolutions, resizing by matrices of weights."""
    (contract, batch) = equation.params["dimension_numbers"]
    ndim = len(shape_of(equation.outvars[0]))
    arms = []
    for side in (0, 1):
        seen = operands[side]
        if isinstance(seen, Seen):
            shape = shape_of(equation.invars[side])
            other = operands[1 - side]
            if isinstance(other, Known) and other.is_sparse:
                weights = np.asarray(other.array) != 0
                arms.append(_by_weights(seen, shape, weights, side, contract, batch))
            else:
                arms.append(_product(seen, shape, side, contract[side], batch[side], ndim))
    return [arms[0] if len(arms) == 1 else branch(arms, scope, "dot_general", report)]


def _product(
    seen: Seen, shape: Shape, side: int, contract: Sequence[int], batch: Sequence[int], ndim: int
) -> Seen:
    free = [axis for axis in range(len(shape)) if axis not in (*contract, *batch)]
    # Batch axes, then the free axes of the left, then those of the right.
    first_free = len(batch) if side == 0 else ndim - len(free)
    place = {axis: number for number, axis in enumerate(batch)}
    place |= {axis: first_free + number for number, axis in enumerate(free)}
    left = [axis for axis in range(len(shape)) if axis not in contract]
    reduced = contracted(seen, shape, list(contract))

    def edges(e: np.ndarray) -> np.ndarray:
        wide = [1] * ndim
        for number, axis in enumerate(left):
            wide[place[axis]] = e.shape[number + 1]
        order = sorted(range(len(left)), key=lambda number: place[left[number]])
        return e.transpose(0, *(number + 1 for number in order)).reshape(2, *wide)

    def course(law: Course, e: np.ndarray) -> Course:
        return law if law.axis is None else law.moved(place[left[law.axis]])

    return reduced.moved(edges, course, same_origin=False)


def _by_weights(
    seen: Seen, shape: Shape, weights: np.ndarray, side: int, contract: Any, batch: Any
) -> Seen:
    """Only the elements whose weight is not zero count, as where an image is resized."""
    mine, theirs = list(contract[side]), list(contract[1 - side])
    if batch[0] or math.prod(shape[axis] for axis in mine) * weights.size > 2**28:
        raise CannotFollowError("weights with zeros over batch axes, or too many of them")
    free = [axis for axis in range(len(shape)) if axis not in mine]
    rest = [axis for axis in range(weights.ndim) if axis not in theirs]
    matrix = weights.transpose(*theirs, *rest).reshape(
        -1, math.prod(weights.shape[a] for a in rest)
    )
    others = [weights.shape[axis] for axis in rest]

    def edges(e: np.ndarray) -> np.ndarray:
        e = _edges.expanded(e, shape, mine).transpose(0, *(a + 1 for a in (*free, *mine)))
        flat = e.reshape(*e.shape[: len(free) + 1], -1)
        columns = [
            flat[..., np.flatnonzero(column)].max(axis=-1, initial=_edges.EMPTY)
            for column in matrix.T
        ]
        result = np.stack(columns, axis=-1).reshape(*flat.shape[:-1], *others)
        if side == 1:  # The free axes of the left operand, here the weights, come first.
            count = len(free) + 1
            order = (0, *range(count, result.ndim), *range(1, count))
            result = result.transpose(order)
        return _edges.compressed(result)

    def course(law: Course, e: np.ndarray) -> Course | None:
        if law.axis is None or law.axis in mine or lost_elsewhere(law, e, mine):
            return law if law.axis is None and law.is_still else None
        return law.moved(free.index(law.axis) + (len(others) if side == 1 else 0))

    return seen.moved(edges, course, same_origin=False)
