"""Follow the inputs' pixels through a traced program, equation by equation.

What happens to the values of an equation happens to their fields (`_rules`). What trace-time
constants determine, indices and masks above all, is computed on the way. Functions called, loops
of known length and conditionals are entered. What has no rule makes its results unknown, by name.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from cnnjax.analysis import (
    _edges,
    _elementwise_rules,
    _lookup_rules,
    _movement_rules,
    _window_rules,
)
from cnnjax.analysis._equations import opened, scope_of, shape_of
from cnnjax.analysis._rules import CannotFollowError, widened
from cnnjax.analysis._values import (
    CONSTANT,
    Constant,
    Known,
    Merge,
    Seen,
    Unknown,
    Value,
    branch,
)
from cnnjax.ops._layers import ALWAYS_HOLDS, is_layer

__all__ = ["Interpreter", "Visitor", "of_constant"]

# Primitives that call one function with their operands, under the names of several versions.
_CALLS = {
    *("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2"),
    *("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "custom_vmap_call"),
}
_RULES = {
    **_elementwise_rules.RULES,
    **_movement_rules.RULES,
    **_window_rules.RULES,
    **_lookup_rules.RULES,
}
# Constants larger than this stay unevaluated: indices and masks are smaller than the one, offsets
# that were closed over smaller than the other; weights may not be.
_MOST_VALUES, _MOST_FLOATS = 2**22, 2**14


class Visitor:
    """Told of each equation as it is followed; what accounts are made with.

    Attributes:
      merges: the interpreter's, as it goes on.
      uncertain: likewise.
    """

    merges: list[Merge]
    uncertain: list[str]

    def enter(self, equation: core.JaxprEqn, scope: str, operands: Sequence[Value]) -> None:
        """A function is about to be entered."""

    def leave(self, equation: core.JaxprEqn, scope: str, results: Sequence[Value]) -> None:
        """The function was left."""

    def visit(
        self,
        equation: core.JaxprEqn,
        scope: str,
        operands: Sequence[Value],
        results: Sequence[Value],
    ) -> None:
        """An equation without functions of its own was followed."""


class Interpreter:
    """One pass over a program.

    Attributes:
      visitor: told of each equation.
      merges: where paths met that do not lie on each other.
      uncertain: names of the loops and conditionals entered whose number of runs no trace knows.
    """

    def __init__(self, visitor: Visitor | None = None):
        self.visitor = visitor or Visitor()
        self.merges: list[Merge] = []
        self.uncertain: list[str] = []
        self.visitor.merges, self.visitor.uncertain = self.merges, self.uncertain

    def run(
        self, jaxpr: core.Jaxpr, consts: Sequence[Value], inputs: Sequence[Value], scope: str
    ) -> list[Value]:
        """The values of a program's outputs."""
        values: dict[Any, Value] = dict(zip(jaxpr.constvars, consts, strict=True))
        values |= zip(jaxpr.invars, inputs, strict=True)

        def read(atom: Any) -> Value:
            return Known(atom.val) if isinstance(atom, core.Literal) else values[atom]

        for equation in jaxpr.eqns:
            operands = [read(atom) for atom in equation.invars]
            results = self._follow(equation, operands, scope_of(equation, scope))
            values |= zip(equation.outvars, results, strict=True)
        return [read(atom) for atom in jaxpr.outvars]

    def run_closed(
        self, closed: core.ClosedJaxpr | core.Jaxpr, inputs: Sequence[Value], scope: str
    ) -> list[Value]:
        """`run` on a program with the constants it closes over."""
        jaxpr, consts = opened(closed)
        return self.run(jaxpr, list(map(of_constant, consts)), inputs, scope)

    def _follow(
        self, equation: core.JaxprEqn, operands: list[Value], scope: str
    ) -> Sequence[Value]:
        name = equation.primitive.name
        if name in _CALLS:
            return self._call(equation, operands, scope)
        if name in ("scan", "while", "cond"):
            return getattr(self, f"_{name}")(equation, operands, scope)
        results = self._compute(equation, operands, scope)
        self.visitor.visit(equation, scope, operands, results)
        return results

    def _compute(
        self, equation: core.JaxprEqn, operands: list[Value], scope: str
    ) -> Sequence[Value]:
        count = len(equation.outvars)
        if all(isinstance(value, Known) for value in operands):
            return _evaluate(equation, operands)
        if unknown := Unknown.among(operands):
            return [unknown] * count
        if not any(isinstance(value, Seen) for value in operands):
            return [Constant.of(operands)] * count
        rule = _RULES.get(equation.primitive.name)
        try:
            if rule is None:
                raise CannotFollowError("no rule for this primitive")
            return rule(equation, operands, scope, self.merges.append)
        except CannotFollowError as error:
            return [self._unknown(equation.primitive.name, scope, error)] * count

    def _unknown(self, name: str, scope: str, why: object) -> Unknown:
        return Unknown((f"`{name}` at {scope or 'the top'}: {why}",))

    def _call(self, equation: core.JaxprEqn, operands: list[Value], scope: str) -> Sequence[Value]:
        name = str(equation.params.get("name", ""))
        if name == ALWAYS_HOLDS:
            return [Known(np.True_)]
        body = next(
            value
            for value in equation.params.values()
            if isinstance(value, core.ClosedJaxpr | core.Jaxpr)
        )
        self.visitor.enter(equation, scope, operands)
        results = self.run_closed(body, operands, scope)
        if is_layer(name):
            results = [value.renewed() if isinstance(value, Seen) else value for value in results]
        self.visitor.leave(equation, scope, results)
        return results

    def _scan(self, equation: core.JaxprEqn, operands: list[Value], scope: str) -> Sequence[Value]:
        params = equation.params
        body, length = params["jaxpr"], params["length"]
        consts, carry, stacked = _scan_operands(params, operands)
        steps = reversed(range(length)) if params["reverse"] else range(length)
        outputs: list[Any] = [None] * length
        for step in steps:
            slices = [_movement_rules.at_index(value, step) for value in stacked]
            results = self.run_closed(body, [*consts, *carry, *slices], scope)
            carry, outputs[step] = results[: len(carry)], results[len(carry) :]
        shapes = [shape_of(v) for v in equation.outvars[len(carry) :]]
        return [
            *carry,
            *(
                _movement_rules.stacked([output[number] for output in outputs], shape)
                for number, shape in enumerate(shapes)
            ),
        ]

    def _while(self, equation: core.JaxprEqn, operands: list[Value], scope: str) -> Sequence[Value]:
        params = equation.params
        num_cond, num_body = params["cond_nconsts"], params["body_nconsts"]
        cond_consts = operands[:num_cond]
        body_consts = operands[num_cond : num_cond + num_body]
        # What is counted or computed along differs from one step to the next.
        carry = [
            CONSTANT if isinstance(value, Known) else value
            for value in operands[num_cond + num_body :]
        ]
        self.uncertain.append("while")
        go_on = self.run_closed(params["cond_jaxpr"], [*cond_consts, *carry], scope)
        results = self.run_closed(params["body_jaxpr"], [*body_consts, *carry], scope)
        self.uncertain.pop()
        if not any(isinstance(value, Seen | Unknown) for value in (*go_on, *results)):
            return [Constant.of(operands)] * len(carry)
        if all(map(_no_more_than, results, carry)) and isinstance(go_on[0], Constant | Known):
            return carry
        why = "what its result sees depends on the number of its steps, which no trace knows"
        return [self._unknown("while", scope, why)] * len(carry)

    def _cond(self, equation: core.JaxprEqn, operands: list[Value], scope: str) -> Sequence[Value]:
        index, *arguments = operands
        branches = equation.params["branches"]
        if isinstance(index, Known):
            chosen = min(max(int(index.array), 0), len(branches) - 1)
            return self.run_closed(branches[chosen], arguments, scope)
        self.uncertain.append("cond")
        results = [self.run_closed(branch, arguments, scope) for branch in branches]
        self.uncertain.pop()
        return [
            self._either([index, *values], shape_of(variable), scope)
            for variable, values in zip(equation.outvars, zip(*results, strict=True), strict=True)
        ]

    def _either(self, values: Sequence[Value], shape: tuple[int, ...], scope: str) -> Value:
        if unknown := Unknown.among(values):
            return unknown
        seen = [widened(v, len(shape)) for v in values if isinstance(v, Seen)]
        if not seen:
            return Constant.of(values)
        if len(seen) == 1:
            return seen[0].renewed()
        return branch(seen, scope, "cond", self.merges.append)


