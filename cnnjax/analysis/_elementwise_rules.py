"""Rules of arithmetic, element by element, and of reductions."""

import functools
from collections.abc import Sequence

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
    widened,
)
from cnnjax.analysis._values import (
    Constant,
    Known,
    Seen,
    Value,
    branch,
    join,
)

__all__ = ["ELEMENTWISE", "RULES"]

RULES: dict[str, Rule] = {}
rule = table(RULES)


# Linear in the one operand that is seen: its pieces are still pieces of the same array.
_LINEAR = {
    *("add", "sub", "mul", "div", "neg", "copy", "copy_p", "convert_element_type", "add_any"),
    *("reduce_precision", "real", "imag", "conj", "stop_gradient", "select_n", "max", "min"),
    *("pvary", "sharding_constraint", "layout_constraint", "square"),
}
ELEMENTWISE = _LINEAR | {
    *("abs", "sign", "floor", "ceil", "round", "exp", "exp2", "expm1", "log", "log1p"),
    *("logistic", "tan", "tanh", "sin", "cos", "asin", "acos", "atan", "sinh", "cosh", "asinh"),
    *("acosh", "atanh", "sqrt", "rsqrt", "cbrt", "integer_pow", "pow", "rem", "atan2", "erf"),
    *("erfc", "erf_inv", "lgamma", "digamma", "igamma", "igammac", "polygamma", "zeta"),
    *("bessel_i0e", "bessel_i1e", "regularized_incomplete_beta", "random_gamma_grad"),
    *("and", "or", "xor", "not", "eq", "ne", "lt", "le", "gt", "ge", "eq_to", "lt_to", "le_to"),
    *("shift_left", "shift_right_logical", "shift_right_arithmetic", "population_count", "clz"),
    *("nextafter", "is_finite", "clamp", "complex", "erf_inv", "bitcast_convert_type"),
}


@rule(*ELEMENTWISE)
def elementwise(
    equation: core.JaxprEqn, operands: list[Value], scope: str, report: Report
) -> Sequence[Value]:
    """Each element of the result from the elements at its place."""
    name, shape = equation.primitive.name, shape_of(equation.outvars[0])
    if name == "bitcast_convert_type" and shape != shape_of(equation.invars[0]):
        raise CannotFollowError("it splits or joins numbers")
    if name == "select_n" and isinstance(operands[0], Known):
        return [_selected(operands[0], operands[1:], shape, scope, report)]
    seen = [widened(value, len(shape)) for value in operands if isinstance(value, Seen)]
    if len(seen) > 1:
        if len({value.origin for value in seen}) == 1:
            return [join(seen)]
        return [branch(seen, scope, name, report)]
    (value,) = seen
    if name == "mul":
        for factor in operands:
            if isinstance(factor, Known) and factor.fixed:
                value = _masked(value, np.asarray(factor.array) != 0, shape)
    return [value if name in _LINEAR and name not in ("max", "min") else value.renewed()]


def _masked(value: Seen, mask: np.ndarray, shape: Shape) -> Seen:
    """Without the elements where the mask is false."""
    if mask.all():
        return value
    touched = range(len(shape))
    mask = np.broadcast_to(mask, shape)
    edges = [
        _edges.compressed(np.where(mask, _edges.expanded(e, shape, touched), _edges.EMPTY))
        for e in value.edges
    ]
    return Seen(edges, value.courses, value.tracked, value.origin)


def _selected(
    predicate: Known, cases: list[Value], shape: Shape, scope: str, report: Report
) -> Value:
    chosen = np.broadcast_to(np.asarray(predicate.array).astype(int), shape)
    kept = [
        _masked(widened(case, len(shape)), chosen == number, shape)
        for number, case in enumerate(cases)
        if isinstance(case, Seen) and (chosen == number).any()
    ]
    if not kept:
        return Constant.of(cases)
    if len(kept) == 1:
        return kept[0]
    same = len({value.origin for value in kept}) == 1
    return join(kept) if same else branch(kept, scope, "select_n", report)


@rule("optimization_barrier")
def each_for_itself(
    equation: core.JaxprEqn, operands: list[Value], scope: str, report: Report
) -> Sequence[Value]:
    """Every operand is handed through."""
    return operands


_AXES = {
    **dict.fromkeys(
        (
            *("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"),
            *("reduce_xor", "argmax", "argmin"),
        ),
        "axes",
    ),
    "reduce": "dimensions",
}


@rule(*_AXES)
def reduce_(
    equation: core.JaxprEqn, operands: list[Value], scope: str, report: Report
) -> Sequence[Value]:
    """All elements along some axes together."""
    axes = equation.params[_AXES[equation.primitive.name]]
    shape = shape_of(equation.invars[0])
    if len(equation.outvars) > 1:
        raise CannotFollowError("it reduces several arrays at once")
    return [contracted(the_seen(operands), shape, axes)]


@rule("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
def cumulative(
    equation: core.JaxprEqn, operands: list[Value], scope: str, report: Report
) -> Sequence[Value]:
    """Each element with all before it (or after it)."""
    axis, shape = equation.params["axis"], shape_of(equation.invars[0])
    backwards = equation.params["reverse"]

    def course(law: Course, edges: np.ndarray) -> Course | None:
        return None if law.axis == axis or lost_elsewhere(law, edges, [axis]) else law

    edges = functools.partial(_edges.accumulated, shape=shape, axis=axis, reverse=backwards)
    return [the_seen(operands).moved(edges, course, same_origin=False)]


@rule("sort", "top_k", "approx_top_k", "fft")
def all_along(
    equation: core.JaxprEqn, operands: list[Value], scope: str, report: Report
) -> Sequence[Value]:
    """Each element from all along an axis, which stays."""
    params, ndim = equation.params, len(shape_of(equation.invars[0]))
    axes = {
        "sort": lambda: [params["dimension"]],
        "top_k": lambda: [params.get("axis", -1) % ndim],
        "approx_top_k": lambda: [params["reduction_dimension"] % ndim],
        "fft": lambda: list(range(ndim - len(params["fft_lengths"]), ndim)),
    }[equation.primitive.name]()
    seen = [value for value in operands if isinstance(value, Seen)]

    def course(law: Course, edges: np.ndarray) -> Course | None:
        return law if law.axis not in axes else None

    mixed = [
        value.moved(lambda e: _edges.reduced(e, axes, keep=True), course, same_origin=False)
        for value in seen
    ]
    value = mixed[0] if len(mixed) == 1 else branch(mixed, scope, equation.primitive.name, report)
    return [value] * len(equation.outvars)
