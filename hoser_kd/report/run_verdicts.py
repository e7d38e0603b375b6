"""Verdicts on a group of runs against the reference of its city, by the rule of the report.

The rule is `hoser_kd.report.judgment.Judgment.verdict`: it needs the interval over the seeds and that over the test
trips. Runs of other test splits, and runs whose artifacts have no values per trip, have no interval over the trips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hoser_kd.evaluation.comparison import Row, compare
from hoser_kd.evaluation.trip_values import PER_TRIP_METRICS, TripValues, mean_of_seeds
from hoser_kd.report.judgment import Judgment, judge
from hoser_kd.report.runs import RunGroup, RunRecord, metric_record


def group_verdicts(group: RunGroup, reference: RunGroup) -> dict[str, str]:
    """Return `Judgment.verdict` of each metric over the seeds that group and reference share, by `section.metric`.

    Metrics of validation trips are a family of their own for Holm's correction, so that those of test trips have the
    verdicts of the report. A metric of test trips that lacks its values per trip leans at most.
    """
    first, second = ({run.seed: run for run in each.runs} for each in (reference, group))
    common = [seed for seed in first if seed in second]
    before, after = ([runs[seed] for seed in common] for runs in (first, second))
    metrics = [{run.seed: run.metrics for run in runs} for runs in (before, after)]
    rows = compare(metrics[0], metrics[1], record=metric_record)
    # without a difference that is clear over the seeds, the test trips decide nothing
    is_open = len(common) == 1 or any(row.verdict in {"better", "worse"} for row in rows)
    values = _trip_values(before, after) if is_open else {}
    verdicts: dict[str, str] = {}
    for is_validation in (True, False):
        judgment = judge([row for row in rows if (row.section == "val") == is_validation], values)
        verdicts |= {row.name: _verdict(judgment, row) for row in judgment.rows}
    return verdicts


def _verdict(judgment: Judgment, row: Row) -> str:
    verdict = judgment.verdict(row)
    evidence = judgment.evidence.get(row.name)
    lacks_trips = row.name in PER_TRIP_METRICS and (evidence is None or evidence.trips is None)
    return f"leans {verdict}" if lacks_trips and verdict in {"better", "worse"} else verdict


def _trip_values(reference: Sequence[RunRecord], group: Sequence[RunRecord]) -> dict[str, Mapping[str, TripValues]]:
    """Return the means over the seeds of each trip's values; empty if not all runs have the same test trips."""
    splits = {run.test_split for run in (*reference, *group)}
    if len(splits) != 1 or splits == {""}:
        return {}
    return {
        kind: mean_of_seeds([run.trip_values() for run in runs])
        for kind, runs in (("vanilla", reference), ("distilled", group))
    }
