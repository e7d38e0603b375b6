"""Write cities: a folder in HOSER's format with the map of road ids, and LibCity's atomic files.

Shapes: N roads, L connections, n trips.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from hoser_kd.common.arrays import Int64Array, row_of_value
from hoser_kd.common.errors import DataError
from hoser_kd.common.files import atomic_path, write_json
from hoser_kd.network.importing.city_files import IDS_FILE
from hoser_kd.network.importing.roads import ImportedRoads
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.trajectories import SPLITS, Trajectories

SHARES = (0.7, 0.1, 0.2)
"""Shares of training, validation and test trips where the source has no splits."""


def write_city(folder: Path, roads: ImportedRoads, trips: Mapping[str, Trajectories]) -> Path:
    """Write roadmap.geo, roadmap.rel, a CSV per split, and `IDS_FILE`; return the folder.

    Raises DataError if the folder exists and is not empty.
    """
    require_empty(folder)
    write_network(folder, roads.network)
    ids = pa.table({"geo_id": np.arange(roads.network.num_roads), "old_id": roads.source_ids})
    _write(folder / IDS_FILE, ids)
    for split, part in trips.items():
        with atomic_path(folder / f"{split}.csv") as target:
            part.to_hoser_csv(target)
    return folder


def require_empty(folder: Path) -> None:
    """Raise DataError if a path exists and is not an empty folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(folder, "is not an empty folder.", hint="Give a new folder.")


def write_network(folder: Path, network: RoadNetwork, stem: str = "roadmap") -> None:
    """Write `<stem>.geo` and `<stem>.rel`; coordinates have 7 decimals, about 1 cm."""
    points = np.char.mod("%.7f", network.coords)
    pairs = pc.binary_join_element_wise("[", pa.array(points[:, 0]), ", ", pa.array(points[:, 1]), "]", "")
    lines = pc.binary_join(pa.ListArray.from_arrays(pa.array(network.coord_offsets, pa.int32()), pairs), ", ")
    roads = {
        "geo_id": np.arange(network.num_roads),
        "type": pa.array(["LineString"] * network.num_roads),
        "coordinates": pc.binary_join_element_wise("[", lines, "]", ""),
        "highway": pa.array(network.highway, pa.string()),
        "length": network.length_m,
    }
    connections = {
        "rel_id": np.arange(len(network.successors.indices)),
        "type": pa.array(["geo"] * len(network.successors.indices)),
        "origin_id": row_of_value(network.successors.indptr),
        "destination_id": network.successors.indices,
    }
    _write(folder / f"{stem}.geo", pa.table(roads))
    _write(folder / f"{stem}.rel", pa.table(connections))


def split_by_start(trips: Trajectories, of_trip: Int64Array | None = None) -> dict[str, Trajectories]:
    """Return training, validation and test trips in the order of their start times, 70, 10 and 20 %.

    `of_trip` (n,) int64 is the number of the trip that each piece belongs to; the pieces of one trip stay together, in
    place of its first one. None: each is a trip.

    Raises ValueError if there are fewer than three trips.
    """
    numbers = np.arange(len(trips)) if of_trip is None else of_trip
    _, first, trip = np.unique(numbers, return_index=True, return_inverse=True)
    count = len(first)
    if count < len(SPLITS):
        raise ValueError(f"{count} trips cannot be split into {len(SPLITS)} sets.")
    rank = np.empty(count, np.int64)
    rank[np.argsort(trips.start_times[first], kind="stable")] = np.arange(count)
    order = np.argsort(rank[trip], kind="stable")
    last = np.maximum(np.round(np.cumsum(SHARES)[:-1] * count).astype(np.int64), [1, 2])
    last = np.minimum(last, [count - 2, count - 1])
    cuts = np.searchsorted(rank[trip][order], last)
    return {split: trips.take(rows) for split, rows in zip(SPLITS, np.split(order, cuts), strict=True)}


def write_libcity(folder: Path, name: str, network: RoadNetwork, trips: Mapping[str, Trajectories]) -> Path:
    """Write LibCity's atomic files `<name>.geo`, `.rel`, one `.dyna` per split, and config.json; return the folder.

    A `.dyna` has a row per road: dyna_id, type, time, entity_id, location, traj_id.

    Raises DataError if the folder exists and is not empty.
    """
    require_empty(folder)
    write_network(folder, network, name)
    for split, part in trips.items():
        _write(folder / f"{name}_{split}.dyna", _dyna(part))
    geo = {"including_types": ["LineString"], "LineString": {"highway": "other", "length": "num"}}
    relation = {"including_types": ["geo"], "geo": {}}
    dyna = {"including_types": ["trajectory"], "trajectory": {"entity_id": "usr_id", "location": "geo_id"}}
    info = {"geo_file": name, "rel_file": name, "set_weight_link_or_dist": "link", "init_weight_inf_or_zero": "zero"}
    write_json(folder / "config.json", {"geo": geo, "rel": relation, "dyna": dyna, "info": info})
    return folder


def _dyna(trips: Trajectories) -> pa.Table:
    trip = row_of_value(trips.offsets)
    ids = np.arange(len(trips)).astype(str) if trips.ids is None else trips.ids
    stamps = pa.array(trips.times, pa.timestamp("s", tz="UTC"))
    return pa.table(
        {
            "dyna_id": np.arange(len(trip)),
            "type": pa.array(["trajectory"] * len(trip)),
            "time": pc.strftime(stamps, format="%Y-%m-%dT%H:%M:%SZ"),
            "entity_id": np.zeros(len(trip), np.int64),
            "location": trips.road_ids,
            "traj_id": pa.array(ids, pa.string()).take(pa.array(trip)),
        }
    )


def _write(path: Path, table: pa.Table) -> None:
    with atomic_path(path) as part:
        pa.csv.write_csv(table, str(part))
