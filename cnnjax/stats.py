"""Intervals and paired differences for small numbers of seeds (Student, 1908).

The unit of evidence is one seed. `mean_interval` says where the mean over seeds lies, and
`bootstrap_interval` says so without taking the values as normally distributed.
`paired_difference` says whether one arm differs from another when seed s of both saw the same
data in the same order, which takes the spread that the seeds share out of the comparison; `holm`
corrects several such answers for their number, and `pairs_to_resolve` says how many seeds an
answer would have needed.
"""

import dataclasses
import functools
import math
import warnings
from collections.abc import Iterable

import numpy as np
from scipy import special, stats

__all__ = [
    "Interval",
    "PairedDifference",
    "bootstrap_interval",
    "holm",
    "mean_interval",
    "paired_difference",
    "pairs_to_resolve",
]

# Numbers this many units in the last place apart count as equal: 0.98 - 0.97 and 0.97 - 0.96
# differ in their last bits, and a spread made of rounding alone would look like certainty.
_ROUNDING = 4 * float(np.finfo(np.float64).eps)
_NUM_RESAMPLES = 9_999


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval, in the unit of the values.

    Attributes:
      mean: the mean of the values.
      low: lower end of the interval; nan when n = 1.
      high: upper end of the interval; nan when n = 1.
      n: number of values.
      std: standard deviation with n - 1 in the denominator; nan when n = 1.
    """

    mean: float
    low: float
    high: float
    n: int
    std: float


@dataclasses.dataclass(frozen=True)
class PairedDifference(Interval):
    """The mean of paired differences and its interval, in the unit of the values.

    Attributes:
      p_value: two-sided p value of the paired t test, in [0, 1]; nan when n = 1.
    """

    p_value: float

    @property
    def resolved(self) -> bool:
        """Whether the interval excludes 0; False when there is no interval (n = 1)."""
        return self.low > 0 or self.high < 0


def mean_interval(values: Iterable[float], confidence: float = 0.95) -> Interval:
    """Mean and Student t interval: mean +- t(confidence, n - 1) std / sqrt(n).

    Args:
      values: one finite number a seed, at least one.
      confidence: probability, 0 < confidence < 1, with which such intervals cover the mean of
        normally distributed values.

    Returns:
      The interval. One value has no spread: its `low`, `high` and `std` are nan. Values that
      are equal up to rounding have `std` 0 and an interval of no width.

    Raises:
      ValueError: no values, a value that is not finite, or a confidence out of range.

    >>> interval = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    >>> interval.mean, round(interval.low, 3), round(interval.high, 3), interval.n
    (3.0, 1.037, 4.963, 5)

    For the difference of two arms that share their seeds see `paired_difference`: whether two
    such intervals overlap is not a test.
    """
    array = _finite_vector("mean_interval", "values", values)
    return _student("mean_interval", array, float(np.abs(array).max()), confidence)


def paired_difference(
    values: Iterable[float], baseline: Iterable[float], confidence: float = 0.95
) -> PairedDifference:
    """Mean of values[i] - baseline[i], its Student t interval, and the paired t test.

    Args:
      values: one finite number a seed.
      baseline: the baseline's number for the same seeds, in the same order.
      confidence: probability of the interval, 0 < confidence < 1.

    Returns:
      The difference. With one pair there is no interval: `low`, `high`, `std` and `p_value` are
      nan and it is not resolved. Differences that are all 0 give the interval [0, 0], p value
      1, not resolved. Differences that are all the same number other than 0 give an interval of
      no width and p value 0, which is a statement about the formula: a spread of 0 (`std`) was
      seen, and Student's t takes it at its word.

    Raises:
      ValueError: no pairs, lengths that differ, a value that is not finite, or a confidence out
        of range.

    >>> difference = paired_difference([0.97, 0.96, 0.98], [0.95, 0.955, 0.95])
    >>> round(difference.mean, 4), round(difference.p_value, 3), difference.resolved
    (0.0183, 0.128, False)
    """
    ours = _finite_vector("paired_difference", "values", values)
    theirs = _finite_vector("paired_difference", "baseline", baseline)
    if ours.size != theirs.size:
        raise ValueError(
            f"paired_difference: values and baseline pair up one to one, got {ours.size} values "
            f"and {theirs.size} of the baseline; keep the seeds that both have"
        )
    scale = float(max(np.abs(ours).max(), np.abs(theirs).max()))
    interval = _student("paired_difference", ours - theirs, scale, confidence)
    return PairedDifference(**dataclasses.asdict(interval), p_value=_p_value(interval))


def bootstrap_interval(
    values: Iterable[float], confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Mean and bootstrap interval: quantiles of the means of resamples, bias-corrected (BCa).

    Each of 9,999 resamples draws n of the n values with replacement. The quantiles are shifted for
    bias and skewness; where that correction is not defined, the plain quantiles are taken. The
    interval need not be symmetric about the mean, and assumes no distribution; but a resample
    knows no value beyond those seen, so that below ten values or so it is too narrow, and
    Student's of `mean_interval` is the one to judge by.

    Args:
      values: one finite number a seed, at least one; of a paired comparison, the differences.
      confidence: probability, 0 < confidence < 1.
      seed: of the draws; the same values and seed give the same interval.

    Returns:
      The interval. As with `mean_interval`, one value has none (nan), and values that are equal up
      to rounding have one of no width.

    Raises:
      ValueError: no values, a value that is not finite, or a confidence out of range.

    >>> interval = bootstrap_interval([1.0, 2.0, 3.0, 4.0, 15.0])
    >>> interval.mean, interval.low > 1.0, interval.high - 5.0 > 5.0 - interval.low
    (5.0, True, True)

    Source: Efron, "Better Bootstrap Confidence Intervals", 1987.
    """
    array = _finite_vector("bootstrap_interval", "values", values)
    student = _student("bootstrap_interval", array, float(np.abs(array).max()), confidence)
    if student.n == 1 or student.std == 0:
        return student
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = stats.bootstrap(
                (array,),
                np.mean,
                n_resamples=_NUM_RESAMPLES,
                confidence_level=confidence,
                method=method,
                rng=np.random.default_rng(seed),
            ).confidence_interval
        low, high = float(found.low), float(found.high)
        if math.isfinite(low) and math.isfinite(high):
            break
    return dataclasses.replace(student, low=low, high=high)


