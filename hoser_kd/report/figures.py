"""The report's figures with their captions, and their inline form."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from hoser_kd import plots
from hoser_kd.common.arrays import row_of_value
from hoser_kd.config.variants import LOSS_TERMS
from hoser_kd.evaluation.metric_registry import METRICS, epoch_label
from hoser_kd.evaluation.statistics import PRIMARY_NEXT_STEP, PRIMARY_TRIP, ends_of
from hoser_kd.evaluation.trip_similarity import road_overlap
from hoser_kd.report.data import NETWORK_CAPTION, ReportData, StudentResult, answered_trips, first_generated, real_of
from hoser_kd.report.judgment import Judgment, judged_rows
from hoser_kd.report.primary_metrics import Contender, contenders
from hoser_kd.report.table import short_label

if TYPE_CHECKING:
    from hoser_kd.common.arrays import Float64Array, Int64Array
    from hoser_kd.network.trajectories import Trajectories

CURVES = (
    "nll",
    "accuracy",
    "decision_accuracy",
    "time_mae_s",
    "calibration_error",
    "kl",
    "generation_reached",
    "generation_score",
)
"""Epoch metrics of the students that are drawn; registered loss terms are drawn too."""


_GROUPINGS = {
    "hour": "hour of the day",
    "to_go": "remaining distance (great circle)",
    "road_class": "class of the current road",
}


_TITLES = {
    PRIMARY_NEXT_STEP: "Next road: NLL, nat (lower is better)",
    PRIMARY_TRIP: "Trips: EDR (lower is better)",
}


class PageFigure(NamedTuple):
    """A figure on the page."""

    caption: str
    source: str
    """A data URL."""
    width_px: int
    """Width at which it is shown where there is room."""


DPI = 120
"""Resolution of the figures; they are shown at 96 pixels per inch."""
CaptionedFigure = tuple[Figure | bytes, str]
"""A figure, drawn or as PNG, and its caption."""


def primary_figures(data: ReportData, judgment: Judgment) -> Iterator[CaptionedFigure]:
    """Draw the primary metrics of students, baselines and ceilings."""
    panels = {
        title: [_point(each) for each in found]
        for metric, title in _TITLES.items()
        if (found := contenders(data, judgment.by_name, metric))
    }
    if not panels:
        return
    seeds = max((len(results) for results in data.students.values()), default=1)
    lines = "thin lines over the test trips, thick lines over the seeds" if seeds > 1 else "over the test trips"
    yield (
        plots.primary_chart(panels),
        (
            f"Lines are 95 % intervals, {lines}; baselines have no seeds. Diamonds are pools of models: the ceiling "
            "uses the teacher at test time too, the control a Markov chain (counts of training trips) in its place. "
            "Intervals of two models can overlap although their paired difference is clear."
        ),
    )


def _point(each: Contender) -> plots.Point:
    return plots.Point(
        each.label,
        each.value,
        each.name if each.role == "student" else each.role,
        ends_of(each.trips),
        ends_of(each.seeds),
    )


def request_figures(data: ReportData) -> Iterator[CaptionedFigure]:
    """Draw up to four requests: two by the length of the real trip, and the extremes of the students' difference."""
    trips = {kind: each.generated for kind, each in first_generated(data).items() if each.generated is not None}
    real = answered_trips(data)
    if real is None or not trips:
        return
    rows = _example_requests(data.network.num_roads, real, trips)
    names = [str(number) if real.ids is None else str(real.ids[number]) for number in rows.values()]
    titles = [f"{title} (trip {name})" for title, name in zip(rows, names, strict=True)]
    yield (
        plots.request_panels(data.network, {"real": real, **trips}, list(rows.values()), titles),
        (
            "Requests of the first seed, selected by rule: the median and the 90th percentile of the real trips' "
            "roads, and the largest difference of the students' overlap with the real trip in either direction. They "
            "are examples, not evidence. Lines are nested where trips share roads."
        ),
    )


