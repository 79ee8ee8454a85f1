"""The report on several runs: Markdown, a figure, HTML and tidy records in one directory."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnnjax.files import write_atomically
from experiments import html_report, tidy
from experiments.comparisons import Arm, Comparison
from experiments.figure_style import encode_png
from experiments.joined_plot import arms_figure
from experiments.joined_runs import (
    JoinedRun,
    between_runs,
    differing_flags,
    differing_surroundings,
    same_data,
    unpaired,
)
from experiments.markdown import cell, table
from experiments.names import column_title
from experiments.result_tables import tuning_limits
from experiments.wording import capitalized, p_value, percent, points

__all__ = ["report_lines", "rows", "write"]

_PICTURE = "arms.png"
_DIFFERENCE = ("difference, points", "95 % interval", "pairs", "p", "Holm's p", "verdict")


def report_lines(
    title: str, runs: Sequence[JoinedRun], missing: Mapping[str, str] | None = None
) -> list[str]:
    """The report in Markdown, line by line.

    Args:
      title: of the report.
      runs: at least one; the first is what the others are compared with.
      missing: runs that failed or were not reached, by label, and why.
    """
    return [
        f"# {cell(title)}",
        "",
        *_verdicts(runs),
        *_missing(missing or {}),
        *_differences(runs),
        *_arms(runs),
        f"![The arms of every run]({_PICTURE})",
        "",
        *_partners(runs),
        *_between(runs),
        *_limits(runs),
        *_directories(runs),
    ]


def write(
    directory: Path,
    title: str,
    runs: Sequence[JoinedRun],
    missing: Mapping[str, str] | None = None,
) -> Path:
    """Write REPORT.md, report.html, arms.png, records.jsonl and records.parquet.

    Args:
      directory: where to; made when missing.
      title: of the report.
      runs: at least one.
      missing: as for `report_lines`.

    Returns:
      The path of REPORT.md.

    Raises:
      OSError: a file cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    figure = arms_figure(runs)
    text = "\n".join(report_lines(title, runs, missing)).rstrip("\n") + "\n"
    write_atomically(directory / _PICTURE, encode_png(figure))
    tidy.write(directory, rows(runs))
    html_report.draw(directory, text, {_PICTURE: figure})
    path = directory / "REPORT.md"
    write_atomically(path, text)
    return path


def rows(runs: Sequence[JoinedRun]) -> list[dict[str, tidy.Value]]:
    """The tidy rows of all trials, `run` first."""
    return [tidy.to_row(trial, run=run.label) for run in runs for trial in run.run.trials]


def _verdicts(runs: Sequence[JoinedRun]) -> list[str]:
    lines = [f"- {cell(run.label)}: {cell(run.run.verdict)}" for run in runs]
    for run in runs:
        finished, planned = len(run.run.trials), run.run.num_planned
        if finished < planned:
            lines.append(f"- {cell(run.label)} is unfinished: {finished} of {planned} trials.")
        if run.dropped:
            lines.append(f"- {cell(run.dropped)}")
    return [*lines, ""]


def _missing(missing: Mapping[str, str]) -> list[str]:
    if not missing:
        return []
    told = [[cell(label), cell(why)] for label, why in missing.items()]
    return ["## Not here", "", *table(["run", "why"], told, "ll")]


def _differences(runs: Sequence[JoinedRun]) -> list[str]:
    lines = ["## What differs between the runs", ""]
    flags = differing_flags(runs)
    if flags:
        body = [
            [cell(run.label), *(_flag(values[index]) for values in flags.values())]
            for index, run in enumerate(runs)
        ]
        numeric = [all(_is_number(value) for value in values) for values in flags.values()]
        alignment = "l" + "".join("r" if right else "l" for right in numeric)
        lines += table(["run", *(f"`{name}`" for name in flags)], body, alignment)
    elif len(runs) > 1:
        lines += ["No flag: the runs have the same config.", ""]
    else:
        lines += ["There is one run.", ""]
    told = [f"- {capitalized(cell(text))}" for text in differing_surroundings(runs)]
    return [*lines, *told, *([""] if told else [])]


def _arms(runs: Sequence[JoinedRun]) -> list[str]:
    """The arms of every run: mean, interval, n; parameters and MACs where they are known."""
    costs = [
        name
        for name in ("parameters", "macs")
        if any(name in trial["account"] for run in runs for trial in run.run.trials)
    ]
    tuned = any(arm.tuning is not None for run in runs for arm in run.run.arms)
    body = []
    for run in runs:
        for arm in run.run.arms:
            mean, interval = percent(list(arm.outcomes.values()))
            account: Mapping[str, Any] = next(
                (trial["account"] for trial in arm.trials.values()), {}
            )
            counts = [_flag(account[name]) if name in account else "–" for name in costs]
            failed = str(len(arm.having("failed")))
            titles = [cell(run.label), arm.title]
            row = [*titles, mean, interval, str(len(arm.outcomes)), failed, *counts]
            body.append([*row, _chosen(arm)] if tuned else row)
    outcomes = list(dict.fromkeys(run.outcome for run in runs))
    header = ["run", "arm", cell(" or ".join(outcomes)), "95 % interval", "n", "failed"]
    header += [*map(column_title, costs), *(["learning rate, tuned"] if tuned else [])]
    lines = ["## Every arm of every run", ""]
    alignment = "llrrrr" + "r" * (len(header) - 6)
    return [*lines, *table(header, body, alignment), *_matrix(runs)]


