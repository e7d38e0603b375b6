"""The report's pictures with their captions, and how they get into the page."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from hoser_kd import plots
from hoser_kd.common.arrays import row_of_value
from hoser_kd.evaluation.comparison import LABELS, Row
from hoser_kd.evaluation.failures import CAUSES
from hoser_kd.evaluation.metrics import road_overlap
from hoser_kd.report.data import ReportData, answered_trips, first_generated, real_of
from hoser_kd.report.text import describe, judged_rows, short_label

if TYPE_CHECKING:
    from hoser_kd.common.arrays import BoolArray
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
"""Figures of the students' epochs that are drawn, of those `hoser_kd.student.training` records."""


_NOT_DRAWN = {"next_step", "time", "grad_norm", "learning_rate"}
"""Metrics of the training steps without a panel of their own; any other loss term gets one after `CURVES`."""


TRIP_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
"""The trips drawn one by one lie at these quantiles of the real trips' number of roads."""


WORST = 2
"""Failures drawn of each cause and student."""


_GROUPINGS = {
    "hour": "hour of the day",
    "to_go": "distance to the destination, great circle",
    "road_class": "class of the road that is left",
}


class Picture(NamedTuple):
    """A picture on the page."""

    caption: str
    source: str
    """A data URL."""
    width_px: int
    """Width at which it is shown where there is room."""


Drawing = tuple[Figure | bytes, str]
"""A picture to be, and its caption."""


def group_pictures(data: ReportData) -> Iterator[Drawing]:
    """Draw the accuracy where there is a choice by hour, way to go and class of road."""
    values: dict[str, dict[str, dict[str, float]]] = {}
    weights: dict[str, dict[str, float]] = {}
    for kind, results in data.students.items():
        for grouping in _GROUPINGS:
            seeds = [result.next_step_by[grouping] for result in results.values() if grouping in result.next_step_by]
            if not seeds:
                continue
            weights[grouping] = {group: figures["steps"] for group, figures in seeds[0].items()}
            values.setdefault(grouping, {})[kind] = {
                group: float(np.mean([seed[group]["decision_accuracy"] for seed in seeds]))
                for group in seeds[0]
                if all("decision_accuracy" in seed.get(group, {}) for seed in seeds)
            }
    if values:
        yield (
            plots.by_group(values, _GROUPINGS, weights, "accuracy where there is a choice"),
            "Accuracy of the next step where there is a choice, mean over the seeds.",
        )


def difference_pictures(rows: Sequence[Row]) -> Iterator[Drawing]:
    """Draw how far the students differ, figure by figure."""
    shown = [(row, row.relative) for row in judged_rows(rows) if row.definition.better is not None]
    drawn = [(short_label(row), *relative, row.definition.better) for row, relative in shown if relative is not None]
    if drawn:
        yield (
            plots.differences(drawn),
            (
                "Differences in percent of the plain student, with 95 % intervals where there are several seeds. Blue "
                "is "
                "better, orange worse; hollow where the interval holds 0 or is missing."
            ),
        )


def training_pictures(data: ReportData) -> Iterator[Drawing]:
    """Draw the students' epochs."""
    histories = {kind: [run.history for run in runs.values()] for kind, runs in data.students.items()}
    epochs = [epoch for runs in histories.values() for run in runs for epoch in run]
    losses = {name.removeprefix("train_") for epoch in epochs for name in epoch if name.startswith("train_")}
    names = dict.fromkeys((*CURVES, *sorted(losses - _NOT_DRAWN)))
    figure = plots.training_curves(histories, {name: LABELS.get(name, describe(name)) for name in names})
    if figure.axes:
        yield figure, "Figures of each epoch; where there are several seeds, thin lines are one each, thick their mean."


