"""A sheet to draw on in points, with texts whose size is known before they are placed.

The origin is the top left corner and y runs downward, as one reads.
"""

import functools
import io
from collections.abc import Sequence

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Polygon

from experiments.plots import encode_png

__all__ = ["GREY", "INK", "Point", "Sheet", "encode", "mixed", "text_width"]

INK = "#222222"
GREY = "#707070"
_DOTS_PER_INCH = 150
_POINTS_PER_INCH = 72
_FAMILY = "DejaVu Sans"

Point = tuple[float, float]


class Sheet:
    """A figure of which every part is placed in points.

    Attributes:
      width: points.
      height: points.
      figure: what is drawn so far.
    """

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        size = (width / _POINTS_PER_INCH, height / _POINTS_PER_INCH)
        self.figure = Figure(figsize=size, dpi=_DOTS_PER_INCH, facecolor="white")
        self._axes = self.figure.add_axes((0, 0, 1, 1))
        self._axes.set_axis_off()
        self._axes.set_xlim(0, width)
        self._axes.set_ylim(height, 0)
        self._order = 0

    def text(
        self,
        at: Point,
        text: str,
        size: float,
        *,
        align: str = "center",
        colour: str = INK,
        bold: bool = False,
    ) -> None:
        """One line of text; `at` is the point on its baseline where `align` says."""
        self._axes.text(
            *at,
            text,
            horizontalalignment=align,
            verticalalignment="baseline",
            color=colour,
            zorder=self._next(),
            fontproperties=_font(size, bold),
            # A dollar sign in a module's name is no formula.
            parse_math=False,
        )

    def polygon(
        self,
        corners: Sequence[Point],
        *,
        face: str = "none",
        edge: str = INK,
        line_width: float = 0.5,
    ) -> None:
        """A closed polygon, over all that was drawn before."""
        patch = Polygon(
            corners,
            closed=True,
            facecolor=face,
            edgecolor=edge,
            linewidth=line_width,
            joinstyle="round",
            zorder=self._next(),
        )
        self._axes.add_patch(patch)

    def rectangle(self, corner: Point, width: float, height: float, **style: object) -> None:
        """A rectangle from its top left corner; the style is that of `polygon`."""
        x, y = corner
        corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
        self.polygon(corners, **style)  # type: ignore[arg-type]

    def line(
        self,
        points: Sequence[Point],
        *,
        colour: str = INK,
        line_width: float = 0.5,
        dashed: bool = False,
    ) -> None:
        """Straight pieces through these points."""
        across, down = zip(*points, strict=True)
        self._axes.plot(
            across,
            down,
            color=colour,
            linewidth=line_width,
            linestyle=(0, (3, 2)) if dashed else "-",
            solid_capstyle="round",
            zorder=self._next(),
            scalex=False,
            scaley=False,
        )

    def _next(self) -> int:
        self._order += 1
        return self._order


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Points that a line of text takes."""
    return _text_width(text, size, bold)


def encode(figure: Figure, suffix: str) -> bytes:
    """The figure as the bytes of a file; the same figure gives the same bytes.

    Args:
      figure: that of a `Sheet`.
      suffix: ".png" or ".svg". Texts of an SVG are texts, so that they can be searched.
    """
    if suffix == ".png":
        return encode_png(figure, _DOTS_PER_INCH)
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cnnjax"}):
        # Matplotlib's own stamps would change the file with the day and with its version.
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def mixed(colour: str, other: str, share: float) -> str:
    """A colour with a share of another one in it.

    >>> mixed("#000000", "#ffffff", 0.2)
    '#333333'
    """
    pairs = zip(to_rgb(colour), to_rgb(other), strict=True)
    red, green, blue = ((1 - share) * a + share * b for a, b in pairs)
    return to_hex((red, green, blue))


def _font(size: float, bold: bool) -> FontProperties:
    return FontProperties(family=_FAMILY, size=size, weight="bold" if bold else "normal")


@functools.lru_cache(maxsize=4096)
def _text_width(text: str, size: float, bold: bool) -> float:
    width, _, _ = _renderer().get_text_width_height_descent(text, _font(size, bold), False)
    return float(width) * _POINTS_PER_INCH / _DOTS_PER_INCH


@functools.cache
def _renderer() -> RendererAgg:
    return FigureCanvasAgg(Figure(figsize=(1, 1), dpi=_DOTS_PER_INCH)).get_renderer()
