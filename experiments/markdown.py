"""Markdown as the reports write it: tables, cells that do not break them, numbers."""

from collections.abc import Iterable, Sequence

from experiments.names import column_title
from experiments.wording import one_line

__all__ = ["cell", "number", "ratio", "table", "title"]


def table(header: Sequence[str], rows: Iterable[Sequence[str]], alignment: str) -> list[str]:
    """The lines of a table, and the empty line after it.

    Args:
      header: titles of the columns.
      rows: as many cells each.
      alignment: "l" or "r" a column.

    >>> table(["arm", "n"], [["one 7x7", "5"]], "lr")
    ['| arm | n |', '| --- | ---: |', '| one 7x7 | 5 |', '']
    """
    rules = ["---:" if letter == "r" else "---" for letter in alignment]
    return [*(f"| {' | '.join(cells)} |" for cells in (header, rules, *rows)), ""]


def cell(text: str) -> str:
    """Text on one line that does not end its cell of a table."""
    return one_line(text).replace("|", "\\|")


def title(column: str) -> str:
    """How a column of an account is called, in a cell."""
    return column_title(cell(column))


def number(value: object) -> str:
    """A number with its thousands apart, anything else as text.

    >>> number(1234567), number(0.125), number("3x3")
    ('1,234,567', '0.125', '3x3')
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return cell(str(value))
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"


def ratio(value: object, reference: object) -> str:
    """`value` as a multiple of `reference` in brackets, or nothing where that says nothing.

    >>> ratio(3, 4), ratio(3, 0), ratio("3x3", 4)
    (' (0.75×)', '', '')
    """
    if not isinstance(value, int | float) or not isinstance(reference, int | float):
        return ""
    return f" ({value / reference:.2f}×)" if reference else ""
