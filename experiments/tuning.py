"""The step size of each arm, chosen on validation images before its trials.

One training for each arm and step size of --tune, as long as a trial and on the same images, from a
seed that no trial has. The validation accuracy of its last epoch decides; the test set is not
looked at.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from cnnjax.files import write_atomically
from experiments.config import TUNING_SEED
from experiments.records import TuningRecord

__all__ = ["Tuned", "TuningLog", "choose", "tune"]


class Tuned(NamedTuple):
    """What tuning one arm came to.

    Attributes:
      step_sizes: that were tried, in their order.
      validation_accuracies: of the last epoch with each, a fraction; None for one that failed.
      chosen: the step size with the best of them; None when all failed.
    """

    step_sizes: tuple[float, ...]
    validation_accuracies: tuple[float | None, ...]
    chosen: float | None

    def as_record(self) -> TuningRecord:
        """As the records of the arm's trials carry it."""
        return {
            "seed": TUNING_SEED,
            "learning_rates": list(self.step_sizes),
            "validation_accuracies": list(self.validation_accuracies),
            "chosen": self.chosen,
        }


class TuningLog:
    """The finished trainings of tuning, one line of JSON each, in a file that is always whole."""

    def __init__(self, path: Path) -> None:
        """Read what is known.

        Args:
          path: the file; made with the first training.

        Raises:
          ValueError: a file with anything else in it.
          OSError: it cannot be read.
        """
        self._path = path
        self._known: dict[tuple[str, float], float | None] = {}
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        for number, line in enumerate(lines, start=1):
            try:
                entry = json.loads(line)
                key = str(entry["arm"]), float(entry["learning_rate"])
                self._known[key] = entry["validation_accuracy"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}: line {number} is no training of tuning ({error!r}); remove the file, "
                    "and its trainings are read from their checkpoints"
                ) from None

    def __contains__(self, key: tuple[str, float]) -> bool:
        """Whether the training of this arm with this step size is finished."""
        return key in self._known

    def __getitem__(self, key: tuple[str, float]) -> float | None:
        """The validation accuracy that it came to; None where it failed."""
        return self._known[key]

    def add(self, arm: str, step_size: float, validation_accuracy: float | None) -> None:
        """Keep what a training came to.

        Raises:
          OSError: the file cannot be written; it is as it was.
        """
        self._known[arm, step_size] = validation_accuracy
        entries = (
            {"arm": arm, "learning_rate": step_size, "validation_accuracy": accuracy}
            for (arm, step_size), accuracy in self._known.items()
        )
        write_atomically(self._path, "".join(json.dumps(entry) + "\n" for entry in entries))


def choose(
    step_sizes: Sequence[float], validation_accuracies: Sequence[float | None]
) -> float | None:
    """The step size with the best validation accuracy, the first of equals.

    Args:
      step_sizes: that were tried.
      validation_accuracies: of each; None for one that failed, which is never chosen.

    >>> choose([0.003, 0.01, 0.03], [0.5, 0.75, 0.75]), choose([0.1, 1.0], [None, None])
    (0.01, None)
    """
    pairs = zip(step_sizes, validation_accuracies, strict=True)
    having = [(accuracy, size) for size, accuracy in pairs if accuracy is not None]
    if not having:
        return None
    # max takes the first of equals.
    return max(having, key=lambda pair: pair[0])[1]


def tune(
    arm: str,
    step_sizes: Sequence[float],
    log: TuningLog,
    train: Callable[[float], float | None],
) -> Tuned:
    """Train an arm with each step size that it was not trained with before, and choose.

    Args:
      arm: name of the arm.
      step_sizes: to try.
      log: of trainings before; new ones are added, each as soon as it is finished.
      train: a training with a step size, to its validation accuracy, or None where it failed.

    Raises:
      OSError: the log cannot be written.
      Interrupted: as `train` does.
    """
    for step_size in step_sizes:
        if (arm, step_size) not in log:
            log.add(arm, step_size, train(step_size))
    accuracies = tuple(log[arm, step_size] for step_size in step_sizes)
    return Tuned(tuple(step_sizes), accuracies, choose(step_sizes, accuracies))