def holm(p_values: Iterable[float]) -> list[float]:
    """P values adjusted for their number by Holm's step-down method.

    The k-th smallest of m is multiplied by m - k + 1, no adjusted one is smaller than those of the
    smaller ones, and none is above 1. Calling resolved what is below alpha errs on any of the
    m with probability alpha at most, however they depend on one another.

    Args:
      p_values: each in [0, 1], or nan for a comparison without a test, which does not count.

    Returns:
      The adjusted p values in the order of the given ones; nan stays nan.

    Raises:
      ValueError: a p value outside of [0, 1].

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03, 0.005])]
    [0.03, 0.06, 0.06, 0.02]

    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979.
    """
    array = np.asarray(list(p_values), dtype=np.float64)
    wrong = array[(array < 0) | (array > 1)]
    if wrong.size:
        raise ValueError(f"holm: p values must lie between 0 and 1 or be nan, got {wrong[0]}")
    adjusted = np.full(array.shape, math.nan)
    order = np.argsort(array, kind="stable")
    # Sorting puts nan last.
    order = order[: np.isfinite(array).sum()]
    factors = np.arange(order.size, 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * array[order]))
    return adjusted.tolist()


def pairs_to_resolve(
    difference: PairedDifference,
    power: float = 0.8,
    alpha: float = 0.05,
    comparisons: int = 1,
    most: int = 10_000,
) -> int | None:
    """How many pairs would resolve a true difference of the size and spread observed.

    The smallest n at which the two-sided paired t test at level alpha / comparisons rejects with
    probability `power`, where the differences are normal with mean `difference.mean` and standard
    deviation `difference.std`: t then is noncentral with parameter sqrt(n) mean / std.

    Args:
      difference: as observed. Both numbers are estimates, and of few pairs rough ones: so is n.
      power: probability wanted, 0 < power < 1.
      alpha: level of the test, 0 < alpha < 1.
      comparisons: made at once; Bonferroni's level stands in for Holm's, which is no stricter.
      most: the largest n that is looked at.

    Returns:
      n, at least 2; None where it is above `most`, as for a difference of 0, and where the
      difference has no spread to reckon with (one pair, or the same difference in each).

    Raises:
      ValueError: a probability out of range, or `comparisons` below 1.

    >>> pairs_to_resolve(PairedDifference(0.5, 0.1, 0.9, 20, std=1.0, p_value=0.04))
    34

    Source: Cohen, "Statistical Power Analysis for the Behavioral Sciences", 1988.
    """
    for name, value in (("power", power), ("alpha", alpha)):
        if not 0 < value < 1:
            raise ValueError(f"pairs_to_resolve: {name} must lie between 0 and 1, got {value}")
    if comparisons < 1:
        raise ValueError(f"pairs_to_resolve: comparisons must be at least 1, got {comparisons}")
    if difference.n < 2 or difference.std == 0 or difference.mean == 0:
        return None
    effect, level = abs(difference.mean) / difference.std, alpha / comparisons
    if _power(effect, most, level) < power:
        return None
    # Power grows with n: the answer lies in (low, high].
    low, high = 1, most
    while high - low > 1:
        middle = (low + high) // 2
        if _power(effect, middle, level) < power:
            low = middle
        else:
            high = middle
    return high


