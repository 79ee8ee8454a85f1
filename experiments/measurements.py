"""What the arms of a run measured beyond their outcome: curves, averaged over the seeds."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from cnnjax import stats
from experiments.comparisons import Arm, Run
from experiments.records import Measurement
from experiments.wording import CONFIDENCE, one_line

__all__ = ["Measured", "Series", "measured_by"]

# Of the pictures that every run has.
_TAKEN = frozenset({"accuracy", "curves", "tuning"})


@dataclass(frozen=True)
class Series:
    """The curve of one arm.

    Attributes:
      arm: whose.
      seeds: (x, y) of every completed trial, by seed, in the order of x, finite values alone.
      means: mean over the seeds and its interval, by x, in the order of x, where every seed that
        measured the curve has a value.
      marks: values of x that theory singles out, in their order.
      observed: values of x measured beside, each the mean over the seeds with its interval.
    """

    arm: Arm
    seeds: Mapping[int, tuple[tuple[float, ...], tuple[float, ...]]]
    means: Mapping[float, stats.Interval]
    marks: tuple[float, ...]
    observed: tuple[stats.Interval, ...] = ()


@dataclass(frozen=True)
class Measured:
    """One measurement of a run, all arms together.

    Attributes:
      name: in the records.
      title: of the plot.
      x_title: with its unit.
      y_title: with its unit.
      series: one for each arm that has it, in the order of the arms.
      file: name of its picture.
    """

    name: str
    title: str
    x_title: str
    y_title: str
    series: tuple[Series, ...]
    file: str

    @property
    def x(self) -> list[float]:
        """Where any arm has a mean, in order."""
        return sorted({x for series in self.series for x in series.means})


def measured_by(run: Run) -> list[Measured]:
    """The measurements of a run, in the order of their names.

    Args:
      run: the run; trials without measurements are passed over.
    """
    of_arms: dict[str, list[tuple[Arm, dict[int, Measurement]]]] = {}
    for arm in run.arms:
        of_arm: dict[str, dict[int, Measurement]] = {}
        for seed, trial in arm.trials.items():
            for name, measurement in trial.get("measurements", {}).items():
                of_arm.setdefault(name, {})[seed] = measurement
        for name, by_seed in of_arm.items():
            of_arms.setdefault(name, []).append((arm, by_seed))
    measured, files = [], set(_TAKEN)
    for name, having in sorted(of_arms.items()):
        file = re.sub(r"[^A-Za-z0-9_-]", "_", name)
        while file in files:
            file += "_"
        files.add(file)
        first = next(iter(having[0][1].values()))
        measured.append(
            Measured(
                name=name,
                title=one_line(first["title"]),
                x_title=one_line(first["x_title"]),
                y_title=one_line(first["y_title"]),
                series=tuple(_series(arm, by_seed) for arm, by_seed in having),
                file=f"{file}.png",
            )
        )
    return measured


def _series(arm: Arm, by_seed: Mapping[int, Measurement]) -> Series:
    seeds: dict[int, tuple[tuple[float, ...], tuple[float, ...]]] = {}
    values: dict[float, list[float]] = {}
    for seed, measurement in by_seed.items():
        pairs = sorted(zip(measurement["x"], measurement["y"], strict=True))
        pairs = [pair for pair in pairs if all(map(math.isfinite, pair))]
        seeds[seed] = (tuple(x for x, _ in pairs), tuple(y for _, y in pairs))
        for x, y in dict(pairs).items():
            values.setdefault(x, []).append(y)
    means = {
        x: stats.mean_interval(of_x, CONFIDENCE)
        for x, of_x in sorted(values.items())
        if len(of_x) == len(seeds)
    }
    marks = sorted({mark for measurement in by_seed.values() for mark in measurement["marks"]})
    # Of the seeds that have any.
    observations = [found for m in by_seed.values() if (found := m.get("observed", []))]
    beside = zip(*observations, strict=False)
    observed = tuple(
        stats.mean_interval(values, CONFIDENCE)
        for values in beside
        if all(map(math.isfinite, values))
    )
    finite = tuple(mark for mark in marks if math.isfinite(mark))
    return Series(arm, seeds, means, finite, observed)
