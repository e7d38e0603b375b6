"""Stages of raw data: an OpenStreetMap extract and GPS points become roads and trips.

    osm_extract → road_network
    gps_points  → matched_trips → trajectories

For a city of another kind, `osm_extract`, `gps_points` and `matched_trips` are empty and nothing depends on them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hoser_kd import plots
from hoser_kd.common.arrays import Int64Array
from hoser_kd.common.calendar import utc_offset_s
from hoser_kd.common.errors import DataError
from hoser_kd.common.files import write_json
from hoser_kd.network import matched_quality as quality
from hoser_kd.network import sources
from hoser_kd.network.gps_cleaning import clean
from hoser_kd.network.gps_points import GpsPoints, PointsFile, write_points
from hoser_kd.network.gps_readers import read_points, trips_are_days
from hoser_kd.network.matching import MatchedTrips, match_trips
from hoser_kd.network.osm.extract import OsmWays, read_osm
from hoser_kd.network.osm.roads import build_roads
from hoser_kd.network.raw_files import map_files, point_files
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.splits import copies_of_earlier_splits, split_pieces
from hoser_kd.network.trajectories import SPLITS, Trajectories
from hoser_kd.pipeline.graph import SOURCE_NOTE, StageRun

POINTS_FILE = "points.parquet"
TRIPS_FILE = "trips.arrow"
PIECES_FILE = "pieces.parquet"
_UNUSED = {"enabled": False}
_WORST = 6
"""Trips on the map of the worst."""


def record_raw_files(run: StageRun) -> dict[str, Any]:
    """Write `source.json` for raw data: sizes and times of the extract and of the files with GPS points."""
    source = run.config.source
    files = [*map_files(source.map), *point_files(source.points)]
    states = {str(path.absolute()): [path.stat().st_size, path.stat().st_mtime_ns] for path in files}
    write_json(run.folder / SOURCE_NOTE, {"folder": str(files[0].parent.absolute()), "files": states})
    rows = [{"file": path.name, "mib": round(path.stat().st_size / 2**20, 3)} for path in files]
    content = sources.kind_of(source).content(source)
    return {"kind": source.kind, "folder": str(files[0].parent), "content": content, "files": rows}


def osm_extract(run: StageRun) -> dict[str, Any]:
    """Read the drivable ways of the extract; writes Parquet."""
    if not run.config.is_raw:
        return dict(_UNUSED)
    ways = read_osm(run.config.source.map)
    ways.save(run.folder)
    return {"pieces_of_ways": len(ways), "nodes": len(ways.node_id), **ways.counts}


def build_network(run: StageRun) -> tuple[RoadNetwork, dict[str, Any]]:
    """Return the roads of the extract and their metrics; writes what each road is in OpenStreetMap."""
    roads = build_roads(OsmWays.load(run.path("osm_extract")))
    roads.save(run.folder)
    removed = roads.removed / (roads.removed + roads.network.num_roads)
    ways = len(np.unique(roads.way_id))
    return roads.network, {"osm_ways": ways, "roads_removed": roads.removed, "removed_share": round(removed, 5)}


def gps_points(run: StageRun) -> dict[str, Any]:
    """Read and clean the GPS points, batch by batch; writes Parquet."""
    if not run.config.is_raw:
        return dict(_UNUSED)
    settings = run.config.source.points
    counts: Counter[str] = Counter()
    num_read = num_kept = 0

    def batches() -> Iterator[GpsPoints]:
        nonlocal num_read, num_kept
        for points in read_points(settings, counts):
            kept = clean(points, settings, counts, by_day=trips_are_days(settings))
            num_read, num_kept = num_read + points.num_points, num_kept + kept.num_points
            run.progress("gps_points", num_read, num_read + 1)
            yield kept

    trips = write_points(run.folder / POINTS_FILE, batches())
    if trips == 0:
        hint = "See what was left out, and change `source.points`."
        raise DataError(settings.path or "", f"no trip is left after cleaning: {dict(counts)}.", hint=hint)
    counts.pop("points_read", None)
    return {
        "trips": trips,
        "points": num_kept,
        "points_read": num_read,
        "points_kept_share": round(num_kept / num_read, 5),
        "cleaning": dict(counts),
    }


def matched_trips(run: StageRun) -> dict[str, Any]:
    """Match the points to roads; writes Arrow IPC, Parquet and figures of the quality."""
    if not run.config.is_raw:
        return dict(_UNUSED)
    network = RoadNetwork.load(run.path("road_network"))
    points = PointsFile(run.path("gps_points") / POINTS_FILE).all()
    settings = run.config.source.matching
    matched = match_trips(
        points.offsets,
        points.t,
        points.lon,
        points.lat,
        network,
        settings,
        processes=settings.processes,
        progress=run.progress,
    )
    if len(matched.trips) == 0:
        hint = "Compare the extents of both; a common cause is latitude and longitude in the wrong order."
        raise DataError("gps_points", f"no trip runs along the roads: {matched.counts}.", hint=hint)
    raw_trip = np.cumsum(points.parts == 0) - 1
    _write_pieces(run, points, matched, raw_trip)
    measures = quality.measure_pieces(points, matched, network)
    worst = quality.worst_pieces(measures, _WORST)
    _draw(run.folder, points, matched, network, measures, worst)
    trips = points.trip_ids[matched.input_trip[worst]].tolist()
    return {
        **quality.summarize(points, matched, measures, network, raw_trip),
        "worst": [
            {
                "trip": name,
                "mean_distance_m": round(float(measures.distance_m[row]), 1),
                "farthest_m": round(float(measures.farthest_m[row]), 1),
                "roads": int(matched.trips.lengths[row]),
            }
            for name, row in zip(trips, worst.tolist(), strict=True)
        ],
    }


def _write_pieces(run: StageRun, points: GpsPoints, matched: MatchedTrips, raw_trip: Int64Array) -> None:
    """Write the pieces with local times, and the raw trip of each.

    This is the one place where times become local: a trip has the UTC offset of its start, so that its times never go
    back at the end of summer time.
    """
    row = matched.input_trip
    starts = points.start_times.astype(np.int64)[np.flatnonzero(points.parts == 0)][raw_trip[row]]
    offset = utc_offset_s(starts, str(run.config.source.points.time_zone))
    trips = matched.trips
    new = np.ones(len(row), bool)
    new[1:] = np.diff(raw_trip[row]) != 0
    at = np.arange(len(row))
    number = at - np.maximum.accumulate(np.where(new, at, 0))
    names = np.char.add(np.char.add(points.trip_ids[row].astype(str), "-"), number.astype(str)).astype(object)
    local = trips.times + np.repeat(offset, trips.lengths)
    Trajectories(trips.offsets, trips.road_ids, local, names).save(run.folder / TRIPS_FILE)
    table = {
        "trajectory_id": pa.array(names, pa.string()),
        "trip_id": pa.array(points.trip_ids[row], pa.string()),
        "vehicle_id": pa.array(points.vehicle_ids[row], pa.string()),
        "raw_trip": raw_trip[row],
        "trip_start": pa.array(starts + offset).cast(pa.timestamp("s")),
        "utc_offset_s": offset,
    }
    pq.write_table(pa.table(table), run.folder / PIECES_FILE, compression="zstd")


def _draw(
    folder: Path,
    points: GpsPoints,
    matched: MatchedTrips,
    network: RoadNetwork,
    measures: quality.PieceMeasures,
    worst: Int64Array,
) -> None:
    """Write `quality.png`, the distributions, and `worst.png`, the map of the pieces that fit worst."""
    piece = quality.piece_of_point(points, matched)
    values = {
        "distance to the road, m": matched.point_distance_m[piece >= 0],
        "longest gap of a trip, s": measures.longest_gap_s,
        "speed, m/s": measures.speed_m_s,
        "path over straight line": measures.detour,
        "roads of a trip": matched.trips.lengths.astype(np.float64),
        "pieces per trip": np.bincount(matched.input_trip)[np.unique(matched.input_trip)].astype(np.float64),
    }
    (folder / "quality.png").write_bytes(plots.png(plots.quality_figure(values)))
    places = [np.column_stack([points.lon, points.lat])[piece == row] for row in worst.tolist()]
    notes = [
        f"{points.trip_ids[matched.input_trip[row]]}: {measures.distance_m[row]:.0f} m on average"
        for row in worst.tolist()
    ]
    figure = plots.worst_map(network, matched.trips, places, notes, worst.tolist())
    (folder / "worst.png").write_bytes(plots.png(figure))


def divide_matched_trips(run: StageRun) -> tuple[dict[str, Trajectories], dict[str, Any]]:
    """Return the matched trips of each split, written as Arrow IPC, and what was counted.

    Copies across splits are counted, and removed from the later split where the settings say so.
    """
    folder, settings = run.path("matched_trips"), run.config.source.split
    trips = Trajectories.load(folder / TRIPS_FILE)
    pieces = pq.read_table(folder / PIECES_FILE)
    starts = pieces["trip_start"].cast(pa.int64()).to_numpy()
    split = split_pieces(pieces["raw_trip"].to_numpy(), starts, settings, folder)
    copies = copies_of_earlier_splits(trips, split)
    kept = ~copies if settings.remove_copies else np.ones(len(trips), bool)
    parts: dict[str, Trajectories] = {}
    for number, name in enumerate(SPLITS):
        parts[name] = trips.take(np.flatnonzero((split == number) & kept))
        if len(parts[name]) == 0:
            hint = "Set `source.split.remove_copies: false`, or use other trips."
            raise DataError(folder, f"all trips of {name} are copies of trips of an earlier split.", hint=hint)
        parts[name].save(run.folder / f"{name}.arrow")
    removed = int(copies.sum()) if settings.remove_copies else 0
    return parts, {"copies_across_splits": int(copies.sum()), "copies_removed": removed}
