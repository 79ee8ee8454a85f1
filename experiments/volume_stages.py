"""The rows of an account gathered into the stages of a drawing, few enough to be looked at."""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from cnnjax.analysis.account import Account, Row
from cnnjax.analysis.receptive_field import AxisField
from experiments.names import operation_title

__all__ = ["Block", "Stage", "blocks", "family", "seen_at_center"]

MOST_STAGES = 24
_LONGEST_PERIOD = 12

_FAMILIES = {
    "convolution": "convolution",
    "transposed_convolution": "transposed convolution",
    "locally_connected": "locally connected",
    "dense": "dense",
    "add": "paths meet",
    "concatenate": "paths meet",
}
# What changes no volume's shape is told of, not drawn, where there is no room.
_QUIET = ("normalization", "elementwise")


@dataclass(frozen=True)
class Stage:
    """Layers that are drawn as one.

    Attributes:
      rows: the layers in execution order.
      num_copies: how many volumes follow one another directly, each like the other.
    """

    rows: tuple[Row, ...]
    num_copies: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The largest of the volumes."""
        return max((row.output_shape for row in self.rows), key=math.prod)

    @property
    def shape_label(self) -> str:
        """As "28x28x512", or with a range of channels where the volumes differ in them."""
        shapes = {row.output_shape for row in self.rows}
        channels = sorted({shape[-1] for shape in shapes if shape})
        if len(channels) < 2:
            return "x".join(map(str, self.shape)) or "scalar"
        return "x".join(map(str, (*self.shape[:-1], f"{channels[0]}-{channels[-1]}")))

    @property
    def operation(self) -> str:
        """That of the layer with most MACs, the first where none has any."""
        return max(self.rows, key=lambda row: row.macs).operation

    @property
    def names(self) -> list[str]:
        """What its layers do, each once, in the order of the first."""
        return list(dict.fromkeys(map(_name, self.rows)))

    @property
    def label(self) -> str:
        """Operations and their windows, each once: "conv 1x1, 3x3; norm; add"."""
        parts = []
        for name in self.names:
            of_name = [row for row in self.rows if _name(row) == name]
            texts = dict.fromkeys(map(_window, of_name))
            # Strides and dilations are told where there is but one.
            if len(texts) > 1:
                texts = dict.fromkeys("x".join(map(str, row.window)) for row in of_name)
            parts.append(f"{name} {', '.join(filter(None, texts))}".strip())
        return "; ".join(parts)

    @property
    def count_label(self) -> str:
        """How many layers: "x3" of one kind, "12 layers" of several, empty for one."""
        if len(self.rows) == 1:
            return ""
        kinds = {(row.operation, row.window) for row in self.rows}
        return f"x{len(self.rows)}" if len(kinds) == 1 else f"{len(self.rows)} layers"


@dataclass(frozen=True)
class Block:
    """Stages that come several times in a row, in this order.

    Attributes:
      stages: those of one time, each with the rows of all times.
      times: how often.
    """

    stages: tuple[Stage, ...]
    times: int = 1


def blocks(account: Account, most: int = MOST_STAGES) -> list[Block]:
    """All rows of an account, gathered no further than needed to have few stages.

    In turn, until there are at most `most` stages: equal layers that follow one another are one
    stage; norms join the layer before; layers of one output shape are one stage; those of one
    spatial size are. Each time sequences of stages that repeat, as residual blocks do, become one
    block if that is needed.

    Args:
      account: of `cnnjax.analysis.account`.
      most: stages wanted; there are more only if the spatial size changes as often.

    Returns:
      Blocks in execution order, whose stages hold every row once.

    >>> import flax.linen as nn
    >>> from cnnjax.analysis import account
    >>> net = nn.Sequential([nn.Conv(8, (3, 3)), nn.Conv(8, (3, 3)), nn.Conv(8, (1, 1))])
    >>> [block.stages[0].label for block in blocks(account(net, (28, 28, 1)))]
    ['conv 3x3', 'conv 1x1']
    """
    found: list[Block] = []
    for key, joins in (
        (_kind, False),
        (_kind, True),
        (_shape, False),
        (_spatial, False),
    ):
        stages = _gathered(account.rows, key, joins=joins)
        keys = [key(rows[0]) for rows in stages]
        for repeats in (False, True):
            found = _blocks(stages, keys) if repeats else [Block((_stage(s),)) for s in stages]
            if sum(len(block.stages) for block in found) <= most:
                return found
    return found


def family(operation: str) -> str:
    """What operations are coloured by.

    >>> family("max_pool"), family("add"), family("local_response_norm")
    ('pooling', 'paths meet', 'norm and other')
    """
    if operation in _FAMILIES:
        return _FAMILIES[operation]
    pooling = "pool" in operation or operation.startswith("spatial_")
    return "pooling" if pooling else "norm and other"


def seen_at_center(axis: AxisField) -> tuple[int, int] | None:
    """First and last pixel that the centre of the output sees; None where it sees nothing.

    As if the image had no borders where there is a law, so that pixels may lie outside; what is
    seen of the image itself where there is none. Of an even number of positions the centre is the
    first of the second half.
    """
    place = tuple(size // 2 for size in axis.first.shape)
    if axis.whole or (axis.size is not None and len(place) == 1):
        first, last = axis.interval(*place) if not axis.whole else (0, axis.input_size - 1)
    else:
        first, last = int(axis.first[place]), int(axis.last[place])
    return (first, last) if first <= last else None


def _name(row: Row) -> str:
    return operation_title(row.operation)


def _window(row: Row) -> str:
    """As "3x3", "3x3 /2" at a stride, "3x3 d2" dilated."""
    text = "x".join(map(str, row.window))
    for mark, values in (("/", row.stride), ("d", row.dilation)):
        if set(values) - {1}:
            values = values[:1] if len(set(values)) == 1 else values
            text += f" {mark}{'x'.join(map(str, values))}"
    return text


def _kind(row: Row) -> Hashable:
    return row.operation, row.window, row.stride, row.dilation, row.output_shape


def _shape(row: Row) -> Hashable:
    return row.output_shape


def _spatial(row: Row) -> Hashable:
    return row.output_shape[:-1] or row.output_shape


def _gathered(
    rows: Sequence[Row], key: Callable[[Row], Hashable], *, joins: bool
) -> list[list[Row]]:
    """Runs of rows of one key; where norms join, they go with the row before them."""
    runs: list[list[Row]] = []
    for row in rows:
        last = runs[-1] if runs else None
        quiet = joins and row.operation in _QUIET
        if last and (key(row) == key(last[0]) or (quiet and _shape(row) == _shape(last[0]))):
            last.append(row)
        else:
            runs.append([row])
    return runs


def _stage(rows: Sequence[Row], times: int = 1) -> Stage:
    drawn = [row for row in rows if row.operation not in _QUIET]
    return Stage(tuple(rows), max(1, len(drawn) // times))


def _blocks(stages: Sequence[list[Row]], keys: Sequence[Hashable]) -> list[Block]:
    """Stages with sequences that repeat made one block, the longest stretch first."""
    found = []
    start = 0
    while start < len(stages):
        period, times = 1, 1
        for length in range(1, _LONGEST_PERIOD + 1):
            again = 1
            pattern = keys[start : start + length]
            while keys[start + again * length : start + (again + 1) * length] == pattern:
                again += 1
            if length * (again - 1) > period * (times - 1):
                period, times = length, again
        of_block = [
            _stage([row for n in range(times) for row in stages[start + n * period + place]], times)
            for place in range(period)
        ]
        found.append(Block(tuple(of_block), times))
        start += period * times
    return found
