"""A jaxpr as the graph of buffers-to-be that XLA's simplifier leaves of it.

Calls are inlined, dead and repeated values dropped, and constants folded. What a primitive becomes
is said by its kind, which decides what may fuse.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from cnnjax.analysis import _lowering_layers
from cnnjax.analysis._equations import opened, scope_of, shape_of
from cnnjax.analysis._graph import Call, Node, Program, Shapes, aval_bytes, pairs_of, shaped

# Number by number and computed anew for each reader rather than kept.
CHEAP = frozenset(
    """
    abs add add_any and bitcast_convert_type ceil clamp clz convert_element_type copy eq floor ge gt
    imag integer_pow is_finite le lt max min mul ne neg nextafter not or population_count real
    reduce_precision round select_n shift_left shift_right_arithmetic shift_right_logical sign
    square sub xor
    """.split()  # noqa: SIM905
)
# Number by number, and too dear to be computed twice.
EXPENSIVE = frozenset(
    """
    acos acosh asin asinh atan atan2 atanh cbrt cos cosh digamma div erf erf_inv erfc exp exp2 expm1
    lgamma log log1p logistic pow rem rsqrt sin sinh sqrt tan tanh
    """.split()  # noqa: SIM905
)
REDUCTIONS = frozenset(
    """
    reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or argmax argmin
    """.split()  # noqa: SIM905
)
# Same numbers in the same order, hence the same buffer.
_VIEWS = frozenset(("reshape", "squeeze", "expand_dims"))
_NOTHING = frozenset(("stop_gradient", "sharding_constraint", "pvary", "copy_p"))
_NEUTRAL = {"mul": 1, "div": 1, "add": 0, "sub": 0, "add_any": 0}
_WINDOWS = frozenset(["reduce_window_sum", "reduce_window_max", "reduce_window_min"])
_INDEXING = {
    "concatenate": "concatenate",
    "dynamic_slice": "slice",
    "gather": "gather",
    "pad": "pad",
    "rev": "reverse",
    "slice": "slice",
}
_IN_PLACE = frozenset(["dynamic_update_slice", "scatter", "scatter-add", "scatter_add"])


# XLA's CPU backend drops barriers in JAX 0.10 and heeds them in 0.12; between is not measured.
_BARRIERS_HOLD = (0, 12, 0)


class Lowering:
    """Turns equations into nodes; one for a whole program, so that repeats are found."""

    def __init__(self, backend: str, temporaries: Callable[[Program], int]):
        self.on_cpu = backend == "cpu"
        self.temporaries = temporaries
        self.backend = backend
        self.known: dict[Any, Node] = {}
        self.nodes: list[Node] = []
        self.scope = ""
        self.calls: tuple[Call, ...] = ()

    def program(self, jaxpr: core.Jaxpr, consts: Sequence[Any] = ()) -> Program:
        """The graph of a closed jaxpr, without what no output needs."""
        inputs = [self._input(variable.aval) for variable in jaxpr.invars]
        outputs = self.run(jaxpr, [self.constant(const) for const in consts], inputs)
        needed, pending = set(), list(outputs)
        while pending:
            node = pending.pop()
            if node not in needed:
                needed.add(node)
                pending.extend(node.operands)
        nodes = [node for node in self.nodes if node in needed]
        for node in nodes:
            node.users = {}
        for node in nodes:
            for operand in node.operands:
                operand.users[node] = None
        return Program(nodes, inputs, outputs)

    def run(self, jaxpr: core.Jaxpr, consts: list[Node], args: list[Node]) -> list[Node]:
        """The nodes of a jaxpr's outputs, given those of its inputs."""
        environment = dict(zip(jaxpr.constvars, consts, strict=True))
        environment.update(zip(jaxpr.invars, args, strict=True))

        def read(atom: Any) -> Node:
            return self.constant(atom.val) if isinstance(atom, core.Literal) else environment[atom]

        outside = self.scope
        for equation in jaxpr.eqns:
            self.scope = scope_of(equation, outside)
            outs = self._equation(equation, [read(atom) for atom in equation.invars])
            environment.update(zip(equation.outvars, outs, strict=True))
        self.scope = outside
        return [read(atom) for atom in jaxpr.outvars]

    # ---- making nodes ----

    def add(
        self, kind: str, name: str, operands: list[Node], aval: Any, params: Any = None
    ) -> Node:
        """A node, or the one that already computes the same."""
        dtype = aval.dtype
        key = (kind, name, tuple(map(id, operands)), tuple(aval.shape), str(dtype), params)
        if key not in self.known:
            node = Node(kind, name, operands, tuple(aval.shape), dtype, self.scope, params)
            node.calls = self.calls
            self.nodes.append(node)
            self.known[key] = node
        return self.known[key]

    def _input(self, aval: Any) -> Node:
        node = Node("parameter", "parameter", [], tuple(aval.shape), aval.dtype, self.scope)
        self.nodes.append(node)
        return node

    def constant(self, value: Any) -> Node:
        shape = tuple(np.shape(value))
        if shape and isinstance(value, np.ndarray) and 0 < value.size <= 2**20:
            first = value.flat[0]
            if (value == first).all():
                return self.spread(self.constant(first), jax.core.ShapedArray(shape, value.dtype))
        number = None
        if not shape and not jax.dtypes.issubdtype(
            getattr(value, "dtype", np.dtype(float)), jax.dtypes.extended
        ):
            number = complex(np.asarray(value).item()).real
        key = ("constant", number if number is not None else id(value))
        if key not in self.known:
            # It keeps the value, so that no other gets its identity.
            node = Node("constant", "constant", [], shape, np.float32, params=value, value=number)
            self.nodes.append(node)
            self.known[key] = node
        return self.known[key]

    def parts(
        self, name: str, operands: list[Node], avals: Sequence[Any], scratch: int = 0
    ) -> list:
        """The values of an operation with several results, or with room of its own."""
        whole = Node("tuple", name, operands, (), np.dtype(np.int8), self.scope, scratch=scratch)
        whole.calls = self.calls
        self.nodes.append(whole)
        return [self.add("part", name, [whole], aval, number) for number, aval in enumerate(avals)]

    # ---- equations ----

    def _equation(self, equation: core.JaxprEqn, args: list[Node]) -> list[Node]:
        name, params = equation.primitive.name, equation.params
        avals = [variable.aval for variable in equation.outvars]
        if name in ("cond", "while", "scan"):
            return self._control(name, params, args, avals)
        if name == "optimization_barrier":
            return self._barrier(args)
        inner = next(
            (params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr", "call") if k in params), None
        )
        if inner is not None and name != "custom_call":
            # Only where something is computed again for a gradient does JAX put a barrier.
            again = params.get("prevent_cse", True) and params.get("differentiated", True)
            if name in ("checkpoint", "remat", "remat2") and again:
                args = self._barrier(args)
            jaxpr, closed_over = opened(inner)
            consts = [self.constant(const) for const in closed_over]
            args = args[len(args) - len(jaxpr.invars) :]
            call, outside = Call(args), self.calls
            self.calls = (*outside, call)
            call.outputs = self.run(jaxpr, consts, args)
            self.calls = outside
            return call.outputs
        shapes = [shape_of(atom) for atom in equation.invars]
        if name == "broadcast_in_dim":
            return [self._broadcast_in_dim(args, params, avals[0], shapes)]
        if name in _LAYERS:
            return [_LAYERS[name](self, args, params, avals[0], shapes)]
        if len(avals) == 1:
            return [self._simple(name, params, args, avals[0])]
        return self.parts(name, args, avals)

    def _simple(self, name: str, params: dict[str, Any], args: list[Node], aval: Any) -> Node:
        if name in _NOTHING:
            return args[0]
        if name in _VIEWS:
            return self.viewed(args[0], aval.shape)
        if name in CHEAP or name in EXPENSIVE:
            return self._elementwise(name, params, args, aval)
        if name in REDUCTIONS:
            if args[0].size == math.prod(aval.shape) and name.startswith("reduce"):
                return self.viewed(args[0], aval.shape)
            return self.add("reduce", name, args, aval, str(params.get("axes")))
        if name in _WINDOWS:
            return self.add("reduce_window", name, args, aval, pairs_of(params))
        if name == "pad" and all(
            max(*edges, hole) <= 0 for *edges, hole in params["padding_config"]
        ):
            return self.add(
                "slice", name, args[:1], aval, pairs_of(params)
            )  # Negative: it cuts off.
        if name in _INDEXING:
            if all(arg.kind == "constant" for arg in args):
                return self.constant(np.broadcast_to(np.int8(0), aval.shape))
            return self.add(_INDEXING[name], name, args, aval, pairs_of(params))
        if name in _IN_PLACE:
            return self.add("in_place", name, args, aval, pairs_of(params))
        if name == "iota":
            return self.add("iota", name, args, aval, str(params["dimension"]))
        if name in ("random_bits", "threefry2x32"):
            # Two words of counters are mixed, in turns, for each word that is drawn.
            words = math.prod(aval.shape) * 4
            return self.parts(name, args, [aval], scratch=3 * words)[0]
        return self.add("opaque", name, args, aval, pairs_of(params))

    def _elementwise(self, name: str, params: dict[str, Any], args: list[Node], aval: Any) -> Node:
        if name == "convert_element_type" and args[0].kind != "constant":
            if args[0].dtype == aval.dtype:
                return args[0]
            if args[0].name == "rounded" and aval.dtype == np.float32:
                return args[0].operands[0]  # Read before it was rounded.
        scalars = [arg.value for arg in args]
        for this, that in ((0, 1), (1, 0)) if len(args) == 2 else ():
            # What adds nothing, or multiplies by one, is dropped.
            nothing = _NEUTRAL.get(name) if this == 0 or name not in ("sub", "div") else None
            same = args[this].shape == tuple(aval.shape)
            if nothing is not None and scalars[that] == nothing and same:
                return args[this]
        if name in ("add", "add_any"):
            for scattered, other in (args, args[::-1]):
                if scattered.kind == "in_place" and scattered.operands[0].value == 0:
                    # Scattered onto the other summand instead of onto zeros.
                    operands = [other, *scattered.operands[1:]]
                    return self.add("in_place", scattered.name, operands, aval, scattered.params)
        if all(arg.kind == "constant" for arg in args):
            return self.constant(np.broadcast_to(np.int8(0), aval.shape))
        if all(arg.value is not None for arg in args):
            # Constants spread over an array are computed on one of their numbers.
            folded = self.add("constant", name, args, jax.core.ShapedArray((), aval.dtype), "")
            folded.value = math.nan
            return self.spread(folded, aval)
        args = [self.to_shape(arg, aval) for arg in args]
        kind = "cheap" if name in CHEAP else "expensive"
        if name in ("div", "rem") and (
            not jax.dtypes.issubdtype(aval.dtype, np.inexact) or args[1].value is not None
        ):
            kind = "cheap"  # By a constant: a product.
        half = jax.numpy.bfloat16
        if (
            not self.on_cpu
            or name == "convert_element_type"
            or (aval.dtype != half and all(arg.dtype != half for arg in args))
        ):
            if name == "convert_element_type" and aval.dtype == half:
                kind = "expensive"
            return self.add(kind, name, args, aval, pairs_of(params))
        # XLA's CPU backend computes in float32 and rounds, which is dear on a CPU.
        single = np.dtype(np.float32)
        args = [self.converted(arg, single) if arg.dtype == half else arg for arg in args]
        dtype = single if aval.dtype == half else aval.dtype
        node = self.add(kind, name, args, aval.update(dtype=dtype), pairs_of(params))
        return self.converted(node, aval.dtype, "rounded")

    def viewed(self, node: Node, shape: Sequence[int]) -> Node:
        """The same numbers in the same order by another shape: no memory of its own."""
        if node.shape == tuple(shape):
            return node
        if node.kind == "view":
            return self.viewed(node.operands[0], shape)
        if node.kind == "constant":
            return node
        after = jax.core.ShapedArray(shape, node.dtype)
        if node.value is not None:
            return self.spread(node.operands[0], after)
        return self.add("view", "reshape", [node], after)

    def to_shape(self, arg: Node, aval: Any) -> Node:
        """An operand of a number by number operation, spread along its axes of length one."""
        if arg.shape == tuple(aval.shape):
            return arg
        if arg.kind == "constant":
            return self.spread(arg, aval) if not arg.shape else arg
        if arg.value is not None:
            return self.spread(arg.operands[0], jax.core.ShapedArray(aval.shape, arg.dtype))
        if arg.size == math.prod(aval.shape):
            return self.viewed(arg, aval.shape)
        axes = [axis for axis, length in enumerate(arg.shape) if length != 1]
        narrow = self.viewed(arg, [arg.shape[axis] for axis in axes])
        wide = jax.core.ShapedArray(aval.shape, arg.dtype)
        return self.add("broadcast", "broadcast_in_dim", [narrow], wide, str(tuple(axes)))

    def spread(self, arg: Node, aval: Any) -> Node:
        node = self.add("broadcast", "broadcast_in_dim", [arg], aval, "")
        node.value = arg.value
        return node

    def _broadcast_in_dim(
        self, args: list[Node], params: dict[str, Any], aval: Any, shapes: Shapes
    ) -> Node:
        if args[0].value is not None:
            # Of a constant spread already: spread it from its one number.
            source = args[0].operands[0] if args[0].kind == "broadcast" else args[0]
            return self.spread(source, aval)
        if args[0].size == math.prod(aval.shape):
            return self.viewed(args[0], aval.shape)
        axes = params["broadcast_dimensions"]
        kept = [axis for axis, length in enumerate(shapes[0]) if length != 1]
        narrow = self.viewed(args[0], [shapes[0][axis] for axis in kept])
        text = str(tuple(axes[axis] for axis in kept))
        return self.add("broadcast", "broadcast_in_dim", [narrow], aval, text)

    def converted(self, node: Node, dtype: Any, name: str = "convert_element_type") -> Node:
        if node.dtype == dtype:
            return node
        if node.value is not None:
            return self.spread(node.operands[0], shaped(node).update(dtype=dtype))
        kind = "expensive" if dtype.itemsize == 2 else "cheap"
        return self.add(kind, name, [node], shaped(node).update(dtype=dtype), "")

    def _barrier(self, args: list[Node]) -> list[Node]:
        if self.on_cpu and jax.__version_info__ < _BARRIERS_HOLD:
            return args  # Dropped before repeats are sought, so that nothing is computed anew.
        whole = Node("barrier", "optimization_barrier", list(args), (), np.dtype(np.int8))
        self.nodes.append(whole)
        out = []
        for arg in args:
            node = Node("alias", "optimization_barrier", [arg, whole], arg.shape, arg.dtype)
            self.nodes.append(node)
            out.append(node)
        return out

    # ---- loops and branches ----

    def _control(
        self, name: str, params: dict[str, Any], args: list[Node], avals: Sequence[Any]
    ) -> list[Node]:
        bodies = params.get("branches") or [
            params[name] for name in ("cond_jaxpr", "body_jaxpr", "jaxpr") if name in params
        ]
        # One body runs at a time: a loop's iterations, and a conditional's branches, share room.
        inside = [
            self.temporaries(Lowering(self.backend, self.temporaries).program(*opened(b)))
            for b in bodies
        ]
        scratch = max(inside)
        if name == "scan":
            # What an iteration is given of each array is cut out for it.
            given = zip(args, params["jaxpr"].in_avals, strict=True)
            scratch += sum(
                aval_bytes(aval.shape, aval.dtype)
                for arg, aval in given
                if len(arg.shape) > len(aval.shape)
            )
        return self.parts(name, args, avals, scratch=scratch)


_LAYERS: dict[str, Callable[[Lowering, list[Node], dict[str, Any], Any, Shapes], Node]] = {
    "transpose": _lowering_layers.transpose,
    "dot_general": _lowering_layers.dot_general,
    "conv_general_dilated": _lowering_layers.convolution,
    "select_and_scatter_add": _lowering_layers.select_and_scatter_add,
}
