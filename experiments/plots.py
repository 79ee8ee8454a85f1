"""The two pictures of a report: every seed with its interval, and the learning curves.

`gather` sorts the records of a run into the arms that the pictures and the report show.

Drawn through Matplotlib's objects alone: nothing here touches pyplot, its current figure or its
choice of backend.
"""

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cnnjax import stats
from experiments.records import Record

__all__ = ["Arm", "accuracy_figure", "curves_figure", "encode_png", "gather"]

# Okabe and Ito's palette, told apart by colour-blind readers; their yellow is too pale for lines
# on white and black is kept for the axes.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINE_STYLES: tuple[Literal["-", "--", "-."], ...] = ("-", "--", "-.")
_MARKERS = ("o", "s", "^")
_GREY = "#808080"


@dataclass(frozen=True)
class Arm:
    """One arm of a run with the trials that it has so far.

    Attributes:
      name: its key in the records.
      title: what to print; no two arms of a run share one.
      trials: its records by seed, in the order of the seeds.
    """

    name: str
    title: str
    trials: Mapping[int, Record]

    @property
    def accuracies(self) -> dict[int, float]:
        """Test accuracy (a fraction) of every completed trial, by seed."""
        return {
            seed: trial["metrics"]["test_accuracy"]
            for seed, trial in self.trials.items()
            if trial["status"] == "completed" and trial["metrics"] is not None
        }

    def having(self, status: Literal["completed", "failed"]) -> list[Record]:
        """The trials that ended with this status."""
        return [trial for trial in self.trials.values() if trial["status"] == status]


def gather(trials: Sequence[Record]) -> list[Arm]:
    """The planned arms of a run in their order, each with the trials that it has so far.

    Args:
      trials: at least one record, in any order.

    Returns:
      One arm for each of `planned_arms`. One without any trial yet goes by its key, as do arms
      that share a title.

    Raises:
      ValueError: records of more than one run.
    """
    trials = sorted(trials, key=lambda trial: (trial["arm_index"], trial["seed"]))
    first = trials[0]
    for name in ("study", "baseline", "planned_arms", "planned_seeds", "config", "num_examples"):
        for trial in trials:
            if trial[name] != first[name]:
                raise ValueError(
                    f"these records mix two runs: {name} differs between arm {first['arm']!r}, "
                    f"seed {first['seed']} and arm {trial['arm']!r}, seed {trial['seed']}"
                )
    # On one line, and without what would end a cell of a table.
    titles = {t["arm"]: " ".join(t["arm_title"].split()).replace("|", "/") for t in trials}
    shared = {title for title in titles.values() if list(titles.values()).count(title) > 1}
    arms = []
    for name in first["planned_arms"]:
        title = titles.get(name, name)
        title = name if title in shared else title
        of_arm = {trial["seed"]: trial for trial in trials if trial["arm"] == name}
        arms.append(Arm(name, title, of_arm))
    return arms


