"""The two pictures of a report: every seed with its interval, and the learning curves."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cnnjax import stats
from experiments.comparisons import Arm, Comparison, Run
from experiments.figure_style import (
    GREY,
    decorate,
    encode_png,
    new_figure,
    say,
    shortened,
    style,
    wrapped,
)
from experiments.records import Record

__all__ = ["accuracy_figure", "curves_figure", "encode_png"]


def accuracy_figure(run: Run) -> Figure:
    """The outcome of every seed, and its paired difference from the arm's partner, arm by arm.

    A row is an arm: a dot a seed, faint lines join the same seed from row to row, and below the
    dots stand the mean and its 95 % interval (none when n = 1). Failed trials are left out.

    Args:
      run: its arms are the rows from the top.

    Returns:
      A figure of two panels, in percent and in percentage points; of one arm the first alone.
    """
    arms = run.arms
    outcomes = [arm.outcomes for arm in arms]
    figure = new_figure(1.7 + 0.85 * len(arms))
    if run.alone:
        left = figure.subplots()
    else:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.15, 1))
        _draw_differences(right, run)
    _rows(left, outcomes, joined=True)
    counts = [f"n = {len(of_arm)}" for of_arm in outcomes]
    labels = [f"{wrapped(arm.title)}\n{n}" for arm, n in zip(arms, counts, strict=True)]
    left.set_yticks(range(len(arms)), labels)
    # Rows count from the top.
    left.set_ylim(len(arms) - 0.5, -0.5)
    outcome = shortened(run.outcome, 40)
    left.set_xlabel(f"{outcome} (%)")
    title = f"{outcome[:1].upper()}{outcome[1:]}: every seed, mean, 95 % interval"
    left.set_title(title if len(title) < 52 else "Every seed, mean, 95 % interval", fontsize=11)
    return figure


def _draw_differences(right: Axes, run: Run) -> None:
    """Draw the paired difference of every arm from its partner, a row each."""
    compared = [run.comparison(arm) for arm in run.arms]
    outcome = shortened(run.outcome, 40)
    _rows(right, [{} if c is None else c.differences for c in compared], joined=False)
    right.axvline(0, color="black", linewidth=0.8, zorder=1)
    # A long name would run into the other panel's.
    of_what = f" in {outcome}" if len(outcome) < 18 else ""
    right.set_xlabel(f"difference{of_what} (percentage points)")
    partner = "the arm named" if run.partners_differ else shortened(run.baseline.title, 24)
    right.set_title(f"Paired difference from {partner}", fontsize=11)
    for row, comparison in enumerate(compared):
        right.annotate(
            _beside(run, run.arms[row], comparison),
            (1, row),
            xycoords=right.get_yaxis_transform(),
            xytext=(6, 0),
            textcoords="offset points",
            verticalalignment="center",
            fontsize=8,
            color=GREY,
        )


def _beside(run: Run, arm: Arm, comparison: Comparison | None) -> str:
    """What stands at the end of an arm's row of differences."""
    if comparison is None:
        return "baseline" if arm is run.baseline else "compared\nwith none"
    n = len(comparison.differences)
    pairs = "n = 1 pair" if n == 1 else f"n = {n} pairs"
    return f"from {wrapped(comparison.against.title)}\n{pairs}" if run.partners_differ else pairs


def curves_figure(arms: Sequence[Arm]) -> Figure:
    """Validation accuracy and training loss against the epoch: seeds thin, their mean thick.

    Failed trials are dotted and end in a cross at their last measured epoch (on the edge of the
    panel where that lies beyond it); the mean is that of completed trials, and the axes are
    limited to what those did.

    Args:
      arms: in the order of the legend.

    Returns:
      A figure of two panels, accuracy in percent and the loss (nats) on a logarithmic axis.
    """
    figure = new_figure(4.6 + 0.25 * math.ceil(len(arms) / 2))
    left, right = figure.subplots(1, 2)
    # The limits come first, as crosses beyond them move to the edge.
    _limit_curves(left, right, arms)
    handles = []
    for index, arm in enumerate(arms):
        colour, line_style, _ = style(index)
        label = f"{shortened(arm.title, 56)} (n = {len(arm.accuracies)})"
        handles.append(Line2D([], [], color=colour, ls=line_style, linewidth=2, label=label))
        _draw_curves(left, arm, "validation_accuracy", 100, colour, line_style)
        _draw_curves(right, arm, "train_loss", 1, colour, line_style)
    if any(arm.having("failed") for arm in arms):
        label = "failed trial, to its last measured epoch"
        handles.append(Line2D([], [], color=GREY, linestyle=":", marker="x", label=label))
    left.set_ylabel("validation accuracy (%)")
    right.set_ylabel("training loss (nats)")
    left.set_title("Validation accuracy: mean (thick), seeds (thin)", fontsize=11)
    right.set_title("Training loss: mean (thick), seeds (thin)", fontsize=11)
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        decorate(axes)
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _rows(axes: Axes, values: Sequence[Mapping[int, float]], *, joined: bool) -> None:
    """Draw one row an arm: dots, the mean and its interval; `values` are fractions by seed."""
    seeds = sorted({seed for of_arm in values for seed in of_arm})
    # A seed keeps its height within every row, so that equal values do not hide one another.
    heights = dict(zip(seeds, np.linspace(-0.3, 0.02, len(seeds) + 2)[1:-1], strict=True))
    for seed in seeds if joined else ():
        having = [row for row, of_arm in enumerate(values) if seed in of_arm]
        across = [100 * values[row][seed] for row in having]
        down = [row + heights[seed] for row in having]
        axes.plot(across, down, color=GREY, linewidth=0.7, alpha=0.4, zorder=1)
    for row, of_arm in enumerate(values):
        if not of_arm:
            continue
        percent = [100 * value for value in of_arm.values()]
        colour, _, marker = style(row)
        down = [row + heights[seed] for seed in of_arm]
        axes.plot(percent, down, ls="", marker=marker, ms=5, color=colour, alpha=0.75, zorder=2)
        interval = stats.mean_interval(percent)
        axes.errorbar(
            interval.mean,
            row + 0.2,
            xerr=None if interval.n == 1 else interval.high - interval.mean,
            fmt="D",
            markersize=6,
            color=colour,
            ecolor=colour,
            elinewidth=2,
            capsize=5,
            zorder=3,
        )
    axes.tick_params(axis="y", length=0)
    # Plain numbers: an offset such as "+9.7e1" in the corner is easily missed.
    axes.ticklabel_format(axis="x", useOffset=False, style="plain")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    decorate(axes)
    if not any(values):
        axes.set_xticks([])
        say(axes, "no completed trials" if joined else "no completed pairs")


