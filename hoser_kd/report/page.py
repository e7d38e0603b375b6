"""The report of a city: one self-contained HTML file to read, print and send, and a zoomable map beside it.

What belongs here: the choice of tables, sentences and figures on the page. Its markup and style are in
`templates/report.html`; the comparison is `hoser_kd.evaluation.comparison`, the figures are `hoser_kd.plots`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from hoser_kd.common.files import atomic_path
from hoser_kd.common.progress import duration
from hoser_kd.evaluation.ceilings import summary_rows
from hoser_kd.evaluation.comparison import Row, compare, heading_of
from hoser_kd.evaluation.failures import CAUSES, LEAST_SHARED
from hoser_kd.evaluation.metrics import NO_TIMES, flatten
from hoser_kd.evaluation.scenarios import SCENARIOS
from hoser_kd.evaluation.statistics import PRIMARY_TRIP
from hoser_kd.network.trip_consistency import has_times
from hoser_kd.report.baselines import baseline_sentences
from hoser_kd.report.data import ReportData, StudentResult, answered_trips, first_generated
from hoser_kd.report.figures import (
    CaptionedFigure,
    data_figures,
    difference_figures,
    group_figures,
    inline,
    primary_figures,
    request_figures,
    teacher_figures,
    training_figures,
    trip_figures,
)
from hoser_kd.report.judgment import Judgment, judge
from hoser_kd.report.labels import Value, describe, describe_values, is_number
from hoser_kd.report.primary_metrics import CEILING, INTRODUCTION, headline, num_pairs, sentences
from hoser_kd.report.table import BELOW_FLOOR, Beside, Group, Table, format_row, short_label, table_of
from hoser_kd.report.templating import template_environment
from hoser_kd.report.text import caveat, definitions_of, secondary_sentences, training_caveat
from hoser_kd.report.trip_map import map_name, write_map

if TYPE_CHECKING:
    from os import PathLike


SCENARIO_METRICS = (
    "next_step.decision_accuracy",
    "requests.reached_share",
    PRIMARY_TRIP,
    "paired.edit_similarity",
    "paired.dtw",
)
"""Metrics shown for each scenario; metrics.json has all of them. Divergences have no floor there, so none is shown."""
_TIME_METRICS = ("next_step.time", *(f"{section}." for section in ("duration", "trip_duration", "paired_duration")))
"""Beginnings of the names of metrics that mean nothing without times."""
_HIDDEN_SECTIONS = ("next_step", "counts")
"""Sections that are not part of the table of generated trips."""


WORST = 8
"""Trips listed per cause and student, with links to the map."""


def write_report(path: str | PathLike[str], data: ReportData) -> None:
    """Write the report to `path` and its map beside it, both atomically: previous files stay until then."""
    has_map = write_map(Path(path).with_name(map_name(Path(path).name)), data)
    page = render(data, map_file=map_name(Path(path).name) if has_map else "")
    with atomic_path(path) as beside:
        Path(beside).write_text(page, encoding="utf-8")


def render(data: ReportData, *, with_figures: bool = True, map_file: str = "") -> str:
    """Return the report as one HTML text with inline styles and figures; it has no script and loads nothing.

    Without figures, rendering is fast and the text is small. `map_file`: name of the map beside it, to link to.
    """
    judgment = _judge(data)
    environment = template_environment()
    return environment.get_template("report.html").render(
        map_file=map_file,
        **_verdict(data, judgment),
        **_tables(data, judgment),
        **{
            f"{name}_figures": [inline(figure, caption) for figure, caption in figures] if with_figures else []
            for name, figures in _figures(data, judgment).items()
        },
    )


def verdict(data: ReportData) -> list[str]:
    """Return the first screen as text: the headline and the sentences of the verdict."""
    judgment = _judge(data)
    return [headline(data, judgment), *sentences(data, judgment)]


def _judge(data: ReportData) -> Judgment:
    rows = compare(_runs(data.students.get("vanilla", {})), _runs(data.students.get("distilled", {})))
    return judge(_measurable(data, rows), data.trip_values, data.floors)


def _measurable(data: ReportData, rows: Sequence[Row]) -> list[Row]:
    """Return the rows without those of times, if the real trips have none."""
    return [row for row in rows if not row.name.startswith(_TIME_METRICS)] if not has_times(data.real) else list(rows)


def _verdict(data: ReportData, judgment: Judgment) -> dict[str, Any]:
    """Return the variables of the top of the page."""
    has_distilled = bool(data.students.get("distilled"))
    pairs = num_pairs(data)
    return {
        "city": data.city,
        "headline": headline(data, judgment),
        "introduction": INTRODUCTION,
        "sentences": sentences(data, judgment),
        "scope": _scope(data),
        "secondary": [*secondary_sentences(judgment), *judgment.notes],
        "baseline_sentences": list(baseline_sentences(data.baselines.trips, judgment.rows, data.trip_values)),
        "caveat": caveat(pairs) if has_distilled else "",
        "training_caveat": training_caveat(data.students),
        "times_note": "" if has_times(data.real) else NO_TIMES,
        "left_out": list(data.left_out),
    }


def _scope(data: ReportData) -> str:
    """Return what was trained and tested, in a line."""
    seeds = data.students.get("distilled") or data.students.get("vanilla", {})
    listed = ", ".join(map(str, seeds))
    number = f"seed {listed}" if len(seeds) == 1 else f"{len(seeds)} seeds ({listed})"
    generated = next(iter(first_generated(data).values()), None)
    trips = (
        "" if generated is None or generated.generated is None else f", {len(generated.generated):,} generated trips"
    )
    recipe = f"; distilled by {data.recipe}" if data.recipe and data.students.get("distilled") else ""
    per_seed = " per seed" if trips and len(seeds) > 1 else ""
    return f"{number}, {len(data.real):,} real test trips{trips}{per_seed}{recipe}"


def _tables(data: ReportData, judgment: Judgment) -> dict[str, Any]:
    """Return the variables of the tables."""
    beside = Beside(
        data.baselines.trips,
        judgment.evidence,
        judgment.floors,
        {row.name for row in judgment.rows if judgment.is_below_floor(row)},
        _ceiling_metrics(data),
        {row.name: judgment.verdict(row) for row in judgment.rows},
    )
    next_step = [
        format_row(row, beside._replace(baselines=data.baselines.next_step))
        for row in judgment.rows
        if row.section == "next_step" and row.name != "next_step.steps"
    ]
    generated = [row for row in judgment.rows if row.section not in _HIDDEN_SECTIONS]
    groups = [
        Group(heading_of(section), [format_row(row, beside) for row in group])
        for section, group in groupby(generated, key=lambda row: row.section)
    ]
    return {
        "kinds": list(data.students),
        "several_seeds": any(len(results) > 1 for results in data.students.values()),
        "next_step": _table_or_none([Group("", next_step)]),
        "next_step_baselines": bool(data.baselines.next_step),
        "baselines_note": data.baselines.note,
        "generation": _table_or_none(groups),
        "floors": next(iter(data.floors.values()), None),
        "below_floor": BELOW_FLOOR,
        "ceilings": _without_empty_columns(summary_rows(data.ceilings.rows)),
        "ceilings_note": data.ceilings.note,
        "decoder": data.decoder,
        "scenarios": _table_or_none(list(_scenarios(data))),
        "failure_counts": _failure_counts(data),
        "least_shared": f"{LEAST_SHARED:.0%}",
        "worst": list(_worst(data)),
        "latency": list(data.latency),
        "files": list(data.files),
        "teacher_tables": [
            (describe(name), list(describe_values(value)))
            for name, value in data.teacher.items()
            if isinstance(value, Mapping) and name != "label_values" and value
        ],
        "sizes": list(_sizes(data)),
        "seconds": [Value(describe_stage(name), duration(value)) for name, value in data.seconds.items()],
        "total": duration(sum(data.seconds.values())),
        "settings": data.settings_yaml,
        "versions": [dict(version) for version in data.versions],
        "definitions": definitions_of(judgment.rows),
    }


def _without_empty_columns(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows without the columns that have a dash in all of them."""
    kept = [name for name in (rows[0] if rows else ()) if any(row[name] != "–" for row in rows)]
    return [{name: row[name] for name in kept} for row in rows]


