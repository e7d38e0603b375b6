"""Intervals and tests: over a few seeds (Student's t), over test trips (bootstrap), and over several metrics (Holm).

An interval over seeds describes the randomness of training on the given test trips; one over test trips describes the
choice of these trips for the given trainings. They answer different questions, so they are reported separately.

Shapes: n trips, k seeds or tests.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import erfc, stdtr, stdtrit

PRIMARY_NEXT_STEP = "next_step.nll"
"""The one metric that the verdict on next steps rests on: NLL on test trips. All others are adjusted by `holm`."""
PRIMARY_TRIP = "paired.edr"
"""The one metric that the verdict on generated trips rests on: EDR from the real trip of the same request."""
RESAMPLES = 2000
"""Bootstrap samples."""
SWAPS = 9999
"""Random swaps of the paired test."""
_MAX_SWAPPED_TRIPS = 10_000
"""With more trips, the paired test uses the normal distribution."""
MEMORY_BYTES = 64 * 2**20
"""Memory for the bootstrap samples of one chunk."""


class Interval(NamedTuple):
    """A value and its confidence interval."""

    value: float
    """The value."""
    low: float
    """Lower end of the interval; NaN without one."""
    high: float
    """Upper end of the interval; NaN without one."""


class PairedTest(NamedTuple):
    """Result of a paired test over trips."""

    p_value: float
    """Two-sided p-value; 1 where no pair differs."""
    num_trips: int
    """Pairs that have a value."""
    lower_share: float
    """Share of them where the first model has the lower value."""
    higher_share: float
    """Share of them where the first model has the higher value."""


class Difference(NamedTuple):
    """A mean difference and its confidence interval."""

    mean: float
    """Mean of the differences."""
    low: float
    """Lower end of the interval; NaN for a single pair."""
    high: float
    """Upper end of the interval; NaN for a single pair."""

    @property
    def is_clear(self) -> bool:
        """Whether there is an interval and it excludes 0."""
        return self.low > 0 or self.high < 0


def ends_of(interval: Interval | Difference | None) -> tuple[float, float] | None:
    """Return low and high; None where there is no interval."""
    if interval is None or not np.isfinite([interval.low, interval.high]).all():
        return None
    return interval.low, interval.high


def paired_difference(values_a: npt.ArrayLike, values_b: npt.ArrayLike, confidence: float = 0.95) -> Difference:
    """Return the mean of a - b over pairs (runs of the same seed), with its t-interval.

    The interval is mean ± t · s / sqrt(k) for k pairs, with t the two-sided quantile of Student's distribution at
    k - 1 degrees of freedom and s the sample standard deviation of the differences.

    Raises:
        ValueError: the arrays differ in length or are empty, or `confidence` is not between 0 and 1.
    """
    a, b = np.asarray(values_a, np.float64), np.asarray(values_b, np.float64)
    if a.shape != b.shape or a.ndim != 1 or len(a) == 0:
        raise ValueError(f"expected two 1-d arrays of the same length, got shapes {a.shape} and {b.shape}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    difference = a - b
    mean = float(difference.mean())
    if len(a) == 1:
        return Difference(mean, float("nan"), float("nan"))
    # scipy.stats.ttest_rel gives the same interval (1e-12), but warns of lost precision where all seeds differ by the
    # same amount, a valid result here; silencing that takes more code than the formula.
    half = float(stdtrit(len(a) - 1, (1 + confidence) / 2) * difference.std(ddof=1) / np.sqrt(len(a)))
    return Difference(mean, mean - half, mean + half)


def paired_t_test(differences: npt.ArrayLike) -> float | None:
    """Return the two-sided p-value of the paired t-test over the seeds, (k,) differences; None for fewer than two.

    It is below 0.05 where the 95 % interval of `paired_difference` excludes 0.
    """
    array = np.asarray(differences, np.float64)
    if len(array) < 2:
        return None
    mean, error = float(array.mean()), float(array.std(ddof=1) / np.sqrt(len(array)))
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stdtr(len(array) - 1, -abs(mean / error)))


def bootstrap_over_trips(
    totals: npt.ArrayLike,
    counts: npt.ArrayLike | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    memory_bytes: int = MEMORY_BYTES,
) -> Interval:
    """Return sum(totals) / sum(counts) over the trips, with its percentile bootstrap interval.

    Trips are resampled with replacement (cluster bootstrap: Efron and Tibshirani, 1993, chapter 13), since the steps of
    one trip are not independent. The interval describes the choice of test trips, not the randomness of training; that
    of a single trip is NaN.

    Args:
        totals: (n,) sum of a metric over the steps of each trip, or the metric of each trip.
        counts: (n,) number of steps of each trip; None: 1 each, so the mean over trips.
        confidence: probability that the interval covers the value of all possible trips.
        resamples: number of bootstrap samples.
        seed: seed of the samples; the result does not depend on `memory_bytes`.
        memory_bytes: memory for the samples of one chunk.

    Raises:
        ValueError: the arrays are empty, differ in length or are not finite, the counts are negative or all 0, or
            `confidence` or `resamples` is out of range.
    """
    sums = _trip_arrays(totals, counts)
    if len(sums[0]) == 1:
        return Interval(float(sums[0, 0] / sums[1, 0]), float("nan"), float("nan"))
    samples = _bootstrap_sums(sums, resamples, seed, memory_bytes)
    return _percentile(float(sums[0].sum() / sums[1].sum()), samples[0] / samples[1], confidence)


def bootstrap_difference(
    totals_a: npt.ArrayLike,
    totals_b: npt.ArrayLike,
    counts: npt.ArrayLike | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    memory_bytes: int = MEMORY_BYTES,
) -> Difference:
    """Return a - b of two models on the same trips, with its percentile bootstrap interval over the trips.

    Each resample takes the same trips of both models, so differences between trips that both share cancel. Arguments
    and errors are those of `bootstrap_over_trips`; `counts` is that of both models.
    """
    a, b = np.asarray(totals_a, np.float64), np.asarray(totals_b, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"expected the totals of the same trips, got shapes {a.shape} and {b.shape}")
    interval = bootstrap_over_trips(
        a - b, counts, confidence=confidence, resamples=resamples, seed=seed, memory_bytes=memory_bytes
    )
    return Difference(interval.value, interval.low, interval.high)


def interval_over_seeds(values: npt.ArrayLike, confidence: float = 0.95) -> Interval:
    """Return the mean of the seeds' values, (k,), with its t-interval; the interval of one seed is NaN.

    The interval describes the randomness of training, on the test trips as they are.
    """
    array = np.asarray(values, np.float64)
    return Interval(*paired_difference(array, np.zeros_like(array), confidence))


def holm(p_values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return (k,) p-values adjusted for k tests (Holm, 1979), in the order given.

    Rejecting those at most α keeps the probability of any false rejection at α or below, whatever the dependence.

    Raises:
        ValueError: a value is not between 0 and 1.
    """
    p = np.asarray(p_values, np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"expected p-values between 0 and 1, got {p.tolist()}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return adjusted


def paired_trip_test(
    totals_a: npt.ArrayLike,
    totals_b: npt.ArrayLike,
    counts_a: npt.ArrayLike | None = None,
    counts_b: npt.ArrayLike | None = None,
    *,
    resamples: int = SWAPS,
    seed: int = 0,
) -> PairedTest:
    """Test the difference of a metric of two models on the same trips: sum(totals) / sum(counts) of a minus that of b.

    A permutation test (Good, 2005, chapter 3): if the models do not differ, the two values of a trip can be swapped. It
    tests the same difference that `bootstrap_difference` has an interval for. A test of ranks, such as Wilcoxon's,
    would give short and long trips the same weight, and the median pair, not the mean, decides it. With more than
    10,000 trips, the normal distribution that the swaps approach takes their place.

    Args:
        totals_a: (n,) sum of a metric over the steps of each trip, or the metric of each trip, by model a.
        totals_b: (n,) the same by model b.
        counts_a: (n,) number of steps of each trip; None: 1 each.
        counts_b: (n,) the same of model b; None: those of a. Trips without steps of both are left out.
        resamples: number of random swaps; the p-value is at least 1 / (resamples + 1).
        seed: seed of the swaps.

    Raises:
        ValueError: the arrays differ in length, are empty or not finite, or no trip has steps of a model.
    """
    a, b = np.asarray(totals_a, np.float64), np.asarray(totals_b, np.float64)
    count_a = np.ones_like(a) if counts_a is None else np.asarray(counts_a, np.float64)
    count_b = count_a if counts_b is None else np.asarray(counts_b, np.float64)
    if len({each.shape for each in (a, b, count_a, count_b)}) != 1 or a.ndim != 1 or len(a) == 0:
        raise ValueError(f"expected values of the same trips, got shapes {a.shape} and {b.shape}: not the same length")
    values = np.stack([a, count_a, b, count_b])[:, (count_a > 0) & (count_b > 0)]
    if not np.isfinite(values).all():
        raise ValueError("totals and counts must be finite; leave out trips without a value")
    if values.shape[1] == 0:
        return PairedTest(1.0, 0, 0.0, 0.0)
    difference = values[0] / values[1] - values[2] / values[3]
    lower, higher = float((difference < 0).mean()), float((difference > 0).mean())
    p_value = 1.0 if lower == higher == 0 else _swap_p_value(values, resamples, seed)
    return PairedTest(p_value, values.shape[1], lower, higher)


def _swap_p_value(values: npt.NDArray[np.float64], resamples: int, seed: int) -> float:
    """Return the two-sided p-value of (4, n) totals and counts of two models under swaps of the two."""
    sums, num_trips = values.sum(1), values.shape[1]
    observed = abs(sums[0] / sums[1] - sums[2] / sums[3])
    if num_trips > _MAX_SWAPPED_TRIPS:
        pooled = (sums[0] + sums[2]) / (sums[1] + sums[3])
        parts = (values[0] - pooled * values[1]) / sums[1] - (values[2] - pooled * values[3]) / sums[3]
        return float(erfc(observed / np.sqrt(2 * (parts**2).sum())))
    rng = np.random.default_rng(seed)
    change = (values[2:] - values[:2]).T
    as_large, rows = 0, max(1, MEMORY_BYTES // (16 * num_trips))
    for start in range(0, resamples, rows):
        swapped = rng.integers(2, size=(min(rows, resamples - start), num_trips), dtype=np.int8)
        moved = swapped.astype(np.float64) @ change
        first, second = sums[:2] + moved, sums[2:] - moved
        found = np.abs(first[:, 0] / first[:, 1] - second[:, 0] / second[:, 1])
        as_large += int((found >= observed * (1 - 1e-9)).sum())
    return (as_large + 1) / (resamples + 1)


def _trip_arrays(totals: npt.ArrayLike, counts: npt.ArrayLike | None) -> npt.NDArray[np.float64]:
    """Return (2, n) totals and counts of the trips that have steps, validated."""
    values = np.asarray(totals, np.float64)
    number = np.ones_like(values) if counts is None else np.asarray(counts, np.float64)
    if values.shape != number.shape or values.ndim != 1 or len(values) == 0:
        raise ValueError(f"expected totals and counts of the same trips, got shapes {values.shape} and {number.shape}")
    if not (np.isfinite(values).all() and np.isfinite(number).all()):
        raise ValueError("totals and counts must be finite; leave out trips without a value")
    if (number < 0).any() or number.sum() == 0:
        raise ValueError("counts must not be negative, and not all 0")
    return np.stack([values, number])[:, number > 0]


def _bootstrap_sums(
    columns: npt.NDArray[np.float64], resamples: int, seed: int, memory_bytes: int
) -> npt.NDArray[np.float64]:
    """Return (c, resamples) sums of (c, n) columns over resampled trips."""
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    num_trips = columns.shape[1]
    rng = np.random.default_rng(seed)
    sums = np.empty((len(columns), resamples))
    rows = max(1, memory_bytes // (16 * num_trips))  # an index and a gathered value each
    for start in range(0, resamples, rows):
        chosen = rng.integers(num_trips, size=(min(rows, resamples - start), num_trips))
        for column, sum_ in zip(columns, sums, strict=True):
            sum_[start : start + len(chosen)] = column[chosen].sum(1)
    return sums


def _percentile(value: float, samples: npt.NDArray[np.float64], confidence: float) -> Interval:
    """Return the value with the quantiles of its bootstrap samples."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    low, high = np.quantile(samples, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high))
