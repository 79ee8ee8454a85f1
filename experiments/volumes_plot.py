"""The drawing of a network: its volumes one after another, and what their centres see.

Above, every volume stands in cabinet projection as in the figures of LeNet and AlexNet; below, the
input with the receptive fields of the centre output positions on it. Everything is laid out in
points from measured text, so that nothing overlaps.

Drawn through Matplotlib's objects alone: nothing here touches pyplot, its current figure or its
choice of backend.
"""

import math
import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from cnnjax import files
from cnnjax.analysis.account import Account
from experiments.drawing_sheet import GREY, INK, Sheet, encode, mixed, text_width
from experiments.field_panel import draw_fields, fields, fields_height
from experiments.volume_stages import Block, Stage, blocks, family

__all__ = ["check_picture", "draw_volumes", "volumes_figure"]

SUFFIXES = (".png", ".svg")
# Okabe and Ito's palette, told apart by colour-blind readers, and a grey for the image itself.
_COLOURS = {
    "input": "#999999",
    "convolution": "#0072B2",
    "pooling": "#009E73",
    "dense": "#E69F00",
    "transposed convolution": "#56B4E9",
    "paths meet": "#D55E00",
    "locally connected": "#CC79A7",
    "norm and other": "#F0E442",
}
_WIDTH = 792.0
_MARGIN = 18.0
_TALLEST = 78.0
_DEEPEST = (26.0, 20.0, 15.0)
_BAR = 9.0
_GAP = 9.0
_LINE = 8.5
_TEXT = 6.8
# Cabinet projection: what recedes goes up and to the right at 45 degrees, at half its length.
_RECEDE = 0.5 * math.sqrt(0.5)
_MOST_COPIES = 3
_CAPTION = (
    "Heights and widths of volumes are to scale, depths go with the square root of channels, bars "
    "with that of units. Receptive fields: as if the image had no border, clipped and marked there."
)


