"""Tables and paragraphs of Markdown that read well in a terminal too."""

import textwrap
from collections.abc import Sequence

__all__ = ["paragraphs", "table"]

_LINE_LENGTH = 100


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose source lines up too; numbers, hence all but the first column, right.

    >>> print(table(["arm", "ratio"], [["one 7x7", "1.2"]]))
    | arm     | ratio |
    |:--------|------:|
    | one 7x7 |   1.2 |
    """
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        return f"| {' | '.join(cells)} |"

    rule = ["-" * (width + 1) for width in widths]
    return "\n".join(
        [
            line(header),
            f"|:{rule[0]}|" + "".join(f"{dashes}:|" for dashes in rule[1:]),
            *map(line, rows),
        ]
    )


def paragraphs(*texts: str) -> str:
    r"""Texts as paragraphs, wrapped anew.

    >>> print(paragraphs("one\ntwo", "three"))
    one two
    <BLANKLINE>
    three
    """
    return "\n\n".join(textwrap.fill(" ".join(text.split()), _LINE_LENGTH) for text in texts)
