"""What a record says: the fields of one line of `runs.jsonl`."""

from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict

__all__ = [
    "CurvePoint",
    "Failure",
    "Measurement",
    "Metrics",
    "NumExamples",
    "PretrainingMetrics",
    "Record",
    "TuningRecord",
    "completed",
]

# Flags that came after the first runs, at the values that are what runs did before: records leave
# them out where they have these. `Config` has the same; reports are drawn without it, and JAX.
_LEFT_OUT: Mapping[str, Any] = {
    "train_size": 0,
    "peak_fraction": 0.25,
    "tune": "",
    "adam_learning_rate": 0.01,
    "compute_dtype": "float32",
    "shift_mode": "constant",
    "flip_kind": "random",
    "color_jitter": 0.0,
    "pca_lighting": 0.0,
    "cutout": 0,
    "mixup": 0.0,
    "label_smoothing": 0.0,
    "tta_flip": False,
    "tta_shift": 0,
}


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of a record, and those that it leaves out.

    >>> completed({"shift": 2, "cutout": 8})["cutout"], completed({"shift": 2})["cutout"]
    (8, 0)
    """
    return {**config, **{name: _LEFT_OUT[name] for name in _LEFT_OUT if name not in config}}


class Failure(TypedDict):
    """Where and why a trial failed; `step` counts from the start of training."""

    step: int
    reason: str


class NumExamples(TypedDict):
    """Images in each split."""

    train: int
    validation: int
    test: int


class Metrics(TypedDict):
    """What a completed trial measured; accuracies are fractions in [0, 1], losses mean nats."""

    test_accuracy: float
    test_loss: float
    validation_accuracy: NotRequired[float]
    validation_loss: NotRequired[float]
    best_validation_accuracy: NotRequired[float]
    best_epoch: NotRequired[int]
    outcome: NotRequired[float]


class PretrainingMetrics(TypedDict):
    """What the network that a trial started from came to on the task that it had learnt."""

    test_accuracy: float | None
    test_loss: float | None


class TuningRecord(TypedDict):
    """How the arm's step size was chosen: the last validation accuracies, null where it failed."""

    seed: int
    learning_rates: list[float]
    validation_accuracies: list[float | None]
    chosen: float | None


class CurvePoint(TypedDict):
    """One point of the learning curve, measured after `epoch` epochs, which are `step` steps."""

    epoch: int
    step: int
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    train_accuracy: NotRequired[float]
    learning_rate: NotRequired[float]


class Measurement(TypedDict):
    """A number of one network against another; x that theory marks, and x observed of it."""

    title: str
    x_title: str
    y_title: str
    x: list[float]
    y: list[float]
    marks: list[float]
    observed: NotRequired[list[float]]


class Record(TypedDict):
    """One finished trial, self-contained: a report needs nothing but these.

    `account` maps column names, in the order to print them, to what the arm sees and costs; it
    has the same columns in every arm. `config` holds all flags of the run, `settings` those that
    the arm departs in. `headline_arm` names the arm that the verdict is about, by default the
    first after the baseline, `against` the one that this arm is compared with, by default the
    baseline, itself for none. `outcome` is what they are compared by, `metrics["outcome"]` or else
    the test accuracy. `published` is the literature's claim, `published_order` that of this arm.
    """

    schema: int
    study: str
    question: str
    arm: str
    arm_index: int
    arm_title: str
    baseline: str
    headline_arm: NotRequired[str]
    against: NotRequired[str]
    outcome: NotRequired[str]
    differs_in: str
    settings: NotRequired[Mapping[str, Any]]
    account: Mapping[str, int | float | str]
    limits: list[str]
    config: Mapping[str, Any]
    command: str
    planned_seeds: list[int]
    planned_arms: list[str]
    seed: int
    status: Literal["completed", "failed"]
    failure: Failure | None
    num_examples: NumExamples
    metrics: Metrics | None
    measurements: NotRequired[Mapping[str, Measurement]]
    pretraining: NotRequired[PretrainingMetrics]
    tuning: NotRequired[TuningRecord]
    published: NotRequired[str]
    published_order: NotRequired[Literal["", "higher", "lower", "level"]]
    curve: list[CurvePoint]
