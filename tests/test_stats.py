"""Intervals against SciPy's own tests, published tables, Student's own example and simulation."""

import dataclasses
import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats as scipy_stats

from cnnjax.stats import (
    Interval,
    PairedDifference,
    bootstrap_interval,
    holm,
    mean_interval,
    paired_difference,
    pairs_to_resolve,
)

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


def observed(mean: float, std: float = 1.0) -> PairedDifference:
    return PairedDifference(mean, math.nan, math.nan, 10, std, p_value=math.nan)


def test_bootstrap_interval_of_two_values_is_that_of_all_resamples() -> None:
    # Of four equally likely resamples a quarter has either mean at an end.
    interval = bootstrap_interval([0.0, 1.0])
    assert (interval.low, interval.high) == (0.0, 1.0)
    assert (interval.mean, interval.n) == (0.5, 2)
    # The middle half of the distribution: both resamples with different values have mean 0.5.
    middle = bootstrap_interval([0.0, 1.0], confidence=0.4)
    assert (middle.low, middle.high) == (0.5, 0.5)


def test_bootstrap_interval_is_efrons_by_enumeration() -> None:
    # All 5 ** 5 resamples stand in for the random ones; BCa's formulas written out.
    values = np.array([0.2, 0.9, 1.1, 1.3, 4.0])
    means = np.sort([np.mean(draw) for draw in itertools.product(values, repeat=5)])
    below = np.mean(means < values.mean()) / 2 + np.mean(means <= values.mean()) / 2
    bias = scipy_stats.norm.ppf(below)
    left_out = np.array([np.delete(values, i).mean() for i in range(5)])
    deviations = left_out.mean() - left_out
    acceleration = (deviations**3).sum() / (6 * (deviations**2).sum() ** 1.5)
    ends = []
    for quantile in (0.025, 0.975):
        z = bias + scipy_stats.norm.ppf(quantile)
        level = scipy_stats.norm.cdf(bias + z / (1 - acceleration * z))
        ends.append(np.quantile(means, level))
    interval = bootstrap_interval(values)
    # 9,999 random resamples place a quantile within about a tenth.
    assert (interval.low, interval.high) == pytest.approx(ends, abs=0.1)
    student = mean_interval(values)
    assert interval.high - interval.mean > interval.mean - interval.low
    assert student.high - student.mean == pytest.approx(student.mean - student.low)


def test_bootstrap_interval_is_the_same_every_time_and_another_for_another_seed() -> None:
    assert bootstrap_interval(SLEEP_FIRST) == bootstrap_interval(SLEEP_FIRST)
    first, second = (bootstrap_interval(SLEEP_FIRST, seed=seed) for seed in (0, 1))
    assert first.low != second.low
    assert (first.low, first.high) == pytest.approx((second.low, second.high), abs=0.1)


def test_bootstrap_interval_without_spread_or_with_one_value_is_that_of_student() -> None:
    for values in ([0.5], [0.1 + 0.2, 0.3], [0.0, 0.0, 0.0]):
        found, expected = bootstrap_interval(values), mean_interval(values)
        np.testing.assert_equal(dataclasses.astuple(found), dataclasses.astuple(expected))


@pytest.mark.parametrize("values", [[0, 0, 0, 1], [0, 0, 1e-9], [-1, 1], [5, 5, 5, 5, 5.1]])
def test_bootstrap_interval_of_few_distinct_values_lies_within_them(values: list[float]) -> None:
    interval = bootstrap_interval(values)
    assert min(values) <= interval.low <= interval.mean <= interval.high <= max(values)


