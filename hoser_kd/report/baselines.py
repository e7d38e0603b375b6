"""Students against baselines on a primary metric: paired differences with their intervals, and sentences on them.

The rule is that of the verdicts (`hoser_kd.report.judgment`): a difference is shown only where the interval over the
test trips and, with several seeds, that over the seeds exclude 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from hoser_kd.evaluation.comparison import Row
from hoser_kd.evaluation.evidence import difference_over_trips
from hoser_kd.evaluation.statistics import PRIMARY_TRIP, Difference, Interval, ends_of, paired_difference
from hoser_kd.evaluation.trip_values import TripValues
from hoser_kd.report.judgment import excludes_zero
from hoser_kd.report.table import short_label

PRIMARY_TRIP_METRIC = PRIMARY_TRIP
"""The metric of generated trips that was chosen before the results: EDR against the real trip of the same request."""
ValuesByModel = Mapping[str, Mapping[str, TripValues]]
"""Metrics of each test trip by `section.metric`, by student (mean over the seeds) and baseline."""
Outcome = Literal["better", "worse", "unclear", "means only"]
_HEADINGS: dict[Outcome, str] = {
    "better": "Better",
    "worse": "Worse",
    "unclear": "Not shown to differ",
    "means only": "Only the means are known, because values per trip are missing",
}


class Standing(NamedTuple):
    """A baseline against a student on one metric."""

    baseline: str
    """Name of the baseline."""
    value: float
    """Its metric."""
    seeds: Difference
    """Baseline minus student, paired with each seed; NaN ends with one seed."""
    num_seeds: int
    """Number of seeds of the student."""
    trips: Interval | None
    """The difference with its interval over the test trips; None where values per trip are missing."""
    outcome: Outcome
    """Whether the baseline is better or worse by all intervals, not shown to differ, or known by its mean only."""


def standing(row: Row, kind: str, baseline: str, value: float, trip_values: ValuesByModel) -> Standing:
    """Return how a baseline compares with a student; `kind` is `vanilla` or `distilled`, `value` the baseline's metric.

    Both have the metric, which needs a direction. The student's values per trip are means over its seeds.
    """
    seeds = row.vanilla if kind == "vanilla" else row.distilled
    over_seeds = paired_difference(np.full(len(seeds), value), seeds)
    over_trips = _over_trips(trip_values, kind, baseline, row.name)
    # means over the same trips in another order may differ by rounding
    is_equal = np.isclose(value, np.mean(seeds), rtol=1e-9, atol=0)
    if over_trips is None:
        outcome: Outcome = "means only"
    elif is_equal or not _all_exclude_zero(over_seeds, over_trips):
        outcome = "unclear"
    else:
        outcome = "better" if (over_seeds.mean < 0) == (row.metric.better == "lower") else "worse"
    return Standing(baseline, value, over_seeds, len(seeds), over_trips, outcome)


def _over_trips(trip_values: ValuesByModel, kind: str, baseline: str, metric: str) -> Interval | None:
    own, other = (trip_values.get(name, {}).get(metric) for name in (kind, baseline))
    if own is None or other is None or len(own.totals) != len(other.totals):
        return None
    return difference_over_trips(other, own)


def _all_exclude_zero(over_seeds: Difference, over_trips: Interval) -> bool:
    """Return whether the interval over the trips and, if there is one, that over the seeds exclude 0 on one side."""
    same_side = (over_trips.value < 0) == (over_seeds.mean < 0)
    seeds_agree = ends_of(over_seeds) is None or over_seeds.is_clear
    return same_side and seeds_agree and excludes_zero(over_trips.low, over_trips.high)


def intervals_text(over_seeds: Difference | None, num_seeds: int, over_trips: Interval | None) -> str:
    """Return the intervals of a difference as text; empty if there is none."""
    parts = [
        f"{ends[0]:+.4f} to {ends[1]:+.4f} {over}".replace("-", "−")
        for interval, over in ((over_seeds, f"over {num_seeds} seeds"), (over_trips, "over the test trips"))
        if (ends := ends_of(interval)) is not None
    ]
    return f"95\N{NO-BREAK SPACE}% interval {', '.join(parts)}" if parts else ""


def baseline_sentences(
    baselines: Mapping[str, Mapping[str, float]], rows: Sequence[Row], trip_values: ValuesByModel
) -> Iterator[str]:
    """Yield a sentence per student: which baselines are better and worse on `PRIMARY_TRIP_METRIC`, with intervals.

    `baselines`: metrics by `section.metric`, by name. Yields nothing where the students or the baselines lack the
    metric, as for requests that are not those of test trips.
    """
    row = next((row for row in rows if row.name == PRIMARY_TRIP_METRIC), None)
    values = {
        name: metrics[PRIMARY_TRIP_METRIC] for name, metrics in baselines.items() if PRIMARY_TRIP_METRIC in metrics
    }
    if row is None or not values:
        return
    for kind, seeds in (("vanilla", row.vanilla), ("distilled", row.distilled)):
        if seeds:
            found = [standing(row, kind, name, value, trip_values) for name, value in values.items()]
            yield _sentence(row, kind, float(np.mean(seeds)), found)
    yield (
        "Differences are baseline minus student. A baseline is better or worse where all intervals exclude 0; these "
        "differences are not adjusted for their number."
    )


def _sentence(row: Row, kind: str, student: float, found: Sequence[Standing]) -> str:
    """Return the baselines beside a student, the best first in each group."""
    sign = -1 if row.metric.better == "higher" else 1
    ordered = sorted(found, key=lambda each: sign * each.value)
    one_seed = " on these trips (one seed, so not shown for another training)" if found[0].num_seeds == 1 else ""
    parts = []
    for outcome, heading in _HEADINGS.items():
        listed = "; ".join(_described(each) for each in ordered if each.outcome == outcome)
        if listed:
            parts.append(f"{heading}{one_seed if outcome in {'better', 'worse'} else ''}: {listed}.")
    return (
        f"Baselines beside the {kind} student ({student:.4f}) on the primary metric of generated trips, "
        f"{short_label(row)}, {row.metric.better} is better. {' '.join(parts)}"
    )


def _described(each: Standing) -> str:
    """Return a baseline with its value and, if there is one, the interval of its difference from the student."""
    intervals = intervals_text(each.seeds, each.num_seeds, each.trips) if each.trips is not None else ""
    difference = f"difference {each.seeds.mean:+.4f}, {intervals}".replace("-", "−") if intervals else ""
    return f"{each.baseline} {each.value:.4f}" + (f" ({difference})" if difference else "")
