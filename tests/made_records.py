"""Made-up records of a run, its report, and what a reader finds in that."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from experiments import html_report, plots, records, report
from experiments.records import Record

TITLES = {
    "one_7x7": "one 7x7",
    "5x5_3x3": "5x5 then 3x3",
    "three_3x3": "three 3x3",
    "three_3x3_linear": "three 3x3 without the non-linearities between",
    "three_3x3_wide": "three 3x3 widened to the parameters of the 7x7",
}
PARAMETERS = dict(zip(TITLES, (12345, 9000, 8000, 8000, 12400), strict=True))


def make_records(
    accuracies: Mapping[str, Sequence[float | None]],
    *,
    not_run: Iterable[tuple[str, int]] = (),
    **changes: Any,
) -> list[Record]:
    """One record an arm and seed; None stands for a trial that failed."""
    names = list(accuracies)
    num_seeds = max(map(len, accuracies.values()))
    made: list[Any] = []
    for index, (name, of_arm) in enumerate(accuracies.items()):
        for seed, accuracy in enumerate(of_arm):
            failed = accuracy is None
            curve = [
                {"epoch": epoch, "step": 70 * epoch, "validation_loss": 2.1 / epoch}
                | {"train_loss": np.nan if failed and epoch == 2 else 2.0 / epoch}
                | {"validation_accuracy": (accuracy or 0.3) * (1 - 0.5**epoch)}
                for epoch in range(1, 3 if failed else 5)
            ]
            record = {
                "schema": 1,
                "study": "stack_vs_large_kernel",
                "question": "Do three 3x3 layers beat one 7x7 layer that sees the same 7x7?",
                "arm": name,
                "arm_index": index,
                "arm_title": TITLES.get(name, name),
                "baseline": names[0],
                "headline_arm": "three_3x3" if "three_3x3" in names else names[-1],
                "differs_in": "the layers between stem and head" if index else "the baseline",
                "account": {"receptive_field": 7, "parameters": PARAMETERS.get(name, 12345)}
                | {"macs": 2345678},
                "limits": ["learning rate not re-tuned per arm"],
                "config": {"dataset": "mnist_5k", "seeds": num_seeds},
                "command": "python -m experiments.ablate --flagfile=configs/some.flags",
                "planned_seeds": list(range(num_seeds)),
                "planned_arms": names,
                "seed": seed,
                "status": "failed" if failed else "completed",
                "failure": {"step": 1137, "reason": "the training loss became NaN"}
                if failed
                else None,
                "num_examples": {"train": 3500, "validation": 500, "test": 1000},
                "metrics": None if failed else {"test_accuracy": accuracy, "test_loss": 0.1},
                "curve": curve,
            }
            if (name, seed) not in set(not_run):
                made.append(record | changes)
    return made


def draw(run_dir: Path, made: Iterable[Record], *, pictures: bool = False) -> str:
    """Write the records and draw their report; pictures take most of the time."""
    run_dir.mkdir(parents=True, exist_ok=True)
    for record in made:
        records.append(run_dir / "runs.jsonl", record)
    if pictures:
        path = report.draw(run_dir)
    else:
        with (
            mock.patch.multiple(
                plots,
                encode_png=mock.Mock(return_value=b""),
                accuracy_figure=mock.DEFAULT,
                curves_figure=mock.DEFAULT,
            ),
            mock.patch.object(html_report, "draw"),
        ):
            path = report.draw(run_dir)
    assert path == run_dir / "REPORT.md"
    return path.read_text("utf-8")


def row_of(text: str, title: str, *, section: str) -> list[str]:
    """The cells of the row that begins with `title` in the table of a section."""
    part = text.split(f"## {section}\n")[1].split("\n## ")[0]
    (line,) = [line for line in part.splitlines() if line.startswith(f"| {title} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"[-+]?\d+\.\d+", text)]