def _ceiling_metrics(data: ReportData) -> dict[str, float]:
    """Return the metrics of the ceiling by `section.metric`, as far as they were measured."""
    row = next((row for row in data.ceilings.rows if row["name"] == CEILING and row["kind"] == "log_linear"), None)
    names = ("accuracy", "decision_accuracy", "nll", "calibration_error")
    return {} if row is None else {f"next_step.{name}": row[name] for name in names}


def _figures(data: ReportData, judgment: Judgment) -> dict[str, Iterable[CaptionedFigure]]:
    """Return the figures of each part of the page; they are drawn when iterated over."""
    return {
        "primary": primary_figures(data, judgment),
        "request": request_figures(data),
        "group": group_figures(data),
        "difference": difference_figures(judgment),
        "trip": trip_figures(data),
        "training": training_figures(data),
        "teacher": teacher_figures(data),
        "data": data_figures(data),
    }


def describe_stage(name: str) -> str:
    """Return the name of a stage or artifact with spaces for underscores."""
    return name.replace("_", " ")


def _table_or_none(groups: Sequence[Group]) -> Table | None:
    """Return a table; None without any line."""
    return table_of(groups) if any(group.lines for group in groups) else None


def _runs(results: Mapping[int, StudentResult]) -> dict[int, dict[str, float]]:
    """Return the metrics of every seed by `section.metric`."""
    return {
        seed: {f"next_step.{name}": float(value) for name, value in result.test.items() if is_number(value)}
        | (flatten(result.metrics) if result.metrics else {})
        for seed, result in results.items()
    }


