"""Evidence for failed checks: a table of the places where an artifact is wrong, and a figure.

What belongs here: where an artifact is wrong. What does not: whether it is wrong (`hoser_kd.pipeline.checks`).
Heavy libraries are imported where they are used, because Dagster's definitions load `hoser_kd.pipeline.checks`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hoser_kd.pipeline.store import Artifact

if TYPE_CHECKING:
    from pathlib import Path

    from hoser_kd.common.arrays import Float64Array, Int64Array
    from hoser_kd.grid.spec import GridSpec
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories
    from hoser_kd.teacher.soft_labels import SoftLabels

MAX_ROWS = 20
"""Maximum number of rows of a table of single roads, cells or steps."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Evidence:
    """Where and how an artifact is wrong."""

    rows: tuple[Row, ...] = ()
    """Rows of a table: numbers and texts by column."""
    figure: bytes | None = None
    """A PNG file."""


def coverage_of_merged_cells(artifact: Artifact) -> Row:
    """Return share_inside, clamped and in_remainder of a grid of merged cells from its files; empty for others.

    Summaries of earlier versions count roads beyond the last complete row or column of merged cells as outside.
    """
    file = artifact.path / "grid.json" if artifact.path else None
    if file is None or not file.is_file():
        return {}
    if json.loads(file.read_text(encoding="utf-8")).get("downsample_factor", 1) == 1:
        return {}
    spec, lat, lng = _grid_and_centers(artifact)
    clamped = int(spec.cell_of(lat, lng).clamped.sum())
    remainder = int(spec.in_remainder(lat, lng).sum())
    return {"share_inside": 1 - clamped / len(lat), "clamped": clamped, "in_remainder": remainder}


def _grid_and_centers(artifact: Artifact) -> tuple[GridSpec, Float64Array, Float64Array]:
    """Return the grid, and latitudes and longitudes of the roads' centers, (N,) float64 each."""
    import pyarrow.parquet as pq
    import shapely

    from hoser_kd.grid.spec import OCCUPIED_KEY, GridSpec

    stored = json.loads((artifact.path / "grid.json").read_text(encoding="utf-8"))
    stored.pop(OCCUPIED_KEY, None)
    points = pq.read_table(artifact.path / "grid_token_table.parquet", columns=["geometry"])["geometry"]
    lng, lat = shapely.get_coordinates(shapely.from_wkb(points.to_numpy(zero_copy_only=False))).T
    return GridSpec(**stored), lat, lng


def roads_outside(artifact: Artifact, _: Mapping[str, Any]) -> Evidence:
    """Return the extent of the grid and of the roads' centers, by side, and the map of the cells."""
    spec, lat, lng = _grid_and_centers(artifact)
    north = spec.min_lat + spec.cell_lat * spec.full_shape[0]
    east = spec.min_lng + spec.cell_lng * spec.full_shape[1]
    sides = (
        ("south", spec.min_lat, lat.min(), lat < spec.min_lat),
        ("north", north, lat.max(), lat > north),
        ("west", spec.min_lng, lng.min(), lng < spec.min_lng),
        ("east", east, lng.max(), lng > east),
    )
    rows = tuple(
        {"side": side, "grid_ends_deg": float(edge), "roads_end_deg": float(last), "roads_beyond": int(beyond.sum())}
        for side, edge, last, beyond in sides
    )
    return Evidence(rows, artifact_figure(artifact, "cells.png"))


def seeds_left_out(artifact: Artifact, _: Mapping[str, Any]) -> Evidence:
    """Return the seeds that the report leaves out, and why."""
    return Evidence(tuple(dict(row) for row in artifact.summary["left_out"]))


def attempts_without_end(artifact: Artifact, _: Mapping[str, Any]) -> Evidence:
    """Return what became of the attempts to sample a trip, and the map of the trips."""
    names = ("attempts", "too_long", "too_short", "rejected_by_length", "trips")
    rows = tuple({"attempts": name, "number": int(artifact.summary[name])} for name in names)
    return Evidence(rows, artifact_figure(artifact, "use_map.png"))