def _limit_curves(left: Axes, right: Axes, arms: Sequence[Arm]) -> None:
    """Show what completed trials did: one that diverged would squeeze them into a line."""
    chosen = [trial for arm in arms for trial in arm.having("completed")]
    chosen = chosen or [trial for arm in arms for trial in arm.having("failed")]
    accuracies = [_curve(trial, "validation_accuracy", 100)[1] for trial in chosen]
    # The steep beginning says little and would flatten the rest, so the axis starts near the
    # lowest value of the second half of training.
    later = _finite([values[len(values) // 2 :] for values in accuracies])
    if later.size:
        every = _finite(accuracies)
        margin = max(float(every.max() - later.min()), 0.5)
        low = max(float(later.min()) - 0.6 * margin, float(every.min()) - 0.1 * margin)
        left.set_ylim(low, float(every.max()) + 0.08 * margin)
    else:
        say(left, "no measured epochs")
    losses = _finite([_curve(trial, "train_loss", 1)[1] for trial in chosen])
    losses = losses[losses > 0]
    if losses.size:
        right.set_yscale("log")
        right.set_ylim(float(losses.min()) / 1.2, float(losses.max()) * 1.2)
        plain = FuncFormatter(lambda value, _: f"{value:g}")
        right.yaxis.set_major_formatter(plain)
        # About a decade holds one labelled tick or two; then the ones between speak too.
        if losses.max() / losses.min() < 12:
            right.yaxis.set_minor_formatter(plain)
            right.tick_params(axis="y", which="minor", labelsize=8)
    else:
        say(right, "no measured epochs")
    epochs = [point["epoch"] for trial in chosen for point in trial["curve"]]
    for axes in (left, right):
        margin = 0.5 if not epochs else max(0.5, 0.03 * (max(epochs) - min(epochs)))
        axes.set_xlim(min(epochs, default=1) - margin, max(epochs, default=1) + margin)


def _draw_curves(
    axes: Axes,
    arm: Arm,
    name: str,
    scale: float,
    colour: str,
    line_style: Any,
) -> None:
    curves = [_curve(trial, name, scale) for trial in arm.having("completed")]
    # Many thin lines on one another would hide the means.
    opacity = max(0.12, 0.5 / math.sqrt(max(1, len(curves))))
    for epochs, values in curves if len(curves) > 1 else ():
        axes.plot(epochs, values, color=colour, linewidth=0.8, alpha=opacity)
    epochs, values = _mean_curve(curves)
    marker = "o" if len(epochs) < 3 else None
    axes.plot(epochs, values, color=colour, ls=line_style, linewidth=1.8, marker=marker)
    for trial in arm.having("failed"):
        epochs, values = _curve(trial, name, scale)
        epochs, values = epochs[np.isfinite(values)], values[np.isfinite(values)]
        if not epochs.size:
            # Failed within its first epoch. A marker nowhere would have no extent to lay out.
            continue
        axes.plot(epochs, values, color=colour, linewidth=1, linestyle=":")
        end = np.clip(values[-1:], *axes.get_ylim())
        axes.plot(epochs[-1:], end, color=colour, marker="x", ms=7, clip_on=False)


def _curve(trial: Record, name: str, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Epochs and scaled values, nan where a value is not finite."""
    epochs = np.array([point["epoch"] for point in trial["curve"]], dtype=np.float64)
    values = np.array(
        [point[name] for point in trial["curve"]],  # type: ignore[literal-required]
        dtype=np.float64,
    )
    return epochs, np.where(np.isfinite(values), scale * values, math.nan)


def _finite(arrays: Sequence[np.ndarray]) -> np.ndarray:
    array = np.concatenate([*arrays, np.array([])])
    return array[np.isfinite(array)]


def _mean_curve(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean over trials at each epoch that all of them measured."""
    by_epoch: dict[float, list[float]] = {}
    for epochs, values in curves:
        for epoch, value in zip(epochs.tolist(), values.tolist(), strict=True):
            by_epoch.setdefault(epoch, []).append(value)
    shared = sorted(epoch for epoch, values in by_epoch.items() if len(values) == len(curves))
    means = [math.fsum(by_epoch[epoch]) / len(curves) for epoch in shared]
    return np.array(shared), np.array(means)
