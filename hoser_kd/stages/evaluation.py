"""Stages of the evaluation group: generated trips, metrics, report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from hoser_kd import hoser, metrics, od, plots
from hoser_kd.config import dump_config
from hoser_kd.device import pick_device
from hoser_kd.pipeline import StageRun
from hoser_kd.search import GeneratedTrajectories, generate
from hoser_kd.stages.network import load_network, load_trips
from hoser_kd.store import Artifact, write_json
from hoser_kd.trajectories import Trajectories

STUDENTS = {"vanilla": "vanilla_student", "distilled": "distilled_student"}


def _students(run: StageRun) -> dict[str, Path]:
    """Return the folders of the students there are; the distilled one may be switched off."""
    folders = {kind: run.path(stage) for kind, stage in STUDENTS.items()}
    return {kind: folder for kind, folder in folders.items() if (folder / hoser.checkpoint.CONFIG_FILE).is_file()}


def generated_trajectories(run: StageRun) -> dict[str, Any]:
    """Generate the trips asked for with both students; Parquet, and CSV in the published layout."""
    test = load_trips(run, "test")
    asked = od.choose(run.config.generation, load_trips(run, "train"), test)
    columns = {"origin": asked.origins, "destination": asked.destinations, "start_time": asked.start_times}
    if asked.real_rows is not None:
        columns["test_row"] = asked.real_rows
    pq.write_table(pa.table(columns), run.folder / "requests.parquet", compression="zstd")
    summary: dict[str, Any] = {"num_trips": len(asked.origins), "od_source": run.config.generation.od_source}
    made: dict[str, Trajectories] = {}
    for kind, folder in _students(run).items():
        model = hoser.load(folder).to(pick_device(run.device))
        trips = generate(model, asked.origins, asked.start_times, asked.destinations,
                         run.config.generation.max_steps, progress=run.progress)
        pq.write_table(trips.to_table(), run.folder / f"{kind}.parquet", compression="zstd")
        trips.to_published_csv(run.folder / f"{kind}.csv")
        made[kind] = trips
        summary[f"{kind}_reached"] = round(float(trips.reached.mean()), 4)
        summary[f"{kind}_median_roads"] = float(np.median(trips.lengths))
        summary[f"{kind}_expansions_a_trip"] = round(float(trips.expansions.mean()), 1)
    if asked.real_rows is not None:
        made = {"real": test.take(asked.real_rows), **made}
        shown = np.linspace(0, len(asked.origins) - 1, min(4, len(asked.origins))).astype(int)
        figure = plots.trips_map(load_network(run), made, shown.tolist())
        (run.folder / "trips.png").write_bytes(plots.png(figure))
    return summary


def _load_generated(folder: Path) -> tuple[dict[str, GeneratedTrajectories], dict[str, Any]]:
    requests = {name: column.to_numpy() for name, column in
                zip((table := pq.read_table(folder / "requests.parquet")).column_names, table.columns, strict=True)}
    trips = {kind: GeneratedTrajectories.read_parquet(folder / f"{kind}.parquet")
             for kind in STUDENTS if (folder / f"{kind}.parquet").is_file()}
    return trips, requests


_COMPARED = (
    "distance.jsd", "duration.jsd", "radius.jsd", "similarity.hausdorff", "similarity.dtw", "similarity.edr",
    "requests.reached_share",
)
"""Generation figures of the short comparison; the report has all of them."""
_NEXT_STEP = ("accuracy", "nll", "top3", "ece", "time_mae_s")
"""Next-step figures of the short comparison."""


def trajectory_metrics(run: StageRun) -> dict[str, Any]:
    """Measure both students: next steps of all test trips, and their generated trips; JSON."""
    from hoser_kd.training import evaluate_student

    network, test = load_network(run), load_trips(run, "test")
    generated, requests = _load_generated(run.path("generated_trajectories"))
    real = test.take(requests["test_row"]) if "test_row" in requests else test
    results: dict[str, dict[str, Any]] = {}
    for kind, folder in _students(run).items():
        model = hoser.load(folder).to(pick_device(run.device))
        next_step = evaluate_student(model, test, progress=run.progress)
        trips = metrics.evaluate(
            real, generated[kind], network, run.config.evaluation, destinations=requests["destination"],
            training=load_trips(run, "train"), paired="test_row" in requests,
        )
        results[kind] = {"next_step": next_step, "trips": trips}
    write_json(run.folder / "metrics.json", results)
    return {"test_trips": len(test), "generated_trips": len(real), "comparison": _comparison(results)}


def _comparison(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name in _NEXT_STEP:
        rows.append({"figure": name, **{kind: result["next_step"][name] for kind, result in results.items()}})
    flat = {kind: metrics.flatten(result["trips"]) for kind, result in results.items()}
    for name in _COMPARED:
        if all(name in figures for figures in flat.values()):
            rows.append({"figure": name, **{kind: figures[name] for kind, figures in flat.items()}})
    return rows


def distillation_report(run: StageRun) -> dict[str, Any]:
    """Write the report over all seeds; one HTML file."""
    ...