def states_without_target(artifact: Artifact, _: Mapping[str, Any]) -> Evidence:
    """Return the destinations with the most states from which they cannot be reached."""
    import numpy as np

    from hoser_kd.common.arrays import row_of_value
    from hoser_kd.student.off_path_labels import load_states

    trips, destinations, scores = load_states(artifact.path)
    of_state = destinations[trips.step_positions()[1]]
    known = np.bincount(row_of_value(scores.offsets), np.isfinite(scores.scores), len(of_state)) > 0
    goals, place = np.unique(of_state, return_inverse=True)
    states, without = np.bincount(place), np.bincount(place, ~known)
    worst = np.argsort(-without, kind="stable")[:MAX_ROWS]
    return Evidence(
        tuple(
            {"destination": int(goals[at]), "states": int(states[at]), "without_target": int(without[at])}
            for at in worst.tolist()
        )
    )


def crowded_cells(artifact: Artifact, _: Mapping[str, Any]) -> Evidence:
    """Return the cells with the most roads, and the map of the cells."""
    import pyarrow.parquet as pq

    names = ["row", "column", "token", "roads"]
    cells = pq.read_table(artifact.path / "grid_cells.parquet", columns=names).sort_by([("roads", "descending")])
    return Evidence(tuple(cells.slice(0, MAX_ROWS).to_pylist()), artifact_figure(artifact, "cells.png"))


def nll_of_shifts(artifact: Artifact, _: Mapping[str, Any]) -> Evidence:
    """Return the teacher's negative log-likelihood for every tested shift, lowest first, and a plot over the shifts."""
    tried = [dict(row) for row in artifact.summary["alignment"].get("tried", ())]
    if not tried:  # an artifact older than this table
        return Evidence((dict(artifact.summary["alignment"]),))
    from matplotlib.figure import Figure

    from hoser_kd import plots

    north, east, loss = ([row[name] for row in tried] for name in ("cells_north", "cells_east", "loss"))
    figure = Figure(figsize=(6.2, 5.2), layout="constrained")
    axes = figure.subplots()
    dots = axes.scatter(east, north, c=loss, cmap="cividis_r", s=70)
    axes.scatter(
        east[:1], north[:1], s=220, facecolors="none", edgecolors="#D55E00", linewidths=1.6, label="the configured grid"
    )
    axes.set(
        xlabel="cells further east",
        ylabel="cells further north",
        title="Negative log-likelihood by shift of the grid",
        aspect="equal",
    )
    figure.legend(loc="outside lower left", frameon=False)
    figure.colorbar(dots, ax=axes, label="nats per token")
    return Evidence(tuple(sorted(tried, key=lambda row: (row["loss"] != row["loss"], row["loss"]))), plots.png(figure))


def tokens_beyond(artifact: Artifact, inputs: Mapping[str, Any]) -> Evidence:
    """Return the numbers of tokens that do not match, and the map of the grid's cells."""
    grid, vocab_size = inputs["grid_token_table"], int(artifact.summary["vocab_size"])
    labels = int(grid.summary["num_labels"])
    rows = [
        {"what": "tokens of the grid", "tokens": labels},
        {"what": "special tokens", "tokens": 3},
        {"what": "required", "tokens": labels + 3},
        {"what": "the teacher's vocabulary", "tokens": vocab_size},
    ]
    if "rows" in grid.summary:
        rows.insert(0, {"what": "rows of the grid", "tokens": int(grid.summary["rows"])})
        rows.insert(1, {"what": "columns of the grid", "tokens": int(grid.summary["columns"])})
    return Evidence(tuple(rows), artifact_figure(grid, "cells.png"))


def teacher_curves(artifact: Artifact, _: Mapping[str, Any]) -> Evidence:
    """Return the losses of the teacher, by epoch if it was trained here, the uniform baseline, and the curves."""
    import math

    uniform = round(math.log(int(artifact.summary["vocab_size"]) - 2), 4)
    epochs = artifact.summary.get("epochs") or [{"epoch": "imported", "val_loss": artifact.summary["val_loss"]}]
    shown = ("epoch", "train_loss", "val_loss")
    rows = tuple(
        {**{name: epoch[name] for name in shown if name in epoch}, "uniform_baseline_loss": uniform} for epoch in epochs
    )
    return Evidence(rows, artifact_figure(artifact, "curves.png"))


