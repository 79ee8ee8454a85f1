"""Run directories made by hand, for what reads runs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import records


def made_record(arm: str, seed: int, accuracy: float | None, **changes: Any) -> Any:
    """A record of a study of two arms, "narrow" and "wide"; None stands for a failed trial."""
    arms = changes.pop("arms", ["narrow", "wide"])
    num_seeds = changes.pop("num_seeds", 3)
    failure = None
    if accuracy is None:
        failure = {"step": 17, "reason": "the training loss was not finite"}
    record = {
        "schema": 1,
        "study": "widths",
        "question": "Does width help?",
        "arm": arm,
        "arm_index": arms.index(arm),
        "arm_title": f"the {arm} one",
        "baseline": arms[0],
        "headline_arm": arms[-1],
        "differs_in": "the width" if arms.index(arm) else "the baseline",
        "account": {"parameters": 1000 + 500 * arms.index(arm), "macs": 2000, "steps": 30},
        "limits": ["One data set."],
        "config": {"dataset": "mnist_5k", "learning_rate": 0.01, "flip": False},
        "command": "python -m experiments.ablate --study=widths",
        "planned_seeds": list(range(num_seeds)),
        "planned_arms": arms,
        "seed": seed,
        "status": "completed" if failure is None else "failed",
        "failure": failure,
        "num_examples": {"train": 400, "validation": 50, "test": 100},
        "metrics": None if accuracy is None else {"test_accuracy": accuracy, "test_loss": 0.5},
        "curve": [
            {"epoch": 1, "step": 30, "train_loss": 1.0}
            | {"validation_loss": 1.1, "validation_accuracy": 0.5}
        ],
    }
    return record | changes


def make_run(
    directory: Path,
    accuracies: Mapping[str, Sequence[float | None]],
    *,
    digest: str | None = "one",
    environment: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """A run directory with a record for each arm and seed."""
    directory.mkdir(parents=True)
    num_seeds = max(map(len, accuracies.values()))
    for arm, of_arm in accuracies.items():
        for seed, accuracy in enumerate(of_arm):
            made = made_record(
                arm, seed, accuracy, arms=list(accuracies), num_seeds=num_seeds, **changes
            )
            records.append(directory / "runs.jsonl", made)
    if digest is not None:
        known = {"environment": environment or {"cores": 2}, "dataset_sha256": digest}
        (directory / "environment.json").write_text(json.dumps(known | {"resumed": []}))
    return directory