def _chosen(arm: Arm) -> str:
    """The learning rate that validation images chose for an arm."""
    chosen = None if arm.tuning is None else arm.tuning["chosen"]
    return "–" if chosen is None else f"{chosen:g}"


def _matrix(runs: Sequence[JoinedRun]) -> list[str]:
    """Means alone, arms by runs."""
    if len(runs) < 2:
        return []
    by_run = [{arm.name: arm for arm in run.run.arms} for run in runs]
    titles = {arm.name: arm.title for of_run in by_run for arm in of_run.values()}
    body = []
    for name, arm_title in titles.items():
        arms = [of_run.get(name) for of_run in by_run]
        means = ["–" if arm is None else percent(list(arm.outcomes.values()))[0] for arm in arms]
        body.append([arm_title, *means])
    header = ["arm", *(cell(run.label) for run in runs)]
    return ["Means, arms by runs:", "", *table(header, body, "l" + "r" * len(runs))]


def _partners(runs: Sequence[JoinedRun]) -> list[str]:
    """Within each run, every arm against its partner."""
    body = [
        [cell(run.label), c.arm.title, c.against.title, *_difference_cells(c)]
        for run in runs
        for c in run.run.comparisons
    ]
    if not body:
        return []
    return [
        "## Within each run",
        "",
        "Every arm against the one that it is compared with; Holm's p is over the comparisons of "
        "the same run.",
        "",
        *table(["run", "arm", "against", *_DIFFERENCE], body, "lllrrrrrl"),
    ]


def _between(runs: Sequence[JoinedRun]) -> list[str]:
    """The same arm of each later run against that of the first."""
    if len(runs) < 2:
        return []
    reference = runs[0]
    lines = ["## Between the runs", ""]
    compared = between_runs(runs)
    if compared:
        body = [
            [of.arm.title, cell(of.run.label), *_difference_cells(of.comparison)] for of in compared
        ]
        lines += [
            f"Every arm against the same arm of {cell(reference.label)}, over the seeds that both "
            "completed; Holm's p is over all of these comparisons.",
            "",
            *table(["arm", "run", *_DIFFERENCE], body, "llrrrrrl"),
        ]
    for run in runs[1:]:
        why = unpaired(run, reference)
        told = f"is not compared: {why}" if why else same_data(run, reference)
        lines.append(f"- {cell(run.label)}{' ' if why else ': '}{cell(told)}.")
    return [*lines, ""]


def _limits(runs: Sequence[JoinedRun]) -> list[str]:
    limits = []
    flags = differing_flags(runs)
    if len(flags) > 1 and len(runs) > 1:
        limits.append(
            f"The runs differ in {len(flags)} flags; a difference between two that differ in "
            "several of them cannot be laid to one."
        )
    if flags:
        limits.append(
            "Runs whose flags differ need not take the same images in the same order from the same "
            "seed, nor draw the same initial weights: their pairs share the seed's number, and "
            "what of its streams the flags leave equal."
        )
    if len([run for run in runs if run.run.comparisons]) > 1:
        limits.append(
            "Within each run p values are corrected for that run's comparisons, not for the "
            "number of runs: of many runs some come out resolved by chance."
        )
    if len(runs) > 2:
        limits.append(
            f"Between the runs all are compared with {runs[0].label} and not with one another; the "
            "best of many runs looks better than it is, where it was chosen by its test accuracy."
        )
    of_runs = [[*run.run.first["limits"], *tuning_limits(run.run)] for run in runs]
    limits += dict.fromkeys(limit for of_run in of_runs for limit in of_run)
    told = [f"- {capitalized(cell(limit))}" for limit in limits]
    return ["## Limits", "", *told, ""] if told else []


def _directories(runs: Sequence[JoinedRun]) -> list[str]:
    """Where each run lies, and what ran it."""
    lines = ["## The runs", ""]
    for run in runs:
        lines += [f"{cell(run.label)}:", "", "```", run.run.first["command"], "```", ""]
    return [
        *lines,
        '`pandas.read_parquet("records.parquet")` reads all trials, one flat row each; '
        "`records.jsonl` has the same rows.",
        "",
    ]


def _difference_cells(comparison: Comparison) -> list[str]:
    difference = comparison.difference
    if difference is None:
        return ["–", "–", "0", "–", "–", comparison.word]
    mean, low, high = points(difference.mean, difference.low, difference.high)
    if not comparison.tested:
        return [mean, "–", str(difference.n), "–", "–", comparison.word]
    p_values = [p_value(p) for p in (difference.p_value, comparison.adjusted_p_value)]
    return [mean, f"[{low}, {high}]", str(difference.n), *p_values, comparison.word]


def _flag(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return cell(value if isinstance(value, str) else json.dumps(value))


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
