"""The report's figures with their captions, and their inline form."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from hoser_kd import plots
from hoser_kd.common.arrays import row_of_value
from hoser_kd.config.variants import LOSS_TERMS
from hoser_kd.evaluation.comparison import Row
from hoser_kd.evaluation.failures import CAUSES
from hoser_kd.evaluation.metric_registry import METRICS, epoch_label
from hoser_kd.evaluation.trip_similarity import road_overlap
from hoser_kd.report.data import ReportData, StudentResult, answered_trips, first_generated, real_of
from hoser_kd.report.table import short_label
from hoser_kd.report.text import judged_rows

if TYPE_CHECKING:
    from hoser_kd.common.arrays import BoolArray, Float64Array, Int64Array
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


TRIP_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
"""Quantiles of the number of roads of the real trips that are drawn one by one."""


WORST = 2
"""Failures drawn per cause and student."""


_GROUPINGS = {
    "hour": "hour of the day",
    "to_go": "remaining distance (great circle)",
    "road_class": "class of the current road",
}


class PageFigure(NamedTuple):
    """A figure on the page."""

    caption: str
    source: str
    """A data URL."""
    width_px: int
    """Width at which it is shown where there is room."""


CaptionedFigure = tuple[Figure | bytes, str]
"""A figure, drawn or as PNG, and its caption."""


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
            "Accuracy of the next step where there are two or more candidates, mean over the seeds.",
        )


def difference_figures(rows: Sequence[Row]) -> Iterator[CaptionedFigure]:
    """Draw the relative difference of the students, metric by metric."""
    shown = [(row, row.relative) for row in judged_rows(rows) if row.metric.better is not None]
    drawn = [(short_label(row), *relative, row.metric.better) for row, relative in shown if relative is not None]
    if drawn:
        yield (
            plots.differences(drawn),
            (
                "Differences in percent of the vanilla student, with 95 % intervals for several seeds. Blue is better, "
                "orange is worse; a hollow marker means that the interval includes 0 or is missing."
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
    """Draw distributions, road use, where each student is better, and single trips."""
    results = first_generated(data)
    trips = {kind: result.generated for kind, result in results.items() if result.generated is not None}
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
    real = answered_trips(data)
    if real is not None:
        yield from _wins(data)
        yield _example_trips(data, real, trips, results)


def _example_trips(
    data: ReportData, real: Trajectories, trips: Mapping[str, Trajectories], results: Mapping[str, StudentResult]
) -> CaptionedFigure:
    """Draw the requests at `TRIP_QUANTILES` of the real trips' number of roads."""
    lengths = real.lengths
    order = np.argsort(lengths, kind="stable")
    rows = list(dict.fromkeys(int(order[int(q * (len(order) - 1))]) for q in TRIP_QUANTILES))
    notes = {"real": [f"{lengths[row]} roads" for row in rows]}
    notes |= {kind: [_trip_note(each, results[kind].reached, row) for row in rows] for kind, each in trips.items()}
    percentiles = ", ".join(f"{100 * q:g}" for q in TRIP_QUANTILES)
    return (
        plots.trips_map(data.network, {"real": real, **trips}, rows, notes),
        (
            f"Requests, one per row: the real trips at percentiles {percentiles} of the number of roads, and the "
            "generated trips of the first seed. They are not selected by hand."
        ),
    )


def _trip_note(trips: Trajectories, reached: BoolArray | None, row: int) -> str:
    roads = f"{trips.lengths[row]} roads"
    return roads if reached is None or reached[row] else f"{roads}, destination not reached"


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
                "the vanilla one is. Roads with few trips are dominated by chance."
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


def failure_figures(data: ReportData) -> Iterator[CaptionedFigure]:
    """Draw the worst failures of each cause beside the other student's trip and the real one."""
    results = first_generated(data)
    trips = {kind: result.generated for kind, result in results.items() if result.generated is not None}
    real = answered_trips(data)
    by_kind = {kind: {failure.row: failure for failure in result.failures} for kind, result in results.items()}
    for cause in CAUSES:
        rows = list(
            dict.fromkeys(
                failure.row
                for result in results.values()
                for failure in [f for f in result.failures if f.cause == cause][:WORST]
            )
        )
        if not rows or real is None:
            continue
        notes = {"real": [f"{real.lengths[row]} roads" for row in rows]}
        for kind in trips:
            failed = [by_kind[kind].get(row) for row in rows]
            notes[kind] = [
                f"{trips[kind].lengths[row]} roads"
                + (f", {failure.cause}, {failure.away_km:.1f} km off" if failure else "")
                for row, failure in zip(rows, failed, strict=True)
            ]
        yield (
            plots.trips_map(data.network, {"real": real, **trips}, rows, notes),
            f"The worst failures of type “{cause}” ({CAUSES[cause]}), up to {WORST} per student, first seed.",
        )


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
    """Draw the road network, and add the figures of the artifacts."""
    yield plots.network_map(data.network), "The road network."
    for caption, image in data.figures.items():
        yield image, caption


def inline(figure: Figure | bytes, caption: str) -> PageFigure:
    """Return a figure as a data URL, to be shown at 104 pixels per inch; a PNG is shown at its own width."""
    if isinstance(figure, bytes):
        image, width = figure, int.from_bytes(figure[16:20], "big")  # width field of the PNG header
    else:
        image, width = plots.png(figure, dpi=130), round(104 * figure.get_figwidth())
    return PageFigure(caption, "data:image/png;base64," + base64.b64encode(image).decode("ascii"), width)
