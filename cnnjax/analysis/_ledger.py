"""The entries of an account, written while a program is followed."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jax.extend import core

from cnnjax.analysis._elementwise_rules import ELEMENTWISE
from cnnjax.analysis._equations import shape_of
from cnnjax.analysis._interpreter import Visitor
from cnnjax.analysis._layer_calls import LayerCall, layer_call, without_batch
from cnnjax.analysis._values import CONSTANT, Constant, Known, Seen, Unknown, Value

__all__ = ["Entry", "Ledger"]

# What moves, converts or chooses numbers computes none.
_ARITHMETIC = ELEMENTWISE - {
    *("copy", "copy_p", "convert_element_type", "reduce_precision", "real", "imag", "conj"),
    *("stop_gradient", "select_n", "pvary", "sharding_constraint", "layout_constraint"),
    *("bitcast_convert_type", "not", "and", "or", "xor", "complex"),
}
_REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "argmax", "argmin"}
_REDUCTIONS |= {"cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"}
_SPATIAL = {"reduce_sum": "spatial_sum", "reduce_max": "spatial_max"}


@dataclass
class Entry:
    """One row in the making; the fields are those of `account.Row`."""

    path: str
    operation: str
    value: Value = CONSTANT
    output: tuple[int, ...] = ()
    volume: tuple[int, ...] = ()
    num_bytes: int = 0
    window: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    macs: int = 0
    parameters: int = 0
    bias_flops: int = 0
    other_flops: int = 0
    merges_before: int = 0

    def holds(self, variable: Any, value: Value, volume: tuple[int, ...] | None = None) -> None:
        """The volume is that of this variable."""
        self.value, self.output = value, shape_of(variable)
        self.volume = without_batch(self.output if volume is None else volume)
        self.num_bytes = math.prod(self.output) * variable.aval.dtype.itemsize


class Ledger(Visitor):
    """Writes an entry for each layer and books everything else where it belongs.

    Attributes:
      entries: in execution order.
      before: what happens to the input before the first entry.
    """

    def __init__(self, parameters: Mapping[int, int], owners: Collection[str] = ()):
        """Start without entries.

        Args:
          parameters: how many numbers each leaf of the arguments has that is trained.
          owners: paths of the modules that have parameters, without the outermost's name.
        """
        self._owners = frozenset(owners)
        self.entries: list[Entry] = []
        self.before = Entry("", "input")
        self._unused = dict(parameters)
        self._open: list[Entry | None] = []

    def enter(self, equation: core.JaxprEqn, scope: str, operands: Sequence[Value]) -> None:
        call = layer_call(equation, scope)
        entry = self._begin(call) if call and not self._layer else None
        if entry:
            entry.parameters += self._first_used(operands)
        self._open.append(entry)

    def leave(self, equation: core.JaxprEqn, scope: str, results: Sequence[Value]) -> None:
        if entry := self._open.pop():
            entry.holds(equation.outvars[0], results[0])
            self._end(entry)

    def visit(
        self,
        equation: core.JaxprEqn,
        scope: str,
        operands: Sequence[Value],
        results: Sequence[Value],
    ) -> None:
        if entry := self._layer:
            if not entry.macs:  # Those of a layer with weights are its MACs.
                entry.other_flops += _flops(equation)
                entry.parameters += self._first_used(operands)
            return
        call = layer_call(equation, scope)
        if call and equation.primitive.name == "dot_general" and _is_fixed(operands):
            self._last.other_flops += 2 * call.macs
        elif call:
            entry = self._begin(call)
            entry.parameters += self._first_used(operands)
            entry.holds(equation.outvars[0], results[0], call.volume)
            self._end(entry)
        elif results and isinstance(results[0], Seen | Unknown):
            self._book(equation, scope, operands, results)

    @property
    def _layer(self) -> Entry | None:
        return next((entry for entry in self._open if entry), None)

    def _begin(self, call: LayerCall) -> Entry:
        if uncertain := self.uncertain:
            raise ValueError(
                f"account: a `{uncertain[0]}` holds a layer, a {call.operation} at "
                f"{call.path or 'the top'}, whose number of runs no trace knows; use a scan or an "
                "unrolled loop"
            )
        return Entry(
            path=call.path,
            operation=call.operation,
            window=call.window,
            stride=call.stride,
            padding=call.padding,
            dilation=call.dilation,
            macs=call.macs,
        )

    def _end(self, entry: Entry) -> None:
        entry.merges_before = len(self.merges)
        self.entries.append(entry)

    def _book(
        self,
        equation: core.JaxprEqn,
        scope: str,
        operands: Sequence[Value],
        results: Sequence[Value],
    ) -> None:
        """An equation on a volume that is no layer of its own."""
        name, flops = equation.primitive.name, _flops(equation)
        if operation := _meeting(name, operands) or _over_the_image(equation, operands):
            entry = Entry(scope, operation, other_flops=flops)
            entry.holds(equation.outvars[0], results[0])
            self._end(entry)
            return
        constants = [o for o in operands if isinstance(o, Constant) and o.leaves]
        has_weights = constants or (flops and self._has_own(scope))
        entry = self._row_of(scope) if has_weights else self._last
        entry.parameters += self._first_used(operands)
        if not flops and not constants:
            return
        if entry.operation == "elementwise":
            entry.holds(equation.outvars[0], results[0])
            if name == "rsqrt" or (name == "sub" and constants):
                entry.operation = "normalization"
        if name == "add" and constants and entry.macs:
            entry.bias_flops += flops
        else:
            entry.other_flops += flops

    @property
    def _last(self) -> Entry:
        return self.entries[-1] if self.entries else self.before

    def _row_of(self, scope: str) -> Entry:
        """The row of what has weights at this place: the last one's, or one of its own."""
        last = self._last
        if last.path == scope and self.entries and (last.macs or last.operation in _OF_MODULES):
            return last
        entry = Entry(scope, "elementwise")
        self._end(entry)
        return entry

    def _has_own(self, scope: str) -> bool:
        """Whether the module at this place has parameters of its own."""
        parts = scope.split("/")
        return any("/".join(parts[start:]) in self._owners for start in range(len(parts)))

    def _first_used(self, operands: Sequence[Value]) -> int:
        leaves = {leaf for o in operands if isinstance(o, Constant) for leaf in o.leaves}
        return sum(self._unused.pop(leaf, 0) for leaf in leaves)


