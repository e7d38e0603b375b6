"""Stages of the network group: source files, roads, trips, centroids, zones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from hoser_kd.common.calendar import is_weekend
from hoser_kd.common.errors import DataError
from hoser_kd.common.files import write_json
from hoser_kd.network import road_network as roads_io
from hoser_kd.network import sources
from hoser_kd.network import zones as zones_of
from hoser_kd.network.importing.city_files import IDS_FILE
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.trajectories import SPLITS, Trajectories
from hoser_kd.network.trip_ingestion import ingest_trips
from hoser_kd.pipeline.graph import SOURCE_NOTE
from hoser_kd.pipeline.stage import StageRun
from hoser_kd.pipeline.stages.raw_data import build_network, divide_matched_trips, record_raw_files
from hoser_kd.pipeline.store import read_artifact


def source_files(run: StageRun) -> dict[str, Any]:
    """Find, generate or download the raw files; `source.json` records their folder, sizes and times."""
    if run.config.is_raw:
        return record_raw_files(run)
    folder = sources.fetch(run.config.source, run.folder / "city", run.progress)
    own = run.folder in folder.parents
    files = {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in sources.hoser_files(folder)}
    where = {"folder": str(folder.relative_to(run.folder)) if own else str(folder.absolute()), "files": files}
    content = sources.content_digest(folder)
    write_json(run.folder / SOURCE_NOTE, where)
    kept = sources.hoser_files(folder) + [path for path in [folder / IDS_FILE] if own and path.is_file()]
    rows = [{"file": path.name, "mib": round(path.stat().st_size / 2**20, 3)} for path in kept]
    return {
        "kind": run.config.source.kind,
        "folder": str(folder.name if own else folder),
        "content": content,
        "files": rows,
    }


def source_folder(artifact: Path) -> Path:
    """Return the folder of the raw files of a `source_files` artifact.

    Raises:
        DataError: a file outside the store is missing or has another content; a copy with the same content is fine.
    """
    where = json.loads((artifact / SOURCE_NOTE).read_text(encoding="utf-8"))
    folder: Path = artifact / where["folder"]  # an absolute folder replaces the artifact's
    if folder.is_relative_to(artifact):
        return folder
    newer = None
    for name, known in where["files"].items():
        file = folder / name
        if not file.is_file():
            raise DataError(
                file,
                "no such file, although source_files read it.",
                hint="Restore it, or materialize source_files again.",
            )
        if [file.stat().st_size, file.stat().st_mtime_ns] != known:
            newer = file
    if newer is not None and sources.content_digest(folder) != read_artifact(artifact).summary["content"]:
        raise DataError(
            newer,
            "the file has changed since source_files read it.",
            hint="Materialize source_files again, and then its downstream stages.",
        )
    return folder


def road_network(run: StageRun) -> dict[str, Any]:
    """Read and validate the roads; writes GeoParquet, Parquet and a map."""
    from hoser_kd import plots

    if run.config.is_raw:
        network, more = build_network(run)
    else:
        folder = source_folder(run.path("source_files"))
        network, more = roads_io.read_network(folder, run.config.source.on_duplicate_connection), {}
    network.save(run.folder)
    (run.folder / "map.png").write_bytes(plots.png(plots.network_map(network)))
    degrees = network.successors.degrees
    per_class = [
        {"highway": name, "roads": int(count), "km": round(float(km), 1)}
        for name, count, km in zip(
            network.highway_names,
            np.bincount(network.road_type),
            np.bincount(network.road_type, weights=network.length_m) / 1000,
            strict=True,
        )
    ]
    return {
        "num_roads": network.num_roads,
        "num_connections": len(network.successors.indices),
        **({"dropped_connections": network.dropped_connections} if network.dropped_connections else {}),
        "length_km": round(float(network.length_m.sum()) / 1000, 1),
        "dead_ends": int((degrees == 0).sum()),
        "most_candidates": int(degrees.max()),
        "mean_candidates": round(float(degrees.mean()), 3),
        "classes": sorted(per_class, key=lambda row: -int(str(row["roads"]))),
        **more,
    }


def load_network(run: StageRun) -> RoadNetwork:
    """Return the road network among the inputs of a run."""
    return RoadNetwork.load(run.path("road_network"))


def load_trips(run: StageRun, split: str) -> Trajectories:
    """Return the trips of a split among the inputs of a run, memory-mapped."""
    return Trajectories.load(run.path("trajectories") / f"{split}.arrow")


def trajectories(run: StageRun) -> dict[str, Any]:
    """Read and validate the trips of every split; writes Arrow IPC."""
    network = load_network(run)
    if run.config.is_raw:
        parts, more = divide_matched_trips(run)
        rows = [_split_row(split, trips, network) for split, trips in parts.items()]
        return {**_totals(rows, {}), **more, "splits": rows}
    source = source_folder(run.path("source_files"))
    rows = []
    dropped: dict[str, int] = {}
    for split in SPLITS:
        file, target = source / f"{split}.csv", run.folder / f"{split}.arrow"
        trips = ingest_trips(file, network, run.config.source.on_bad_row, target)
        rows.append(_split_row(split, trips, network))
        for reason, count in trips.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
    return {**_totals(rows, dropped), "splits": rows}


def _totals(rows: list[dict[str, Any]], dropped: dict[str, int]) -> dict[str, Any]:
    return {
        "num_trips": sum(row["trips"] for row in rows),
        "num_steps": sum(row["steps"] for row in rows),
        "dropped": sum(dropped.values()),
        "dropped_by_reason": dropped,
    }


def _split_row(split: str, trips: Trajectories, network: RoadNetwork) -> dict[str, Any]:
    is_choice = network.successors.degrees > 1
    choices = 0
    for part in trips.chunks():
        at, _ = part.step_positions()
        choices += int(is_choice[part.road_ids[at]].sum())
    return {
        "split": split,
        "trips": len(trips),
        "steps": trips.num_steps,
        "median_roads": float(np.median(trips.lengths)),
        "most_roads": int(trips.lengths.max()),
        "steps_with_a_choice": round(choices / max(trips.num_steps, 1), 3),
        "on_weekends": round(float(is_weekend(trips.start_times).mean()), 3),
        "first": str(np.datetime64(int(trips.start_times.min()), "s")),
        "last": str(np.datetime64(int(trips.start_times.max()), "s")),
    }


def road_centroids(run: StageRun) -> dict[str, Any]:
    """Compute the centroid of every road with geopandas; writes GeoParquet."""
    centroids = load_network(run).centroids_frame()
    centroids.to_parquet(run.folder / "road_centroids.parquet", compression="zstd")
    west, south, east, north = (round(float(edge), 6) for edge in centroids.total_bounds)
    return {
        "num_roads": len(centroids),
        "crs": str(centroids.crs),
        "min_lat": south,
        "max_lat": north,
        "min_lng": west,
        "max_lng": east,
    }


def road_zones(run: StageRun) -> dict[str, Any]:
    """Read the partition that the data set ships, or compute one; writes Parquet and a map."""
    from hoser_kd import plots

    network = load_network(run)
    shipped = None
    if run.config.zones.use_shipped and not run.config.is_raw:
        shipped = zones_of.read_shipped(source_folder(run.path("source_files")), network)
    zones = shipped.zones if shipped else zones_of.partition(network, run.config.zones)
    if shipped and shipped.transitions is not None:
        np.save(run.folder / "shipped_transitions.npy", shipped.transitions, allow_pickle=False)
    table = pa.table({"road_id": np.arange(network.num_roads), "zone": zones})
    pq.write_table(table, run.folder / "road_zones.parquet", compression="zstd")
    (run.folder / "map.png").write_bytes(plots.png(plots.zones_map(network, zones)))
    sizes = np.bincount(zones)
    return {
        "num_zones": len(sizes),
        "shipped": shipped is not None,
        "smallest": int(sizes.min()),
        "largest": int(sizes.max()),
    }


def load_zones(run: StageRun) -> npt.NDArray[np.int64]:
    """Return the zone of every road among the inputs of a run, (N,) int64."""
    table = pq.read_table(run.path("road_zones") / "road_zones.parquet")
    zones: npt.NDArray[np.int64] = table["zone"].to_numpy()
    return zones


def zone_transitions(run: StageRun) -> dict[str, Any]:
    """Take the shipped counts, or count zone changes in training trips; a NumPy file of (Z, Z) int64."""
    zones = load_zones(run)
    shipped = run.path("road_zones") / "shipped_transitions.npy"
    if shipped.is_file():
        counts = np.load(shipped, allow_pickle=False)
    else:
        counts = zones_of.transitions(zones, load_trips(run, "train"), int(zones.max()) + 1)
    np.save(run.folder / "zone_transitions.npy", counts, allow_pickle=False)
    return {
        "num_zones": len(counts),
        "shipped": shipped.is_file(),
        "linked_pairs": int((counts > 0).sum()),
        "transitions": int(counts.sum()),
    }


def load_transitions(run: StageRun) -> npt.NDArray[np.int64]:
    """Return the counts between zones among the inputs of a run, (Z, Z) int64."""
    counts: npt.NDArray[np.int64] = np.load(run.path("zone_transitions") / "zone_transitions.npy", allow_pickle=False)
    return counts
