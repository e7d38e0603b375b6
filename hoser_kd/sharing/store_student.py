"""A student of the artifact store, with its road network, its metrics and its lineage, read from the files alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hoser_kd.common.errors import CheckpointError, StoreError
from hoser_kd.network.road_network import CONNECTIONS_FILE, ROADS_FILE, RoadNetwork
from hoser_kd.pipeline.store import Artifact, read_artifact
from hoser_kd.sharing.student import Student

if TYPE_CHECKING:
    import pandas as pd

STUDENT_STAGES = ("vanilla_student", "distilled_student")
TIME_CONVENTION = {
    "unit": "s",
    "epoch": "1970-01-01T00:00:00",
    "clock": "the clock of the training trips, without a time zone: local times stay local times",
}
_SKIPPED_COLUMNS = {"type", "coordinates", "length", "highway", "road_id", "length_m", "geometry"}
"""Columns of `roadmap.geo` that the road table has already."""


def read_student(folder: Path) -> Student:
    """Load a student's folder of the store; its network is that of the same city and store, in the recorded version.

    The source's ids are read from `roadmap.geo` where that file still exists; a missing network leaves `network` None.
    Raises CheckpointError if the artifact is another stage's or damaged.
    """
    from hoser_kd.hoser.checkpoint import load

    artifact = _artifact(folder)
    if problem := artifact.integrity_error():
        raise CheckpointError(f"{folder}: damaged: {problem}. Materialize {artifact.stage} again, or restore the file.")
    model = load(folder)
    city = city_folder(artifact)
    roads = city / "road_network" / artifact.inputs.get("road_network", "")
    has_roads = (roads / ROADS_FILE).is_file() and (roads / CONNECTIONS_FILE).is_file()
    network = RoadNetwork.load(roads) if has_roads else None
    return Student(model, network, describe(artifact), source_ids(city, roads) if has_roads else None)


def _artifact(folder: Path) -> Artifact:
    try:
        artifact = read_artifact(folder)
    except StoreError as error:
        raise CheckpointError(str(error)) from None
    if artifact.stage not in STUDENT_STAGES:
        raise CheckpointError(
            f"{folder}: an artifact of {artifact.stage}, not a student. Give a folder of {' or '.join(STUDENT_STAGES)}."
        )
    return artifact


def city_folder(artifact: Artifact) -> Path:
    """Return the folder of the artifact's city in its store."""
    return artifact.path.resolve().parents[len(Path(artifact.name).parts)]


def describe(artifact: Artifact) -> dict[str, Any]:
    """Return what is known of a student: origin, time convention, metrics, settings, lineage; JSON values."""
    city = city_folder(artifact)
    summary = artifact.summary
    numbers = {key: value for key, value in summary.items() if isinstance(value, int | float | str)}
    return {
        "city": artifact.city,
        "stage": artifact.stage,
        "seed": artifact.seed,
        "store_version": artifact.version,
        "created_at": artifact.created_at,
        "time_convention": {**TIME_CONVENTION, **_time_range(city, artifact)},
        "metrics": {"training": numbers, "test": test_metrics(city, artifact)},
        "settings": dict(artifact.settings),
        "lineage": lineage(city, artifact),
    }


def _time_range(city: Path, artifact: Artifact) -> dict[str, str]:
    """Return first and last start time of the training trips; empty where their record is missing."""
    record = _record(city, "trajectories", artifact.inputs.get("trajectories", ""))
    splits = record.summary.get("splits", []) if record else []
    train = next((row for row in splits if row.get("split") == "train"), None)
    return {} if train is None else {"first_training_trip": train["first"], "last_training_trip": train["last"]}


def lineage(city: Path, artifact: Artifact) -> list[dict[str, Any]]:
    """Return the student and the artifacts that it depends on, each once: name, version, code version, time, inputs."""
    rows: dict[str, dict[str, Any]] = {}
    waiting: list[tuple[str, str]] = [(artifact.name, artifact.version)]
    while waiting:
        name, version = waiting.pop(0)
        if f"{name} {version}" in rows:
            continue
        record = _record(city, name, version)
        row: dict[str, Any] = {"name": name, "version": version}
        if record is not None:
            row |= {
                "code_version": record.code_version,
                "created_at": record.created_at,
                "inputs": dict(record.inputs),
            }
            waiting += list(record.inputs.items())
        rows[f"{name} {version}"] = row
    return list(rows.values())


def test_metrics(city: Path, artifact: Artifact) -> dict[str, float]:
    """Return the metrics on test trips that `trajectory_metrics` has for this very student; empty if there are none."""
    kind = artifact.stage.removesuffix("_student")
    name = f"trajectory_metrics/seed-{artifact.seed}"
    records = [_record(city, name, folder.name) for folder in (city / name).glob("*")]
    own = [record for record in records if record and record.inputs.get(artifact.name) == artifact.version]
    if not own:
        return {}
    rows = max(own, key=lambda record: record.created_at).summary.get("comparison", [])
    return {row["metric"]: row[kind] for row in rows if "metric" in row and isinstance(row.get(kind), int | float)}


def source_ids(city: Path, roads: Path) -> pd.DataFrame | None:
    """Return the ids of the roads in `roadmap.geo`, one row per road: geo_id, and columns such as u, v or osmid.

    None where the file is not there any more; the row numbers are `geo_id` then too.
    """
    import pyarrow as pa
    import pyarrow.csv

    record = _record(city, "road_network", roads.name)
    source = None if record is None else _record(city, "source_files", record.inputs.get("source_files", ""))
    if source is None:
        return None
    try:
        note = json.loads((source.path / "source.json").read_text(encoding="utf-8"))
        file = source.path / note["folder"] / "roadmap.geo"
        if file.stat().st_size != note["files"]["roadmap.geo"][0]:
            return None
        table = pa.csv.read_csv(file)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    kept = [name for name in table.column_names if name not in _SKIPPED_COLUMNS]
    frame: pd.DataFrame = table.select(kept).to_pandas()
    return frame if "geo_id" in kept and record is not None and len(frame) == record.summary["num_roads"] else None


def _record(city: Path, name: str, version: str) -> Artifact | None:
    """Return the record of an artifact; None where it is missing or damaged."""
    try:
        return read_artifact(city / name / version) if version else None
    except StoreError:
        return None
