"""The page that compares runs: one self-contained HTML file with a table, filters, intervals and learning curves.

The table is complete without a script. The script of the page filters rows and draws the two figures from the numbers
beside it; all intervals are computed here, with `hoser_kd.evaluation.statistics`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from hoser_kd.common.files import atomic_path
from hoser_kd.evaluation.comparison import heading_of
from hoser_kd.evaluation.metric_registry import Metric
from hoser_kd.evaluation.statistics import Difference, Interval, ends_of
from hoser_kd.report.run_verdicts import group_verdicts
from hoser_kd.report.runs import ABSENT, RunComparison, RunGroup, value_of
from hoser_kd.report.templating import template_environment

COLORS = ("#1f77b4", "#d95f02", "#2ca02c", "#c2185b", "#7b52ab", "#8c564b", "#008b9a", "#7f7f7f", "#a6761d", "#1b3a57")
"""Colors of the groups, repeated after the last one."""
_HEADINGS = {"val": "Validation trips", "cost": "Cost of the training"}


def write_runs_page(path: str | PathLike[str], comparison: RunComparison, sources: Sequence[str] = ()) -> None:
    """Write the page atomically. `sources` are the stores that the runs come from, named on the page."""
    page = render_runs(comparison, sources)
    with atomic_path(path) as beside:
        Path(beside).write_text(page, encoding="utf-8")


def render_runs(comparison: RunComparison, sources: Sequence[str] = ()) -> str:
    """Return the page as one HTML text; it loads nothing."""
    groups, shown = comparison.groups, {metric.name for metric in comparison.shown}
    template = template_environment().get_template("runs.html")
    return template.render(
        sources=list(sources),
        num_runs=sum(len(group.runs) for group in groups),
        cities=list(dict.fromkeys(group.first.city for group in groups)),
        columns=comparison.columns,
        metrics=[_heading(metric, is_shown=metric.name in shown) for metric in comparison.metrics],
        rows=[_row(comparison, number, group) for number, group in enumerate(groups)],
        between_cities=_between_cities(comparison),
        facets=[{"name": name, "values": values} for name, values in _facets(comparison)],
        # a closing tag inside a text would end the script element
        data=json.dumps(_data(comparison)).replace("<", "\\u003c"),
    )


def format_interval(metric: Metric, interval: Interval | Difference, *, is_difference: bool = False) -> str:
    """Return a value with half the width of its interval, such as `0.4217 ± 0.0031`; a share in percent."""
    mean = interval.value if isinstance(interval, Interval) else interval.mean
    scale, unit = (100.0, " pp" if is_difference else " %") if metric.is_share else (1.0, "")
    sign = "+" if is_difference else ""
    text = f"{mean * scale:{sign}.4g}"
    if ends_of(interval) is not None:
        text += f" ± {(interval.high - interval.low) / 2 * scale:.2g}"
    return f"{text}{unit}"


def _heading(metric: Metric, *, is_shown: bool) -> dict[str, Any]:
    section = _HEADINGS.get(metric.section, heading_of(metric.section))
    return {"name": metric.name, "label": metric.label, "section": section, "unit": metric.unit, "shown": is_shown}


def _row(comparison: RunComparison, number: int, group: RunGroup) -> dict[str, Any]:
    verdicts = {} if group.is_reference else group_verdicts(group, comparison.reference_of(group))
    return {
        "number": number,
        "color": COLORS[number % len(COLORS)],
        "city": group.first.city,
        "student": group.first.student,
        "is_reference": group.is_reference,
        "seeds": ", ".join(str(run.seed) for run in group.runs),
        "values": [value_of(group, column) for column in comparison.columns],
        "cells": [_cell(metric, group, verdicts) for metric in comparison.metrics],
        "runs": [
            {"seed": run.seed, "version": run.version, "created_at": run.created_at, "epochs": len(run.history)}
            for run in group.runs
        ],
    }


def _cell(metric: Metric, group: RunGroup, verdicts: Mapping[str, str]) -> dict[str, str]:
    interval = group.intervals.get(metric.name)
    if interval is None:
        return {"text": ABSENT, "difference": "", "verdict": ""}
    difference = group.differences.get(metric.name)
    if difference is None:
        return {"text": format_interval(metric, interval), "difference": "", "verdict": ""}
    verdict = verdicts.get(metric.name, "")
    return {
        "text": format_interval(metric, interval),
        "difference": format_interval(metric, difference, is_difference=True),
        "verdict": verdict if verdict.startswith(("better", "worse")) else "",
    }


def _facets(comparison: RunComparison) -> Iterator[tuple[str, list[str]]]:
    """Yield what rows can be filtered by, with its values: city, student and the settings that differ."""
    groups = comparison.groups
    yield "city", list(dict.fromkeys(group.first.city for group in groups))
    yield "student", list(dict.fromkeys(group.first.student for group in groups))
    for column in comparison.columns:
        yield column, list(dict.fromkeys(value_of(group, column) for group in groups))


def _between_cities(comparison: RunComparison) -> list[dict[str, Any]]:
    rows = []
    for name in comparison.between_cities:
        values = {group.first.city: ABSENT for group in comparison.groups}
        for group in comparison.groups:
            text = value_of(group, name)
            values[group.first.city] = values[group.first.city] if text == ABSENT else text
        rows.append({"name": name, "values": values})
    return rows


def _data(comparison: RunComparison) -> dict[str, Any]:
    """Return the numbers of the figures."""
    return {
        "metrics": {metric.name: [metric.label, metric.unit, metric.better] for metric in comparison.metrics},
        "groups": [
            {
                "facets": {
                    "city": group.first.city,
                    "student": group.first.student,
                    **{column: value_of(group, column) for column in comparison.columns},
                },
                "color": COLORS[number % len(COLORS)],
                "intervals": {name: _numbers(interval) for name, interval in group.intervals.items()},
                "runs": [
                    {
                        "seed": run.seed,
                        "metrics": {name: _number(value) for name, value in run.metrics.items()},
                        "history": {
                            name: [_number(epoch.get(name, math.nan)) for epoch in run.history]
                            for name in dict.fromkeys(name for epoch in run.history for name in epoch)
                        },
                    }
                    for run in group.runs
                ],
            }
            for number, group in enumerate(comparison.groups)
        ],
    }


def _numbers(interval: Interval) -> list[float | None]:
    return [_number(value) for value in interval]


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