def student_curves(artifact: Artifact, _: Mapping[str, Any]) -> Evidence:
    """Return the student's validation NLL after each epoch, that of the frequency baseline, and the curves."""
    baseline = artifact.summary["frequency_nll"]
    epochs = artifact.summary.get("epochs") or [{"nll": artifact.summary["val_nll"]}]
    shown = ("epoch", "train_next_step", "nll", "accuracy")
    rows = tuple(
        {**{name: epoch[name] for name in shown if name in epoch}, "frequency_baseline_nll": baseline}
        for epoch in epochs
    )
    return Evidence(rows, artifact_figure(artifact, "curves.png"))


def steps_off_graph(artifact: Artifact, inputs: Mapping[str, Any]) -> Evidence:
    """Return the first steps whose labels do not match the candidates of the road graph."""
    import numpy as np

    network = _network(inputs)
    rows: list[Row] = []
    for split, trips, labels in _labeled(artifact, inputs):
        at, trip = trips.step_positions()
        expected = network.successors.degrees[trips.road_ids[at]]
        stored = np.diff(labels.offsets)
        if len(stored) != len(expected):
            rows.append({"split": split, "wrong": f"{len(expected)} steps, but labels of {len(stored)}"})
        both = min(len(stored), len(expected))
        follows = network.candidate_index(trips.road_ids[at], trips.road_ids[at + 1]) >= 0
        for wrong, what in (
            (np.flatnonzero(stored[:both] != expected[:both]), "number of candidates differs"),
            (np.flatnonzero(~follows), "next road is not a candidate"),
        ):
            rows += [
                {
                    **_step(split, trips, at, trip, int(i)),
                    "wrong": what,
                    "candidates": int(expected[i]),
                    "labels": int(stored[i]) if i < both else 0,
                }
                for i in wrong[:MAX_ROWS].tolist()
            ]
    return Evidence(tuple(rows[:MAX_ROWS]))


def scores_not_finite(artifact: Artifact, inputs: Mapping[str, Any]) -> Evidence:
    """Return the first steps with a score that is not finite."""
    import numpy as np

    from hoser_kd.common.arrays import row_of_value

    rows: list[Row] = []
    for split, trips, labels in _labeled(artifact, inputs):
        at, trip = trips.step_positions()
        steps = np.unique(row_of_value(labels.offsets)[~np.isfinite(labels.scores)])
        for i in steps[:MAX_ROWS].tolist():
            scores = labels.scores[labels.offsets[i] : labels.offsets[i + 1]]
            rows.append({**_step(split, trips, at, trip, i), "scores": ", ".join(f"{score:g}" for score in scores)})
    return Evidence(tuple(rows[:MAX_ROWS]))


def labeled_trips(artifact: Artifact, inputs: Mapping[str, Any]) -> dict[str, Path]:
    """Return the files of the trips of `teacher_soft_labels`, by split; labels have files of the same names.

    Synthetic trips are among them where they are labeled.
    """
    from hoser_kd.network.trajectories import SPLITS

    files = {split: inputs["trajectories"].path / f"{split}.arrow" for split in SPLITS}
    if (artifact.path / "synthetic.arrow").is_file():
        files["synthetic"] = inputs["synthetic_trips"].path / "synthetic.arrow"
    return files


def _labeled(artifact: Artifact, inputs: Mapping[str, Any]) -> Iterator[tuple[str, Trajectories, SoftLabels]]:
    from hoser_kd.network.trajectories import Trajectories
    from hoser_kd.teacher.soft_labels import SoftLabels

    for split, trips in labeled_trips(artifact, inputs).items():
        yield split, Trajectories.load(trips), SoftLabels.load(artifact.path / f"{split}.arrow")


def _network(inputs: Mapping[str, Any]) -> RoadNetwork:
    from hoser_kd.network.road_network import RoadNetwork

    return RoadNetwork.load(inputs["road_network"].path)


def _step(split: str, trips: Trajectories, at: Int64Array, trip: Int64Array, i: int) -> Row:
    """Return the place of a step; labels of other trips can have more steps than the trips."""
    if i >= len(at):
        return {"split": split, "step": i}
    return {
        "split": split,
        "step": i,
        "trip": int(trip[i]),
        "road": int(trips.road_ids[at[i]]),
        "next_road": int(trips.road_ids[at[i] + 1]),
    }


def artifact_figure(artifact: Artifact, name: str) -> bytes | None:
    """Return a figure of the artifact; None for very large grids, and for the curves of an imported teacher."""
    file = artifact.path / name
    return file.read_bytes() if file.is_file() else None
