"""Photographs with what a network says of them, on sheets of a few each."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from cnnjax.files import write_atomically
from experiments.plots import encode_png

__all__ = ["Predicted", "draw_predictions", "sheet_paths"]

PER_SHEET = 12
_COLUMNS = 3
_INCHES = (4.6, 2.3)  # Of one photograph and its bars.
_BAR, _REST, _INK, _GREY = "#0072B2", "#E6E6E6", "#222222", "#707070"
_LONGEST = 30
_TEXT: dict[str, Any] = {"parse_math": False}  # A dollar sign in a file's name is no formula.


class Predicted(NamedTuple):
    """One photograph and its best classes.

    Attributes:
      title: what it is called, its file's name.
      image: uint8 (height, width, 3), as small as is enough to look at.
      classes: names, the most probable first.
      probabilities: of each, in [0, 1].
    """

    title: str
    image: np.ndarray
    classes: Sequence[str]
    probabilities: Sequence[float]


def sheet_paths(path: Path, num_photographs: int) -> list[Path]:
    """Where the sheets go: the path, then the same with -2, -3, ... before its suffix.

    >>> [found.name for found in sheet_paths(Path("seen.png"), 25)]
    ['seen.png', 'seen-2.png', 'seen-3.png']
    """
    num_sheets = -(-num_photographs // PER_SHEET)
    return [
        path if i == 1 else path.with_name(f"{path.stem}-{i}{path.suffix}")
        for i in range(1, num_sheets + 1)
    ]


def draw_predictions(photographs: Sequence[Predicted], path: Path, *, title: str) -> list[Path]:
    """Draw sheets of photographs with a bar for each class, and write them as PNG.

    Args:
      photographs: in the order of the sheets, from left to right.
      path: of the first sheet, a .png; `sheet_paths` names the others.
      title: what predicted, on each sheet.

    Returns:
      The files written; the same photographs give the same bytes.

    Raises:
      OSError: a file could not be written; the sheets before it are there.
    """
    paths = sheet_paths(path, len(photographs))
    for i, sheet in enumerate(paths):
        shown = photographs[i * PER_SHEET : (i + 1) * PER_SHEET]
        write_atomically(sheet, encode_png(_sheet(shown, title, i + 1, len(paths))))
    return paths


def _sheet(photographs: Sequence[Predicted], title: str, number: int, of: int) -> Figure:
    columns = min(_COLUMNS, len(photographs))
    rows = -(-len(photographs) // columns)
    figure = Figure(figsize=(_INCHES[0] * columns, _INCHES[1] * rows + 0.4), facecolor="white")
    height = _INCHES[1] * rows + 0.4
    page = f", sheet {number} of {of}" if of > 1 else ""
    title = _shortened(title, 48 * columns - len(page))
    figure.text(0.012, 1 - 0.26 / height, title + page, size=11, color=_INK, **_TEXT)
    for i, photograph in enumerate(photographs):
        row, column = divmod(i, columns)
        left = column / columns
        bottom = (rows - 1 - row) * _INCHES[1] / height
        cell = (left, bottom, 1 / columns, _INCHES[1] / height)
        _draw_one(figure, photograph, cell)
    return figure


def _draw_one(
    figure: Figure, photograph: Predicted, cell: tuple[float, float, float, float]
) -> None:
    left, bottom, width, height = cell
    image = figure.add_axes(
        (left + 0.03 * width, bottom + 0.06 * height, 0.40 * width, 0.76 * height)
    )
    image.imshow(photograph.image, interpolation="lanczos" if photograph.image.size else None)
    image.set_axis_off()
    image.set_anchor("W")
    figure.text(
        left + 0.03 * width,
        bottom + 0.87 * height,
        _shortened(photograph.title, 52),
        size=8.5,
        color=_GREY,
        **_TEXT,
    )
    bars = figure.add_axes(
        (left + 0.46 * width, bottom + 0.06 * height, 0.50 * width, 0.76 * height)
    )
    bars.set_axis_off()
    bars.set_xlim(0, 1)
    places = max(len(photograph.classes), 5)
    bars.set_ylim(places - 0.4, -0.6)
    pairs = zip(photograph.classes, photograph.probabilities, strict=True)
    for place, (name, probability) in enumerate(pairs):
        bars.barh(place + 0.2, 1, height=0.22, color=_REST)
        bars.barh(place + 0.2, probability, height=0.22, color=_BAR)
        weight = "bold" if place == 0 else "normal"
        bars.text(
            0, place - 0.05, _shortened(name, _LONGEST), size=8, color=_INK, weight=weight, **_TEXT
        )
        bars.text(
            1, place - 0.05, f"{probability:.1%}", size=8, color=_INK, ha="right", weight=weight
        )


def _shortened(text: str, width: int) -> str:
    """The text, or its beginning with an ellipsis; one word that is too long is cut."""
    if len(text) <= width:
        return text
    return (
        textwrap.shorten(text, width, placeholder="…")
        if " " in text[:width]
        else (text[: width - 1] + "…")
    )
