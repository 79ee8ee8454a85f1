"""An account as people and programs read it: records, a terminal table, Markdown, JSON.

`records` is the one place where a row becomes plain values; the document of `to_json` holds them,
`pandas.DataFrame` reads them. The two tables say the same in fewer words: one number where all axes
agree, thousands separated, bytes in KiB, MiB, GiB (2^10, 2^20, 2^30).
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from cnnjax.analysis import _table_cells as cell
from cnnjax.analysis._table_cells import human_bytes
from cnnjax.analysis.account import Account, Row
from cnnjax.analysis.receptive_field import Merge

__all__ = ["human_bytes", "notes", "records", "to_json", "to_markdown", "to_text"]

_LONGEST_PATH = 32
_SHORTEST_PATH = 12


def records(account: Account) -> list[dict[str, Any]]:
    """One flat dict of plain values a row, the input first, in execution order.

    Args:
      account: of `cnnjax.analysis.account`.

    Returns:
      Dicts of the same keys, values `int`, `bool` or `str`:
      `index` (0 is the input), `path`, `operation` ("input" for the input);
      `output_shape`, `window`, `stride`, `dilation`: numbers joined by "x", empty for none;
      `padding`: for each axis "low,high", or one number if they are equal, joined by "x"; one axis
      stands for all if they agree ("1", "0,1", "1x2");
      `receptive_field`, `field_stride`, `field_padding`, `smallest_path`, `largest_path`: as in
      `AxisField`, numbers joined by "x", fractions as "1/2", "?" for an axis that has none, empty
      if no axis has one;
      `receptive_field_support`: the most pixels that any position sees of the image itself, exact
      for this input, joined by "x"; `receptive_field_whole`: whether every position sees all of
      it; `receptive_field_unknown`: why it could not be followed, else empty; `aligned`;
      `parameters`, `macs`, `bias_flops`, `other_flops`, `activation_values`, `activation_bytes`:
      they sum to the account's totals, but for parameters that no row uses.

    Raises:
      TypeError: not an `Account`.

    >>> import flax.linen as nn
    >>> from cnnjax.analysis.account import account
    >>> image, layer = records(account(nn.Conv(64, (3, 3)), (224, 224, 3)))
    >>> image["operation"], image["output_shape"], image["activation_values"]
    ('input', '224x224x3', 150528)
    >>> layer["window"], layer["padding"], layer["receptive_field"], layer["parameters"]
    ('3x3', '1', '3x3', 1792)
    """
    _check_account("records", account)
    rows = [cell.input_row(account), *account.rows]
    return [cell.record(index, row) for index, row in enumerate(rows)]


def to_text(account: Account, *, footprint: Any = None, width: int | None = None) -> str:
    r"""A table for a terminal, ASCII only, with its totals and what is to be noted beneath.

    The receptive field is its size by law, as if the image had no borders; "whole" where there is
    none and every position sees the whole input (a dense layer), "unknown" where it could not be
    followed, "varies <= 23" where it follows no law and no position sees more than 23 pixels,
    "nothing" where no pixel is seen. Padding is as in `records`, a path lacks its outermost
    module, and columns that say nothing (dilation 1 throughout) are left out.

    Args:
      account: of `cnnjax.analysis.account`.
      footprint: a dataclass with `batch_size`, `dtype` and integers named `..._bytes`: a line each.
      width: characters of the terminal: columns of least weight are left out, and named beneath,
        and paths are cut, until the table fits or only what never goes is left; None for any.

    Returns:
      Lines without trailing spaces, no newline at the end.

    Raises:
      TypeError: not an `Account`, not a dataclass, or a width that is not an integer.
      ValueError: a width below 40.

    >>> import flax.linen as nn
    >>> from cnnjax.analysis.account import account
    >>> table = to_text(account(nn.Dense(10), (784,)), width=64)
    >>> print("\n".join(table.splitlines()[:4]))
    #  path   operation  output  parameters   MACs  values    memory
    -  -----  ---------  ------  ----------  -----  ------  --------
    0         input         784           0      0     784  3.06 KiB
    1  Dense  dense          10       7,850  7,840      10      40 B
    >>> print(table.splitlines()[-1])
    left out at a width of 64: bias FLOPs, other FLOPs

    Source: CS231n course notes, "VGGNet in detail".
    """
    _check_account("to_text", account)
    _check_footprint("to_text", footprint)
    if width is not None and (not isinstance(width, int) or isinstance(width, bool)):
        raise TypeError(
            f"to_text: width must be an integer or None, got {type(width).__name__}; write "
            "shutil.get_terminal_size().columns"
        )
    if width is not None and width < 40:
        raise ValueError(
            f"to_text: width must be at least 40 characters, got {width}; write width=None for a "
            "table of any width"
        )
    columns = _columns(account)
    longest = _LONGEST_PATH
    left_out: list[str] = []
    if width is not None:
        kept = [column for column in columns if column.name not in _BY_WEIGHT]
        while longest > _SHORTEST_PATH and _width(kept, longest) > width:
            longest -= 1
        for name in _BY_WEIGHT:
            wider = [c for c in columns if c in kept or c.name == name]
            kept = wider if _width(wider, longest) <= width else kept
        left_out = [_one_line(column.title) for column in columns if column not in kept]
        columns = kept
    lines = _aligned(columns, longest)
    totals = _totals(account)
    label, number = (max(len(total[part]) for total in totals) for part in (0, 1))
    lines += ["", *(f"{t[0].ljust(label)}  {t[1].rjust(number)}  {t[2]}".rstrip() for t in totals)]
    if footprint is not None:
        lines += ["", *_footprint_lines(footprint)]
    remarks = notes(account)
    if left_out:
        remarks.append(f"left out at a width of {width}: {', '.join(left_out)}")
    return "\n".join([*lines, *([""] if remarks else []), *remarks])


def to_markdown(account: Account, *, footprint: Any = None) -> str:
    """A table in GitHub's Markdown, with its totals and what is to be noted beneath.

    Args:
      account: of `cnnjax.analysis.account`.
      footprint: as for `to_text`.

    Returns:
      The cells of `to_text`, numbers aligned to the right and pipes escaped; no newline at the end.

    Raises:
      TypeError: not an `Account`, or a footprint that is not a dataclass.

    >>> import flax.linen as nn
    >>> from cnnjax.analysis.account import account
    >>> table = to_markdown(account(nn.Dense(10), (784,)))
    >>> print(table.splitlines()[3])
    | 1 | `Dense` | dense | 10 | 7,850 | 7,840 | 10 | 0 | 10 | 40 B |
    """
    _check_account("to_markdown", account)
    _check_footprint("to_markdown", footprint)
    columns = _columns(account)
    cells = [[_one_line(column.title), *_cells(column, _LONGEST_PATH)] for column in columns]
    for column, texts in zip(columns, cells, strict=True):
        if column.name == "path":
            # A module's name may hold what Markdown takes for emphasis; as code it is itself.
            texts[1:] = [f"`{text.replace('`', chr(39))}`" if text else "" for text in texts[1:]]
    lines = [f"| {' | '.join(map(_escaped, row))} |" for row in zip(*cells, strict=True)]
    lines.insert(1, f"|{'|'.join('---' if column.left else '---:' for column in columns)}|")
    blocks = [lines, [f"- {t[0]}: {t[1]}" + f" ({t[2]})" * bool(t[2]) for t in _totals(account)]]
    if footprint is not None:
        blocks.append([f"- {line}" for line in _footprint_lines(footprint)])
    blocks.append([f"- {_escaped(note)}" for note in notes(account)])
    return "\n\n".join("\n".join(block) for block in blocks if block)


def to_json(account: Account, *, footprint: Any = None) -> str:
    """The account as a JSON document, which holds no NaN and needs no library to be read.

    Args:
      account: of `cnnjax.analysis.account`.
      footprint: as for `to_text`.

    Returns:
      {"input_shape", "dtype", "rows": `records`, "totals", "notes": the lines beneath the tables,
      "footprint": its fields or null}, indented, with a newline at the end.

    Raises:
      TypeError: not an `Account`, or a footprint that is not a dataclass.
      ValueError: a field of the footprint is not finite.

    >>> import flax.linen as nn
    >>> from cnnjax.analysis.account import account
    >>> json.loads(to_json(account(nn.Dense(10), (784,))))["totals"]["macs"]
    7840
    """
    _check_account("to_json", account)
    _check_footprint("to_json", footprint)
    document = {
        "input_shape": list(account.input_shape),
        "dtype": account.dtype,
        "rows": records(account),
        "totals": {name: getattr(account, name) for name in _TOTALS},
        "notes": notes(account),
        "footprint": None if footprint is None else dataclasses.asdict(footprint),
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def notes(account: Account) -> list[str]:
    """What a reader of the table must know: misaligned merges, and fields that are unknown.

    Args:
      account: of `cnnjax.analysis.account`.

    Returns:
      A sentence each, in execution order, the axes of one merge together; empty if all is well.

    Raises:
      TypeError: not an `Account`.

    >>> import jax.numpy as jnp
    >>> from cnnjax import ops
    >>> from cnnjax.analysis.account import account
    >>> def shifted(x):
    ...     return x + ops.conv(x, jnp.ones((3, 3, 1, 1)), padding=((0, 2), (0, 2)))
    >>> notes(account(shifted, (8, 8, 1)))
    ['misaligned: add joins paths with centres up to 1 pixel apart, input axes 1, 2']

    Source: Araujo, Norris and Sim (2019), the two conditions of alignment.
    """
    _check_account("notes", account)
    axes: dict[Merge, list[int]] = {}
    unknown: dict[str, list[int]] = {}
    for index, row in enumerate(account.rows, start=1):
        seen = row.receptive_field
        for merge in dict.fromkeys(seen.misaligned):
            of_merge = axes.setdefault(dataclasses.replace(merge, axis=0), [])
            of_merge += [merge.axis] if merge.axis not in of_merge else []
        for reason in dict.fromkeys(seen.unknown):
            unknown.setdefault(reason, []).append(index)
    sentences = []
    for merge, of_axes in axes.items():
        if merge.offset is None:
            strides = " and ".join(map(str, merge.strides))
            how = f"strides of {strides} pixels"
        else:
            plural = "" if merge.offset == 1 else "s"
            how = f"centres up to {merge.offset:g} pixel{plural} apart"
        along = f"ax{'is' if len(of_axes) == 1 else 'es'} {', '.join(map(str, of_axes))}"
        where = f"{merge.operation} at {merge.path}" if merge.path else merge.operation
        sentences.append(f"misaligned: {where} joins paths with {how}, input {along}")
    for reason, rows in unknown.items():
        which = f"row{'s' if len(rows) > 1 else ''} {cell.runs(rows)}"
        sentences.append(f"receptive field unknown in {which}: {reason}")
    return sentences


_TOTALS = {
    "parameters": "parameters",
    "parameter_bytes": "",
    "macs": "MACs",
    "bias_flops": "bias FLOPs",
    "other_flops": "other FLOPs",
    "activation_values": "values of layers with MACs",
    "volume_values": "values of all volumes",
    "volume_bytes": "",
}


class _Column(NamedTuple):
    name: str
    title: str
    cells: list[str]
    left: bool = False
    always: bool = True


# What a narrow terminal may do without, most wanted first. What others follow from comes last.
_BY_WEIGHT = (
    *("window", "stride", "padding", "dilation", "activation_bytes", "field_stride"),
    *("field_padding", "smallest_path", "activation_values", "bias_flops", "other_flops"),
)


def _columns(account: Account) -> list[_Column]:
    """The columns that say something, all cells as text, paths whole."""
    rows = [cell.input_row(account), *account.rows]
    fields = [row.receptive_field for row in rows]

    def column(name: str, title: str, text: Callable[[Row], str], **how: bool) -> _Column:
        return _Column(name, title, [text(row) for row in rows], **how)

    def of_axes(name: str, title: str, attribute: str) -> _Column:
        cells = [cell.agreed([getattr(a, attribute) for a in seen.axes]) for seen in fields]
        return _Column(name, title, cells, always=False)

    columns = [
        _Column("index", "#", list(map(str, range(len(rows))))),
        column("path", "path", lambda row: row.path, left=True, always=False),
        column("operation", "operation", lambda row: row.operation, left=True),
        column("output_shape", "output", lambda row: cell.times(row.output_shape) or "scalar"),
        column("window", "window", lambda row: cell.times(row.window), always=False),
        column("stride", "stride", lambda row: cell.agreed(row.stride), always=False),
        column("padding", "padding", lambda row: cell.padding_cell(row.padding), always=False),
        column("dilation", "dilation", lambda row: cell.agreed(row.dilation), always=False),
        _Column("receptive_field", "field", list(map(cell.field_cell, fields)), always=False),
        of_axes("field_stride", "field\nstride", "stride"),
        of_axes("field_padding", "field\npadding", "padding"),
        of_axes("smallest_path", "smallest\npath", "smallest"),
        column("parameters", "parameters", lambda row: f"{row.parameters:,}"),
        column("macs", "MACs", lambda row: f"{row.macs:,}"),
        column("bias_flops", "bias\nFLOPs", lambda row: f"{row.bias_flops:,}"),
        column("other_flops", "other\nFLOPs", lambda row: f"{row.other_flops:,}"),
        column("activation_values", "values", lambda row: f"{row.activation_values:,}"),
        column("activation_bytes", "memory", lambda row: human_bytes(row.activation_bytes)),
    ]
    # Without a second path the smallest is the only one.
    if all(a.smallest in (a.size, None) for seen in fields for a in seen.axes):
        columns = [column for column in columns if column.name != "smallest_path"]
    return [column for column in columns if column.always or set(column.cells) - {"", "1"}]


def _cells(column: _Column, longest: int) -> list[str]:
    """Cells, paths shortened."""
    if column.name != "path":
        return column.cells
    return cell.short_paths(column.cells, longest)


def _column_width(column: _Column, longest: int) -> int:
    return max(map(len, [*column.title.split("\n"), *_cells(column, longest)]))


def _width(columns: Sequence[_Column], longest: int) -> int:
    return sum(_column_width(column, longest) for column in columns) + 2 * (len(columns) - 1)


def _aligned(columns: Sequence[_Column], longest: int) -> list[str]:
    """The lines of the table: titles of up to two lines, a rule, the rows."""
    padded = []
    for column in columns:
        width = _column_width(column, longest)
        above, _, below = column.title.rpartition("\n")
        cells = [above, below, "-" * width, *_cells(column, longest)]
        pad = str.ljust if column.left else str.rjust
        padded.append([pad(text, width) for text in cells])
    lines = ["  ".join(row).rstrip() for row in zip(*padded, strict=True)]
    return lines if lines[0] else lines[1:]


def _one_line(title: str) -> str:
    return title.replace("\n", " ")


def _totals(account: Account) -> list[tuple[str, str, str]]:
    """Label, number and bytes of every total."""
    size = {
        "parameters": human_bytes(account.parameter_bytes),
        "volume_values": human_bytes(account.volume_bytes),
    }
    return [
        (title, f"{getattr(account, name):,}", size.get(name, ""))
        for name, title in _TOTALS.items()
        if title
    ]


def _footprint_lines(footprint: Any) -> list[str]:
    """Its settings in one line, then a line for each number of bytes."""
    values = dataclasses.asdict(footprint)
    settings = {n: v for n, v in values.items() if not n.endswith("_bytes") and n != "batch_size"}
    batch = f", batch {values['batch_size']}" if "batch_size" in values else ""
    lines = [f"{name.replace('_', ' ')}: {value}" for name, value in settings.items()]
    for name, value in values.items():
        if name.endswith("_bytes"):
            label = name.removesuffix("_bytes").replace("_", " ")
            # Weights and what goes with each of them are there once, for any batch.
            of_batch = batch if label.endswith(("activation", "peak")) else ""
            plural = "s" if label in ("parameter", "gradient", "activation") else ""
            lines.append(f"{label}{plural}{of_batch}: {human_bytes(value)}")
    return lines


def _escaped(text: str) -> str:
    """Text that does not end its cell."""
    return text.replace("|", "\\|").replace("\n", " ")


def _check_account(function: str, value: Any) -> None:
    if not isinstance(value, Account):
        raise TypeError(
            f"{function}: expected an Account, got {type(value).__name__}; make one by "
            "cnnjax.analysis.account(module_or_fn, input_shape)"
        )


def _check_footprint(function: str, value: Any) -> None:
    if value is not None and (isinstance(value, type) or not dataclasses.is_dataclass(value)):
        raise TypeError(
            f"{function}: footprint must be an instance of a dataclass, or None, got "
            f"{value if isinstance(value, type) else type(value).__name__}; write footprint=None "
            "where there is none"
        )
