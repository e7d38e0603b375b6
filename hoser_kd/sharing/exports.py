"""The file formats of a student's trips.

Shapes: n trips, P roads of all trips, C coordinates of all roads of all trips.
"""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import shapely

from hoser_kd.common.arrays import BoolArray, Float64Array, Int64Array, offsets_of, ranges, row_of_value
from hoser_kd.common.files import atomic_path

if TYPE_CHECKING:
    import pandas as pd

    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories


def stamps(seconds: Int64Array) -> Any:
    """Return (n,) seconds since 1970 as a pandas Series of datetimes without a time zone, as requests have them."""
    return pa.array(seconds, pa.timestamp("s")).to_pandas()


def trip_ids(trips: Trajectories) -> npt.NDArray[np.object_]:
    """Return the id of each trip, (n,) str; its number where it has none."""
    return np.arange(len(trips)).astype(str).astype(object) if trips.ids is None else np.asarray(trips.ids)


def write_csv(trips: Trajectories, origins: Int64Array, destinations: Int64Array, path: Path) -> None:
    """Write HOSER's columns and the requested roads, (n,) int64 each."""
    trips.to_hoser_csv(path)
    table = pa.csv.read_csv(
        path, convert_options=pa.csv.ConvertOptions(column_types=dict.fromkeys(_TEXTS, pa.string()))
    )
    table = table.append_column("origin_road_id", pa.array(origins))
    table = table.append_column("destination_road_id", pa.array(destinations))
    pa.csv.write_csv(table, str(path))


_TEXTS = ("traj_id", "rid_list", "time_list")


def write_geojson(
    trips: Trajectories, properties: pd.DataFrame, network: RoadNetwork, path: Path, *, with_times: bool
) -> None:
    """Write one LineString feature per trip, with a row of the frame as its properties.

    `with_times` adds height 0 and seconds since 1970 to each coordinate.
    """
    coords, offsets = timed_coordinates(trips, network)
    frame = properties.copy()
    for name in ("start_time", "end_time"):
        frame[name] = frame[name].dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    records = json.loads(frame.to_json(orient="records"))
    numbers = coords.tolist() if with_times else coords[:, :2].tolist()
    lines = [numbers[start:end] for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]
    features = [
        {"type": "Feature", "properties": record, "geometry": {"type": "LineString", "coordinates": line}}
        for record, line in zip(records, lines, strict=True)
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")


def timed_coordinates(trips: Trajectories, network: RoadNetwork) -> tuple[Float64Array, Int64Array]:
    """Return (C, 4) float64 lon, lat, 0, seconds since 1970 along the roads of all trips, and the offsets of trips.

    The time of a coordinate is interpolated by distance between the entries of its road and the next; on the last road
    of a trip it is that of entering it.
    """
    starts = network.coord_offsets[trips.road_ids]
    counts = network.coord_offsets[trips.road_ids + 1] - starts
    visit = np.repeat(np.arange(len(trips.road_ids)), counts)
    coords = network.coords[ranges(starts, counts)]
    piece = np.zeros(len(coords))
    piece[1:] = np.hypot(*(np.diff(coords, axis=0) * (np.cos(np.radians(coords[1:, 1]))[:, None] ** [1, 0])).T)
    along = np.cumsum(piece)
    first = offsets_of(counts)
    begin, end = along[first[:-1]], along[first[1:] - 1]
    share = (along - begin[visit]) / np.maximum(end - begin, 1e-12)[visit]
    following = np.append(trips.times[1:], 0)
    following[trips.offsets[1:] - 1] = trips.times[trips.offsets[1:] - 1]
    seconds = trips.times[visit] + share * (following - trips.times)[visit]
    trip = row_of_value(trips.offsets)[visit]
    keep = _distinct(coords, trip, len(trips))
    timed = np.column_stack([coords, np.zeros(len(coords)), np.round(seconds, 3)])[keep]
    return timed, offsets_of(np.bincount(trip[keep], minlength=len(trips)))


def _distinct(coords: Float64Array, trip: Int64Array, num_trips: int) -> BoolArray:
    """Return (C,) bool: coordinates that differ from the previous one of their trip, and both of a line without extent.

    Consecutive roads share a point.
    """
    keep = np.ones(len(coords), bool)
    keep[1:] = (coords[1:] != coords[:-1]).any(1) | (trip[1:] != trip[:-1])
    alone = np.bincount(trip[keep], minlength=num_trips) < 2
    return keep | alone[trip]


def write_libcity(trips: Trajectories, network: RoadNetwork, folder: str | PathLike[str]) -> None:
    """Write LibCity's atomic files of road-segment trajectories, one user per trip."""
    place = Path(folder)
    name = place.resolve().name
    trip = row_of_value(trips.offsets)
    origin = np.repeat(np.arange(network.num_roads), network.successors.degrees)
    tables = {
        "geo": {
            "geo_id": np.arange(network.num_roads),
            "type": ["LineString"] * network.num_roads,
            "coordinates": _coordinates(network),
            "highway": network.highway,
            "length": network.length_m,
        },
        "rel": {
            "rel_id": np.arange(len(origin)),
            "type": ["geo"] * len(origin),
            "origin_id": origin,
            "destination_id": network.successors.indices,
        },
        "usr": {"usr_id": np.arange(len(trips))},
        "dyna": {
            "dyna_id": np.arange(len(trip)),
            "type": ["trajectory"] * len(trip),
            "time": stamps(trips.times).dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "entity_id": trip,
            "traj_id": np.zeros(len(trip), np.int64),
            "location": trips.road_ids,
        },
    }
    for ending, columns in tables.items():
        with atomic_path(place / f"{name}.{ending}") as beside:
            pa.csv.write_csv(pa.table({key: pa.array(values) for key, values in columns.items()}), str(beside))
    with atomic_path(place / "config.json") as beside:
        beside.write_text(json.dumps(_libcity_config(name), indent=1) + "\n", encoding="utf-8")


def _coordinates(network: RoadNetwork) -> pa.Array:
    """Return the lines as JSON lists of lon, lat, (N,) str."""
    texts = pa.array(shapely.to_geojson(network.geometry))
    return pc.replace_substring_regex(texts, r'^.*"coordinates":(.*)\}$', r"\1")


def _libcity_config(name: str) -> dict[str, Any]:
    return {
        "geo": {"including_types": ["LineString"], "LineString": {"highway": "other", "length": "num"}},
        "usr": {"properties": {}},
        "rel": {"including_types": ["geo"], "geo": {}},
        "dyna": {
            "including_types": ["trajectory"],
            "trajectory": {"entity_id": "usr_id", "traj_id": "num", "location": "geo_id"},
        },
        "info": {"geo_file": name, "rel_file": name, "usr_file": name, "dyna_file": name},
    }
