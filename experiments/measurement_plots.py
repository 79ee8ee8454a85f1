"""The pictures of what studies measure, and of how step sizes were chosen: a line an arm."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from matplotlib.transforms import ScaledTranslation

from experiments.comparisons import Run
from experiments.figure_style import (
    GREY,
    Style,
    decorate,
    new_figure,
    plain,
    say,
    shortened,
    style,
)
from experiments.measurements import Measured, Series

__all__ = ["measurement_figure"]

# Wider spread than this, and evenly spaced as powers are, x is drawn as powers.
_LOGARITHMIC_SPAN = 8.0
# More bands on one another would hide the lines.
_MOST_BANDS = 8


def measurement_figure(run: Run, measured: Measured) -> Figure:
    """A measurement against where it was made: the mean of each arm, its interval, every seed.

    Lines are means over seeds, faint lines the seeds, bands Student's 95 % intervals (none where
    there are more than eight arms); ticks at the bottom are what theory singles out for the arm of
    their colour. A measurement at one place is drawn as dots and bars, the arms side by side. An
    arm looks as it does in the other pictures.

    Args:
      run: the run, whose arms give colours.
      measured: one of its measurements.

    Returns:
      A figure of one panel with its legend below.
    """
    figure = new_figure(4.9 + 0.25 * math.ceil(len(measured.series) / 2))
    axes = figure.subplots()
    looks = [style(run.arms.index(series.arm)) for series in measured.series]
    handles = []
    for index, (look, series) in enumerate(zip(looks, measured.series, strict=True)):
        if len(measured.x) == 1:
            offset = 13 * (index - (len(looks) - 1) / 2)
            _draw_dots(axes, series, look, offset / 72)
        else:
            _draw_lines(axes, series, look, band=len(looks) <= _MOST_BANDS)
        label = f"{shortened(series.arm.title, 56)} (n = {len(series.seeds)})"
        colour, line_style, marker = look
        handles.append(
            Line2D([], [], color=colour, ls=line_style, lw=2, marker=marker, ms=5, label=label)
        )
    _scale(axes, measured)
    if _draw_marks(axes, measured.series, [look.colour for look in looks]):
        label = "ticks at the bottom: what theory singles out"
        handles.append(Line2D([], [], color=GREY, ls="", marker="|", ms=9, mew=2.5, label=label))
    if any(series.observed for series in measured.series):
        label = "triangles above them: measured, mean over seeds"
        handles.append(Line2D([], [], color=GREY, ls="", marker="v", ms=7, mfc="w", label=label))
    if not measured.x:
        say(axes, "no measurements")
    axes.set_title(shortened(measured.title, 96), fontsize=11)
    axes.set_xlabel(plain(measured.x_title))
    axes.set_ylabel(plain(measured.y_title))
    axes.ticklabel_format(axis="y", useOffset=False)
    decorate(axes)
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize=9,
        handlelength=3.5,
    )
    return figure


def _draw_lines(axes: Axes, series: Series, look: Style, *, band: bool) -> None:
    """The means of an arm as a line, with its seeds and its intervals."""
    x, means, half = _intervals(series)
    opacity = max(0.12, 0.5 / math.sqrt(max(1, len(series.seeds))))
    for of_seed in series.seeds.values() if len(series.seeds) > 1 else ():
        axes.plot(*of_seed, color=look.colour, linewidth=0.7, alpha=opacity, zorder=2)
    if band and np.isfinite(half).all():
        axes.fill_between(x, means - half, means + half, color=look.colour, alpha=0.15, lw=0)
    marker = look.marker if x.size <= 30 else None
    axes.plot(
        x, means, color=look.colour, ls=look.line_style, lw=1.8, marker=marker, ms=5, zorder=3
    )


def _draw_dots(axes: Axes, series: Series, look: Style, inches: float) -> None:
    """The one mean of an arm, its bar and its seeds, so far to the right of where they belong."""
    x, means, half = _intervals(series)
    figure: Any = axes.get_figure()
    moved = axes.transData + ScaledTranslation(inches, 0, figure.dpi_scale_trans)
    shared: dict[str, Any] = {"color": look.colour, "transform": moved, "ls": ""}
    for of_seed in series.seeds.values() if len(series.seeds) > 1 else ():
        axes.plot(*of_seed, marker=".", alpha=0.4, zorder=2, **shared)
        # What is moved does not count for the limits of a panel.
        axes.update_datalim(np.transpose(of_seed))
    axes.plot(x, means, marker=look.marker, ms=7, zorder=3, **shared)
    axes.update_datalim(np.transpose([x, means]))
    if np.isfinite(half).all():
        ends = np.concatenate([means - half, means + half])
        axes.plot(np.repeat(x, 2), ends, lw=1.8, zorder=3, **shared | {"ls": "-"})
        axes.update_datalim(np.transpose([np.repeat(x, 2), ends]))
    axes.autoscale_view()


def _intervals(series: Series) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where, the means, and half of the lengths of their intervals."""
    intervals = list(series.means.values())
    half = [(interval.high - interval.low) / 2 for interval in intervals]
    means = [interval.mean for interval in intervals]
    return np.array(list(series.means)), np.array(means), np.array(half)


