"""Stages of raw data: an OpenStreetMap extract and GPS points become roads and trips.

    osm_extract → road_network
    gps_points  → matched_trips → trajectories

For a city of another kind, `osm_extract`, `gps_points` and `matched_trips` are empty and nothing depends on them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hoser_kd.common.arrays import Int64Array, offsets_of
from hoser_kd.common.calendar import utc_offset_s
from hoser_kd.common.errors import DataError
from hoser_kd.common.files import write_json
from hoser_kd.common.progress import Progress
from hoser_kd.network import matched_quality as quality
from hoser_kd.network import sources
from hoser_kd.network.gps_cleaning import clean
from hoser_kd.network.gps_points import GpsPoints, PointsFile, write_points
from hoser_kd.network.gps_readers import read_points, trips_are_days
from hoser_kd.network.matching import MatchedTrips, TripMatcher
from hoser_kd.network.matching.left_out import without_left_out_roads
from hoser_kd.network.osm.extract import OsmWays, read_osm
from hoser_kd.network.osm.roads import build_all_roads, build_roads
from hoser_kd.network.raw_files import map_files, point_files
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.splits import divide
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.pipeline.graph import SOURCE_NOTE
from hoser_kd.pipeline.stage import StageRun

if TYPE_CHECKING:
    pass

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
    """Match the points to roads, batch by batch; writes Arrow IPC, Parquet and figures of the quality."""
    if not run.config.is_raw:
        return dict(_UNUSED)
    network = RoadNetwork.load(run.path("road_network"))
    every = build_all_roads(OsmWays.load(run.path("osm_extract")))
    settings = run.config.source.matching
    totals = quality.MatchTotals(network, _WORST)
    file = PointsFile(run.path("gps_points") / POINTS_FILE)
    with (
        TripMatcher(every, settings, settings.processes) as match,
        _Pieces(run.folder, str(run.config.source.points.time_zone)) as pieces,
    ):
        raw_trips = num_matched = 0
        for number in range(len(file)):
            points = file.batch(number)
            progress = _progress_of_points(run, points, num_matched, file.num_points)
            matched = match(points.offsets, points.t, points.lon, points.lat, progress)
            matched = without_left_out_roads(matched, network.num_roads, points.offsets, points.t, settings.min_roads)
            raw_trip = raw_trips + np.cumsum(points.parts == 0) - 1
            pieces.add(points, matched, raw_trip)
            totals.add(points, matched, raw_trip)
            raw_trips, num_matched = int(raw_trip[-1]) + 1, num_matched + points.num_points
    if totals.num_pieces == 0:
        hint = "Compare the extents of both; a common cause is latitude and longitude in the wrong order."
        raise DataError("gps_points", f"no trip runs along the roads: {totals.counts}.", hint=hint)
    _draw_quality(run.folder, network, totals)
    worst = [
        {
            "trip": each.trip,
            "mean_distance_m": round(each.distance_m, 1),
            "farthest_m": round(each.farthest_m, 1),
            "roads": len(each.roads),
        }
        for each in totals.worst
    ]
    return {**totals.summary(), "worst": worst}


def _progress_of_points(run: StageRun, points: GpsPoints, before: int, total: int) -> Progress:
    """Return a callback for the trips of a batch, which reports points of all batches."""

    def report(_: str, trips: int, __: int, ___: Mapping[str, float] | None = None) -> None:
        run.progress("match points", before + int(points.offsets[trips]), total)

    return report


class _Pieces:
    """Writes the pieces with local times, and the raw trip of each; context manager.

    This is the one place where times become local: a trip has the UTC offset of its start, so that its times never go
    back at the end of summer time.
    """

    def __init__(self, folder: Path, time_zone: str) -> None:
        self.folder = folder
        self.time_zone = time_zone
        self._trips: list[Trajectories] = []
        self._writer = pq.ParquetWriter(str(folder / PIECES_FILE), _PIECES_SCHEMA, compression="zstd")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._writer.close()
        if kind is None:
            _joined(self._trips).save(self.folder / TRIPS_FILE)

    def add(self, points: GpsPoints, matched: MatchedTrips, raw_trip: Int64Array) -> None:
        """Write the pieces of a batch; their roads stay in memory until the end."""
        row, trips = matched.input_trip, matched.trips
        first = np.searchsorted(raw_trip, raw_trip[row])  # the first part of the trip
        starts = points.start_times.astype(np.int64)[first]
        offset = utc_offset_s(starts, self.time_zone)
        number = _number_within(raw_trip[row])
        names = np.char.add(np.char.add(points.trip_ids[row].astype(str), "-"), number.astype(str)).astype(object)
        local = trips.times + np.repeat(offset, trips.lengths)
        self._trips.append(Trajectories(trips.offsets, trips.road_ids, local, names))
        columns = [
            pa.array(names, pa.string()),
            pa.array(points.trip_ids[row], pa.string()),
            pa.array(points.vehicle_ids[row], pa.string()),
            pa.array(raw_trip[row]),
            pa.array(starts + offset).cast(pa.timestamp("s")),
            pa.array(offset),
        ]
        self._writer.write_table(pa.table(columns, schema=_PIECES_SCHEMA))


_PIECES_SCHEMA = pa.schema(
    [
        ("trajectory_id", pa.string()),
        ("trip_id", pa.string()),
        ("vehicle_id", pa.string()),
        ("raw_trip", pa.int64()),
        ("trip_start", pa.timestamp("s")),
        ("utc_offset_s", pa.int64()),
    ]
)


def _number_within(groups: Int64Array) -> Int64Array:
    """Return 0, 1, 2, … within each run of equal values."""
    at = np.arange(len(groups))
    new = np.ones(len(groups), bool)
    new[1:] = groups[1:] != groups[:-1]
    number: Int64Array = at - np.maximum.accumulate(np.where(new, at, 0))
    return number


def _joined(parts: list[Trajectories]) -> Trajectories:
    lengths = [part.lengths for part in parts]
    return Trajectories(
        offsets_of(np.concatenate([np.zeros(0, np.int64), *lengths])),
        np.concatenate([np.zeros(0, np.int64), *(part.road_ids for part in parts)]),
        np.concatenate([np.zeros(0, np.int64), *(part.times for part in parts)]),
        np.concatenate([np.zeros(0, object), *(np.zeros(0, object) if p.ids is None else p.ids for p in parts)]),
    )


def _draw_quality(folder: Path, network: RoadNetwork, totals: quality.MatchTotals) -> None:
    """Write the distributions of the quality, and the map of the pieces that fit worst."""
    from hoser_kd import plots

    worst = totals.worst
    offsets = offsets_of(np.array([len(each.roads) for each in worst]))
    roads = np.concatenate([each.roads for each in worst])
    notes = [f"{each.trip}: {each.distance_m:.0f} m on average" for each in worst]
    trips = Trajectories(offsets, roads, np.zeros_like(roads))
    worst_map = plots.worst_map(network, trips, [each.places for each in worst], notes, range(len(worst)))
    (folder / "quality.png").write_bytes(plots.png(plots.quality_figure(totals.distributions())))
    (folder / "worst.png").write_bytes(plots.png(worst_map))


def divide_matched_trips(run: StageRun) -> tuple[dict[str, Trajectories], dict[str, Any]]:
    """Return the matched trips of each split, written as Arrow IPC, and what was counted.

    Copies across splits are counted, and removed from the later split where the settings say so.
    """
    folder, settings = run.path("matched_trips"), run.config.source.split
    trips = Trajectories.load(folder / TRIPS_FILE)
    pieces = pq.read_table(folder / PIECES_FILE)
    starts = pieces["trip_start"].cast(pa.int64()).to_numpy()
    parts, copies, removed = divide(trips, pieces["raw_trip"].to_numpy(), starts, settings, folder)
    for name, part in parts.items():
        part.save(run.folder / f"{name}.arrow")
    return parts, {"copies_across_splits": copies, "copies_removed": removed}
