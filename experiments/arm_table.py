"""The arm table: what is held equal over the arms of a study, and what is not."""

from collections.abc import Sequence

from experiments.names import column_title
from experiments.studies import Arm

__all__ = ["arm_table"]


def arm_table(arms: Sequence[Arm]) -> str:
    """A terminal table of the arms' accounts, and one line each on what is and is not equal.

    Of one arm there is nothing to say of either.
    """
    columns = list(arms[0].account)
    header = ["arm", *(column_title(column) for column in columns)]
    body = [[arm.title, *(_cell(arm.account[column]) for column in columns)] for arm in arms]
    widths = [max(len(row[i]) for row in [header, *body]) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        return "  ".join(cells)

    equal = [c for c in columns if len({arm.account[c] for arm in arms}) == 1]
    unequal = [c for c in columns if c not in equal]
    lines = [line(header), line(["-" * width for width in widths]), *map(line, body)]
    if len(arms) > 1:
        lines += [
            "",
            f"held equal: {', '.join(map(column_title, equal)) or 'nothing'}",
            f"not equal:  {', '.join(map(column_title, unequal)) or 'nothing'}",
        ]
    return "\n".join(lines)


def _cell(value: int | float | str) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