def check_picture(path: str | os.PathLike[str]) -> None:
    """Refuse a picture that could not be written, before anything is computed.

    Raises:
      ValueError: neither PNG nor SVG by its suffix, or its directory does not exist.

    >>> check_picture("volumes.pdf")
    Traceback (most recent call last):
    ValueError: draw_volumes: a picture is .png or .svg by its suffix, got 'volumes.pdf'; ...
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"draw_volumes: a picture is .png or .svg by its suffix, got {str(path)!r}; write "
            f"{path.stem or 'volumes'}.png"
        )
    if not path.parent.is_dir():
        raise ValueError(
            f"draw_volumes: the directory of {str(path)!r} does not exist; make it first"
        )


def draw_volumes(
    account: Account, path: str | os.PathLike[str], *, title: str | None = None
) -> None:
    """Draw the volumes of an account and their receptive fields into a PNG or SVG file.

    The same account gives the same bytes. Needs no display.

    Args:
      account: of `cnnjax.analysis.account`.
      path: file to write, atomically; its suffix, .png or .svg, says which.
      title: above the drawing, cut to two lines; none by default.

    Raises:
      ValueError: another suffix, or a directory that does not exist.
      TypeError: not an `Account`.
      OSError: the file cannot be written.

    >>> import tempfile
    >>> from cnnjax.analysis import account
    >>> from cnnjax.models import StackNet
    >>> net = StackNet(10, 16, windows=(3, 3, 3), widths=(16, 16, 16))
    >>> picture = Path(tempfile.mkdtemp()) / "volumes.svg"
    >>> draw_volumes(account(net, (28, 28, 1)), picture)
    >>> "14x14x16" in picture.read_text()
    True
    """
    check_picture(path)
    figure = volumes_figure(account, title=title)
    files.write_atomically(path, encode(figure, Path(path).suffix.lower()))


def volumes_figure(account: Account, *, title: str | None = None) -> Figure:
    """The drawing as a figure 11 inches wide, as high as it must be.

    Args:
      account: of `cnnjax.analysis.account`.
      title: as for `draw_volumes`.

    Returns:
      A Matplotlib figure. Heights and widths of volumes are to one scale, depths go with the
      square root of channels, bars with that of units. From three spatial axes on the last two
      are drawn, and all are written.

    Raises:
      TypeError: not an `Account`.
    """
    if not isinstance(account, Account):
        raise TypeError(
            f"volumes_figure: expected an Account, got {type(account).__name__}; make one by "
            "cnnjax.analysis.account(module_or_fn, input_shape)"
        )
    found = blocks(account)
    stages = [stage for block in found for stage in block.stages]
    # Shallower volumes, if that saves a line.
    layouts = [_wrapped(_groups(account, found, deepest)) for deepest in _DEEPEST]
    lines = min(layouts, key=len)
    sizes = account.input_shape[:-1]
    seen = fields(account, stages)
    titles = _titles(title)

    used = {"input", *(family(stage.operation) for stage in stages)}
    legend = [name for name in _COLOURS if name in used]
    totals = _totals(account)
    apart = text_width(totals, 8.5) + _legend_width(legend) + 20 > _WIDTH - 2 * _MARGIN
    head = _MARGIN + 14 * len(titles) + 26 + 14 * apart
    panels = sum(line.height for line in lines)
    below = head + panels + 8
    sheet = Sheet(_WIDTH, below + 16 + fields_height(seen, sizes) + 32)
    for row, text in enumerate(titles):
        sheet.text((_MARGIN, _MARGIN + 8 + 14 * row), text, 11, align="left", bold=True)
    sheet.text((_MARGIN, head - 19 - 14 * apart), totals, 8.5, align="left", colour=GREY)
    _draw_legend(sheet, head - 19, legend)
    top = head
    for line in lines:
        _draw_line(sheet, top, line)
        top += line.height
    heading = "What the centre of each stage's output sees of the input"
    sheet.text((_MARGIN, below + 4), heading, 9, align="left", bold=True)
    draw_fields(sheet, below + 16, seen, sizes, _COLOURS)
    sheet.text((_MARGIN, sheet.height - 14), _CAPTION, 6.5, align="left", colour=GREY)
    return sheet.figure


@dataclass(frozen=True)
class _Slot:
    """A stage as it is drawn: its boxes and its texts, in points."""

    colour: str
    above: tuple[str, ...]
    below: str
    num_copies: int
    size: "_Size"
    width: float


@dataclass(frozen=True)
class _Size:
    """Points of one volume: along the sheet, up, and those by which its far side is moved."""

    across: float
    up: float
    far: float


@dataclass(frozen=True)
class _Group:
    """Slots that stay together, and what is said if they come again and again."""

    slots: tuple[_Slot, ...]
    again: str = ""

    @property
    def width(self) -> float:
        """Points, with the gaps between its slots."""
        return sum(slot.width for slot in self.slots) + _GAP * (len(self.slots) - 1)


@dataclass(frozen=True)
class _Line:
    """Groups that stand beside one another."""

    groups: tuple[_Group, ...]

    @property
    def num_texts(self) -> int:
        """Lines of text above the boxes."""
        return max(len(slot.above) for group in self.groups for slot in group.slots)

    @property
    def tallest(self) -> float:
        """Points of the highest boxes."""
        sizes = [slot.size for group in self.groups for slot in group.slots]
        return max(size.up + size.far for size in sizes)

    @property
    def height(self) -> float:
        """Points, texts and the brackets of repeated groups included."""
        repeated = any(group.again for group in self.groups)
        return _LINE * self.num_texts + self.tallest + 34 + 12 * repeated


def _groups(account: Account, found: Sequence[Block], deepest: float) -> list[_Group]:
    """Everything that is drawn above, the input first."""
    shapes = [account.input_shape, *(row.output_shape for row in account.rows)]
    faces = [shape[:-1][-2:] for shape in shapes if len(shape) > 1]
    pixels = max((max(face) for face in faces), default=1)
    channels = max((shape[-1] for shape in shapes if len(shape) > 1), default=1)
    units = max((math.prod(shape) for shape in shapes if len(shape) < 2), default=1)

    def size(shape: tuple[int, ...]) -> _Size:
        if len(shape) < 2:
            return _Size(_BAR, max(3, _TALLEST * math.sqrt(math.prod(shape) / units)), 0)
        face = shape[:-1][-2:]
        up = max(1.5, _TALLEST * face[0] / pixels)
        far = _RECEDE * max(1.5, _TALLEST * face[-1] / pixels) if len(face) > 1 else 0
        return _Size(max(1.5, deepest * math.sqrt(shape[-1] / channels)), up, far)

    def slot(colour: str, above: Sequence[str], below: str, shape: Any, copies: int) -> _Slot:
        one = size(shape)
        drawn = one.across * copies + _spread(copies) + one.far
        widths = [text_width(text, _TEXT, bold=not row) for row, text in enumerate(above)]
        width = max(drawn, text_width(below, _TEXT), *widths)
        return _Slot(colour, tuple(above), below, copies, one, width)

    shape = account.input_shape
    label = "x".join(map(str, shape)) or "scalar"
    groups = [_Group((slot("input", ["", "input"], label, shape, 1),))]
    number = 0
    for block in found:
        slots = []
        for stage in block.stages:
            number += 1
            copies = min(stage.num_copies, _MOST_COPIES)
            above = [str(number), *_label_lines(stage, counted=block.times == 1)]
            name = family(stage.operation)
            slots.append(slot(name, above, stage.shape_label, stage.shape, copies))
        num_layers = sum(len(stage.rows) for stage in block.stages)
        again = f"x{block.times}, {num_layers} layers" if block.times > 1 else ""
        groups.append(_Group(tuple(slots), again))
    return groups


def _label_lines(stage: Stage, *, counted: bool) -> list[str]:
    """What a stage does in a few short lines, and how many layers it has."""
    parts = stage.label.split("; ")
    if len(parts) == 1:
        # Alone, an operation stands over its window.
        (name,) = stage.names
        lines = [*textwrap.wrap(name, 11), *textwrap.wrap(parts[0].removeprefix(name).strip(), 11)]
    else:
        lines = [line for part in parts for line in textwrap.wrap(part, 15)]
    return [*lines, *([stage.count_label] if counted and stage.count_label else [])]


def _wrapped(groups: Sequence[_Group]) -> list[_Line]:
    """Groups in as few lines as they need, lines about equally full."""
    room = _WIDTH - 2 * _MARGIN
    total = sum(group.width + _GAP for group in groups)
    num_lines = math.ceil(total / room)
    while True:
        lines: list[list[_Group]] = [[]]
        filled = 0.0
        for group in groups:
            last = sum(g.width + _GAP for g in lines[-1])
            enough = filled >= total * len(lines) / num_lines
            if lines[-1] and (last + group.width > room or enough):
                lines.append([])
            lines[-1].append(group)
            filled += group.width + _GAP
        if len(lines) <= num_lines:
            return [_Line(tuple(line)) for line in lines]
        num_lines += 1


def _draw_line(sheet: Sheet, top: float, line: _Line) -> None:
    """One line of groups, boxes on one middle, texts in one row above and one below."""
    slots = [slot for group in line.groups for slot in group.slots]
    used = sum(slot.width for slot in slots)
    gap = min(26.0, (_WIDTH - 2 * _MARGIN - used) / max(1, len(slots) - 1))
    x = (_WIDTH - used - gap * (len(slots) - 1)) / 2
    texts = _LINE * line.num_texts
    middle = top + texts + 8 + line.tallest / 2
    bottom = top + texts + 8 + line.tallest + 10
    for group in line.groups:
        start = x
        for slot in group.slots:
            centre = x + slot.width / 2
            first = top + texts - _LINE * len(slot.above)
            for row, text in enumerate(slot.above):
                at = (centre, first + _LINE * (row + 1))
                sheet.text(at, text, _TEXT, bold=not row, colour=GREY if not row else INK)
            _draw_boxes(sheet, slot, centre, middle)
            sheet.text((centre, bottom), slot.below, _TEXT)
            x += slot.width + gap
        if group.again:
            end = x - gap
            ends = [(start, bottom + 4), (start, bottom + 7), (end, bottom + 7), (end, bottom + 4)]
            sheet.line(ends, colour=GREY, line_width=0.7)
            at = ((start + end) / 2, bottom + 16)
            sheet.text(at, group.again, _TEXT + 0.4, bold=True)


def _draw_boxes(sheet: Sheet, slot: _Slot, centre: float, middle: float) -> None:
    """The volumes of a slot, the left ones behind."""
    size = slot.size
    drawn = size.across * slot.num_copies + _spread(slot.num_copies) + size.far
    x = centre - drawn / 2
    lower = middle + (size.up + size.far) / 2
    upper = lower - size.up
    colour = _COLOURS[slot.colour]
    light, dark = mixed(colour, "#ffffff", 0.45), mixed(colour, "#000000", 0.25)
    for _ in range(slot.num_copies):
        end, far = x + size.across, size.far
        if far:
            top = [(x, upper), (end, upper), (end + far, upper - far), (x + far, upper - far)]
            side = [(end, upper), (end, lower), (end + far, lower - far), (end + far, upper - far)]
            sheet.polygon(top, face=light)
            sheet.polygon(side, face=dark)
        sheet.rectangle((x, upper), size.across, size.up, face=colour)
        x = end + _spread(2)


def _spread(copies: int) -> float:
    """Points between volumes of one slot."""
    return 3.0 * (copies - 1)


def _titles(title: str | None) -> list[str]:
    """The title in two lines at most."""
    if not title or not title.strip():
        return []
    room = _WIDTH - 2 * _MARGIN
    for size in (110, 100, 90, 80, 70):
        lines = textwrap.wrap(title, size, max_lines=2, placeholder=" ...")
        if max(text_width(line, 11, bold=True) for line in lines) <= room:
            break
    return lines


def _totals(account: Account) -> str:
    layers = "1 layer" if len(account.rows) == 1 else f"{len(account.rows)} layers"
    return f"{layers}, {account.parameters:,} parameters, {account.macs:,} MACs"


def _legend_width(names: Sequence[str]) -> float:
    return sum(text_width(name, 7.5) + 22 for name in names)


def _draw_legend(sheet: Sheet, baseline: float, names: Sequence[str]) -> None:
    """What the colours mean, ending at the right margin."""
    x = _WIDTH - _MARGIN - _legend_width(names) + 22
    for name in names:
        sheet.rectangle((x - 11, baseline - 7), 8, 8, face=_COLOURS[name], line_width=0.4)
        sheet.text((x, baseline), name, 7.5, align="left")
        x += text_width(name, 7.5) + 22