def accuracy_figure(arms: Sequence[Arm], baseline: Arm) -> Figure:
    """Test accuracy of every seed, and its paired difference from the baseline, arm by arm.

    A row is an arm: a dot a seed, faint lines join the same seed from row to row, and below the
    dots stand the mean and its 95 % interval (none when n = 1).

    Args:
      arms: in the order of the rows from the top; failed trials are left out.
      baseline: the one of them that the others are compared with.

    Returns:
      A figure of two panels, in percent and in percentage points.
    """
    accuracies = [arm.accuracies for arm in arms]
    reference = baseline.accuracies
    differences: list[dict[int, float]] = [
        {} if arm is baseline else {s: of_arm[s] - reference[s] for s in of_arm if s in reference}
        for arm, of_arm in zip(arms, accuracies, strict=True)
    ]
    figure = _figure(1.7 + 0.85 * len(arms))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.15, 1))
    _rows(left, accuracies, joined=True)
    _rows(right, differences, joined=False)
    counts = [f"n = {len(of_arm)}" for of_arm in accuracies]
    labels = [f"{_wrapped(arm.title)}\n{n}" for arm, n in zip(arms, counts, strict=True)]
    left.set_yticks(range(len(arms)), labels)
    # Rows count from the top.
    left.set_ylim(len(arms) - 0.5, -0.5)
    left.set_xlabel("test accuracy (%)")
    left.set_title("Test accuracy: every seed, mean, 95 % interval", fontsize=11)
    right.axvline(0, color="black", linewidth=0.8, zorder=1)
    right.set_xlabel("difference in test accuracy (percentage points)")
    right.set_title(f"Paired difference from {_shortened(baseline.title, 24)}", fontsize=11)
    for row, (arm, of_arm) in enumerate(zip(arms, differences, strict=True)):
        pairs = "1 pair" if len(of_arm) == 1 else f"{len(of_arm)} pairs"
        right.annotate(
            "baseline" if arm is baseline else f"n = {pairs}",
            (1, row),
            xycoords=right.get_yaxis_transform(),
            xytext=(6, 0),
            textcoords="offset points",
            verticalalignment="center",
            fontsize=8,
            color=_GREY,
        )
    return figure


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
    figure = _figure(4.6 + 0.25 * math.ceil(len(arms) / 2))
    left, right = figure.subplots(1, 2)
    # The limits come first, as crosses beyond them move to the edge.
    _limit_curves(left, right, arms)
    handles = []
    for index, arm in enumerate(arms):
        colour, line_style = _COLOURS[index % 7], _LINE_STYLES[index // 7 % 3]
        label = f"{_shortened(arm.title, 56)} (n = {len(arm.accuracies)})"
        handles.append(Line2D([], [], color=colour, ls=line_style, linewidth=2, label=label))
        _draw_curves(left, arm, "validation_accuracy", 100, colour, line_style)
        _draw_curves(right, arm, "train_loss", 1, colour, line_style)
    if any(arm.having("failed") for arm in arms):
        label = "failed trial, to its last measured epoch"
        handles.append(Line2D([], [], color=_GREY, linestyle=":", marker="x", label=label))
    left.set_ylabel("validation accuracy (%)")
    right.set_ylabel("training loss (nats)")
    left.set_title("Validation accuracy: mean (thick), seeds (thin)", fontsize=11)
    right.set_title("Training loss: mean (thick), seeds (thin)", fontsize=11)
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        _decorate(axes)
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def encode_png(figure: Figure, dots_per_inch: int = 150) -> bytes:
    """The figure as the bytes of a PNG file; the same figure gives the same bytes.

    Args:
      figure: a figure of this module.
      dots_per_inch: resolution.
    """
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    # Matplotlib's own stamp would change the file with its version.
    figure.savefig(buffer, format="png", dpi=dots_per_inch, metadata={"Software": None})
    return buffer.getvalue()


def _figure(height: float) -> Figure:
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    return Figure(figsize=(11, height), layout=layout)


def _rows(axes: Axes, values: Sequence[Mapping[int, float]], *, joined: bool) -> None:
    """Draw one row an arm: dots, the mean and its interval; `values` are fractions by seed."""
    seeds = sorted({seed for of_arm in values for seed in of_arm})
    # A seed keeps its height within every row, so that equal values do not hide one another.
    heights = dict(zip(seeds, np.linspace(-0.3, 0.02, len(seeds) + 2)[1:-1], strict=True))
    for seed in seeds if joined else ():
        having = [row for row, of_arm in enumerate(values) if seed in of_arm]
        across = [100 * values[row][seed] for row in having]
        down = [row + heights[seed] for row in having]
        axes.plot(across, down, color=_GREY, linewidth=0.7, alpha=0.4, zorder=1)
    for row, of_arm in enumerate(values):
        if not of_arm:
            continue
        percent = [100 * value for value in of_arm.values()]
        colour, marker = _COLOURS[row % 7], _MARKERS[row // 7 % 3]
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
    _decorate(axes)
    if not any(values):
        axes.set_xticks([])
        _say(axes, "no completed trials" if joined else "no completed pairs")


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
        _say(left, "no measured epochs")
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
        _say(right, "no measured epochs")
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
    line_style: Literal["-", "--", "-."],
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


def _decorate(axes: Axes) -> None:
    axes.grid(True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _say(axes: Axes, text: str) -> None:
    box = {"facecolor": "white", "edgecolor": "none"}
    where = axes.transAxes
    axes.text(0.5, 0.5, text, transform=where, ha="center", va="center", color=_GREY, bbox=box)


def _plain(text: str) -> str:
    """Text in which Matplotlib sees no formula."""
    return text.replace("$", r"\$")


def _shortened(text: str, width: int) -> str:
    return _plain(text if len(text) <= width else text[: width - 1].rstrip() + "…")


def _wrapped(text: str) -> str:
    return _plain("\n".join(textwrap.wrap(text, 24, max_lines=3, placeholder=" …") or [text]))
