"""Draw a run's report from its records alone: python -m experiments.report RUN_DIR.

Writes REPORT.md with its pictures, report.html and records.parquet into the run directory. Nothing
but runs.jsonl is needed (environment.json is quoted and arms.json drawn where they are there), and
the same records give the same files, byte for byte, however often they are drawn.
"""

import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app
from matplotlib.figure import Figure

from cnnjax import stats
from cnnjax.files import write_atomically
from experiments import html_report, measurement_plots, plots, records, tidy
from experiments.comparisons import Run, gather
from experiments.markdown import cell, number, ratio, table, title
from experiments.measurements import measured_by
from experiments.records import Record
from experiments.result_tables import (
    measurement_sections,
    named,
    result_section,
    settings_cell,
    tuning_limits,
    tuning_section,
)
from experiments.wording import capitalized, upper_first

__all__ = ["compose", "draw", "main", "verdict"]

# With more arms than this a table has a row for each, not a column.
_MOST_COLUMNS = 6


def verdict(trials: Sequence[Record]) -> str:
    """The run's verdict in one sentence, as it stands at the head of the report.

    Args:
      trials: at least one record, in any order.

    Raises:
      ValueError: records of more than one run.
    """
    return gather(trials).verdict


def draw(run_dir: str | os.PathLike[str]) -> Path:
    """Draw REPORT.md, its pictures, report.html and records.parquet from runs.jsonl.

    Args:
      run_dir: the run directory; the files are replaced, each at one stroke.

    Returns:
      The path of REPORT.md.

    Raises:
      FileNotFoundError: there is no such directory, or no runs.jsonl in it.
      ValueError: no finished trial yet, records that `experiments.records.read` refuses, or
        records of more than one run.
      OSError: the directory cannot be read or written.
    """
    run_dir = Path(run_dir)
    text, pictures = compose(run_dir)
    for name, figure in pictures.items():
        write_atomically(run_dir / name, plots.encode_png(figure))
    html_report.draw(run_dir, text, pictures)
    trials, _ = records.read(run_dir / "runs.jsonl")
    # Arm by arm, in whatever order the lines are.
    rows = [tidy.to_row(trial) for trial in gather(trials).trials]
    tidy.write(run_dir, rows, lines=False)
    report = run_dir / "REPORT.md"
    write_atomically(report, text)
    return report


def compose(run_dir: Path) -> tuple[str, dict[str, Figure]]:
    """The report of a run directory, not yet written.

    Args:
      run_dir: the run directory.

    Returns:
      The text of REPORT.md, and its figures by the names of the files that it shows.

    Raises:
      FileNotFoundError: as `draw`, which also tells of the other errors.
    """
    path = run_dir / "runs.jsonl"
    if not path.is_file():
        what = "holds no runs.jsonl" if run_dir.is_dir() else "is not a directory"
        raise FileNotFoundError(f"{run_dir} {what}; pass one that experiments.ablate wrote to")
    trials, dropped = records.read(path)
    if not trials:
        raise ValueError(f"{path} holds no finished trial yet; draw the report after the first")
    run = gather(trials)
    measured = measured_by(run)
    pictures = {
        "accuracy.png": plots.accuracy_figure(run),
        "curves.png": plots.curves_figure(run.arms),
        **{of.file: measurement_plots.measurement_figure(run, of) for of in measured},
    }
    lines = [
        *_head(run, None if dropped is None else dropped.split(": ", 1)[1]),
        *_account(run),
        *result_section(run),
        *measurement_sections(run, measured),
        *tuning_section(run),
        *_failures(run),
        *_raw_values(run),
        *_limits(run),
        *_run_again(run.first, run_dir),
    ]
    return "\n".join(lines).rstrip("\n") + "\n", pictures


