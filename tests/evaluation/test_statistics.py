"""Paired differences: parity with scipy, coverage, edge cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hoser_kd.evaluation.statistics import paired_difference

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
