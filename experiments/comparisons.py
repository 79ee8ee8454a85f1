"""What the records of a run say: its arms, and each arm compared with its partner.

Every report is written from this, whatever its format: the numbers, and the sentences that state
them, are made here once.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cnnjax import stats
from experiments.records import Record, TuningRecord
from experiments.wording import CONFIDENCE, capitalized, one_line, percent, points

__all__ = [
    "Arm",
    "Comparison",
    "Run",
    "capitalized",
    "compare",
    "gather",
    "percent",
    "points",
]

_ALPHA, _POWER, _MOST_PAIRS = 0.05, 0.8, 10_000


@dataclass(frozen=True)
class Arm:
    """One arm of a run with the trials that it has so far.

    Attributes:
      name: its key in the records.
      title: what to print, on one line; no two arms of a run share one.
      trials: its records by seed, in the order of the seeds.
      outcomes: what it is compared by (a fraction) of every completed trial, by seed: the test
        accuracies, or the outcome that the study measures.
      settings: flags in which it departs from the run's.
    """

    name: str
    title: str
    trials: Mapping[int, Record]
    outcomes: Mapping[int, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def accuracies(self) -> dict[int, float]:
        """Test accuracy (a fraction) of every completed trial, by seed."""
        return {
            seed: trial["metrics"]["test_accuracy"]
            for seed, trial in self.trials.items()
            if trial["status"] == "completed" and trial["metrics"] is not None
        }

    @property
    def tuning(self) -> TuningRecord | None:
        """How its step size was chosen; None where it was not."""
        return next((t["tuning"] for t in self.trials.values() if "tuning" in t), None)

    @property
    def pretrained(self) -> list[float]:
        """Test accuracies (fractions) of the pretrainings that its trials started from."""
        found = [t["pretraining"] for t in self.trials.values() if "pretraining" in t]
        accuracies = [before["test_accuracy"] for before in found]
        return [accuracy for accuracy in accuracies if accuracy is not None]

    def having(self, status: Literal["completed", "failed"]) -> list[Record]:
        """The trials that ended with this status."""
        return [trial for trial in self.trials.values() if trial["status"] == status]


@dataclass(frozen=True)
class Comparison:
    """What a paired comparison of an arm with its partner says.

    Attributes:
      arm: the arm.
      against: the arm that it is compared with.
      differences: of the outcomes (fractions), by seed, over the seeds that both completed.
      difference: their mean, Student's interval and p value; None without any pair.
      bootstrap: their mean and bootstrap interval; None without an interval of Student's.
      adjusted_p_value: Holm's, over all comparisons of the run; nan without a test.
      num_comparisons: with a test, of the whole run.
      seeds_to_resolve: how many seeds would resolve a difference of this size and spread with a
        probability of 80 %; None where it is too many to count, or nobody can say.
      word: for a table: "higher", "lower", "not resolved", "no interval" or "no pairs".
      sentence: the same in full, without a full stop.
    """

    arm: Arm
    against: Arm
    differences: Mapping[int, float]
    difference: stats.PairedDifference | None
    bootstrap: stats.Interval | None
    adjusted_p_value: float
    num_comparisons: int
    seeds_to_resolve: int | None
    word: Literal["higher", "lower", "not resolved", "no interval", "no pairs"]
    sentence: str

    @property
    def published(self) -> str:
        """What the literature says of the arm: "higher", "lower", "level", or nothing ("")."""
        trial = next(iter(self.arm.trials.values()), None)
        return "" if trial is None else trial.get("published_order", "")

    @property
    def borne_out(self) -> str:
        """Whether this run bears out what is published; "" where nothing is published.

        A difference that is not resolved contradicts nothing; nor does it show two arms level. Nor
        does one that is left by seeds of which some failed in one arm and not in the other.
        """
        if not self.published:
            return ""
        if len(self.arm.having("failed")) != len(self.against.having("failed")):
            return "not resolved"
        if self.word == self.published:
            return "yes"
        opposite = self.word in ("higher", "lower")
        return (
            "no, the opposite"
            if opposite and self.published != "level"
            else ("no, they differ" if opposite else "not resolved")
        )

    @property
    def tested(self) -> bool:
        """Whether there is a t test: pairs, and a spread that it could judge by."""
        return _tested(self.difference)


@dataclass(frozen=True)
class Run:
    """The records of one run, sorted into its arms and compared.

    Attributes:
      first: a record to read from what is the same in all of them.
      arms: the planned ones in their order; one without any trial yet goes by its key.
      baseline: the arm that the others are compared with, save for those with another partner.
      comparisons: one for each arm that is compared with another, in the order of the arms.
      outcome: what the arms are compared by, as in "points of test accuracy".
      has_outcome: whether that is something else than the test accuracy.
    """

    first: Record
    arms: tuple[Arm, ...]
    baseline: Arm
    comparisons: tuple[Comparison, ...]
    outcome: str
    has_outcome: bool

    @property
    def trials(self) -> list[Record]:
        """All records, arm by arm."""
        return [trial for arm in self.arms for trial in arm.trials.values()]

    @property
    def num_planned(self) -> int:
        """Trials of the whole run, finished or not."""
        return len(self.arms) * len(self.first["planned_seeds"])

    @property
    def alone(self) -> bool:
        """Whether it is of one arm, which there is nothing to compare with."""
        return len(self.arms) == 1

    @property
    def partners_differ(self) -> bool:
        """Whether an arm is compared with another one than the baseline."""
        return any(comparison.against is not self.baseline for comparison in self.comparisons)

    @property
    def headline(self) -> Comparison | None:
        """The comparison that answers the question; None when no arm is compared."""
        name = self.first.get("headline_arm")
        named = [comparison for comparison in self.comparisons if comparison.arm.name == name]
        return next(iter([*named, *self.comparisons]), None)

    @property
    def verdict(self) -> str:
        """The answer in one sentence, as it stands at the head of a report."""
        if self.alone:
            sentence = _reached(self.baseline, self.outcome)
        elif self.headline is None:
            return "No verdict: the run has no arm that is compared with another."
        else:
            sentence = self.headline.sentence
        unfinished = len(self.trials) < self.num_planned
        return capitalized(f"so far, {sentence}" if unfinished else sentence)

    def comparison(self, arm: Arm) -> Comparison | None:
        """The comparison of this arm with its partner; None for one without."""
        return next((c for c in self.comparisons if c.arm is arm), None)


def gather(trials: Sequence[Record]) -> Run:
    """Sort the records of a run into its arms, and compare each with its partner.

    An arm counts as higher or lower only where Holm's p value over all comparisons of the run is
    below 0.05; with one comparison that is where the 95 % interval excludes 0. Where one seed, or
    the same difference in each, leaves no spread to judge by, there is no test to correct for.

    Args:
      trials: at least one record, in any order.

    Returns:
      The run. Arms that share a title go by their keys.

    Raises:
      ValueError: records of more than one run, or a partner that is no arm.
    """
    trials = sorted(trials, key=lambda trial: (trial["arm_index"], trial["seed"]))
    first = trials[0]
    _same_run(trials)
    titles = {t["arm"]: one_line(t["arm_title"]).replace("|", "/") for t in trials}
    shared = {title for title in titles.values() if list(titles.values()).count(title) > 1}
    has_outcome = any("outcome" in (trial["metrics"] or {}) for trial in trials)
    arms: dict[str, Arm] = {}
    partners: dict[str, str] = {}
    for name in first["planned_arms"]:
        of_arm = {trial["seed"]: trial for trial in trials if trial["arm"] == name}
        title = titles.get(name, name)
        record: Mapping[str, Any] = next(iter(of_arm.values()), {})
        arms[name] = Arm(
            name,
            name if title in shared else title,
            of_arm,
            _outcomes(of_arm, "outcome" if has_outcome else "test_accuracy"),
            record.get("settings", {}),
        )
        partners[name] = record.get("against", first["baseline"])
    for name, partner in partners.items():
        if partner not in arms:
            raise ValueError(f"arm {name!r} is compared with {partner!r}, which is no arm")
    pairs = [(arms[name], arms[other]) for name, other in partners.items() if name != other]
    outcome = one_line(first.get("outcome", "test accuracy")).replace("|", "/")
    return Run(
        first=first,
        arms=tuple(arms.values()),
        baseline=arms[first["baseline"]],
        comparisons=compare(pairs, outcome),
        outcome=outcome,
        has_outcome=has_outcome,
    )


def _same_run(trials: Sequence[Record]) -> None:
    first = trials[0]
    for name in ("study", "baseline", "planned_arms", "planned_seeds", "config", "num_examples"):
        for trial in trials:
            if trial[name] != first[name]:
                raise ValueError(
                    f"these records mix two runs: {name} differs between arm {first['arm']!r}, "
                    f"seed {first['seed']} and arm {trial['arm']!r}, seed {trial['seed']}"
                )


def _outcomes(trials: Mapping[int, Record], name: str) -> dict[int, float]:
    measured: dict[int, Any] = {seed: trial["metrics"] or {} for seed, trial in trials.items()}
    completed = [seed for seed, trial in trials.items() if trial["status"] == "completed"]
    return {seed: measured[seed][name] for seed in completed if name in measured[seed]}


def compare(pairs: Sequence[tuple[Arm, Arm]], outcome: str) -> tuple[Comparison, ...]:
    """Comparisons of arms with their partners, corrected for their number.

    Args:
      pairs: (arm, against), of one run or of several.
      outcome: what they are compared by, as in "points of test accuracy".

    Returns:
      One comparison a pair, in their order.
    """
    by_seed = [_differences(arm, against) for arm, against in pairs]
    differences = [_paired(arm, against) for arm, against in pairs]
    raw = [d.p_value if d is not None and _tested(d) else math.nan for d in differences]
    num_tested = sum(map(_tested, differences))
    compared = []
    for (arm, against), of_seeds, difference, p in zip(
        pairs, by_seed, differences, stats.holm(raw), strict=True
    ):
        tested = difference is not None and _tested(difference)
        word, sentence = _verdict(arm, against, difference, p, num_tested, outcome)
        sentence += _failed(arm, against)
        compared.append(
            Comparison(
                arm=arm,
                against=against,
                differences=of_seeds,
                difference=difference,
                bootstrap=stats.bootstrap_interval(of_seeds.values(), CONFIDENCE)
                if tested
                else None,
                adjusted_p_value=p,
                num_comparisons=num_tested,
                seeds_to_resolve=_seeds(difference, num_tested),
                word=word,
                sentence=sentence,
            )
        )
    return tuple(compared)


def _differences(arm: Arm, against: Arm) -> dict[int, float]:
    seeds = sorted(arm.outcomes.keys() & against.outcomes.keys())
    return {seed: arm.outcomes[seed] - against.outcomes[seed] for seed in seeds}


def _paired(arm: Arm, against: Arm) -> stats.PairedDifference | None:
    seeds = sorted(arm.outcomes.keys() & against.outcomes.keys())
    if not seeds:
        return None
    ours, theirs = ([a.outcomes[seed] for seed in seeds] for a in (arm, against))
    return stats.paired_difference(ours, theirs, CONFIDENCE)


def _tested(difference: stats.PairedDifference | None) -> bool:
    """Whether there are pairs with a spread, or with no difference at all.

    Accuracies are counts of images, and a few seeds that all differ by the same count come easily;
    Student's t would call that certain.
    """
    return (
        difference is not None
        and difference.n > 1
        and not (difference.std == 0 and difference.mean != 0)
    )


def _seeds(difference: stats.PairedDifference | None, num_tested: int) -> int | None:
    if difference is None or not _tested(difference):
        return None
    return stats.pairs_to_resolve(difference, _POWER, _ALPHA, num_tested, _MOST_PAIRS)


def _failed(*arms: Arm) -> str:
    """How many trials of each failed and are in no mean; nothing where none did."""
    told = [
        f"; {failed} of {len(arm.trials)} seeds failed in {arm.title}"
        for arm in arms
        if (failed := len(arm.having("failed")))
    ]
    return "".join(told)


def _reached(arm: Arm, outcome: str) -> str:
    """What an arm that is compared with none came to, in a sentence."""
    values = list(arm.outcomes.values())
    failed = _failed(arm)
    if not values:
        return f"no verdict on {arm.title}: no seed is completed{failed}"
    mean, interval = percent(values)
    sure = f"95 % interval {interval}, n={len(values)}"
    if len(values) == 1:
        sure = "from one seed, which gives no interval"
    return f"{arm.title} came to {mean} {outcome}, {sure}{failed}"


def _verdict(
    arm: Arm,
    against: Arm,
    difference: stats.PairedDifference | None,
    adjusted_p_value: float,
    num_tested: int,
    outcome: str,
) -> tuple[Any, str]:
    """The word and the sentence of a comparison."""
    if difference is None:
        text = f"no verdict on {arm.title} against {against.title}"
        return "no pairs", f"{text}: no seed is completed in both"
    n = difference.n
    mean, low, high = points(difference.mean, difference.low, difference.high)
    interval = f"95 % interval [{low}, {high}]"
    differs = f"{arm.title} differed from {against.title} by {mean} points of {outcome}"
    unresolved = f"not resolved at n={n}"
    if n == 1:
        return "no interval", f"{unresolved}: {differs}, and one seed gives no interval"
    if not _tested(difference):
        text = f"{differs} in every seed, which leaves no spread to judge by"
        return "not resolved", f"{unresolved}: {text}"
    if adjusted_p_value < _ALPHA:
        word, verb = ("higher", "beat") if difference.mean > 0 else ("lower", "fell behind")
        text = f"{arm.title} {verb} {against.title} by {mean[1:]} points of {outcome}"
        return word, f"{text}, {interval}, n={n}"
    if difference.resolved:
        unresolved += f" after Holm's correction over {num_tested} comparisons"
    text = f"{unresolved}: {differs}, {interval}"
    if difference.std > 0 and difference.mean != 0:
        seeds = _seeds(difference, num_tested)
        how_many = f"more than {_MOST_PAIRS:,}" if seeds is None else f"about {seeds:,}"
        text += f"; {how_many} seeds would resolve a difference of this size (80 % power)"
    return "not resolved", text