def _head(run: Run, dropped: str | None) -> list[str]:
    first, trials = run.first, run.trials
    lines = [f"# {cell(first['question'])}", "", f"**{run.verdict}**", ""]
    if len(trials) < run.num_planned:
        count = f"{len(trials)} of {run.num_planned} trials are in"
        lines += [f"{count}; this is a report on an unfinished run.", ""]
    if dropped is not None:
        lines += [f"runs.jsonl: {dropped}; its trial counts as not yet run.", ""]
    num_failed = sum(len(arm.having("failed")) for arm in run.arms)
    if num_failed:
        count = "1 trial" if num_failed == 1 else f"{num_failed} trials"
        lines += [f"{count} failed, left out of every mean and listed below.", ""]
    if len(run.comparisons) > 1:
        lines += [*(f"- {capitalized(c.sentence)}" for c in run.comparisons), ""]
    examples, num_seeds = first["num_examples"], len(first["planned_seeds"])
    lines += [
        f"Study `{first['study']}`: {'one arm' if run.alone else f'{len(run.arms)} arms'}, "
        f"{num_seeds} {'' if run.alone else 'paired '}{'seed' if num_seeds == 1 else 'seeds'}"
        f"{'' if run.alone else ' each'}; {examples['train']:,} training, "
        f"{examples['validation']:,} validation and {examples['test']:,} test images.",
        "",
    ]
    return lines


def _account(run: Run) -> list[str]:
    arms, baseline = run.arms, run.baseline
    known = {arm.name: next(iter(arm.trials.values())) for arm in arms if arm.trials}
    accounts = {name: trial["account"] for name, trial in known.items()}
    columns = list(dict.fromkeys(column for account in accounts.values() for column in account))
    lines = ["## What it costs" if run.alone else "## What is held equal, and what is not", ""]
    if len(accounts) == 1 and not run.alone:
        lines += ["One arm alone has a finished trial; there is nothing to compare yet.", ""]
    values = {column: [account.get(column) for account in accounts.values()] for column in columns}
    equal = [c for c in columns if all(value == values[c][0] for value in values[c])]
    unequal = [column for column in columns if column not in equal]
    if len(accounts) > 1:
        same = ", ".join(f"{title(column)} {number(values[column][0])}" for column in equal)
        differing = ", ".join(f"**{title(column)}**" for column in unequal)
        lines += [f"Held equal in every arm: {same or 'nothing'}.", ""]
        lines += [f"Not held equal: {differing or 'nothing'}.", ""]
    header = [f"**{title(column)}**" if column in unequal else title(column) for column in columns]
    departing = any(settings_cell(arm) for arm in arms)
    rows = []
    for arm in arms:
        account = accounts.get(arm.name, {})
        cells = []
        for column in columns:
            value, reference = account.get(column), accounts.get(baseline.name, {}).get(column)
            times = ratio(value, reference) if column in unequal and arm is not baseline else ""
            cells.append("–" if value is None else f"{number(value)}{times}")
        described = [named(arm, run)]
        if not run.alone:
            described.append(
                cell(known[arm.name]["differs_in"]) if arm.name in known else "no trial yet"
            )
        if departing:
            described.append(settings_cell(arm) or "–")
        rows.append([*described, *cells])
    titles = ["arm", *([] if run.alone else ["differs in"])]
    titles += ["its own flags"] if departing else []
    lines += table([*titles, *header], rows, "l" * len(titles) + "r" * len(columns))
    if len(accounts) > 1 and baseline.name in accounts and unequal:
        lines += ["Bold columns differ between arms; in brackets, times the baseline's.", ""]
    return lines


def _failures(run: Run) -> list[str]:
    rows = [
        [arm.title, str(seed), f"{trial['failure']['step']:,}", cell(trial["failure"]["reason"])]
        for arm in run.arms
        for seed, trial in arm.trials.items()
        if trial["failure"] is not None
    ]
    lines = table(["arm", "seed", "step", "reason"], rows, "lrrl")
    return ["## Failed trials", "", *lines] if rows else []


