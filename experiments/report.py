"""Draw a run's report from its records alone: python -m experiments.report RUN_DIR.

Writes REPORT.md, accuracy.png and curves.png into the run directory. Nothing but runs.jsonl is
needed (environment.json is quoted at the end when it is there), and the same records give the
same text, byte for byte, however often it is drawn.
"""

import json
import math
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from absl import app

from cnnjax import stats
from cnnjax.files import write_atomically
from experiments import plots, records
from experiments.names import column_title
from experiments.plots import Arm
from experiments.records import Record

__all__ = ["Comparison", "compare", "draw", "main", "verdict"]

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Comparison:
    """What a paired comparison says.

    Attributes:
      difference: in fractions, or None when no seed is completed in both arms.
      word: for a table: "higher", "lower", "not resolved", "no interval" or "no pairs".
      sentence: the same in full, without a full stop.
    """

    difference: stats.PairedDifference | None
    word: str
    sentence: str


def compare(arm: Arm, baseline: Arm) -> Comparison:
    """Compare test accuracies over the seeds that both arms completed.

    An arm counts as better only where the 95 % interval of the paired difference excludes 0 and
    there was a spread to make an interval from.

    Args:
      arm: the arm.
      baseline: the arm that it is compared with.
    """
    ours, theirs = arm.accuracies, baseline.accuracies
    seeds = sorted(ours.keys() & theirs.keys())
    n = len(seeds)
    if n == 0:
        text = f"no verdict on {arm.title} against {baseline.title}"
        return Comparison(None, "no pairs", f"{text}: no seed is completed in both")
    difference = stats.paired_difference(
        [ours[seed] for seed in seeds], [theirs[seed] for seed in seeds], _CONFIDENCE
    )
    mean, low, high = _same_digits(difference.mean, difference.low, difference.high)
    interval = f"95 % interval [{low}, {high}]"
    differs = f"{arm.title} differs from {baseline.title} by {mean} points of test accuracy"
    if n == 1:
        word, text = "no interval", f"{differs}, and one seed gives no interval"
    elif _no_spread(difference):
        word, text = "not resolved", f"{differs} in every seed, which leaves no spread to judge by"
    elif not difference.resolved:
        word, text = "not resolved", f"{differs}, {interval}"
    else:
        word, verb = ("higher", "beats") if difference.mean > 0 else ("lower", "falls behind")
        text = f"{arm.title} {verb} {baseline.title} by {mean[1:]} points of test accuracy"
        return Comparison(difference, word, f"{text}, {interval}, n={n}")
    return Comparison(difference, word, f"not resolved at n={n}: {text}")


def verdict(trials: Sequence[Record]) -> str:
    """The run's verdict in one sentence, as it stands at the head of the report.

    Args:
      trials: at least one record, in any order.

    Raises:
      ValueError: records of more than one run.
    """
    record, arms = trials[0], plots.gather(trials)
    baseline = next(arm for arm in arms if arm.name == record["baseline"])
    others = [arm for arm in arms if arm is not baseline]
    if not others:
        return "No verdict: the run has no arm besides its baseline."
    headline = next((arm for arm in others if arm.name == record.get("headline_arm")), others[0])
    sentence = compare(headline, baseline).sentence
    unfinished = len(trials) < len(arms) * len(record["planned_seeds"])
    return _sentence(f"so far, {sentence}" if unfinished else sentence)