def trip_pictures(data: ReportData) -> Iterator[Drawing]:
    """Draw distributions, use of the roads, where each student wins, and trips one by one."""
    results = first_generated(data)
    trips = {kind: result.generated for kind, result in results.items() if result.generated is not None}
    if not trips:
        return
    yield (
        plots.distributions(data.real, trips, data.network),
        "Distributions over the trips of the first seed; what lies beyond the axis is in the last bar.",
    )
    yield (
        plots.use_map(data.network, {"real": data.real, **trips}),
        "How often each road is driven, on one logarithmic scale; roads nobody drives are gray.",
    )
    real = answered_trips(data)
    if real is not None:
        yield from _wins(data)
        lengths = real.lengths
        order = np.argsort(lengths, kind="stable")
        rows = list(dict.fromkeys(int(order[int(q * (len(order) - 1))]) for q in TRIP_QUANTILES))
        notes = {"real": [f"{lengths[row]} roads" for row in rows]}
        notes |= {kind: [_trip_note(each, results[kind].reached, row) for row in rows] for kind, each in trips.items()}
        shares = ", ".join(f"{100 * q:g}" for q in TRIP_QUANTILES)
        yield (
            plots.trips_map(data.network, {"real": real, **trips}, rows, notes),
            (
                f"OdPairs, one a row: the real trips at percentiles {shares} of length, and the answers of the first "
                "seed. They were not picked by hand."
            ),
        )


def _wins(data: ReportData) -> Iterator[Drawing]:
    """Draw where which student comes closer to the real trips, over the seeds both have."""
    vanilla, distilled = (data.students.get(kind, {}) for kind in ("vanilla", "distilled"))
    num_roads = data.network.num_roads
    gain, visits = np.zeros(num_roads), np.zeros(num_roads, np.int64)
    for seed in vanilla.keys() & distilled.keys():
        real = real_of(data, vanilla[seed])
        plain, taught = vanilla[seed].generated, distilled[seed].generated
        if real is None or plain is None or taught is None or len(plain) != len(taught):
            continue
        gained = road_overlap(real, taught, num_roads) - road_overlap(real, plain, num_roads)
        gain += np.bincount(real.road_ids, gained[row_of_value(real.offsets)], num_roads)
        visits += np.bincount(real.road_ids, minlength=num_roads)
    if visits.any():
        yield (
            plots.wins_map(data.network, gain / np.maximum(visits, 1), visits, "Where each student wins"),
            (
                "Each real trip's roads take the difference of the two students' overlap (Jaccard) with it, mean over "
                "trips and seeds: blue where the distilled student follows real trips better, orange where the plain "
                "one does. Roads of few trips show chance."
            ),
        )


def failure_pictures(data: ReportData) -> Iterator[Drawing]:
    """Draw the worst failures of each cause, with what the other student and the real driver did."""
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
            found = [by_kind[kind].get(row) for row in rows]
            notes[kind] = [
                f"{trips[kind].lengths[row]} roads"
                + (f", {failure.cause}, {failure.away_km:.1f} km off" if failure else "")
                for row, failure in zip(rows, found, strict=True)
            ]
        yield (
            plots.trips_map(data.network, {"real": real, **trips}, rows, notes),
            f"The worst of “{cause}” ({CAUSES[cause]}), up to {WORST} a student, first seed.",
        )


def _trip_note(trips: Trajectories, reached: BoolArray | None, row: int) -> str:
    roads = f"{trips.lengths[row]} roads"
    return roads if reached is None or reached[row] else f"{roads}, destination not reached"


def teacher_pictures(data: ReportData) -> Iterator[Drawing]:
    """Draw the teacher's epochs and what its labels look like."""
    if data.teacher.get("history"):
        figure = plots.training_curves({"teacher": [data.teacher["history"]]})
        if figure.axes:
            yield figure, "The teacher's training, by epoch."
    if data.teacher.get("label_values"):
        yield (
            plots.histograms(data.teacher["label_values"]),
            "What the labels look like over the steps; the dotted line is the median.",
        )


def data_pictures(data: ReportData) -> Iterator[Drawing]:
    """Draw the roads, and add the pictures that were handed in."""
    yield plots.network_map(data.network), "The road network."
    for caption, image in data.pictures.items():
        yield image, caption


def inline(drawing: Figure | bytes, caption: str) -> Picture:
    """Put a picture into a data URL, to be shown at 104 pixels an inch, or at its own size where it came as PNG."""
    if isinstance(drawing, bytes):
        image, width = drawing, int.from_bytes(drawing[16:20], "big")  # the PNG header's
    else:
        image, width = plots.png(drawing, dpi=130), round(104 * drawing.get_figwidth())
    return Picture(caption, "data:image/png;base64," + base64.b64encode(image).decode("ascii"), width)