def _raw_values(run: Run) -> list[str]:
    digits = 2 if run.first["num_examples"]["test"] <= 10_000 else 3
    rows = []
    seeds = run.first["planned_seeds"]
    for seed in seeds:
        row = [str(seed)]
        for arm in run.arms:
            trial = arm.trials.get(seed)
            if trial is None:
                row.append("not yet run")
            elif trial["failure"] is not None:
                row.append(f"failed at step {trial['failure']['step']:,}")
            elif seed in arm.outcomes:
                row.append(f"{100 * arm.outcomes[seed]:.{digits}f}")
            else:
                row.append("–")
        rows.append(row)
    header = ["seed", *(arm.title for arm in run.arms)]
    alignment = "r" * len(header)
    if len(run.arms) > max(_MOST_COLUMNS, len(seeds)):
        header, *rows = [list(column) for column in zip(header, *rows, strict=True)]
        header = ["arm", *(f"seed {seed}" for seed in seeds)]
        alignment = "l" + "r" * len(seeds)
    lines = table(header, rows, alignment)
    return ["## Every seed", "", f"{upper_first(run.outcome)} in percent.", "", *lines]


def _limits(run: Run) -> list[str]:
    limits = [*(cell(limit) for limit in run.first["limits"]), *tuning_limits(run)]
    counts = [len(arm.outcomes) for arm in run.arms if arm.outcomes]
    if counts and min(counts) < 10:
        limits.append(
            f"Few seeds (n={min(counts)}{'' if run.alone else ' in the smallest arm'}): Student's "
            f"t takes {'accuracies' if run.alone else 'differences'} as normally distributed, "
            "which so few cannot show."
        )
    if any(comparison.num_comparisons > 1 for comparison in run.comparisons):
        limits.append(
            "Each interval is at 95 % and is not widened for their number; the verdicts are "
            "corrected for it (Holm): were there no difference at all, at most 5 % of such runs "
            "would call any arm higher or lower."
        )
    accuracies, num_test = run.baseline.accuracies, run.first["num_examples"]["test"]
    if accuracies and num_test > 0:
        mean = sum(accuracies.values()) / len(accuracies)
        half_width = 196 * math.sqrt(mean * (1 - mean) / num_test)
        limits.append(
            f"Intervals speak of other seeds, not of other images: all trials share one test set "
            f"of {num_test:,}, and at {100 * mean:.1f} % an accuracy on as many fresh images "
            f"varies by about ±{half_width:.1f} points (binomial, 95 %)."
        )
    if any(arm.having("failed") for arm in run.arms):
        limits.append("Failed trials are left out of the means, which flatters an arm that fails.")
    intervals = [stats.mean_interval(arm.outcomes.values()) for arm in run.arms if arm.outcomes]
    if any(interval.high > 1 or interval.low < 0 for interval in intervals):
        limits.append("An interval past 0 or 100 % is Student's t not knowing where accuracy ends.")
    return ["## Limits", "", *(f"- {capitalized(limit)}" for limit in limits), ""]


def _run_again(first: Record, run_dir: Path) -> list[str]:
    flags = [[f"`{name}`", cell(json.dumps(value))] for name, value in first["config"].items()]
    lines = ["## To run it again", "", "```", first["command"], "```", ""]
    lines += [
        "Where the data set does not lie in the default directory of TFDS, add `--data_dir`. "
        "`RUN_DIR/resolved.flags` is the same run as a flagfile, with its directories; "
        "`python -m experiments.report RUN_DIR` draws this report again from `runs.jsonl` alone.",
        "",
        *table(["flag", "value"], flags, "ll"),
    ]
    try:
        environment = json.loads((run_dir / "environment.json").read_text("utf-8"))
    except FileNotFoundError:
        return lines
    except (OSError, ValueError) as error:
        return [*lines, f"environment.json cannot be read: {cell(str(error))}"]
    text = json.dumps(environment, indent=2, sort_keys=True, ensure_ascii=False)
    return [*lines, "## Where it ran", "", "```json", text, "```", ""]


def main(argv: Sequence[str]) -> int:
    """Draw the report of the one run directory named on the command line."""
    if len(argv) != 2:
        given = f", got {len(argv) - 1}: {' '.join(argv[1:])}" if len(argv) > 2 else ""
        usage = "python -m experiments.report RUN_DIR"
        print(f"One run directory is expected{given}: {usage}", file=sys.stderr)
        return 1
    try:
        print(draw(argv[1]))
    except (OSError, ValueError) as error:
        print(f"The report cannot be drawn: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    app.run(main)
