"""The table of kept results: python -m experiments.results results --output=docs/results.md.

Reads every run directory below the one that is named, and writes one row for each: the question,
the verdict, whether what is published was reproduced, the command, the time and the hardware. With
--output the rows replace those between the two markers of a page; without it they are printed.
Nothing in the table is written by hand, so that a page can be held against the records.
"""

import contextlib
import dataclasses
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from cnnjax.files import write_atomically
from experiments import comparisons, records
from experiments.comparisons import Run
from experiments.config_flags import define_flags as define_config_flags
from experiments.config_flags import from_flags
from experiments.names import as_flag
from experiments.record_fields import completed

__all__ = ["BEGIN", "END", "Kept", "command_of", "kept_runs", "published", "replace_table", "table"]

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
_OUTPUT = flags.DEFINE_string("output", None, "Page whose table is replaced; prints without one.")
_CONFIGS = flags.DEFINE_string("configs", "configs", "Flagfiles that commands are looked for in.")


@dataclasses.dataclass(frozen=True)
class Kept:
    """A kept run.

    Attributes:
      path: its directory.
      run: its records.
      environment: what it ran on, as `experiments.environment.describe` gives it.
      seconds: that its processes took, a lower bound where one was killed; None if not kept.
    """

    path: Path
    run: Run
    environment: dict[str, Any]
    seconds: float | None


def kept_runs(directory: Path) -> list[Kept]:
    """The runs kept in the directories of a directory, by name.

    Raises:
      FileNotFoundError: there is none.
      ValueError: records that cannot be read.
      OSError: a file that cannot be read.
    """
    found = []
    for path in sorted(path.parent for path in directory.glob("*/runs.jsonl")):
        trials, _ = records.read(path / "runs.jsonl")
        described = path / "environment.json"
        try:
            environment = json.loads(described.read_text("utf-8"))["environment"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{described} is broken, so that the hardware is not known") from None
        sessions = path / "sessions.jsonl"
        seconds = _seconds(sessions.read_text()) if sessions.exists() else None
        found.append(Kept(path, comparisons.gather(trials), environment, seconds))
    if not found:
        raise FileNotFoundError(f"{directory} has no directory with a runs.jsonl in it")
    return found


def _seconds(sessions: str) -> float | None:
    """What the sessions took together; a last line that a full disk cut short is passed over."""
    found = []
    for line in sessions.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            found.append(json.loads(line)["seconds"])
    return sum(found) if found else None


def table(runs: Sequence[Kept], page: Path, configs: Path) -> str:
    """The table in Markdown.

    Args:
      runs: the kept runs.
      page: where it will stand, which links start from.
      configs: directory of the flagfiles that commands are looked for in.
    """
    header = ["question", "verdict", "what is published", "command", "time", "hardware"]
    rules = ["---"] * len(header)
    rows = [header, rules, *(_row(kept, page, configs) for kept in runs)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def published(run: Run) -> str:
    """What is published, and how many of its differences this run bears out."""
    claim = run.first.get("published", "")
    words = [_WORDS[c.borne_out] for c in run.comparisons if c.borne_out]
    if not claim or not words:
        return "–"
    if len(words) == 1:
        return f"{claim} **{words[0].capitalize()}.**"
    counts = Counter(words)
    told = [f"{counts[word]} {word}" for word in dict.fromkeys(_WORDS.values()) if counts[word]]
    return f"{claim} **Of {len(words)} differences, {', '.join(told)}.**"


_WORDS = {
    "yes": "reproduced",
    "no, the opposite": "contradicted",
    "no, they differ": "contradicted",
    "not resolved": "not resolved",
}


def command_of(run: Run, configs: Path) -> str:
    """The flagfile that is nearest to this run's config, and the flags in which the run departs.

    Without a flagfile of the study, or with more than a few departures, every flag of the run.
    """
    config = completed(run.first["config"])
    commands = []
    for path in sorted(configs.glob("*.flags")):
        values = flags.FlagValues()
        define_config_flags(values)
        try:
            values(["ablate", f"--flagfile={path}"])
        except flags.Error:  # Of a sweep, which is no single run.
            continue
        found = completed(from_flags(values).identity())
        if found["study"] == config["study"]:
            departures = [
                as_flag(name, config[name]) for name in config if config[name] != found.get(name)
            ]
            start = f"python -m experiments.ablate --flagfile={configs.name}/{path.name}"
            commands.append((len(departures), " ".join([start, *departures])))
    num_departures, command = min(commands, default=(_MOST_DEPARTURES + 1, ""))
    return run.first["command"] if num_departures > _MOST_DEPARTURES else command


_MOST_DEPARTURES = 4


def replace_table(text: str, lines: str) -> str:
    """A page's text with another table between its markers.

    Raises:
      ValueError: the page has not both markers, in order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs the lines {BEGIN} and {END} around its table")
    return f"{before}{BEGIN}\n{lines}\n{END}{after}"


def _row(kept: Kept, page: Path, configs: Path) -> list[str]:
    run = kept.run
    config, examples = run.first["config"], run.first["num_examples"]
    link = Path(os.path.relpath(kept.path / "REPORT.md", page.parent)).as_posix()
    title = _DATA_TITLES.get(config["dataset"], config["dataset"])
    data = f"{title}, {examples['train']:,} images, {config['epochs']} epochs"
    return [
        f"[{_cell(run.first['question'])}]({link}) ({data})",
        _cell(run.verdict),
        _cell(published(run)),
        f"`{command_of(run, configs)}`",
        "–" if kept.seconds is None else _time(kept.seconds),
        _hardware(kept.environment),
    ]


_DATA_TITLES = {"cifar10_jpeg": "CIFAR-10 (JPEG)", "mnist": "MNIST"}


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _hardware(environment: dict[str, Any]) -> str:
    device = environment["device"]
    if device["platform"] == "cpu":
        # Runs of the first weeks did not keep the processor's name.
        processor = environment.get("processor", environment["device"]["kind"])
        num_cores = environment["cores"]
        return f"{num_cores} {'core' if num_cores == 1 else 'cores'}, {processor}"
    return f"{device['count']} {device['kind']}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main(argv: Sequence[str]) -> None:
    """Print or replace the table; every refusal is one sentence."""
    if len(argv) != 2:
        sys.exit("experiments.results: one directory of run directories is expected")
    page = Path(_OUTPUT.value or "page.md")
    try:
        lines = table(kept_runs(Path(argv[1])), page, Path(_CONFIGS.value))
        if _OUTPUT.value is None:
            print(lines)
        else:
            write_atomically(page, replace_table(page.read_text("utf-8"), lines))
    except (OSError, ValueError) as error:
        sys.exit(f"experiments.results: {error}")


if __name__ == "__main__":
    app.run(main)
