"""What the report shows beside the metrics: values per trip, floors, ceilings, latency and files.

Shapes: n requests, T test trips.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hoser_kd.config.evaluation import EvaluationConfig
from hoser_kd.evaluation.divergences import MIN_TRIPS_FOR_JSD
from hoser_kd.evaluation.sampling_floor import Floor, jsd_floors
from hoser_kd.evaluation.trip_values import (
    STEP_SUMS,
    TripValues,
    mean_of_seeds,
    read_step_values,
    values_by_test_trip,
)
from hoser_kd.generation.baselines import BASELINES
from hoser_kd.generation.output_files import write_lines
from hoser_kd.generation.trajectories import GeneratedTrajectories
from hoser_kd.network.trajectories import SPLITS
from hoser_kd.pipeline.stage import StageRun
from hoser_kd.pipeline.stages.baselines import NEXT_STEP_LABELS
from hoser_kd.pipeline.stages.network import load_trips
from hoser_kd.report.data import CeilingResults, FileLink, Latency, ReportData, first_generated

if TYPE_CHECKING:
    from hoser_kd.common.arrays import Int64Array
    from hoser_kd.network.trajectories import Trajectories
    from hoser_kd.pipeline.store import Artifact

CEILINGS_FILE = "ceilings.json"
REAL_LINES = "real_lines.parquet"
"""File beside the report with the real test trips as lines."""


def with_evidence(run: StageRun, data: ReportData) -> ReportData:
    """Return the report's data with values per trip, floors, ceilings, latency, baseline trips and files."""
    data = replace(data, baseline_trips=_baseline_trips(run) if data.baselines.trips else {})
    return replace(
        data,
        trip_values=_trip_values(run, data),
        ceilings=_ceilings(run),
        floors=_floors(run, data),
        latency=tuple(_latency(run, data)),
        files=tuple(_files(run)),
    )


def _trip_values(run: StageRun, data: ReportData) -> dict[str, dict[str, TripValues]]:
    """Return the metrics of each test trip, by student and baseline."""
    values: dict[str, dict[str, TripValues]] = {}
    for kind, results in data.students.items():
        steps = [
            read_step_values(run.seeds("trajectory_metrics")[seed].path / STEP_SUMS.format(kind=kind))
            for seed in results
        ]
        values[kind] = mean_of_seeds(steps)
    for name, label in NEXT_STEP_LABELS.items():
        values[label] = read_step_values(run.path("baseline_trips") / STEP_SUMS.format(kind=name))
    rows = common_requests(data)
    if rows is None:
        return values
    config = _evaluation(run)
    for kind, results in data.students.items():
        runs = [
            values_by_test_trip(data.real, result.generated, rows, data.network, config)[1]
            for result in results.values()
            if result.generated is not None
        ]
        values[kind] |= mean_of_seeds(runs)
    for name, trips in data.baseline_trips.items():
        values[name] = values_by_test_trip(data.real, trips, rows, data.network, config)[1]
    return values


def common_requests(data: ReportData) -> Int64Array | None:
    """Return (n,) int64: the test trip of each request; None if students or seeds answer different requests."""
    rows = [result.real_rows for results in data.students.values() for result in results.values()]
    first = rows[0] if rows else None
    same = first is not None and all(each is not None and np.array_equal(each, first) for each in rows)
    return first if same else None


def _evaluation(run: StageRun) -> EvaluationConfig:
    """Return the settings with which the metrics were computed."""
    artifact = next(iter(run.seeds("trajectory_metrics").values()))
    return EvaluationConfig.model_validate(artifact.settings.get("evaluation", {}))


def _baseline_trips(run: StageRun) -> dict[str, Trajectories]:
    folder = run.path("baseline_trips")
    return {
        BASELINES[name].label: GeneratedTrajectories.read_parquet(folder / f"{name}.parquet")
        for name in BASELINES.names()
        if (folder / f"{name}.parquet").is_file()
    }


def _ceilings(run: StageRun) -> CeilingResults:
    """Return the ceilings; none if they were measured with other students than those of the report."""
    artifact = run.artifact("ceilings")
    content = json.loads((artifact.path / CEILINGS_FILE).read_text(encoding="utf-8"))
    students = run.seeds("vanilla_student")
    if content["seeds"] != list(students) or _student_versions(artifact, run) != _report_versions(run):
        return CeilingResults(
            note="The ceilings were measured with other students and are left out: materialize `ceilings` again."
        )
    return CeilingResults(content["rows"], content["share_of_gap_closed"], " ".join(content["notes"]))


