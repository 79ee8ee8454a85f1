"""The account of a function: what every layer makes, sees and costs, as the traced program has it.

Nothing is computed and no weights are allocated: the function is traced on shapes and its
equations are followed in execution order. Convolutions, matrix products, windows and what
`cnnjax.ops` names are rows. A norm, whose parameters belong to no layer before it, is a row too,
as are the places where paths meet. What else happens to a volume, biases and activations, is
counted in the row whose volume it happens to.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from cnnjax.analysis._interpreter import Interpreter
from cnnjax.analysis._ledger import Entry, Ledger
from cnnjax.analysis._program import Program, trace
from cnnjax.analysis._values import Merge, Seen
from cnnjax.analysis.receptive_field import TracedField, image_seen, traced_field

__all__ = ["Account", "Row", "account"]


@dataclass(frozen=True)
class Row:
    """One layer of the traced program, for one example.

    Attributes:
      path: the module path ("StackNet/stack/conv0"), from JAX's name stack; empty outside any.
      operation: "convolution", "transposed_convolution", "locally_connected" or "dense", which
        have MACs; a pooling or normalisation by the name of its function ("max_pool"); "add" or
        "concatenate" where paths meet; "normalization" or "elementwise" for other modules.
      output_shape: the volume it makes, without the batch axis of the one example.
      window: taps an axis; empty where nothing slides, as are the next three.
      stride: step of the window an axis.
      padding: (low, high) pixels an axis.
      dilation: spacing of the taps an axis.
      macs: multiply-accumulates (no bias), taps over padding included, as torchvision counts.
      parameters: trainable numbers first used here, biases included.
      bias_flops: additions of biases.
      other_flops: one for each number that norms, activations, pooling and merges compute or
        compare: elements of what arithmetic makes, elements of what reductions read.
      activation_bytes: bytes of the volume.
      receptive_field: what the volume sees of the input.
    """

    path: str
    operation: str
    output_shape: tuple[int, ...]
    window: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    macs: int
    parameters: int = 0
    bias_flops: int = 0
    other_flops: int = 0
    activation_bytes: int = 0
    receptive_field: TracedField = field(default=TracedField(()), repr=False, compare=False)

    @property
    def activation_values(self) -> int:
        """Numbers in the output volume."""
        return math.prod(self.output_shape)


@dataclass(frozen=True)
class Account:
    """What one forward pass of one example costs, and how many weights it needs.

    Attributes:
      rows: the layers in execution order.
      parameters: trainable numbers, biases included; 0 for a bare function that closes over them.
      input_shape: shape of the example, without a batch axis.
      dtype: dtype of the example.
      parameter_bytes: bytes of the parameters.
      input_flops: what is computed of the input before the first row, counted as `other_flops`.
    """

    rows: tuple[Row, ...]
    parameters: int
    input_shape: tuple[int, ...] = ()
    dtype: str = "float32"
    parameter_bytes: int = 0
    input_flops: int = 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all rows."""
        return sum(row.macs for row in self.rows)

    @property
    def bias_flops(self) -> int:
        """Additions of biases in all rows."""
        return sum(row.bias_flops for row in self.rows)

    @property
    def other_flops(self) -> int:
        """Numbers that norms, activations, pooling and merges compute."""
        return self.input_flops + sum(row.other_flops for row in self.rows)

    @property
    def activation_values(self) -> int:
        """Output values of the rows that have MACs (timm's "macts")."""
        return sum(row.activation_values for row in self.rows if row.macs)

    @property
    def volume_values(self) -> int:
        """Values of the input and of every row's volume: the sum of the course notes' table."""
        return math.prod(self.input_shape) + sum(row.activation_values for row in self.rows)

    @property
    def volume_bytes(self) -> int:
        """Bytes of the same, each in its dtype."""
        size = jnp.dtype(self.dtype).itemsize
        return math.prod(self.input_shape) * size + sum(row.activation_bytes for row in self.rows)


def account(
    module_or_fn: Any,
    input_shape: Sequence[int],
    *,
    dtype: Any = jnp.float32,
    variables: Any = None,
    **kwargs: Any,
) -> Account:
    """Trace a network on one example and account for its layers.

    Args:
      module_or_fn: a Flax module (`init` and `apply`), or a function of one array, or, with
        `variables`, of those and one array.
      input_shape: shape of one example, (*spatial, channels), without a batch axis.
      dtype: dtype of the example.
      variables: arrays or shapes, a tree, that the function takes before the example; a dict with
        a "params" entry counts those alone as parameters.
      **kwargs: passed on to `apply` or the function, for example `train=False`.

    Returns:
      An `Account`; a module's parameters are those of its "params" collection.

    Raises:
      ValueError: a loop of unknown length, or branches, hold layers, so that no count is true.

    >>> import flax.linen as nn
    >>> dense = account(nn.Dense(10), (784,))
    >>> dense.parameters, dense.macs, dense.rows[0].operation
    (7850, 7840, 'dense')

    Convention: convolution and dense layers alone are MACs, bias, norms and pooling apart, batch 1
    (torchvision's published counts). A transposed convolution multiplies each pixel by the whole
    kernel; zeros between pixels are not counted.
    """
    example = jax.ShapeDtypeStruct((1, *input_shape), dtype)
    inputs = (example,) if variables is None else (variables, example)
    program = trace(module_or_fn, inputs, kwargs)
    image = len(program.leaves) - 1
    seen = image_seen(example.shape) if len(example.shape) > 2 else Seen((), (), ())
    trained = _trained(program, image)
    sizes = {number: math.prod(program.leaves[number].shape) for number in trained}
    # "params/stage0/bn1/scale" belongs to the module stage0/bn1.
    ledger = Ledger(sizes, {"/".join(program.names[n].split("/")[1:-1]) for n in trained} - {""})
    interpreter = Interpreter(ledger)
    interpreter.run(program.closed.jaxpr, program.consts, program.values(image, seen), "")
    leaves = [program.leaves[number] for number in trained]
    rows = tuple(_row(entry, seen, interpreter.merges) for entry in ledger.entries)
    return Account(
        rows=rows,
        parameters=sum(math.prod(leaf.shape) for leaf in leaves),
        input_shape=tuple(input_shape),
        dtype=str(jnp.dtype(dtype)),
        parameter_bytes=sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves),
        input_flops=ledger.before.other_flops,
    )


def _trained(program: Program, image: int) -> list[int]:
    """The leaves that are parameters: those of "params", or all where there is no such entry."""
    before = range(image)
    collections = {program.names[number].split("/")[0] for number in before}
    if "params" in collections:
        return [n for n in before if program.names[n].split("/")[0] == "params"]
    return [n for n in before if jnp.issubdtype(program.leaves[n].dtype, jnp.inexact)]


def _row(entry: Entry, seen: Seen, merges: Sequence[Merge]) -> Row:
    return Row(
        path=entry.path,
        operation=entry.operation,
        output_shape=entry.volume,
        window=entry.window,
        stride=entry.stride,
        padding=entry.padding,
        dilation=entry.dilation,
        macs=entry.macs,
        parameters=entry.parameters,
        bias_flops=entry.bias_flops,
        other_flops=entry.other_flops,
        activation_bytes=entry.num_bytes,
        receptive_field=traced_field(
            entry.value, entry.output, seen.tracked, merges[: entry.merges_before]
        ),
    )
