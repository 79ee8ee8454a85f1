"""Rows of an account as plain values and as the cells of a table."""

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np

from cnnjax.analysis.account import Account, Row
from cnnjax.analysis.receptive_field import AxisField, TracedField

__all__ = [
    "agreed",
    "field_cell",
    "human_bytes",
    "input_row",
    "numbers",
    "padding_cell",
    "record",
    "runs",
    "short_paths",
    "times",
]

Number = int | Fraction | None
T = TypeVar("T")


def input_row(account: Account) -> Row:
    """The input as a row: each pixel sees itself, and what is computed of it comes first."""
    shape = account.input_shape
    axes = []
    for axis, size in enumerate(shape[:-1], start=1):
        pixels = np.arange(size)
        axes.append(
            AxisField(
                input_axis=axis,
                input_size=size,
                output_axes=(axis,),
                first=pixels,
                last=pixels,
                size=1,
                stride=1,
                padding=0,
                smallest=1,
                largest=1,
                whole=size == 1,
                period=1,
            )
        )
    return Row(
        path="",
        operation="input",
        output_shape=shape,
        window=(),
        stride=(),
        padding=(),
        dilation=(),
        macs=0,
        other_flops=account.input_flops,
        activation_bytes=math.prod(shape) * jnp.dtype(account.dtype).itemsize,
        receptive_field=TracedField(tuple(axes)),
    )


def record(index: int, row: Row) -> dict[str, Any]:
    """One row as a flat dict of plain values; `tables.records` says what each means."""
    seen = row.receptive_field
    return {
        "index": index,
        "path": row.path,
        "operation": row.operation,
        "output_shape": times(row.output_shape),
        "window": times(row.window),
        "stride": times(row.stride),
        "padding": padding_cell(row.padding),
        "dilation": times(row.dilation),
        "receptive_field": numbers(seen.size),
        "field_stride": numbers(seen.stride),
        "field_padding": numbers(seen.padding),
        "smallest_path": numbers([axis.smallest for axis in seen.axes]),
        "largest_path": numbers([axis.largest for axis in seen.axes]),
        "receptive_field_support": times(map(support, seen.axes)),
        "receptive_field_whole": seen.whole,
        "receptive_field_unknown": "; ".join(seen.unknown),
        "aligned": seen.aligned,
        "parameters": row.parameters,
        "macs": row.macs,
        "bias_flops": row.bias_flops,
        "other_flops": row.other_flops,
        "activation_values": row.activation_values,
        "activation_bytes": row.activation_bytes,
    }


def times(values: Iterable[int | str]) -> str:
    """As sizes are written: "3x3".

    >>> times((224, 224, 64)), times(())
    ('224x224x64', '')
    """
    return "x".join(map(str, values))


def numbers(values: Sequence[Number]) -> str:
    """As sizes are written, "?" for None; nothing where all are None.

    >>> numbers((7, None)), numbers((Fraction(1, 2), 1)), numbers((None, None))
    ('7x?', '1/2x1', '')
    """
    if all(value is None for value in values):
        return ""
    return times("?" if value is None else str(value) for value in values)


def agreed(values: Sequence[Number]) -> str:
    """One number where all axes agree, `numbers` otherwise.

    >>> agreed((2, 2)), agreed((2, 1)), agreed(())
    ('2', '2x1', '')
    """
    return numbers(_once(values))


def padding_cell(padding: Sequence[tuple[int, int]]) -> str:
    """(low, high) of each axis, without what repeats.

    >>> padding_cell(((1, 1), (1, 1))), padding_cell(((0, 1), (0, 1)))
    ('1', '0,1')
    >>> padding_cell(((1, 1), (2, 2))), padding_cell(((0, 1), (2, 2)))
    ('1x2', '0,1x2')
    """
    return times(_once([str(p[0]) if p[0] == p[1] else f"{p[0]},{p[1]}" for p in padding]))


def support(axis: AxisField) -> int:
    """The most pixels of the image itself that any position sees."""
    return int((axis.last - axis.first).max(initial=-1)) + 1


def field_cell(seen: TracedField) -> str:
    """What a reader is told of a receptive field; one word where all axes agree."""
    if seen.unknown:
        return "unknown"
    return times(_once([_axis_cell(axis) for axis in seen.axes]))


def _once(values: Sequence[T]) -> Sequence[T]:
    """One value that stands for all axes where they agree."""
    return values[:1] if len(set(values)) == 1 else values


def _axis_cell(axis: AxisField) -> str:
    if support(axis) == 0:
        return "nothing"
    # A size says more than that it happens to reach over this image.
    if axis.size is not None:
        return str(axis.size)
    return "whole" if axis.whole else f"varies <= {support(axis)}"


def human_bytes(num_bytes: int) -> str:
    """Bytes in the largest binary unit that they reach: KiB is 2^10 bytes, MiB 2^20, GiB 2^30.

    Args:
      num_bytes: bytes, at least 0.

    >>> human_bytes(1023), human_bytes(224 * 224 * 64 * 4), human_bytes(3 * 2**40)
    ('1,023 B', '12.25 MiB', '3.00 TiB')
    """
    exponent = min(max(num_bytes.bit_length() - 1, 0) // 10, 4)
    if not exponent:
        return f"{num_bytes:,} B"
    return f"{num_bytes / 1024**exponent:,.2f} {'KMGT'[exponent - 1]}iB"


def short_paths(paths: Sequence[str], longest: int) -> list[str]:
    """Module paths without the outermost module that all share, cut in the middle.

    >>> short_paths(["Net", "Net/stem", "Net/stage0/block0/branch1/conv1"], 20)
    ['', 'stem', 'stage0/b...h1/conv1']
    """
    parts = [path.split("/") for path in paths if path]
    # Alone, a module's name says more than nothing.
    if len({part[0] for part in parts}) == 1 and any(len(part) > 1 for part in parts):
        paths = [path.partition("/")[2] for path in paths]
    before = (longest - 3) // 2
    after = longest - 3 - before
    return [p if len(p) <= longest else f"{p[:before]}...{p[-after:]}" for p in paths]


def runs(indices: Sequence[int]) -> str:
    """Increasing integers, those that follow one another together.

    >>> runs([1, 2, 3, 5, 8, 9])
    '1-3, 5, 8-9'
    """
    pieces: list[list[int]] = []
    for index in indices:
        if pieces and index == pieces[-1][-1] + 1:
            pieces[-1].append(index)
        else:
            pieces.append([index])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in pieces)
