"""Which metrics the report shows and counts, and what the evidence says about each.

A metric is counted once: where the pairs of the same OD cells are the pairs of the same requests, both sections have
the same values, and only the second is shown. Divergences of fewer trips than `MIN_TRIPS_FOR_JSD` are not shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hoser_kd.evaluation.comparison import Row
from hoser_kd.evaluation.divergences import MIN_TRIPS_FOR_JSD
from hoser_kd.evaluation.evidence import ALPHA, PRIMARY, Evidence, gather_evidence
from hoser_kd.evaluation.metric_registry import SECTIONS
from hoser_kd.evaluation.sampling_floor import Floor
from hoser_kd.evaluation.trip_values import TripValues

ONE_SEED = ", one seed"
"""Ends a verdict that holds over the test trips, where one seed says nothing about another training."""


@dataclass(frozen=True)
class Judgment:
    """The comparison as the report shows it."""

    rows: Sequence[Row]
    """Metrics to show, each measured quantity once."""
    evidence: Mapping[str, Evidence] = field(default_factory=dict)
    """Intervals over trips and p-values, by `section.metric`."""
    floors: Mapping[str, Floor] = field(default_factory=dict)
    """Divergence of real trips from real trips, by `section.metric`."""
    notes: Sequence[str] = ()
    """Sentences on what is left out."""

    @property
    def by_name(self) -> dict[str, Row]:
        """The rows by `section.metric`."""
        return {row.name: row for row in self.rows}

    def verdict(self, row: Row) -> str:
        """Return whether the distilled student is better on a metric; empty for a description.

        This is the only rule of the page. “better” and “worse” need at least two seeds, an interval over the seeds and
        one over the test trips (where there is one) that exclude 0, and for secondary metrics an adjusted p-value below
        `ALPHA`. With one seed they end in `ONE_SEED` and need the interval over the test trips. All other differences
        “lean”, such as those of variants, which are no part of the family of tests. The sampling floor decides nothing.
        """
        if row.verdict is None or row.verdict == "same":
            return row.verdict or ""
        direction = row.verdict.removeprefix("leans ")
        if has_one_seed(row):
            return f"{direction}{ONE_SEED}" if self._is_clear_over_trips(row) else f"leans {direction}"
        return row.verdict if self._trips_agree(row) else f"leans {direction}"

    def secondary(self) -> list[Row]:
        """Return the rows with a verdict, each measured quantity once, without the primary metrics."""
        return [row for row in judged_rows(self.rows) if row.name not in PRIMARY]

    def is_tested(self, row: Row) -> bool:
        """Return whether a difference has an interval or a p-value: with one seed it needs values per trip."""
        evidence = self.evidence.get(row.name, Evidence())
        return evidence.trips is not None or evidence.p_value is not None

    def is_below_floor(self, row: Row) -> bool:
        """Return whether all students are below the 95 % quantile of a floor.

        The metric cannot tell such trips from real ones. That does not show that they are equal: the floor is that of
        independent samples, while generated trips have the origins and destinations of the test trips.
        """
        floor = self.floors.get(row.name)
        means = [float(np.mean(values)) for values in (row.vanilla, row.distilled) if values]
        return floor is not None and all(mean <= floor.quantile_95 for mean in means)

    def _trips_agree(self, row: Row) -> bool:
        evidence = self.evidence.get(row.name)
        if evidence is None:  # a variant: neither tested nor adjusted
            return False
        over_trips = evidence.trips is None or excludes_zero(evidence.trips.low, evidence.trips.high)
        return over_trips and (evidence.adjusted is None or evidence.adjusted < ALPHA)

    def _is_clear_over_trips(self, row: Row) -> bool:
        # an interval of a metric with a target is not that of the distance from the target
        has_interval = self.evidence.get(row.name, Evidence()).trips is not None
        return has_interval and row.metric.target is None and self._trips_agree(row)


def judge(
    rows: Sequence[Row],
    trip_values: Mapping[str, Mapping[str, TripValues]] | None = None,
    floors: Mapping[str, Floor] | None = None,
) -> Judgment:
    """Select the rows to show and gather the evidence on them; `trip_values` are by student."""
    notes = []
    repeated = repeated_metrics(rows)
    if repeated:
        notes.append(
            f"The pairs of the {SECTIONS['similarity'].short} and those of the {SECTIONS['paired'].short} are the same "
            f"trips here, so both sections have the same values; “{SECTIONS['paired'].short}” is shown and counted."
        )
    shown = [row for row in rows if row.name not in repeated]
    num_trips = fewest_trips(rows)
    if num_trips < MIN_TRIPS_FOR_JSD and any(row.metric.is_divergence for row in shown):
        shown = [row for row in shown if not row.metric.is_divergence]
        notes.append(
            f"Divergences (JSD) are left out: they need {MIN_TRIPS_FOR_JSD} trips, and there are {num_trips:,.0f}. Two "
            "sets of so few real trips differ from each other too, so a divergence would say little about the students."
        )
    values = trip_values or {}
    evidence = gather_evidence(judged_rows(shown), values.get("vanilla", {}), values.get("distilled", {}))
    return Judgment(shown, evidence, floors or {}, notes)


def fewest_trips(rows: Sequence[Row]) -> float:
    """Return the number of real or generated trips, whichever is smaller; infinite if the rows do not hold it."""
    counts = [min(row.vanilla + row.distilled) for row in rows if row.name in {"counts.real", "counts.generated"}]
    return min(counts, default=float("inf"))


def repeated_metrics(rows: Sequence[Row]) -> set[str]:
    """Return the metrics whose values another one repeats for every seed (its `Metric.same_as`).

    The shape metrics of the same OD cells are repeated by those of the same request where both pair the same trips.
    """
    by_name = {row.name: row for row in rows}
    repeated = set()
    for row in rows:
        other = by_name.get(row.metric.same_as or "")
        if other is None or row.metric.variant:
            continue
        mine, theirs = (*row.vanilla, *row.distilled), (*other.vanilla, *other.distilled)
        # the order of the pairs may differ, and with it the rounding of the mean
        if len(mine) == len(theirs) and np.allclose(mine, theirs, rtol=1e-9, atol=0):
            repeated.add(other.name)
    # variants of a repeated metric go with it
    return repeated | {row.name for row in rows if row.metric.variant and row.metric.same_as in repeated}


def judged_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with a verdict, each measured quantity once: no variants and no repeated metrics."""
    repeated = repeated_metrics(rows)
    return [row for row in rows if row.verdict is not None and not row.metric.variant and row.name not in repeated]


def has_one_seed(row: Row) -> bool:
    """Return whether the students are compared with one seed, which gives no interval over seeds."""
    return row.difference is not None and not np.isfinite(row.difference.low)


def excludes_zero(low: float, high: float) -> bool:
    """Return whether an interval exists and excludes 0."""
    return bool(low > 0 or high < 0)