def _report_versions(run: StageRun) -> dict[str, str]:
    stages = ("vanilla_student", "distilled_student")
    return {artifact.name: artifact.version for stage in stages for artifact in run.seeds(stage).values()}


def _student_versions(ceilings: Artifact, run: StageRun) -> dict[str, str]:
    """Return the versions of the report's students that the ceilings were computed from."""
    return {name: ceilings.inputs[name] for name in _report_versions(run) if name in ceilings.inputs}


def _floors(run: StageRun, data: ReportData) -> dict[str, Floor]:
    """Return the sampling floors at the number of generated trips; empty where no divergence is shown.

    Samples are of the training trips where these are enough for disjoint samples, and of the test trips otherwise.
    """
    generated = next(iter(first_generated(data).values()), None)
    num_trips = 0 if generated is None or generated.generated is None else len(generated.generated)
    if min(num_trips, len(data.real)) < MIN_TRIPS_FOR_JSD:
        return {}
    training = load_trips(run, "train")
    return jsd_floors(training if len(training) >= 2 * num_trips else data.real, data.network, num_trips)


def _latency(run: StageRun, data: ReportData) -> Iterator[Latency]:
    """Yield the times recorded by the stages: search with each student, baselines, and scoring by the teacher."""
    generated = run.seeds("generated_trajectories")
    for kind, results in data.students.items():
        speeds = [generated[seed].summary.get(f"{kind}_trips_a_second") for seed in results]
        known = [float(speed) for speed in speeds if speed]
        trips = [result.generated for result in results.values() if result.generated is not None]
        if known and trips:
            steps = np.mean([each.num_steps / len(each) for each in trips])
            yield _of_trip(f"{kind} student, search", float(np.mean([1000 / speed for speed in known])), float(steps))
    artifact = run.artifact("baseline_trips")
    for name in BASELINES.names():
        seconds, trips_of = artifact.summary.get(f"{name}_seconds"), data.baseline_trips.get(BASELINES[name].label)
        if seconds is not None and trips_of is not None:
            per_trip = 1000 * float(seconds) / len(trips_of)
            yield _of_trip(f"{BASELINES[name].label}, search", per_trip, trips_of.num_steps / len(trips_of))
    labels = run.artifact("teacher_soft_labels")
    splits = [split for split in SPLITS if (labels.path / f"{split}.arrow").is_file()]
    scored = [row for row in run.artifact("trajectories").summary["splits"] if row["split"] in splits]
    if scored and labels.seconds:
        count, steps_of = (sum(row[name] for row in scored) for name in ("trips", "steps"))
        yield _of_trip("teacher, scoring of the candidates", 1000 * labels.seconds / count, steps_of / count)


def latency_rows(data: ReportData) -> dict[str, list[dict[str, str | float]]]:
    """Return the latencies as a table of the artifact's summary; empty without any."""
    rows: list[dict[str, str | float]] = [
        {"model": each.name, "ms_per_trip": round(each.ms_per_trip, 3), "ms_per_step": round(each.ms_per_step, 4)}
        for each in data.latency
    ]
    return {"latency_on_this_machine": rows} if rows else {}


def _of_trip(name: str, ms_per_trip: float, steps: float) -> Latency:
    return Latency(name, ms_per_trip, ms_per_trip / max(steps, 1e-9))


def _files(run: StageRun) -> Iterator[FileLink]:
    """Yield the GeoParquet files of roads and trips, relative to the report's place in the store."""
    roads = run.artifact("road_network")
    candidates = [("roads", roads.path / "roads.parquet", roads)]
    for seed, artifact in run.seeds("generated_trajectories").items():
        candidates += [
            (f"trips of the {kind} student, seed {seed}", artifact.path / f"{kind}_lines.parquet", artifact)
            for kind in ("vanilla", "distilled")
        ]
    report = Path("distillation_report") / "version"  # <city>/distillation_report/<version>/report.html
    for label, file, artifact in candidates:
        if file.is_file():
            place = Path(artifact.name) / artifact.version / file.name
            yield FileLink(label, Path(os.path.relpath(place, report)).as_posix())
    yield FileLink("real test trips", REAL_LINES)


def write_real_lines(folder: Path, data: ReportData) -> None:
    """Write the real test trips as lines (GeoParquet) into the report's folder, for a map beside the generated ones."""
    real = data.real
    trips = GeneratedTrajectories(
        real.offsets,
        real.road_ids,
        real.times,
        real.ids,
        reached=np.ones(len(real), bool),
        expansions=np.zeros(len(real), np.int64),
    )
    write_lines([trips], data.network, folder / REAL_LINES)
