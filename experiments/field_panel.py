"""What the centre of each stage's output sees of the input, drawn on the input."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cnnjax.analysis.account import Account
from experiments.drawing_sheet import GREY, Point, Sheet, mixed, text_width
from experiments.volume_stages import Stage, family, seen_at_center

__all__ = ["Field", "draw_fields", "fields", "fields_height"]

_PITCH = 11.0
_TEXT = 7.5
_SQUARE = 172.0
_LABEL_WIDTH = 205.0
_LEADER = 34.0
_FOOT = 18.0


@dataclass(frozen=True)
class Field:
    """Stages that see the same.

    Attributes:
      label: their numbers, what they do, and what they see.
      operation: that of the first.
      intervals: first and last pixel an axis, outside the image too; None where nothing is seen
        or nothing is known.
      whole: whether every position sees the whole input.
    """

    label: str
    operation: str
    intervals: tuple[tuple[int, int], ...] | None
    whole: bool


def fields(account: Account, stages: Sequence[Stage]) -> list[Field]:
    """What the last layer of each stage sees, stages in a row that see the same together.

    Args:
      account: of `cnnjax.analysis.account`.
      stages: all that are drawn, numbered from 1.

    Returns:
      In the order of the first stage; nothing where the input has no spatial axes.
    """
    sizes = account.input_shape[:-1]
    runs: list[tuple[list[int], str, tuple[tuple[int, int], ...] | None]] = []
    for number, stage in enumerate(stages, start=1):
        seen = stage.rows[-1].receptive_field
        if seen.unknown:
            intervals, words = None, "unknown"
        elif not seen.axes:
            continue
        else:
            found = [seen_at_center(axis) for axis in seen.axes]
            intervals = tuple(pair for pair in found if pair is not None)
            intervals = intervals if len(intervals) == len(found) else None
            words = _words(intervals, sizes, whole=seen.whole)
        if runs and runs[-1][1:] == (words, intervals):
            runs[-1][0].append(number)
        else:
            runs.append(([number], words, intervals))
    return [
        Field(
            label=f"{_label(numbers, stages)}: {words}",
            operation=stages[numbers[0] - 1].operation,
            intervals=intervals,
            whole=stages[numbers[0] - 1].rows[-1].receptive_field.whole,
        )
        for numbers, words, intervals in runs
    ]


def fields_height(found: Sequence[Field], sizes: Sequence[int]) -> float:
    """Points that the panel takes."""
    if len(sizes) == 1:
        return _PITCH * len(found) + 14
    if not sizes or not found:
        return 14
    return max(_scale(sizes) * sizes[-2], _PITCH * math.ceil(len(found) / 2)) + _FOOT


def _scale(sizes: Sequence[int]) -> float:
    """Points a pixel."""
    return min(_SQUARE / sizes[-2], 1.4 * _SQUARE / sizes[-1])


def draw_fields(
    sheet: Sheet,
    top: float,
    found: Sequence[Field],
    sizes: Sequence[int],
    colours: dict[str, str],
) -> None:
    """Draw the panel from `top` on; of three spatial axes the last two.

    Args:
      sheet: to draw on.
      top: points from its top edge.
      found: of `fields`.
      sizes: pixels of the input an axis.
      colours: by family of operations.
    """
    if not sizes or not found:
        text = "No layers." if sizes else "The input has no spatial axes."
        sheet.text((sheet.width / 2, top + 9), text, _TEXT, colour=GREY)
    elif len(sizes) == 1:
        _draw_bars(sheet, top, found, sizes[0], colours)
    else:
        _draw_nested(sheet, top, found, (sizes[-2], sizes[-1]), colours)


def _draw_bars(
    sheet: Sheet, top: float, found: Sequence[Field], size: int, colours: dict[str, str]
) -> None:
    """A row of the chart is the interval that a stage sees of the one axis."""
    left, width = 40 + _LABEL_WIDTH, sheet.width - 2 * 40 - _LABEL_WIDTH
    bottom = top + _PITCH * len(found)
    sheet.rectangle(
        (left, top), width, bottom - top, face="#F2F2F2", edge="#BBBBBB", line_width=0.5
    )
    for row, field in enumerate(found):
        y = top + _PITCH * row
        sheet.text((left - 8, y + 8), _fitted(field.label, _LABEL_WIDTH), _TEXT, align="right")
        if field.intervals is None:
            continue
        ((first, last),) = field.intervals
        low, high = max(first, 0), min(last, size - 1)
        colour = colours[family(field.operation)]
        start, end = left + width * low / size, left + width * (high + 1) / size
        sheet.rectangle((start, y + 2), end - start, _PITCH - 4, face=colour, line_width=0)
        for over, x, way in ((first < 0, start, -1), (last >= size, end, 1)):
            if over:
                corners = [(x, y + 2), (x + 5 * way, y + _PITCH / 2), (x, y + _PITCH - 2)]
                sheet.polygon(corners, face=colour, line_width=0)
    for place, pixel in ((0, 0), (0.5, size // 2), (1, size - 1)):
        align = ("left", "center", "right")[int(2 * place)]
        sheet.text((left + width * place, bottom + 10), str(pixel), 7, align=align, colour=GREY)
    sheet.text((left + width / 4, bottom + 10), "pixels of the input", 7, colour=GREY)


def _draw_nested(
    sheet: Sheet,
    top: float,
    found: Sequence[Field],
    sizes: tuple[int, int],
    colours: dict[str, str],
) -> None:
    """Rectangles on the input, led to their labels: small ones to the left, large to the right."""
    panel = fields_height(found, sizes) - _FOOT
    scale = _scale(sizes)
    height, width = scale * sizes[0], scale * sizes[1]
    left, upper = (sheet.width - width) / 2, top + (panel - height) / 2
    sheet.rectangle((left, upper), width, height, face="#F2F2F2", edge="#999999", line_width=0.8)
    caption = f"input {'x'.join(map(str, sizes))}"
    sheet.text((sheet.width / 2, upper + height + 13), caption, 7, colour=GREY)

    drawn = [field for field in found if field.intervals is not None]
    # Wider ones end further right, so that no leader crosses another.
    drawn.sort(
        key=lambda field: (field.whole, *(b - a for a, b in reversed(field.intervals or ())))
    )
    ordered = drawn + [field for field in found if field.intervals is None]
    half = math.ceil(len(ordered) / 2)
    over = 0
    for field in reversed(drawn):
        # The whole input is its own frame.
        if not field.whole:
            _draw_rectangle(sheet, field, (left, upper), scale, sizes, colours, over)
            over += any(a < 0 or b >= n for (a, b), n in _on(field, sizes))
    for side, column in ((-1, ordered[:half]), (1, ordered[half:])):
        start = top + (panel - _PITCH * len(column)) / 2
        edge = left - _LEADER if side < 0 else left + width + _LEADER
        for row, field in enumerate(column):
            y = start + _PITCH * row
            colour = colours[family(field.operation)]
            if field.intervals is not None:
                (_, low), (first, last) = (
                    (max(pair[0], 0), min(pair[1], size - 1)) for pair, size in _on(field, sizes)
                )
                corner = left + scale * (first if side < 0 else last + 1), upper + scale * (low + 1)
                at = [corner, (edge, y + _PITCH / 2)]
                sheet.line(at, colour=mixed(colour, "#ffffff", 0.35), line_width=0.6)
            box = (edge - 7 if side < 0 else edge, y + 2)
            sheet.rectangle(box, 7, 7, face=colour, line_width=0)
            place = (edge + 11 * side, y + 8)
            align = "right" if side < 0 else "left"
            room = sheet.width - 24 - (place[0] if side > 0 else sheet.width - place[0])
            sheet.text(place, _fitted(field.label, room), _TEXT, align=align)


def _draw_rectangle(
    sheet: Sheet,
    field: Field,
    corner: Point,
    scale: float,
    sizes: tuple[int, int],
    colours: dict[str, str],
    num_marks: int,
) -> None:
    """One field, clipped at the image; dashes and a mark, beside other marks, where it goes on."""
    (top, bottom), (left, right) = (interval for interval, _ in _on(field, sizes))
    colour = colours[family(field.operation)]
    x0, x1 = (corner[0] + scale * n for n in (max(left, 0), min(right + 1, sizes[1])))
    y0, y1 = (corner[1] + scale * n for n in (max(top, 0), min(bottom + 1, sizes[0])))
    pale = mixed(colour, "#ffffff", 0.88)
    sheet.rectangle((x0, y0), x1 - x0, y1 - y0, face=pale, edge="none", line_width=0)
    for points, over, (across, down) in (
        ([(x0, y0), (x1, y0)], top < 0, (0, -1)),
        ([(x0, y1), (x1, y1)], bottom >= sizes[0], (0, 1)),
        ([(x0, y0), (x0, y1)], left < 0, (-1, 0)),
        ([(x1, y0), (x1, y1)], right >= sizes[1], (1, 0)),
    ):
        sheet.line(points, colour=colour, line_width=1.1, dashed=over)
        if over:
            x = (points[0][0] + points[1][0]) / 2 + 9 * num_marks * abs(down)
            y = (points[0][1] + points[1][1]) / 2 - 9 * num_marks * abs(across)
            base = [(x + 3 * down * way, y + 3 * across * way) for way in (-1, 1)]
            sheet.polygon([*base, (x + 5 * across, y + 5 * down)], face=colour, line_width=0)


def _on(field: Field, sizes: tuple[int, int]) -> list[tuple[tuple[int, int], int]]:
    """The last two intervals, each with the pixels of its axis."""
    return list(zip((field.intervals or ())[-2:], sizes, strict=True))


def _words(
    intervals: tuple[tuple[int, int], ...] | None, sizes: Sequence[int], *, whole: bool
) -> str:
    if whole:
        return "the whole input"
    if intervals is None:
        return "nothing"
    text = "x".join(str(last - first + 1) for first, last in intervals)
    over = any(
        first < 0 or last >= size for (first, last), size in zip(intervals, sizes, strict=True)
    )
    return f"{text}, over the border" if over else text


def _label(numbers: Sequence[int], stages: Sequence[Stage]) -> str:
    first, last = numbers[0], numbers[-1]
    if first == last:
        return f"{first}  {stages[first - 1].label}"
    names = dict.fromkeys(name for number in numbers for name in stages[number - 1].names)
    return f"{first}-{last}  {', '.join(names)}"


def _fitted(label: str, width: float) -> str:
    """The label, the middle of its names left out where it is too long."""
    if text_width(label, _TEXT) <= width:
        return label
    head, _, tail = label.rpartition(": ")
    while head and text_width(f"{head}...: {tail}", _TEXT) > width:
        head = head[:-1].rstrip(" ;,")
    return f"{head}...: {tail}"
