"""The picture of several runs: every arm of every run."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cnnjax import stats
from experiments.comparisons import Arm
from experiments.figure_style import decorate, new_figure, say, shortened, style, wrapped
from experiments.joined_runs import JoinedRun

__all__ = ["arms_figure"]


def arms_figure(runs: Sequence[JoinedRun]) -> Figure:
    """The outcome of every arm in every run: a dot a seed, the mean and its 95 % interval.

    Args:
      runs: a group of rows each, from the top; an arm has one colour throughout.
    """
    titles = list(dict.fromkeys(arm.title for run in runs for arm in run.run.arms))
    shown = [(row, run) for row, run in enumerate(runs) if any(a.outcomes for a in run.run.arms)]
    height = 1.6 + len(runs) * (0.35 + 0.2 * len(titles)) + 0.22 * ((len(titles) + 1) // 2)
    figure = new_figure(height)
    axes = figure.subplots()
    step = 0.8 / len(titles)
    for row, run in shown:
        for arm in run.run.arms:
            _draw_arm(axes, row - 0.4 + step * (titles.index(arm.title) + 0.5), arm, titles, step)
    axes.set_yticks(range(len(runs)), [wrapped(run.label) for run in runs])
    axes.set_ylim(len(runs) - 0.5, -0.5)
    for row in range(1, len(runs)):
        axes.axhline(row - 0.5, color="#DDDDDD", linewidth=0.8)
    outcomes = list(dict.fromkeys(run.outcome for run in runs))
    axes.set_xlabel(shortened(f"{' or '.join(outcomes)} (%)", 90))
    axes.ticklabel_format(axis="x", useOffset=False, style="plain")
    decorate(axes)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    if not shown:
        axes.set_xticks([])
        say(axes, "no completed trials")
    handles = []
    for index, name in enumerate(titles):
        colour, _, marker = style(index)
        line = Line2D([], [], color=colour, marker=marker, label=shortened(name, 56))
        handles.append(line)
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _draw_arm(axes: Axes, height: float, arm: Arm, titles: Sequence[str], step: float) -> None:
    values = [100 * value for value in arm.outcomes.values()]
    if not values:
        return
    colour, _, marker = style(titles.index(arm.title))
    above = [height - 0.2 * step] * len(values)
    axes.plot(values, above, ls="", marker=marker, ms=3.5, color=colour, alpha=0.5, zorder=2)
    interval = stats.mean_interval(values)
    axes.errorbar(
        interval.mean,
        height + 0.2 * step,
        xerr=None if interval.n == 1 else interval.high - interval.mean,
        fmt=marker,
        markersize=6,
        color=colour,
        elinewidth=2,
        capsize=4,
        zorder=3,
    )
