"""Intervals and paired differences for small numbers of seeds (Student, 1908).

The unit of evidence is one seed. `mean_interval` says where the mean over seeds lies;
`paired_difference` says whether one arm differs from another when seed s of both saw the same
data in the same order, which takes the spread that the seeds share out of the comparison.
"""

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
from scipy import stats

__all__ = ["Interval", "PairedDifference", "mean_interval", "paired_difference"]

# Numbers this many units in the last place apart count as equal: 0.98 - 0.97 and 0.97 - 0.96
# differ in their last bits, and a spread made of rounding alone would look like certainty.
_ROUNDING = 4 * float(np.finfo(np.float64).eps)


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