def test_holm_is_that_of_published_examples() -> None:
    # Holm's rule by hand: 4 x .005, 3 x .01, 2 x .03, then .04 held up to .06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    # The fifteen p values of Benjamini and Hochberg (1995, section 4.1), of which such methods
    # reject three: 15 x .0001, 14 x .0004, 13 x .0019, 12 x .0095, 11 x .0201, 10 x .0278, which
    # 9 x .0298 and 8 x .0344 do not reach, and 7 x .0459.
    published = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459]
    published += [0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    adjusted = holm(published)
    by_hand = [0.0015, 0.0056, 0.0247, 0.1140, 0.2211, 0.278, 0.278, 0.278, 0.3213]
    assert adjusted == pytest.approx(by_hand + [1.0] * 6)
    assert [p < 0.05 for p in adjusted] == [True] * 3 + [False] * 12


@pytest.mark.parametrize("seed", range(20))
def test_holm_rejects_what_its_definition_rejects(seed: int) -> None:
    generator = np.random.default_rng(seed)
    p_values = generator.choice([0.001, 0.004, 0.01, 0.02, 0.04, 0.2, math.nan], size=6)
    adjusted = holm(p_values)
    for alpha in (0.003, 0.0101, 0.0501, 0.1):
        # The definition: go up from the smallest while it is within alpha / those that are left.
        left = [i for i in range(6) if not math.isnan(p_values[i])]
        rejected = set()
        while left:
            smallest = min(left, key=lambda i: p_values[i])
            if p_values[smallest] > alpha / len(left):
                break
            rejected.add(smallest)
            left.remove(smallest)
        assert {i for i in range(6) if adjusted[i] <= alpha} == rejected


def test_holm_is_never_below_the_raw_ones_keeps_their_order_and_leaves_out_nan() -> None:
    p_values = [0.2, math.nan, 0.01, 0.04, 0.9]
    adjusted = holm(p_values)
    assert math.isnan(adjusted[1])
    without = holm([p for p in p_values if not math.isnan(p)])
    assert [p for p in adjusted if not math.isnan(p)] == without == [0.4, 0.04, 0.12, 0.9]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


@pytest.mark.parametrize("wrong", [-0.1, 1.1, math.inf])
def test_holm_refuses_what_is_no_probability(wrong: float) -> None:
    with pytest.raises(ValueError, match="holm: p values must lie between 0 and 1 or be nan, got"):
        holm([0.5, wrong])


@pytest.mark.parametrize(
    ("effect", "pairs"), [(0.2, 199), (0.5, 34), (0.8, 15), (-0.5, 34), (1.0, 10)]
)
def test_pairs_to_resolve_are_those_of_published_power_tables(effect: float, pairs: int) -> None:
    # Paired t test, two-sided 0.05, power 0.8 (Cohen, 1988; G*Power prints the same).
    assert pairs_to_resolve(observed(effect)) == pairs
    assert pairs_to_resolve(observed(100 * effect, std=100.0)) == pairs


@pytest.mark.parametrize(
    ("effect", "power", "alpha", "comparisons"),
    [(0.5, 0.8, 0.05, 1), (0.9, 0.5, 0.05, 4), (1.5, 0.9, 0.01, 2), (0.3, 0.8, 0.05, 1)],
)
def test_pairs_to_resolve_is_the_first_n_whose_noncentral_t_has_the_power(
    effect: float, power: float, alpha: float, comparisons: int
) -> None:
    def of(n: int) -> float:
        t = scipy_stats.t.isf(alpha / comparisons / 2, n - 1)
        return float(scipy_stats.nct.sf(t, n - 1, math.sqrt(n) * effect))

    n = pairs_to_resolve(observed(effect), power, alpha, comparisons)
    assert n is not None
    assert of(n) >= power > of(n - 1)


def test_so_many_pairs_do_resolve_in_so_many_draws() -> None:
    n = pairs_to_resolve(observed(1.2), power=0.8)
    assert n is not None
    draws = np.random.default_rng(0).normal(1.2, 1.0, (20_000, n))
    t = draws.mean(axis=1) / (draws.std(axis=1, ddof=1) / math.sqrt(n))
    share = float(np.mean(np.abs(t) > scipy_stats.t.isf(0.025, n - 1)))
    fewer = draws[:, :-1]
    t = fewer.mean(axis=1) / (fewer.std(axis=1, ddof=1) / math.sqrt(n - 1))
    assert np.mean(np.abs(t) > scipy_stats.t.isf(0.025, n - 2)) < 0.8 < share + 0.01


def test_pairs_to_resolve_of_a_huge_difference_are_two_and_of_a_tiny_one_unknown() -> None:
    assert pairs_to_resolve(observed(1e6)) == pairs_to_resolve(observed(1e6), comparisons=20) == 2
    assert pairs_to_resolve(observed(1e-3)) is None
    assert pairs_to_resolve(observed(1e-3), most=10**8) == pytest.approx(7.849e6, rel=1e-3)


def test_pairs_to_resolve_is_unknown_without_a_difference_or_a_spread() -> None:
    assert pairs_to_resolve(observed(0.0)) is None
    assert pairs_to_resolve(observed(0.5, std=0.0)) is None
    assert pairs_to_resolve(paired_difference([0.75], [0.5])) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"power": 1.0}, "power must lie between 0 and 1, got 1.0"),
        ({"alpha": 0.0}, "alpha must lie between 0 and 1, got 0.0"),
        ({"comparisons": 0}, "comparisons must be at least 1, got 0"),
    ],
)
def test_pairs_to_resolve_refuses_what_is_no_probability(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pairs_to_resolve(observed(0.5), **changes)