def _example_requests(num_roads: int, real: Trajectories, trips: Mapping[str, Trajectories]) -> dict[str, int]:
    """Return the rows of the requests to draw, by title."""
    order = np.argsort(real.lengths, kind="stable")
    rows = {"median length": int(order[(len(order) - 1) // 2]), "long": int(order[int(0.9 * (len(order) - 1))])}
    if {"vanilla", "distilled"} <= trips.keys():
        gain = road_overlap(real, trips["distilled"], num_roads) - road_overlap(real, trips["vanilla"], num_roads)
        rows |= {"distilled closer": int(gain.argmax())} if gain.max() > 0 else {}
        rows |= {"vanilla closer": int(gain.argmin())} if gain.min() < 0 else {}
    return rows


def group_figures(data: ReportData) -> Iterator[CaptionedFigure]:
    """Draw the accuracy at decisions by hour, remaining distance and road class."""
    values: dict[str, dict[str, dict[str, float]]] = {}
    weights: dict[str, dict[str, float]] = {}
    for kind, results in data.students.items():
        for grouping in _GROUPINGS:
            seeds = [result.next_step_by[grouping] for result in results.values() if grouping in result.next_step_by]
            if not seeds:
                continue
            weights[grouping] = {group: metrics["steps"] for group, metrics in seeds[0].items()}
            values.setdefault(grouping, {})[kind] = {
                group: float(np.mean([seed[group]["decision_accuracy"] for seed in seeds]))
                for group in seeds[0]
                if all("decision_accuracy" in seed.get(group, {}) for seed in seeds)
            }
    if values:
        yield (
            plots.by_group(values, _GROUPINGS, weights, METRICS["next_step.decision_accuracy"].label),
            (
                "Accuracy of the next step where there are two or more candidates, mean over the seeds. The groups are "
                "not tested: differences in small ones can be chance."
            ),
        )


def difference_figures(judgment: Judgment) -> Iterator[CaptionedFigure]:
    """Draw the relative difference of the students, metric by metric; filled where the verdict is better or worse."""
    shown = [(row, row.relative) for row in judged_rows(judgment.rows) if row.metric.better is not None]
    drawn = [
        (short_label(row), *relative, row.metric.better, judgment.verdict(row) in {"better", "worse"})
        for row, relative in shown
        if relative is not None
    ]
    if drawn:
        yield (
            plots.differences(drawn),
            (
                "Differences in percent of the vanilla student, with 95 % intervals over the seeds. Blue is in favor "
                "of the distilled student, orange of the vanilla one; only a filled marker is better or worse by the "
                "rule of the tables, over the seeds and the test trips."
            ),
        )


def training_figures(data: ReportData) -> Iterator[CaptionedFigure]:
    """Draw the students' epochs."""
    histories = {kind: [run.history for run in runs.values()] for kind, runs in data.students.items()}
    shown = dict.fromkeys((*CURVES, *(name for name in LOSS_TERMS.names() if name not in plots.LOSS_PANELS)))
    figure = plots.training_curves(histories, {name: epoch_label(name) for name in shown})
    if figure.axes:
        yield figure, "Metrics of each epoch. With several seeds, thin lines are single seeds, thick lines their mean."


def trip_figures(data: ReportData) -> Iterator[CaptionedFigure]:
    """Draw distributions, road use, and where each student is better."""
    trips = {kind: each.generated for kind, each in first_generated(data).items() if each.generated is not None}
    if not trips:
        return
    yield (
        plots.distributions(data.real, trips, data.network),
        "Distributions over the trips of the first seed; the last bar includes all larger values.",
    )
    yield (
        plots.use_map(data.network, {"real": data.real, **trips}),
        "Visits of each road, on one logarithmic scale; roads without visits are gray.",
    )
    if answered_trips(data) is not None:
        yield from _wins(data)


def _wins(data: ReportData) -> Iterator[CaptionedFigure]:
    """Draw where each student is closer to the real trips, over the common seeds."""
    vanilla, distilled = (data.students.get(kind, {}) for kind in ("vanilla", "distilled"))
    gain, visits = np.zeros(data.network.num_roads), np.zeros(data.network.num_roads, np.int64)
    for seed in vanilla.keys() & distilled.keys():
        added = _overlap_gain(data, vanilla[seed], distilled[seed])
        if added is not None:
            gain += added[0]
            visits += added[1]
    if visits.any():
        yield (
            plots.wins_map(data.network, gain / np.maximum(visits, 1), visits, "Where each student is closer"),
            (
                "Each road shows the difference of the two students' overlap (Jaccard) with the real trips through it, "
                "mean over trips and seeds: blue where the distilled student is closer to the real trips, orange where "
                "the vanilla one is. No road is tested; where few trips pass, the difference is mostly chance."
            ),
        )


def _overlap_gain(
    data: ReportData, vanilla: StudentResult, distilled: StudentResult
) -> tuple[Float64Array, Int64Array] | None:
    """Return the distilled student's gain in overlap, summed over the real trips through each road, and their number.

    (N,) float64 and (N,) int64; None where the students did not answer the same real trips.
    """
    real, before, after = real_of(data, vanilla), vanilla.generated, distilled.generated
    if real is None or before is None or after is None or len(before) != len(after):
        return None
    num_roads = data.network.num_roads
    gained = road_overlap(real, after, num_roads) - road_overlap(real, before, num_roads)
    sums = np.bincount(real.road_ids, gained[row_of_value(real.offsets)], num_roads)
    return np.asarray(sums, np.float64), np.bincount(real.road_ids, minlength=num_roads)


def teacher_figures(data: ReportData) -> Iterator[CaptionedFigure]:
    """Draw the teacher's epochs and the distributions of its labels."""
    if data.teacher.get("history"):
        figure = plots.training_curves({"teacher": [data.teacher["history"]]})
        if figure.axes:
            yield figure, "Training of the teacher, by epoch."
    if data.teacher.get("label_values"):
        yield (
            plots.histograms(data.teacher["label_values"]),
            "Soft labels, distributions over the sampled steps; the dotted line is the median.",
        )


def data_figures(data: ReportData) -> Iterator[CaptionedFigure]:
    """Return the figures of the artifacts; the road network is drawn unless it is among them."""
    if NETWORK_CAPTION not in data.figures:
        yield plots.network_map(data.network), NETWORK_CAPTION
    for caption, image in data.figures.items():
        yield image, caption


def inline(figure: Figure | bytes, caption: str) -> PageFigure:
    """Return a figure as a data URL, to be shown at 96 pixels per inch; a PNG is shown at its own width."""
    if isinstance(figure, bytes):
        image, width = figure, int.from_bytes(figure[16:20], "big")  # width field of the PNG header
    else:
        image, width = plots.png(figure, dpi=DPI), round(96 * figure.get_figwidth())
    return PageFigure(caption, "data:image/png;base64," + base64.b64encode(image).decode("ascii"), width)
