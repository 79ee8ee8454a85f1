"""A Markdown report as a terminal shows it: columns of tables stand beneath one another."""

import re
from collections.abc import Sequence
from itertools import groupby

__all__ = ["aligned"]

_CELL_END = re.compile(r"(?<!\\)\|")


def aligned(lines: Sequence[str]) -> str:
    """The report with the cells of each table padded, without pictures and emphasis.

    Args:
      lines: of Markdown.

    >>> print(aligned(["| arm | n |", "| --- | ---: |", "| wide | 5 |"]))
    arm   n
    ----  -
    wide  5
    """
    shown: list[str] = []
    for is_table, group in groupby(lines, key=lambda line: line.startswith("|")):
        if is_table:
            shown += _table(list(group))
        else:
            shown += [line for line in group if not line.startswith(("![", "```"))]
    text = "\n".join(shown).replace("**", "").replace("`", "")
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")


def _table(lines: Sequence[str]) -> list[str]:
    rows = [
        [cell.strip().replace("\\|", "|").replace("`", "") for cell in _CELL_END.split(line)[1:-1]]
        for line in lines
    ]
    right = [rule.endswith(":") for rule in rows[1]]
    body = [rows[0], *rows[2:]]
    widths = [max(map(len, column)) for column in zip(*body, strict=True)]
    body.insert(1, ["-" * width for width in widths])
    return [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in body
    ]
