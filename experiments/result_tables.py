"""The results of a run as Markdown: outcomes, comparisons, measurements, and tuning."""

import math
from collections.abc import Sequence

import numpy as np

from cnnjax import stats
from experiments.comparisons import Arm, Comparison, Run
from experiments.markdown import cell, number, table
from experiments.measurements import Measured, Series
from experiments.wording import capitalized, p_value, percent, points, upper_first

__all__ = [
    "measurement_sections",
    "named",
    "result_section",
    "settings_cell",
    "tuning_limits",
    "tuning_section",
    "with_half_width",
]

# Columns or rows of a table of measurements.
_MOST_PLACES = 12


def result_section(run: Run) -> list[str]:
    """What the arms came to, and how sure the differences are."""
    lines = ["## Results", "", *_outcomes(run)]
    what = run.outcome if run.has_outcome else "test accuracy"
    if run.partners_differ:
        partner = "the arm that is named, each arm from its own"
    else:
        partner = run.baseline.title
    told, drawn = "Means over seeds with Student's t intervals.", "of every seed"
    if not run.alone:
        told += (
            f" Differences are of {what}, in percentage points from {partner}, over the seeds that "
            "both completed."
        )
        drawn += ", and paired differences"
    lines += [told, "", f"![{upper_first(what)} {drawn}](accuracy.png)"]
    lines += ["", "![Learning curves](curves.png)", ""]
    if any(comparison.tested for comparison in run.comparisons):
        lines += ["## How sure the differences are", "", *_tests(run)]
    if any(arm.pretrained for arm in run.arms):
        lines += ["## What the pretraining came to", "", *_pretraining(run)]
    return lines


def _outcomes(run: Run) -> list[str]:
    header, alignment = ["arm"], "l"
    if run.has_outcome:
        header, alignment = [*header, cell(run.outcome), "95 % interval"], alignment + "rr"
    header += ["test accuracy", "95 % interval", "n"]
    alignment += "rrr"
    if run.partners_differ:
        header, alignment = [*header, "compared with"], alignment + "l"
    if not run.alone:
        header += ["difference, points", "95 % interval", "verdict"]
        alignment += "rrl"
    rows = []
    for arm in run.arms:
        comparison = run.comparison(arm)
        row = [named(arm, run)]
        if run.has_outcome:
            row += percent(list(arm.outcomes.values()))
        row += [*percent(list(arm.accuracies.values())), str(len(arm.accuracies))]
        if run.partners_differ:
            row.append("–" if comparison is None else comparison.against.title)
        if not run.alone:
            row += _difference(arm, comparison, run)
        rows.append(row)
    return table(header, rows, alignment)


def _difference(arm: Arm, comparison: Comparison | None, run: Run) -> list[str]:
    """Difference, interval and verdict of an arm."""
    if comparison is None:
        return ["–", "–", "baseline" if arm is run.baseline else "not compared"]
    if comparison.difference is None:
        return ["–", "–", comparison.word]
    difference = comparison.difference
    mean, low, high = points(difference.mean, difference.low, difference.high)
    return [mean, f"[{low}, {high}]" if comparison.tested else "–", comparison.word]


def _tests(run: Run) -> list[str]:
    """How sure the differences are, and what it would take to be surer."""
    published = any(comparison.published for comparison in run.comparisons)
    rows = []
    for comparison in run.comparisons:
        title = comparison.arm.title
        if run.partners_differ:
            title += f" against {comparison.against.title}"
        row = [title, str(len(comparison.differences)), *_test(comparison)]
        if published:
            row += [comparison.published or "–", comparison.borne_out or "–"]
        rows.append(row)
    header = ["arm", "pairs", "bootstrap 95 %", "p", "p, Holm", "seeds to resolve"]
    header += ["published", "borne out"] if published else []
    count = next(comparison.num_comparisons for comparison in run.comparisons)
    several = f"the {count} comparisons of the run" if count != 1 else "one comparison"
    level = f", at the level 0.05/{count} of Bonferroni" if count != 1 else ""
    lines = [
        *table(header, rows, "lrrrrr" + ("ll" if published else "")),
        f"p is that of the paired t test, and Holm's is corrected for {several}: the verdict is "
        "higher or lower where that is below 0.05. Seeds to resolve: with how many a true "
        "difference of the size and spread seen here would be resolved in 80 % of runs (few seeds "
        f"tell size and spread roughly, and so this number){level}. The bootstrap interval (BCa) "
        "takes no distribution for granted, and of few seeds is too narrow.",
        "",
    ]
    if run.first.get("published"):
        lines += [f"Published: {capitalized(cell(run.first['published']))}", ""]
    return lines


