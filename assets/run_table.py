"""The table of all trained students of a city, for the metadata of its report: what `hoser-kd compare` prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hoser_kd.common.errors import StoreError


def run_table(store: Path, city: str) -> list[dict[str, Any]]:
    """Return a row per group of runs: student, seeds, settings that differ, metrics with intervals over the seeds.

    Empty where a record of the store cannot be read: a damaged artifact of another run must not fail the report.
    """
    from hoser_kd.pipeline.run_records import run_records
    from hoser_kd.report.runs import ABSENT, compare_runs, value_of
    from hoser_kd.report.runs_page import format_interval

    try:
        comparison = compare_runs(run_records(store, [city]))
    except StoreError:
        return []
    rows: list[dict[str, Any]] = []
    for group in comparison.groups:
        cells = {metric.name: group.intervals.get(metric.name) for metric in comparison.shown}
        rows.append(
            {
                "student": group.first.student + (" (reference)" if group.is_reference else ""),
                "seeds": " ".join(str(run.seed) for run in group.runs),
                **{column: value_of(group, column) for column in comparison.columns},
                **{
                    metric.name: ABSENT
                    if (interval := cells[metric.name]) is None
                    else format_interval(metric, interval)
                    for metric in comparison.shown
                },
            }
        )
    return rows