def _power(effect: float, n: int, level: float) -> float:
    """Probability that the two-sided t test of n values of mean `effect` and spread 1 rejects.

    The mean over the spread seen, s, of the probability that a normal value of mean sqrt(n) effect
    lies beyond t s on either side. SciPy's noncentral t has no number for some of these.
    """
    nodes, weights = _quadrature()
    spread = np.sqrt(special.chdtri(n - 1, nodes) / (n - 1))
    t = float(stats.t.isf(level / 2, n - 1))
    noncentrality = math.sqrt(n) * effect
    beyond = special.ndtr(noncentrality - t * spread) + special.ndtr(-noncentrality - t * spread)
    return float(weights @ beyond)


@functools.cache
def _quadrature() -> tuple[np.ndarray, np.ndarray]:
    """Points and weights of a mean over (0, 1), in which the points are probabilities."""
    nodes, weights = np.polynomial.legendre.leggauss(256)
    return (nodes + 1) / 2, weights / 2


def _finite_vector(function: str, name: str, values: Iterable[float]) -> np.ndarray:
    array = np.asarray(list(values), dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{function}: {name} must be one number a seed, got shape {array.shape}")
    if array.size == 0:
        raise ValueError(f"{function}: {name} must hold at least one value, got none")
    if not np.isfinite(array).all():
        raise ValueError(
            f"{function}: {name} must be finite, got {array[~np.isfinite(array)][0]} at index "
            f"{int(np.argmin(np.isfinite(array)))}; leave failed trials out and count them"
        )
    return array


def _student(function: str, values: np.ndarray, scale: float, confidence: float) -> Interval:
    """The interval of `values`, which carry rounding errors of numbers as large as `scale`."""
    if not 0 < confidence < 1:
        raise ValueError(f"{function}: confidence must lie between 0 and 1, got {confidence}")
    n = int(values.size)
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1, math.nan)
    if float(np.ptp(values)) <= _ROUNDING * scale:
        mean = 0.0 if abs(mean) <= _ROUNDING * scale else mean
        return Interval(mean, mean, mean, n, 0.0)
    std = float(values.std(ddof=1))
    half_width = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * std / math.sqrt(n)
    return Interval(mean, mean - half_width, mean + half_width, n, std)


def _p_value(difference: Interval) -> float:
    if difference.n == 1:
        return math.nan
    if difference.std == 0:
        return 1.0 if difference.mean == 0 else 0.0
    t = difference.mean / (difference.std / math.sqrt(difference.n))
    return float(2 * stats.t.sf(abs(t), difference.n - 1))
