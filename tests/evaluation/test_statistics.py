"""Intervals over seeds and trips, tests and their adjustment: parity with scipy, coverage, edge cases."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import hoser_kd.evaluation.metrics  # noqa: F401  registers the metrics
from hoser_kd.evaluation.metric_registry import METRICS
from hoser_kd.evaluation.statistics import (
    PRIMARY_NEXT_STEP,
    PRIMARY_TRIP,
    bootstrap_difference,
    bootstrap_over_trips,
    holm,
    interval_over_seeds,
    paired_difference,
    paired_trip_test,
)

numbers = st.floats(-1e6, 1e6)


@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=12), st.floats(0.5, 0.99))
def test_equals_the_paired_t_interval_of_scipy(pairs, confidence):
    a, b = np.array(pairs).T
    difference = paired_difference(a, b, confidence)
    spread = (a - b).std(ddof=1)
    assert difference.mean == pytest.approx((a - b).mean())
    if spread > 1e-6:
        expected = stats.ttest_rel(a, b).confidence_interval(confidence)
        assert (difference.low, difference.high) == pytest.approx(tuple(expected), rel=1e-6, abs=1e-6)


@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=8))
def test_swapping_the_pair_negates_the_interval(pairs):
    a, b = np.array(pairs).T
    there, back = paired_difference(a, b), paired_difference(b, a)
    assert (there.mean, there.low, there.high) == (-back.mean, -back.high, -back.low)


def test_covers_the_true_difference_at_the_confidence_level():
    rng = np.random.default_rng(0)
    covered = [
        low <= 1 <= high
        for _, low, high in (paired_difference(*(rng.normal([[1], [0]], 1, (2, 4))), 0.9) for _ in range(2000))
    ]
    assert np.mean(covered) == pytest.approx(0.9, abs=0.02)


def test_one_seed_has_no_interval():
    difference = paired_difference([0.5], [0.25])
    assert difference.mean == 0.25
    assert math.isnan(difference.low)
    assert math.isnan(difference.high)
    assert not difference.is_clear


def test_clear_means_that_the_interval_excludes_zero():
    assert paired_difference([2, 2.1, 2.2], [1, 1, 1]).is_clear
    assert paired_difference([1, 1, 1], [2, 2.1, 2.2]).is_clear
    assert not paired_difference([1, 3, 2], [2, 2, 2]).is_clear
    assert not paired_difference([1, 1], [1, 1]).is_clear


@pytest.mark.parametrize(("a", "b", "confidence"), [([1, 2], [1], 0.95), ([], [], 0.95), ([1], [1], 1.0), (1, 1, 0.95)])
def test_arrays_that_cannot_be_paired_are_refused(a, b, confidence):
    with pytest.raises(ValueError):
        paired_difference(a, b, confidence)


def trips_of(rng, num_trips, effect=0.0):
    """Totals and counts of steps whose NLL has mean 1, shared in part by the steps of one trip."""
    counts = rng.integers(1, 20, num_trips)
    return counts * (1 + effect + rng.normal(0, 0.3, num_trips)) + rng.normal(0, 0.1, num_trips), counts


def test_the_primary_metrics_are_registered_and_lower_is_better():
    for name in (PRIMARY_NEXT_STEP, PRIMARY_TRIP):
        assert METRICS[name].better == "lower"


def test_the_bootstrap_covers_the_true_ratio():
    rng = np.random.default_rng(0)
    covered, width, by_step = [], [], []
    for _ in range(300):
        totals, counts = trips_of(rng, 80)
        value, low, high = bootstrap_over_trips(totals, counts, confidence=0.9, resamples=300)
        assert low < value < high
        assert value == pytest.approx(totals.sum() / counts.sum())
        covered.append(low <= 1 <= high)
        width.append(high - low)
        steps = np.repeat(totals / counts, counts)
        by_step.append(2 * 1.645 * steps.std() / np.sqrt(len(steps)))
    assert np.mean(covered) == pytest.approx(0.9, abs=0.05)
    # an interval that took the steps of one trip as independent would be far too narrow
    assert np.mean(width) > 2 * np.mean(by_step)


def test_the_bootstrap_of_a_mean_agrees_with_its_standard_error():
    values = np.random.default_rng(1).normal(0, 1, 400)
    _, low, high = bootstrap_over_trips(values)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.06)


def test_the_bootstrap_is_seeded_and_bounded_in_memory():
    totals, counts = trips_of(np.random.default_rng(2), 50)
    whole = bootstrap_over_trips(totals, counts, seed=3)
    for memory_bytes in (1, 16 * 50 * 7):
        assert bootstrap_over_trips(totals, counts, seed=3, memory_bytes=memory_bytes) == whole
    assert bootstrap_over_trips(totals, counts, seed=4) != whole


def test_paired_trips_give_a_narrower_interval_than_two_samples():
    rng = np.random.default_rng(3)
    totals, counts = trips_of(rng, 100)
    other = totals + counts * rng.normal(0.05, 0.01, 100)
    difference = bootstrap_difference(other, totals, counts)
    assert difference.is_clear
    assert difference.low < 0.05 < difference.high
    alone = bootstrap_over_trips(totals, counts)
    assert difference.high - difference.low < 0.2 * (alone.high - alone.low)
    back = bootstrap_difference(totals, other, counts)
    assert (back.mean, back.low, back.high) == pytest.approx((-difference.mean, -difference.high, -difference.low))
    assert bootstrap_difference(totals, totals, counts) == (0, 0, 0)


def test_trips_without_steps_change_nothing():
    totals, counts = trips_of(np.random.default_rng(4), 30)
    more = np.concatenate([[0.0], totals, [0.0]]), np.concatenate([[0], counts, [0]])
    assert bootstrap_over_trips(*more) == bootstrap_over_trips(totals, counts)
    value, low, high = bootstrap_over_trips([3.0, 0.0], [2, 0])
    assert value == 1.5
    assert math.isnan(low)
    assert math.isnan(high)


@pytest.mark.parametrize(
    ("totals", "counts", "more"),
    [
        ([], None, {}),
        ([1, 2], [1], {}),
        ([1, math.nan], None, {}),
        ([1, 2], [1, -1], {}),
        ([1, 2], [0, 0], {}),
        ([1, 2], None, {"confidence": 1.0}),
        ([1, 2], None, {"resamples": 0}),
    ],
)
def test_totals_that_cannot_be_resampled_are_refused(totals, counts, more):
    with pytest.raises(ValueError):
        bootstrap_over_trips(totals, counts, **more)
    with pytest.raises(ValueError):
        bootstrap_difference(totals, [*totals, 1], counts)


def test_an_interval_over_seeds_is_the_t_interval():
    values = [0.3, 0.32, 0.31, 0.35]
    value, low, high = interval_over_seeds(values)
    assert value == pytest.approx(np.mean(values))
    assert (low, high) == pytest.approx(tuple(stats.ttest_1samp(values, 0).confidence_interval(0.95)))


def test_holm_equals_a_worked_example():
    """Ordered .005, .01, .03, .04 times 4, 3, 2, 1, never below the value before: at α = .05 the first two hold."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_no_adjustment_and_bonferroni(p_values):
    p = np.array(p_values)
    adjusted = holm(p)
    assert (adjusted >= p).all()
    assert (adjusted <= np.minimum(p * len(p), 1)).all()
    assert adjusted.min() == min(p.min() * len(p), 1)
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()