def _scan_operands(params: dict[str, Any], operands: Sequence[Value]) -> list[list[Value]]:
    """Constants of a scan, what it carries along, and what it takes a slice of each step."""
    if "num_consts" in params:
        first, second = params["num_consts"], params["num_consts"] + params["num_carry"]
        parts = operands[:first], operands[first:second], operands[second:]
    else:  # JAX 0.12 keeps the three apart in a tree.
        parts = params["ft_in"].update(operands).unpack()
    return list(map(list, parts))


def of_constant(array: Any) -> Value:
    """What is known of an array that a function closes over."""
    if isinstance(array, jax.core.Tracer):
        return CONSTANT
    dtype = array.dtype if hasattr(array, "dtype") else np.asarray(array).dtype
    fixed = not jnp.issubdtype(dtype, jnp.inexact)
    return Known(array, fixed) if math.prod(np.shape(array)) <= _limit(fixed) else CONSTANT


def _limit(fixed: bool) -> int:
    return _MOST_VALUES if fixed else _MOST_FLOATS


def _evaluate(equation: core.JaxprEqn, operands: Sequence[Any]) -> list[Value]:
    """What an equation of known operands gives; merely constant if it is large."""
    fixed = all(bool(operand.fixed) for operand in operands)
    if sum(math.prod(shape_of(variable)) for variable in equation.outvars) > _limit(fixed):
        return [CONSTANT] * len(equation.outvars)
    with jax.ensure_compile_time_eval():
        results = equation.primitive.bind(
            *(_operand(operand.array) for operand in operands), **equation.params
        )
    several = results if equation.primitive.multiple_results else [results]
    return [Known(result, fixed) for result in several]


def _operand(array: Any) -> Any:
    return jnp.asarray(array) if isinstance(array, np.ndarray | np.generic) else array


def _no_more_than(after: Value, before: Value) -> bool:
    """Whether a value sees no pixel after a step that it did not see before."""
    if isinstance(after, Constant | Known):
        return isinstance(before, Constant)
    if not isinstance(after, Seen) or not isinstance(before, Seen):
        return False
    return all(
        np.array_equal(_edges.union(a, b), _edges.compressed(b))
        for a, b in zip(after.edges, before.edges, strict=True)
    )