def _scale(axes: Axes, measured: Measured) -> None:
    """Powers where x is spaced as powers are; else plain numbers."""
    x = np.array(measured.x)
    plain_numbers = FuncFormatter(lambda value, _: f"{value:g}")
    if is_logarithmic(x):
        axes.set_xscale("log")
        if x.size <= 14:
            axes.set_xticks(x)
            axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        whole = bool(x.size) and bool((x == np.round(x)).all())
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=whole, min_n_ticks=1))
    axes.xaxis.set_major_formatter(plain_numbers)


def is_logarithmic(x: np.ndarray) -> bool:
    """Whether places are spaced as powers are, over a wide span.

    >>> is_logarithmic(np.array([1.0, 2, 4, 8, 16])), is_logarithmic(np.arange(1.0, 17))
    (True, False)
    """
    if x.size < 3 or x[0] <= 0 or x[-1] < _LOGARITHMIC_SPAN * x[0]:
        return False
    steps, powers = np.diff(x), np.diff(np.log(x))
    return bool(powers.std() / powers.mean() < steps.std() / steps.mean())


def _draw_marks(axes: Axes, series: Sequence[Series], colours: Sequence[str]) -> bool:
    """Ticks at the bottom, above one another where arms share one; whether there are any.

    What was measured beside is drawn above the ticks as triangles.
    """
    counts: dict[float, int] = {}
    marks = []
    for of_arm, colour in zip(series, colours, strict=True):
        for mark in of_arm.marks:
            marks.append((mark, counts.get(mark, 0), colour))
            counts[mark] = counts.get(mark, 0) + 1
    if not marks:
        return False
    # Room below the curves, however many stand above one another.
    height = min(0.05, 0.3 / max(counts.values()))
    bottom, top = axes.get_ylim()
    room = height * max(counts.values())
    above = 0.04 if any(of_arm.observed for of_arm in series) else 0.0
    # No numbers beside the room, where no value can lie.
    axes.set_yticks([value for value in axes.get_yticks() if bottom <= value <= top])
    axes.set_ylim(top - (top - bottom) / (1 - room - above), top)
    across = axes.get_xaxis_transform()
    for mark, below, colour in marks:
        ends = height * below, height * (below + 0.8)
        axes.plot([mark, mark], ends, color=colour, lw=3, transform=across, zorder=4)
    for of_arm, colour in zip(series, colours, strict=True):
        x = [interval.mean for interval in of_arm.observed]
        if not x:
            continue
        y = [room + 0.02] * len(x)
        axes.plot(x, y, ls="", marker="v", ms=7, color=colour, mfc="w", transform=across, zorder=4)
    return True
