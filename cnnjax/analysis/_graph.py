"""The graph of a traced program: values, what they read, and the bytes that they would take."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

Shapes = list[tuple[int, ...]]


@dataclass(eq=False)
class Node:
    """A value of the program: its kind, what it reads, and the bytes it would take.

    Attributes:
      kind: how XLA treats it: "cheap", "expensive", "broadcast", "reduce", "convolution", ...
      name: the primitive.
      operands: what it reads, in order.
      shape: numbers an axis.
      dtype: as XLA keeps it.
      scope: the path of modules and functions it comes from.
      params: what else tells it from its like.
      scratch: bytes needed while it runs, beyond its operands and its value.
      value: the one number that all of it are, None where they differ or none is known.
      calls: the functions that it was made within, the outermost first.
      users: what reads it.
    """

    kind: str
    name: str
    operands: list["Node"]
    shape: tuple[int, ...] = ()
    dtype: Any = np.float32
    scope: str = ""
    params: Any = None
    scratch: int = 0
    value: float | None = None
    calls: tuple["Call", ...] = ()
    users: dict["Node", None] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Numbers of the value."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes of the value; a tuple of parts has none of its own, constants are in the code."""
        if self.kind in ("constant", "tuple", "barrier"):
            return 0
        return aval_bytes(self.shape, self.dtype)


@dataclass(eq=False)
class Call:
    """A function called within the program, which XLA takes in as a whole."""

    inputs: list[Node]
    outputs: list[Node] = field(default_factory=list)


@dataclass
class Program:
    """A traced function: every node after those that it reads."""

    nodes: list[Node]
    inputs: list[Node]
    outputs: list[Node]


def aval_bytes(shape: Sequence[int], dtype: Any) -> int:
    """Bytes of an array; keys of random numbers count as the words they hold."""
    if jax.dtypes.issubdtype(dtype, jax.dtypes.extended):
        key = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(tuple(shape), dtype))
        return math.prod(key.shape) * key.dtype.itemsize
    if dtype == jax.dtypes.float0:
        return 0
    return math.prod(shape) * np.dtype(dtype).itemsize


def shaped(node: Node) -> Any:
    return jax.core.ShapedArray(node.shape, node.dtype)


def pairs_of(params: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Parameters of an equation as names and texts: equal for equal equations."""
    return tuple(sorted((key, str(value)) for key, value in params.items() if key != "sharding"))
