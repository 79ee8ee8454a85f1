"""Several runs side by side: what differs between them, and the same arm of two of them compared.

Seed s means the same order of the data and the same augmentation draws in every run that has the
same data and steps, so that an arm of one run pairs with the same arm of another by its seeds.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from experiments import comparisons, records
from experiments.comparisons import Arm, Comparison, Run
from experiments.record_fields import completed

__all__ = [
    "Between",
    "JoinedRun",
    "between_runs",
    "differing_flags",
    "differing_surroundings",
    "labels_of",
    "read_run",
    "same_data",
    "unpaired",
]

# Of an environment: what the code was, and what may move the last bits.
_SURROUNDINGS = (
    *("commit", "sources_sha256", "python", "versions", "device", "processor", "cores"),
    *("precision", "xla_flags"),
)
_NAMES = {"commit": "commits", "sources_sha256": "sources (by digest)", "device": "devices"}
_NAMES |= {"python": "Python versions", "processor": "processors", "xla_flags": "XLA's flags"}


@dataclass(frozen=True)
class JoinedRun:
    """One run among several.

    Attributes:
      label: what it is called beside the others.
      path: its directory.
      run: its records, sorted and compared among themselves.
      dropped: what was wrong with the last line of its records, or None.
      dataset_sha256: digest of all its images and labels; None where it is not known.
      environment: what it ran on; empty where it is not known.
    """

    label: str
    path: Path
    run: Run
    dropped: str | None = None
    dataset_sha256: str | None = None
    environment: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def config(self) -> Mapping[str, Any]:
        """The flags that its numbers depend on."""
        return self.run.first["config"]

    @property
    def outcome(self) -> str:
        """What its arms are compared by."""
        return self.run.outcome


class Between(NamedTuple):
    """An arm of one run against the same arm of another.

    Attributes:
      run: the run that is compared with the first.
      arm: of that run.
      comparison: its arms are named by title and run.
    """

    run: JoinedRun
    arm: Arm
    comparison: Comparison


def read_run(path: Path, label: str) -> JoinedRun:
    """Read a run's directory.

    Args:
      path: what experiments.ablate wrote to.
      label: what to call it.

    Raises:
      FileNotFoundError: no directory, or none of a run.
      ValueError: no finished trial, or broken records.
      OSError: it cannot be read.
    """
    file = path / "runs.jsonl"
    if not file.is_file():
        what = "holds no runs.jsonl" if path.is_dir() else "is not a directory"
        raise FileNotFoundError(f"{path} {what}; name run directories of experiments.ablate")
    trials, dropped = records.read(file)
    if not trials:
        raise ValueError(f"{file} holds no finished trial yet")
    known: Mapping[str, Any] = {}
    try:
        read = json.loads((path / "environment.json").read_text("utf-8"))
        known = read if isinstance(read, dict) else {}
    except (OSError, ValueError):
        pass
    digest, environment = known.get("dataset_sha256"), known.get("environment")
    return JoinedRun(
        label=label,
        path=path,
        run=comparisons.gather(trials),
        dropped=dropped,
        dataset_sha256=digest if isinstance(digest, str) else None,
        environment=environment if isinstance(environment, dict) else {},
    )


def labels_of(paths: Sequence[Path]) -> list[str]:
    """Short names that tell directories apart: their last parts, as many as that takes.

    >>> labels_of([Path("runs/a/first"), Path("runs/b/first"), Path("runs/b/second")])
    ['a/first', 'b/first', 'b/second']
    """
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts), default=1) + 1):
        labels = ["/".join(part[-length:]) for part in parts]
        if len(set(labels)) == len(labels):
            break
    return labels


def differing_flags(runs: Sequence[JoinedRun]) -> dict[str, list[Any]]:
    """Flags in which runs differ, each with its value in every run; None where it has none."""
    configs = [completed(run.config) for run in runs]
    names = sorted({name for config in configs for name in config})
    values = {name: [config.get(name) for config in configs] for name in names}
    return {name: of_runs for name, of_runs in values.items() if _differ(of_runs)}


def differing_surroundings(runs: Sequence[JoinedRun]) -> list[str]:
    """What is known to differ in code and machine, a sentence each.

    What a run went on with when it was resumed elsewhere is not looked at.
    """
    sentences = []
    unknown = [run.label for run in runs if not run.environment]
    if unknown:
        sentences.append(f"nothing is known of what {', '.join(unknown)} ran on")
    for name in _SURROUNDINGS:
        known = [(run, run.environment.get(name)) for run in runs]
        known = [(run, value) for run, value in known if value is not None]
        if known and _differ([value for _, value in known]):
            told = ", ".join(f"{_short(value)} ({run.label})" for run, value in known)
            sentences.append(f"{_NAMES.get(name, name)} differ: {told}")
    return sentences


def same_data(run: JoinedRun, reference: JoinedRun) -> str:
    """Whether two runs had the same images and labels, and so what their pairs rest on."""
    ours, theirs = run.dataset_sha256, reference.dataset_sha256
    if ours is None or theirs is None:
        return "whether the images and labels are the same is not known; pairs rest on seeds alone"
    if ours != theirs:
        return "images or labels differ in one of the three sets; pairs rest on seeds alone"
    return "the same images and labels"


def unpaired(run: JoinedRun, reference: JoinedRun) -> str:
    """Why no arm of a run pairs with one of another, or nothing."""
    for name, ours, theirs in (
        ("study", run.run.first["study"], reference.run.first["study"]),
        ("data set", run.config.get("dataset"), reference.config.get("dataset")),
        ("outcome", run.outcome, reference.outcome),
    ):
        if ours != theirs:
            return f"another {name} ({ours}, not {theirs})"
    if not _shared(run, reference):
        return "no arm of the same name"
    return ""


def between_runs(runs: Sequence[JoinedRun]) -> list[Between]:
    """Each arm of every later run against the same arm of the first, paired by seed.

    P values are Holm's over all of these comparisons.

    Args:
      runs: those of another study, data set or outcome than the first are passed over.
    """
    reference = runs[0]
    found = [
        (run, ours, theirs)
        for run in runs[1:]
        if not unpaired(run, reference)
        for ours, theirs in _shared(run, reference)
    ]
    pairs = [(_named(ours, run), _named(theirs, reference)) for run, ours, theirs in found]
    compared = comparisons.compare(pairs, reference.outcome)
    return [Between(run, arm, c) for (run, arm, _), c in zip(found, compared, strict=True)]


def _shared(run: JoinedRun, reference: JoinedRun) -> list[tuple[Arm, Arm]]:
    theirs = {arm.name: arm for arm in reference.run.arms}
    return [(arm, theirs[arm.name]) for arm in run.run.arms if arm.name in theirs]


def _named(arm: Arm, run: JoinedRun) -> Arm:
    return dataclasses.replace(arm, title=f"{arm.title} ({run.label})")


def _differ(values: Sequence[Any]) -> bool:
    return any(value != values[0] for value in values)


def _short(value: Any) -> str:
    """A value in a sentence; digests and commits by their beginning."""
    text = json.dumps(value, sort_keys=True).strip('"')
    return text[:12] if len(text) in (40, 64) and " " not in text else text
