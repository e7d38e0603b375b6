"""The report of a city: one HTML file that a person reads, prints and sends, without anything to load.

What belongs here: which tables, sentences and pictures the page has. The words' frame and the looks are in
`templates/report.html`; the comparison is `hoser_kd.evaluation.comparison`, the pictures are `hoser_kd.plots`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import numpy as np

from hoser_kd.common.files import atomic_path
from hoser_kd.common.progress import duration
from hoser_kd.evaluation.comparison import SECTIONS, compare
from hoser_kd.evaluation.failures import CAUSES
from hoser_kd.evaluation.metrics import flatten
from hoser_kd.evaluation.scenarios import SCENARIOS
from hoser_kd.report.data import ReportData, StudentResult, first_generated
from hoser_kd.report.figures import (
    Drawing,
    Picture,
    data_pictures,
    difference_pictures,
    failure_pictures,
    group_pictures,
    inline,
    teacher_pictures,
    training_pictures,
    trip_pictures,
)
from hoser_kd.report.text import (
    Line,
    caveat,
    definitions_of,
    describe,
    figures_of,
    format_row,
    headline_of,
    is_number,
    short_label,
    summary_cards,
    verdict_sentences,
)

if TYPE_CHECKING:
    from os import PathLike


SCENARIO_FIGURES = (
    "next_step.decision_accuracy",
    "requests.reached_share",
    "paired.edit_similarity",
    "similarity.dtw",
    "distance.jsd",
    "duration.jsd",
)
"""Figures shown of each scenario; all of them are in the metrics' file."""


def write_report(path: str | PathLike[str], data: ReportData) -> None:
    """Write the report to `path`; a report that was there before stays until the new one is whole."""
    page = render(data)
    with atomic_path(path) as beside:
        Path(beside).write_text(page, encoding="utf-8")


def render(data: ReportData, *, with_pictures: bool = True) -> str:
    """Return the report as one HTML text: styles and pictures inside, no script, nothing loaded from anywhere.

    Without pictures it is made in no time and small enough for a message.
    """

    def pictures(drawings: Iterable[Drawing]) -> list[Picture]:
        return [inline(drawing, caption) for drawing, caption in drawings] if with_pictures else []

    rows = compare(_runs(data.students.get("vanilla", {})), _runs(data.students.get("distilled", {})))
    has_distilled = bool(data.students.get("distilled"))
    next_step = [row for row in rows if row.section == "next_step" and row.name != "next_step.steps"]
    generation = [
        row
        for row in rows
        if row.section not in {"next_step", "counts"} and row.name != "training.real_memorized_share"
    ]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html").render(
        city=data.city,
        headline=headline_of(rows, _pairs(data)),
        sentences=list(verdict_sentences(data, rows)),
        caveat=caveat(_pairs(data)) if has_distilled else "",
        left_out=list(data.left_out),
        has_distilled=has_distilled,
        kinds=list(data.students),
        several_seeds=any(len(results) > 1 for results in data.students.values()),
        tiles=summary_cards(rows) if has_distilled else [],
        next_step=[format_row(row) for row in next_step],
        generation=[
            (SECTIONS.get(section, section), [format_row(row) for row in group])
            for section, group in groupby(generation, key=lambda row: row.section)
        ],
        decoder=data.decoder,
        scenarios=list(_scenarios(data)),
        group_pictures=pictures(group_pictures(data)),
        failure_counts=_failure_counts(data),
        failure_pictures=pictures(failure_pictures(data)),
        difference_pictures=pictures(difference_pictures(rows)),
        training_pictures=pictures(training_pictures(data)),
        trip_pictures=pictures(trip_pictures(data)),
        teacher_tables=[
            (describe(name), list(figures_of(value)))
            for name, value in data.teacher.items()
            if isinstance(value, Mapping) and name != "label_values" and value
        ],
        teacher_pictures=pictures(teacher_pictures(data)),
        sizes=list(_sizes(data)),
        data_pictures=pictures(data_pictures(data)),
        seconds=[(describe(name), duration(value)) for name, value in data.seconds.items()],
        total=duration(sum(data.seconds.values())),
        settings=data.settings_yaml,
        versions=[dict(version) for version in data.versions],
        definitions=definitions_of(rows),
    )


def _runs(results: Mapping[int, StudentResult]) -> dict[int, dict[str, float]]:
    """Return the figures of every seed by `section.figure`."""
    return {
        seed: {f"next_step.{name}": float(value) for name, value in result.test.items() if is_number(value)}
        | (flatten(result.metrics) if result.metrics else {})
        for seed, result in results.items()
    }


def _pairs(data: ReportData) -> int:
    return len(data.students.get("vanilla", {}).keys() & data.students.get("distilled", {}).keys())


def _scenarios(data: ReportData) -> Iterator[tuple[str, str, list[Line]]]:
    """Yield scenario, what belongs to it, and its lines."""
    for name, about in SCENARIOS.items():
        runs = [
            {
                seed: _of_scenario(result, name)
                for seed, result in data.students.get(kind, {}).items()
                if name in result.scenarios
            }
            for kind in ("vanilla", "distilled")
        ]
        by_name = {row.name: row for row in compare(runs[0], runs[1])}
        lines = [
            format_row(row)._replace(label=short_label(row))
            for row in (by_name[figure] for figure in SCENARIO_FIGURES if figure in by_name)
        ]
        if lines:
            counts = [figures["counts.generated"] for figures in runs[0].values()]
            plain = about.replace("`", "")
            yield describe(name), f"{plain}: {np.mean(counts):,.0f}" if counts else plain, lines


def _of_scenario(result: StudentResult, name: str) -> dict[str, float]:
    next_step = result.next_step_by.get("scenario", {}).get(name, {})
    return {**{f"next_step.{figure}": value for figure, value in next_step.items()}, **flatten(result.scenarios[name])}


def _failure_counts(data: ReportData) -> list[tuple[str, str, list[str]]]:
    """Return (cause, explanation, share of the trips for each student) of each cause, over all seeds."""
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


def _sizes(data: ReportData) -> Iterator[tuple[str, str]]:
    yield "roads", f"{data.network.num_roads:,}"
    yield "length of the roads", f"{data.network.length_m.sum() / 1000:,.0f} km"
    yield "connections", f"{len(data.network.successors.indices):,}"
    yield "test trips", f"{len(data.real):,}"
    yield "steps of the test trips", f"{data.real.num_steps:,}"
    for kind, result in first_generated(data).items():
        if result.generated is not None:
            yield f"generated trips a seed, {kind}", f"{len(result.generated):,}"
    yield from figures_of(data.sizes)
