"""Intervals against SciPy's own tests, published tables, Student's own example and simulation."""

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats as scipy_stats

from cnnjax.stats import Interval, PairedDifference, mean_interval, paired_difference

# Student (1908), "The probable error of a mean": hours of sleep gained by ten patients under two
# drugs, as R carries it (`sleep`); R's t.test(paired = TRUE) prints the numbers asserted below.
SLEEP_FIRST = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SLEEP_SECOND = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


def test_paired_difference_is_that_of_students_sleep_example() -> None:
    difference = paired_difference(SLEEP_FIRST, SLEEP_SECOND)
    assert difference.mean == pytest.approx(-1.58, abs=1e-12)
    assert difference.low == pytest.approx(-2.4598858, abs=1e-7)
    assert difference.high == pytest.approx(-0.7001142, abs=1e-7)
    assert difference.p_value == pytest.approx(0.002833, abs=1e-6)
    assert difference.n == 10
    assert difference.resolved


@pytest.mark.parametrize(
    ("n", "quantile"), [(2, 12.706), (3, 4.303), (5, 2.776), (10, 2.262), (31, 2.042)]
)
def test_half_width_uses_the_published_quantiles_of_t(n: int, quantile: float) -> None:
    interval = mean_interval(np.arange(n))
    half_widths_of_one_standard_error = (interval.high - interval.mean) / (
        interval.std / math.sqrt(n)
    )
    assert half_widths_of_one_standard_error == pytest.approx(quantile, abs=5e-4)


@pytest.mark.parametrize("n", [2, 3, 5, 20])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
def test_both_agree_with_scipy(n: int, confidence: float) -> None:
    generator = np.random.default_rng(n)
    values, baseline = generator.normal(0.97, 0.01, (2, n))
    difference = paired_difference(values, baseline, confidence)
    expected = scipy_stats.ttest_rel(values, baseline)
    assert difference.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    interval = expected.confidence_interval(confidence)
    assert (difference.low, difference.high) == pytest.approx(
        (interval.low, interval.high), rel=1e-9
    )
    one = mean_interval(values, confidence)
    assert (one.low, one.high) == pytest.approx(
        scipy_stats.t.interval(confidence, n - 1, values.mean(), scipy_stats.sem(values)), rel=1e-9
    )
    assert one.std == pytest.approx(values.std(ddof=1))


def test_95_percent_interval_covers_the_truth_in_about_95_percent_of_draws() -> None:
    draws = np.random.default_rng(0).normal(3.0, 2.0, (4000, 5))
    covered = sum(interval.low <= 3.0 <= interval.high for interval in map(mean_interval, draws))
    assert 0.93 < covered / 4000 < 0.97


def test_paired_difference_resolves_nothing_in_about_95_percent_of_draws_without_one() -> None:
    generator = np.random.default_rng(1)
    # The arms share most of their spread, as paired seeds do.
    shared = generator.normal(0.9, 0.05, (2000, 1, 5))
    draws = shared + generator.normal(0.0, 0.01, (2000, 2, 5))
    resolved = sum(paired_difference(ours, theirs).resolved for ours, theirs in draws)
    assert 0.03 < resolved / 2000 < 0.07


def test_pairing_takes_out_what_the_seeds_share() -> None:
    baseline = np.array([0.90, 0.95, 0.80, 0.99, 0.85])
    values = baseline + np.array([0.010, 0.012, 0.009, 0.011, 0.010])
    assert paired_difference(values, baseline).resolved
    assert mean_interval(values).low < mean_interval(baseline).high


def test_swapping_the_arms_mirrors_the_interval() -> None:
    forward = paired_difference(SLEEP_FIRST, SLEEP_SECOND)
    backward = paired_difference(SLEEP_SECOND, SLEEP_FIRST)
    assert (backward.low, backward.high) == pytest.approx((-forward.high, -forward.low))
    assert backward.p_value == pytest.approx(forward.p_value)


def test_one_value_has_a_mean_and_no_interval() -> None:
    interval = mean_interval([0.5])
    assert (interval.mean, interval.n) == (0.5, 1)
    assert all(map(math.isnan, (interval.low, interval.high, interval.std)))
    difference = paired_difference([0.75], [0.5])
    assert difference.mean == 0.25
    assert all(map(math.isnan, (difference.low, difference.high, difference.p_value)))
    assert not difference.resolved


@pytest.mark.parametrize("n", [2, 3, 7])
def test_no_difference_at_all_is_zero_and_not_resolved(n: int) -> None:
    values = [0.1 * seed for seed in range(n)]
    difference = paired_difference(values, values)
    assert difference == PairedDifference(0.0, 0.0, 0.0, n, 0.0, p_value=1.0)
    assert not difference.resolved


def test_rounding_is_not_taken_for_spread_nor_for_a_difference() -> None:
    assert paired_difference([0.97, 0.98], [0.96, 0.97]).std == 0.0
    assert not paired_difference([0.1 + 0.2, 0.5], [0.3, 0.5]).resolved
    assert mean_interval([0.1] * 3).std == 0.0


def test_arrays_and_generators_are_taken_and_plain_floats_returned() -> None:
    interval = mean_interval(np.array([1, 2, 4], dtype=np.float32))
    for field in dataclasses.fields(interval):
        assert type(getattr(interval, field.name)) in (float, int)
    assert interval == mean_interval(float(value) for value in (1, 2, 4))


def test_results_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Interval(0.0, 0.0, 0.0, 1, 0.0).mean = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=r"mean_interval: values must be finite.*at index 1"):
        mean_interval([0.5, bad])
    with pytest.raises(ValueError, match="paired_difference: baseline must be finite"):
        paired_difference([0.5, 0.5], [0.5, bad])


def test_nothing_to_average_is_refused() -> None:
    with pytest.raises(ValueError, match="values must hold at least one value, got none"):
        mean_interval([])
    with pytest.raises(ValueError, match="values must hold at least one value, got none"):
        paired_difference([], [])


def test_values_that_do_not_pair_up_are_refused() -> None:
    with pytest.raises(ValueError, match="got 2 values and 1 of the baseline"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="one number a seed"):
        mean_interval([[1.0], [2.0]])  # type: ignore[list-item]


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, -0.5, math.nan])
def test_confidence_out_of_range_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1"):
        mean_interval([1.0, 2.0], confidence)


def test_stats_imports_neither_jax_nor_a_plotting_library() -> None:
    program = (
        "import sys, cnnjax.stats;"
        "print(sorted({'jax', 'flax', 'absl', 'matplotlib', 'experiments'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert answer.stdout.strip() == "[]", answer.stderr