@pytest.mark.parametrize("p_values", [[1.1], [-0.1], [math.nan], [[0.5]]])
def test_holm_refuses_what_is_no_p_value(p_values):
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm(p_values)


def test_the_paired_test_is_that_of_scipy():
    """All 2^8 swaps, against the swaps that are drawn."""
    rng = np.random.default_rng(5)
    a, b = rng.random((2, 8))
    b = b + 0.25
    exact = stats.permutation_test((a, b), lambda x, y: x.mean() - y.mean(), permutation_type="samples")
    result = paired_trip_test(a, b)
    assert result.p_value == pytest.approx(exact.pvalue, abs=0.01)
    assert 0 < exact.pvalue < 0.2
    assert result.num_trips == 8
    assert (result.lower_share, result.higher_share) == ((a < b).mean(), (a > b).mean())


def test_the_paired_test_is_of_ratios_of_sums():
    """All 2^8 swaps of totals and counts together; long trips count more, and the models have counts of their own."""
    rng = np.random.default_rng(22)
    counts_a, counts_b = rng.integers(1, 60, (2, 8)).astype(float)
    a, b = rng.random(8) * counts_a, (rng.random(8) + 0.3) * counts_b
    swaps = np.array(list(product((0, 1), repeat=8)))

    def ratios(first, second):
        return (np.where(swaps, second[0], first[0])).sum(1) / (np.where(swaps, second[1], first[1])).sum(1)

    found = np.abs(ratios((a, counts_a), (b, counts_b)) - ratios((b, counts_b), (a, counts_a)))
    expected = (found >= found[0] - 1e-12).mean()
    assert 0.02 < expected < 0.6
    assert paired_trip_test(a, b, counts_a, counts_b).p_value == pytest.approx(expected, abs=0.015)
    # sums, or a trip's means of equal weight, are other differences
    assert abs(paired_trip_test(a, b).p_value - expected) > 0.1
    assert abs(paired_trip_test(a / counts_a, b / counts_b).p_value - expected) > 0.1


def test_p_values_of_equal_models_are_uniform():
    rng = np.random.default_rng(7)
    counts = rng.integers(1, 30, (300, 40)).astype(float)
    both = rng.normal(1, 1, (2, 300, 40)) * counts
    p = [paired_trip_test(a, b, c, resamples=199).p_value for a, b, c in zip(*both, counts, strict=True)]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_many_trips_take_the_limit_of_the_swaps(monkeypatch):
    rng = np.random.default_rng(8)
    counts_a, counts_b = rng.integers(1, 30, (2, 500)).astype(float)
    a, b = rng.normal(1, 1, 500) * counts_a, rng.normal(1.12, 1, 500) * counts_b
    drawn = paired_trip_test(a, b, counts_a, counts_b).p_value
    monkeypatch.setattr("hoser_kd.evaluation.statistics._MAX_SWAPPED_TRIPS", 100)
    assert paired_trip_test(a, b, counts_a, counts_b).p_value == pytest.approx(drawn, abs=0.02)
    assert 0.005 < drawn < 0.5


def test_equal_trips_do_not_differ():
    assert paired_trip_test([1, 2, 3], [1, 2, 3]) == (1.0, 3, 0.0, 0.0)
    assert paired_trip_test([1.0], [2.0], [0.0]) == (1.0, 0, 0.0, 0.0)
    with pytest.raises(ValueError, match="finite"):
        paired_trip_test([math.nan], [1.0])
    with pytest.raises(ValueError, match="same length"):
        paired_trip_test([1], [1, 2])
