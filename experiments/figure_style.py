"""How the pictures of a report look: palette, layout, and the bytes of a file.

Drawn through Matplotlib's objects alone: nothing here touches pyplot, its current figure or its
choice of backend.
"""

import io
import textwrap
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

__all__ = [
    "GREY",
    "Style",
    "decorate",
    "encode_png",
    "new_figure",
    "plain",
    "say",
    "shortened",
    "style",
    "wrapped",
]

# Okabe and Ito's palette, told apart by colour-blind readers; their yellow is too pale for lines
# on white and black is kept for the axes.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Dotted is for trials that failed.
_LINE_STYLES: tuple[Any, ...] = ("-", "--", "-.", (0, (6, 1, 1, 1, 1, 1)))
_MARKERS = ("o", "s", "^", "v")
GREY = "#808080"


class Style(NamedTuple):
    """How an arm is drawn wherever it is drawn."""

    colour: str
    line_style: Any
    marker: str


def style(index: int) -> Style:
    """The style of the arm of this index; the first 28 are told apart.

    >>> len({style(index) for index in range(28)})
    28
    """
    row = index // len(_COLOURS) % len(_MARKERS)
    return Style(_COLOURS[index % len(_COLOURS)], _LINE_STYLES[row], _MARKERS[row])


def new_figure(height: float) -> Figure:
    """An empty figure, 11 inches wide."""
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    return Figure(figsize=(11, height), layout=layout)


def encode_png(figure: Figure, dots_per_inch: int = 150) -> bytes:
    """The figure as the bytes of a PNG file; the same figure gives the same bytes.

    Args:
      figure: a figure of `new_figure`.
      dots_per_inch: resolution.
    """
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    # Matplotlib's own stamp would change the file with its version.
    figure.savefig(buffer, format="png", dpi=dots_per_inch, metadata={"Software": None})
    # Few colours, and so a quarter of the bytes: results are kept beside the code.
    picture = Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    small = io.BytesIO()
    picture.save(small, "png", optimize=True, dpi=(dots_per_inch, dots_per_inch))
    return small.getvalue()


def decorate(axes: Axes) -> None:
    """A pale grid behind, and no frame above and to the right."""
    axes.grid(True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def say(axes: Axes, text: str) -> None:
    """Text in the middle of a panel that has nothing to show."""
    box = {"facecolor": "white", "edgecolor": "none"}
    where = axes.transAxes
    axes.text(0.5, 0.5, text, transform=where, ha="center", va="center", color=GREY, bbox=box)


def plain(text: str) -> str:
    """Text in which Matplotlib sees no formula."""
    return text.replace("$", r"\$")


def shortened(text: str, width: int) -> str:
    """At most `width` characters of a text.

    >>> shortened("three 3x3, no ReLU between", 12)
    'three 3x3,…'
    """
    return plain(text if len(text) <= width else text[: width - 1].rstrip() + "…")


def wrapped(text: str) -> str:
    """Up to three short lines of a text, as labels of rows have them."""
    return plain("\n".join(textwrap.wrap(text, 24, max_lines=3, placeholder=" …") or [text]))
