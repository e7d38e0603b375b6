"""Evidence for the difference of the two students on each metric: interval over test trips, p-value, Holm's correction.

The primary metrics (`PRIMARY_NEXT_STEP`, `PRIMARY_TRIP`) were chosen before the results, so they are not adjusted; all
other metrics with a direction are one family.

Shapes: n test trips.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from hoser_kd.evaluation.comparison import Row
from hoser_kd.evaluation.statistics import (
    PRIMARY_NEXT_STEP,
    PRIMARY_TRIP,
    RESAMPLES,
    Interval,
    bootstrap_over_trips,
    holm,
    paired_trip_test,
)
from hoser_kd.evaluation.trip_values import TripValues

PRIMARY = (PRIMARY_NEXT_STEP, PRIMARY_TRIP)
"""The primary metrics: of next steps and of generated trips."""
ALPHA = 0.05
"""Level of the adjusted p-values."""


@dataclass(frozen=True)
class Evidence:
    """What the test trips and the seeds say about the difference distilled minus vanilla of one metric."""

    trips: Interval | None = None
    """The difference with its bootstrap interval over the test trips; None without values per trip."""
    p_value: float | None = None
    """Two-sided p-value; None where there is no test."""
    test: Literal["trips", "seeds", ""] = ""
    """What it comes from: a permutation test over the test trips, or the paired t-test over the seeds."""
    adjusted: float | None = None
    """The p-value after Holm's correction; None for the primary metrics, which are not adjusted."""


def gather_evidence(
    rows: Iterable[Row], vanilla: Mapping[str, TripValues], distilled: Mapping[str, TripValues]
) -> dict[str, Evidence]:
    """Return the evidence of each row with a verdict, by `section.metric`.

    `rows`: each measured quantity once. `vanilla` and `distilled`: values of the same test trips, means over the
    seeds. The test is over the test trips where the metric has a value per trip, and over the seeds otherwise.
    """
    judged = [row for row in rows if row.verdict is not None]
    evidence = {row.name: _evidence(row, vanilla.get(row.name), distilled.get(row.name)) for row in judged}
    family = [name for name, each in evidence.items() if each.p_value is not None and name not in PRIMARY]
    adjusted = holm([evidence[name].p_value or 0.0 for name in family])
    return evidence | {
        name: replace(evidence[name], adjusted=float(p)) for name, p in zip(family, adjusted, strict=True)
    }


def interval_over_trips(values: TripValues) -> Interval:
    """Return a metric with its bootstrap interval over the test trips."""
    return bootstrap_over_trips(values.totals, values.counts)


def difference_over_trips(a: TripValues, b: TripValues, *, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Return the metric of `a` minus that of `b`, with its percentile bootstrap interval over the test trips.

    Each resample takes the same trips of both. The counts of the two may differ, as where one model fails a trip.
    """
    if np.array_equal(a.counts, b.counts):
        return bootstrap_over_trips(a.totals - b.totals, a.counts, confidence=confidence, seed=seed)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(a.totals), np.full(len(a.totals), 1 / len(a.totals)), RESAMPLES).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        samples = (weights @ a.totals) / (weights @ a.counts) - (weights @ b.totals) / (weights @ b.counts)
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(samples, [tail, 1 - tail]) if np.isfinite(samples).any() else (np.nan, np.nan)
    return Interval(a.mean - b.mean, float(low), float(high))


def _evidence(row: Row, vanilla: TripValues | None, distilled: TripValues | None) -> Evidence:
    if vanilla is not None and distilled is not None and vanilla.counts.sum() > 0 and distilled.counts.sum() > 0:
        test = paired_trip_test(distilled.totals, vanilla.totals, distilled.counts, vanilla.counts)
        return Evidence(difference_over_trips(distilled, vanilla), test.p_value, "trips")
    return Evidence(p_value=row.p_value, test="" if row.p_value is None else "seeds")