_OF_MODULES = ("elementwise", "normalization")


def _flops(equation: core.JaxprEqn) -> int:
    name = equation.primitive.name
    if name in _ARITHMETIC:
        return math.prod(shape_of(equation.outvars[0]))
    if name in _REDUCTIONS:
        return math.prod(shape_of(equation.invars[0]))
    return 0


def _is_fixed(operands: Sequence[Value]) -> bool:
    """Whether the program itself makes one of the factors, as where an image is resized."""
    return any(isinstance(operand, Known) and operand.is_sparse for operand in operands)


def _meeting(name: str, operands: Sequence[Value]) -> str | None:
    """The operation by which paths of the network meet, if this is one."""
    seen = [operand for operand in operands if isinstance(operand, Seen)]
    if name in ("add", "concatenate") and len({operand.origin for operand in seen}) > 1:
        return name
    return None


def _over_the_image(equation: core.JaxprEqn, operands: Sequence[Value]) -> str | None:
    """Global pooling that was written as a sum or maximum over all spatial axes."""
    operation = _SPATIAL.get(equation.primitive.name)
    (seen,) = operands if len(operands) == 1 else (None,)
    if operation is None or not isinstance(seen, Seen) or not seen.courses:
        return None
    axes = {law.axis for law in seen.courses if law is not None}
    reduced = set(equation.params["axes"])
    if None in axes or not axes or axes != reduced or len(axes) < len(seen.courses):
        return None
    return operation