def _test(comparison: Comparison) -> list[str]:
    """Bootstrap interval, p, Holm's p, and seeds to resolve."""
    difference, bootstrap = comparison.difference, comparison.bootstrap
    if difference is None or bootstrap is None:
        return ["–"] * 4
    low, high = points(bootstrap.low, bootstrap.high)
    seeds = comparison.seeds_to_resolve
    if difference.mean == 0:
        needed = "–"
    else:
        needed = "> 10,000" if seeds is None else f"{seeds:,}"
    p_values = [p_value(p) for p in (difference.p_value, comparison.adjusted_p_value)]
    return [f"[{low}, {high}]", *p_values, needed]


def _pretraining(run: Run) -> list[str]:
    rows = []
    for arm in run.arms:
        accuracies = arm.pretrained
        if accuracies:
            rows.append([arm.title, *percent(accuracies), str(len(accuracies))])
    header = ["arm", "test accuracy of its pretraining", "95 % interval", "n"]
    return table(header, rows, "lrrr")


def measurement_sections(run: Run, measured: Sequence[Measured]) -> list[str]:
    """A picture and a table of each measurement.

    Args:
      run: the run.
      measured: its measurements.
    """
    return [line for of_one in measured for line in _measurement(run, of_one)]


def _measurement(run: Run, measured: Measured) -> list[str]:
    title = cell(measured.title)
    lines = [f"## {title}", "", f"![{title}]({measured.file})", ""]
    x = measured.x
    if not x:
        return [*lines, "No trial has it yet.", ""]
    places = np.unique(np.linspace(0, len(x) - 1, min(len(x), _MOST_PLACES)).round().astype(int))
    shown = [x[place] for place in places]
    rows = [
        [named(series.arm, run), *(_measured_cell(series, place) for place in shown)]
        for series in measured.series
    ]
    header = ["arm", *(f"{place:g}" for place in shown)]
    # The longer side goes down the page.
    if len(rows) < len(shown):
        turned = [list(column) for column in zip(header, *rows, strict=True)]
        header, rows = [cell(measured.x_title), *turned[0][1:]], turned[1:]
    lines += table(header, rows, "l" + "r" * (len(header) - 1))
    counts = sorted({len(series.seeds) for series in measured.series})
    several = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
    text = f"{cell(measured.y_title)} against {cell(measured.x_title)}: mean over seeds"
    if counts[-1] > 1:
        text += " ± half of Student's 95 % interval"
    text += f", n={several}."
    if len(shown) < len(x):
        text += f" {len(shown)} of the {len(x)} places measured; the picture has all."
    marked = [series for series in measured.series if series.marks]
    lines += [capitalized(text), ""]
    if marked:
        named_marks = "; ".join(
            f"{series.arm.title} {', '.join(f'{mark:g}' for mark in series.marks)}"
            for series in marked
        )
        lines += [f"What theory singles out (ticks in the picture): {named_marks}.", ""]
    observed = [series for series in measured.series if series.observed]
    if observed:
        named_observed = "; ".join(
            f"{series.arm.title} {', '.join(map(with_half_width, series.observed))}"
            for series in observed
        )
        lines += [f"Measured beside (triangles in the picture): {named_observed}.", ""]
    return lines