def draw(run_dir: str | os.PathLike[str]) -> Path:
    """Draw REPORT.md, accuracy.png and curves.png from the directory's runs.jsonl.

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
    path = run_dir / "runs.jsonl"
    if not path.is_file():
        what = "holds no runs.jsonl" if run_dir.is_dir() else "is not a directory"
        raise FileNotFoundError(f"{run_dir} {what}; pass one that experiments.ablate wrote to")
    trials, dropped = records.read(path)
    if not trials:
        raise ValueError(f"{path} holds no finished trial yet; draw the report after the first")
    arms = plots.gather(trials)
    # Not the file's first: the text must not hang on the order in which trials finished.
    first = next(trial for arm in arms for trial in arm.trials.values())
    baseline = next(arm for arm in arms if arm.name == first["baseline"])
    accuracy, curves = plots.accuracy_figure(arms, baseline), plots.curves_figure(arms)
    write_atomically(run_dir / "accuracy.png", plots.encode_png(accuracy))
    write_atomically(run_dir / "curves.png", plots.encode_png(curves))
    lines = [
        *_head(first, arms, baseline, None if dropped is None else dropped.split(": ", 1)[1]),
        *_account(arms, baseline),
        *_results(arms, baseline),
        *_failures(arms),
        *_raw_values(arms, first),
        *_limits(first, arms, baseline),
        *_run_again(first, run_dir),
    ]
    report = run_dir / "REPORT.md"
    write_atomically(report, "\n".join(lines).rstrip("\n") + "\n")
    return report


def _head(first: Record, arms: Sequence[Arm], baseline: Arm, dropped: str | None) -> list[str]:
    others = [arm for arm in arms if arm is not baseline]
    trials = [trial for arm in arms for trial in arm.trials.values()]
    num_planned = len(arms) * len(first["planned_seeds"])
    lines = [f"# {_cell(first['question'])}", "", f"**{verdict(trials)}**", ""]
    if len(trials) < num_planned:
        count = f"{len(trials)} of {num_planned} trials are in"
        lines += [f"{count}; this is a report on an unfinished run.", ""]
    if dropped is not None:
        lines += [f"runs.jsonl: {dropped}; its trial counts as not yet run.", ""]
    num_failed = sum(len(arm.having("failed")) for arm in arms)
    if num_failed:
        count = "1 trial" if num_failed == 1 else f"{num_failed} trials"
        lines += [f"{count} failed, left out of every mean and listed below.", ""]
    if len(others) > 1:
        lines += [f"- {_sentence(compare(arm, baseline).sentence)}" for arm in others] + [""]
    examples, num_seeds = first["num_examples"], len(first["planned_seeds"])
    lines += [
        f"Study `{first['study']}`: {len(arms)} arms, {num_seeds} paired "
        f"{'seed' if num_seeds == 1 else 'seeds'} each; {examples['train']:,} training, "
        f"{examples['validation']:,} validation and {examples['test']:,} test images.",
        "",
    ]
    return lines


def _account(arms: Sequence[Arm], baseline: Arm) -> list[str]:
    known = {arm.name: next(iter(arm.trials.values())) for arm in arms if arm.trials}
    accounts = {name: trial["account"] for name, trial in known.items()}
    columns = list(dict.fromkeys(column for account in accounts.values() for column in account))
    lines = ["## What is held equal, and what is not", ""]
    if len(accounts) == 1:
        lines += ["One arm alone has a finished trial; there is nothing to compare yet.", ""]
    values = {column: [account.get(column) for account in accounts.values()] for column in columns}
    equal = [c for c in columns if all(value == values[c][0] for value in values[c])]
    unequal = [column for column in columns if column not in equal]
    if len(accounts) > 1:
        named = ", ".join(f"{_title(column)} {_number(values[column][0])}" for column in equal)
        differing = ", ".join(f"**{_title(column)}**" for column in unequal)
        lines += [f"Held equal in every arm: {named or 'nothing'}.", ""]
        lines += [f"Not held equal: {differing or 'nothing'}.", ""]
    header = [
        f"**{_title(column)}**" if column in unequal else _title(column) for column in columns
    ]
    rows = []
    for arm in arms:
        account = accounts.get(arm.name, {})
        cells = []
        for column in columns:
            value, reference = account.get(column), accounts.get(baseline.name, {}).get(column)
            ratio = _ratio(value, reference) if column in unequal and arm is not baseline else ""
            cells.append("–" if value is None else f"{_number(value)}{ratio}")
        differs_in = _cell(known[arm.name]["differs_in"]) if arm.name in known else "no trial yet"
        rows.append([_named(arm, baseline), differs_in, *cells])
    lines += _table(["arm", "differs in", *header], rows, "ll" + "r" * len(columns))
    if len(accounts) > 1 and baseline.name in accounts and unequal:
        lines += ["Bold columns differ between arms; in brackets, times the baseline's.", ""]
    return lines


def _results(arms: Sequence[Arm], baseline: Arm) -> list[str]:
    rows = []
    for arm in arms:
        accuracies = list(arm.accuracies.values())
        row = [_named(arm, baseline), "–", "–", str(len(accuracies))]
        if accuracies:
            interval = stats.mean_interval(accuracies, _CONFIDENCE)
            row[1] = f"{100 * interval.mean:.2f} %"
            if interval.n > 1:
                row[2] = f"[{100 * interval.low:.2f}, {100 * interval.high:.2f}]"
        if arm is baseline:
            row += ["–", "–", "–", "–", "baseline"]
        else:
            row += _difference_cells(compare(arm, baseline))
        rows.append(row)
    header = ["arm", "test accuracy", "95 % interval", "n"]
    header += ["difference, points", "95 % interval", "pairs", "p", "verdict"]
    return [
        "## Results",
        "",
        *_table(header, rows, "lrrrrrrrl"),
        "Means over seeds with Student's t intervals. Differences are in percentage points from "
        f"{baseline.title}, over the seeds that both completed; p is that of the paired t test.",
        "",
        "![Test accuracy of every seed, and paired differences](accuracy.png)",
        "",
        "![Learning curves](curves.png)",
        "",
    ]


def _difference_cells(comparison: Comparison) -> list[str]:
    difference = comparison.difference
    if difference is None:
        return ["–", "–", "0", "–", comparison.word]
    mean, low, high = _same_digits(difference.mean, difference.low, difference.high)
    if difference.n == 1 or _no_spread(difference):
        return [mean, "–", str(difference.n), "–", comparison.word]
    p_value = "< 0.001" if difference.p_value < 0.001 else f"{difference.p_value:.3f}"
    return [mean, f"[{low}, {high}]", str(difference.n), p_value, comparison.word]


def _failures(arms: Sequence[Arm]) -> list[str]:
    rows = [
        [arm.title, str(seed), f"{trial['failure']['step']:,}", _cell(trial["failure"]["reason"])]
        for arm in arms
        for seed, trial in arm.trials.items()
        if trial["failure"] is not None
    ]
    table = _table(["arm", "seed", "step", "reason"], rows, "lrrl")
    return ["## Failed trials", "", *table] if rows else []


def _raw_values(arms: Sequence[Arm], first: Record) -> list[str]:
    digits = 2 if first["num_examples"]["test"] <= 10_000 else 3
    rows = []
    for seed in first["planned_seeds"]:
        row = [str(seed)]
        for arm in arms:
            trial = arm.trials.get(seed)
            if trial is None:
                row.append("not yet run")
            elif trial["failure"] is not None:
                row.append(f"failed at step {trial['failure']['step']:,}")
            else:
                row.append(f"{100 * arm.accuracies[seed]:.{digits}f}")
        rows.append(row)
    header = ["seed", *(arm.title for arm in arms)]
    table = _table(header, rows, "r" * len(header))
    return ["## Every seed", "", "Test accuracy in percent.", "", *table]


def _limits(first: Record, arms: Sequence[Arm], baseline: Arm) -> list[str]:
    limits = [_cell(limit) for limit in first["limits"]]
    counts = [len(arm.accuracies) for arm in arms if arm.accuracies]
    if counts and min(counts) < 10:
        limits.append(
            f"Few seeds (n={min(counts)} in the smallest arm): Student's t takes differences as "
            "normally distributed, which so few cannot show."
        )
    others = [arm for arm in arms if arm is not baseline]
    num_compared = sum(compare(arm, baseline).difference is not None for arm in others)
    if num_compared > 1:
        limits.append(
            f"{num_compared} comparisons, each at 95 %, not adjusted for their number: were there "
            f"no difference at all, one or more would still come out resolved in up to "
            f"{min(100, 5 * num_compared)} % of such runs."
        )
    accuracies, num_test = baseline.accuracies, first["num_examples"]["test"]
    if accuracies and num_test > 0:
        mean = sum(accuracies.values()) / len(accuracies)
        half_width = 196 * math.sqrt(mean * (1 - mean) / num_test)
        limits.append(
            f"Intervals speak of other seeds, not of other images: all trials share one test set "
            f"of {num_test:,}, and at {100 * mean:.1f} % an accuracy on as many fresh images "
            f"varies by about ±{half_width:.1f} points (binomial, 95 %)."
        )
    if any(arm.having("failed") for arm in arms):
        limits.append("Failed trials are left out of the means, which flatters an arm that fails.")
    intervals = [stats.mean_interval(arm.accuracies.values()) for arm in arms if arm.accuracies]
    if any(interval.high > 1 or interval.low < 0 for interval in intervals):
        limits.append("An interval past 0 or 100 % is Student's t not knowing where accuracy ends.")
    return ["## Limits", "", *(f"- {_sentence(limit)}" for limit in limits), ""]


def _run_again(first: Record, run_dir: Path) -> list[str]:
    flags = [[f"`{name}`", _cell(json.dumps(value))] for name, value in first["config"].items()]
    lines = ["## To run it again", "", "```", first["command"], "```", ""]
    lines += [
        "Where the data set does not lie in the default directory of TFDS, add `--data_dir`. "
        "`RUN_DIR/resolved.flags` is the same run as a flagfile, with its directories; "
        "`python -m experiments.report RUN_DIR` draws this report again from `runs.jsonl` alone.",
        "",
        *_table(["flag", "value"], flags, "ll"),
    ]
    try:
        environment = json.loads((run_dir / "environment.json").read_text("utf-8"))
    except FileNotFoundError:
        return lines
    except (OSError, ValueError) as error:
        return [*lines, f"environment.json cannot be read: {_cell(str(error))}"]
    text = json.dumps(environment, indent=2, sort_keys=True, ensure_ascii=False)
    return [*lines, "## Where it ran", "", "```json", text, "```", ""]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], alignment: str) -> list[str]:
    """A Markdown table and the empty line after it; `alignment` is "l" or "r" a column."""
    rules = ["---:" if letter == "r" else "---" for letter in alignment]
    return [*(f"| {' | '.join(cells)} |" for cells in (header, rules, *rows)), ""]


def _named(arm: Arm, baseline: Arm) -> str:
    return f"{arm.title} (baseline)" if arm is baseline else arm.title


def _cell(text: str) -> str:
    """Text on one line that does not end its cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _title(column: str) -> str:
    return column_title(_cell(column))


def _number(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _cell(str(value))
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"


def _ratio(value: object, reference: object) -> str:
    """`value` as a multiple of `reference` in brackets, or nothing where that says nothing."""
    if not isinstance(value, int | float) or not isinstance(reference, int | float):
        return ""
    return f" ({value / reference:.2f}×)" if reference else ""


def _no_spread(difference: stats.PairedDifference) -> bool:
    """Whether every seed differs by the same, which Student's t would call certain.

    Accuracies are counts of images, and a few seeds land on the same count easily.
    """
    return difference.std == 0 and difference.mean != 0


def _same_digits(*fractions: float) -> list[str]:
    """Signed percentage points, with digits enough that none but 0 is printed as 0."""
    for digits in (2, 3, 4):
        if all(value == 0 or round(100 * value, digits) != 0 for value in fractions):
            break
    # Adding 0.0 makes a negative zero positive.
    return [f"{round(100 * value, digits) + 0.0:+.{digits}f}" for value in fractions]


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