def _scenarios(data: ReportData) -> Iterator[Group]:
    """Yield the lines of each scenario, with its definition and number of trips."""
    for name, about in SCENARIOS.items():
        vanilla, distilled = (
            {
                seed: _of_scenario(result, name)
                for seed, result in data.students.get(kind, {}).items()
                if name in result.scenarios
            }
            for kind in ("vanilla", "distilled")
        )
        by_name = {row.name: row for row in _measurable(data, compare(vanilla, distilled))}
        beside = Beside(
            {label: scenarios.get(name, {}) for label, scenarios in data.baselines.scenarios.items()},
            verdicts={name: _untested(row) for name, row in by_name.items()},
        )
        rows = [by_name[metric] for metric in SCENARIO_METRICS if metric in by_name]
        if rows:
            counts = [values["counts.generated"] for values in vanilla.values()]
            text = re.sub(r" \(`.*`\)", "", about)  # keys of the settings are for the docs
            yield Group(
                name.replace("_", " ").capitalize(),
                [format_row(row, beside)._replace(label=short_label(row), about="") for row in rows],
                f"{text}: {np.mean(counts):,.0f}" if counts else text,
            )


def _untested(row: Row) -> str:
    """Return the verdict on a row that has no test over the trips and no adjusted p-value: it leans at most."""
    return f"leans {row.verdict}" if row.verdict in {"better", "worse"} else row.verdict or ""


def _of_scenario(result: StudentResult, name: str) -> dict[str, float]:
    next_step = result.next_step_by.get("scenario", {}).get(name, {})
    return {**{f"next_step.{key}": value for key, value in next_step.items()}, **flatten(result.scenarios[name])}


def _failure_counts(data: ReportData) -> list[tuple[str, str, list[str]]]:
    """Return (cause, explanation, share of the trips of each student, %) of each cause, over all seeds."""
    if not any(result.failures for results in data.students.values() for result in results.values()):
        return []
    return [
        (cause, about, [_share_of_cause(list(results.values()), cause) for results in data.students.values()])
        for cause, about in CAUSES.items()
    ]


def _share_of_cause(results: Sequence[StudentResult], cause: str) -> str:
    total = sum(len(result.generated) for result in results if result.generated is not None)
    count = sum(failure.cause == cause for result in results for failure in result.failures)
    return f"{100 * count / total:.2f}" if total else ""


def _worst(data: ReportData) -> Iterator[tuple[str, str, list[tuple[str, str, str]]]]:
    """Yield (cause, student, trips) of the first seed: id, text, and address on the map of the worst trips."""
    real = answered_trips(data)
    for kind, result in first_generated(data).items():
        for cause in CAUSES:
            chosen = [failure for failure in result.failures if failure.cause == cause][:WORST]
            ids = [str(each.row) if real is None or real.ids is None else str(real.ids[each.row]) for each in chosen]
            if chosen:
                texts = [f"{failure.away_km:.1f} km" for failure in chosen]
                yield cause, kind, [(name, text, quote(name, safe="")) for name, text in zip(ids, texts, strict=True)]


def _sizes(data: ReportData) -> Iterator[Value]:
    yield Value("roads", f"{data.network.num_roads:,}")
    yield Value("total road length", f"{data.network.length_m.sum() / 1000:,.0f} km")
    yield Value("connections", f"{len(data.network.successors.indices):,}", "Pairs of a road and a next road.")
    yield Value("test trips", f"{len(data.real):,}")
    yield Value("steps of the test trips", f"{data.real.num_steps:,}")
    for kind, result in first_generated(data).items():
        if result.generated is not None:
            yield Value(f"generated trips per seed, {kind}", f"{len(result.generated):,}")
    yield from describe_values(data.sizes)