def _measured_cell(series: Series, x: float) -> str:
    interval = series.means.get(x)
    return "–" if interval is None else with_half_width(interval)


def with_half_width(interval: stats.Interval) -> str:
    """A mean and half of its interval, to two digits of that.

    >>> with_half_width(stats.Interval(0.51234, 0.5, 0.52468, 5, 0.01))
    '0.512 ± 0.012'
    >>> with_half_width(stats.Interval(0.51234, math.nan, math.nan, 1, math.nan))
    '0.5123'
    """
    half = (interval.high - interval.low) / 2
    if not math.isfinite(half):
        return f"{interval.mean:.4g}"
    if half == 0:
        return f"{interval.mean:.4g} ± 0"
    decimals = 1 - math.floor(math.log10(half))
    if decimals > 6:
        return f"{interval.mean:.4g} ± {half:.2g}"
    decimals = max(0, decimals)
    return f"{interval.mean:,.{decimals}f} ± {half:,.{decimals}f}"


def tuning_section(run: Run) -> list[str]:
    """How the step size of each arm was chosen, where it was."""
    tuned = [(arm, tuning) for arm in run.arms if (tuning := arm.tuning) is not None]
    if not tuned:
        return []
    sizes = list(dict.fromkeys(size for _, tuning in tuned for size in tuning["learning_rates"]))
    rows = []
    for arm, tuning in tuned:
        found = dict(zip(tuning["learning_rates"], tuning["validation_accuracies"], strict=True))
        cells = []
        for size in sizes:
            accuracy = found.get(size)
            text = "failed" if accuracy is None else f"{100 * accuracy:.2f}"
            cells.append(f"**{text}**" if size == tuning["chosen"] else text)
        chosen = "none" if tuning["chosen"] is None else f"{tuning['chosen']:g}"
        rows.append([named(arm, run), *cells, chosen])
    header = ["arm", *(f"{size:g}" for size in sizes), "chosen"]
    num_validation = run.first["num_examples"]["validation"]
    return [
        "## How the learning rates were chosen",
        "",
        *table(header, rows, "l" + "r" * (len(header) - 1)),
        f"Validation accuracy in percent ({num_validation:,} images) after one whole training of "
        f"each arm with each learning rate, from seed {tuned[0][1]['seed']}, which no trial has; "
        "the best one (bold, the first of equals) is the arm's in all of its trials. Nothing else "
        "was tuned, and no test image was looked at.",
        "",
    ]


def tuning_limits(run: Run) -> list[str]:
    """The limits that tuning has: one seed, and grids whose edge was chosen."""
    tuned = [(arm, tuning) for arm in run.arms if (tuning := arm.tuning) is not None]
    limits = []
    if tuned:
        limits.append(
            "Only the learning rate was tuned per arm, on one seed and one validation set, whose "
            "noise the choice carries; the other settings are the same in every arm"
        )
    ends = {
        "smallest": [a for a, t in tuned if t["chosen"] == min(t["learning_rates"])],
        "largest": [a for a, t in tuned if t["chosen"] == max(t["learning_rates"])],
    }
    for end, at_end in ends.items():
        if at_end:
            titles = ", ".join(arm.title for arm in at_end)
            beyond = "a smaller" if end == "smallest" else "a larger"
            limits.append(
                f"The {end} learning rate of the grid was the best for {titles}: {beyond} one "
                "might do better still"
            )
    return limits


def settings_cell(arm: Arm) -> str:
    """Where an arm departs from the flags of the run, its tuned learning rate left out."""
    tuned = arm.tuning is not None
    return ", ".join(
        f"`--{name}={cell(number(value) if isinstance(value, float) else str(value))}`"
        for name, value in sorted(arm.settings.items())
        if not (tuned and name == "learning_rate")
    )


def named(arm: Arm, run: Run) -> str:
    """The title of an arm, and whether it is the baseline of others."""
    baseline = arm is run.baseline and not run.alone
    return f"{arm.title} (baseline)" if baseline else arm.title
