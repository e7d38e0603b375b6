"""Matched trips of other tools as road ids with entry times.

A layout reads one kind of table; it is chosen by its columns. Ids are those of the source, and become roads by the map
of `ImportedRoads`. Connections and times are validated afterwards, by the same checks as every city in HOSER's format.

Shapes: n trips, P roads of all trips.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from hoser_kd.common.arrays import Float64Array, Int64Array, offsets_of, row_of_value
from hoser_kd.common.errors import DataError
from hoser_kd.network.importing.fmm import point_times_to_entry_times
from hoser_kd.network.importing.roads import ImportedRoads
from hoser_kd.network.importing.tables import column_of, lists_of, name_column, plain_ids, read_table, texts_of
from hoser_kd.network.importing.times import local_seconds
from hoser_kd.network.importing.valhalla import is_valhalla, read_valhalla
from hoser_kd.network.trajectories import Trajectories

ROLES: Mapping[str, tuple[str, ...]] = {
    "roads": ("rid_list", "gene_trace_road_id", "path", "cpath", "road_ids", "roads", "edges"),
    "times": ("time_list", "gene_trace_datetime", "tlist", "timestamps", "timestamp", "times"),
    "trip_id": ("traj_id", "trip_id", "trajectory_id", "id", "mm_id"),
    "point_roads": ("opath",),
    "offset": ("offset",),
    "entity": ("entity_id", "usr_id", "vehicle_id"),
    "location": ("location", "road_id", "geo_id"),
    "time": ("time", "timestamp"),
}
"""Names of columns for each role, lower case, in the order of preference."""
TIMES_HINT = (
    "A trip needs the time at which each road is entered, or of each GPS point (FMM): add a column time_list, tlist or "
    "timestamp, or match the GPS points with this project."
)


class _Lists(NamedTuple):
    """Trips of a file before their ids are looked up; rows are trips, in the order of the file."""

    offsets: Int64Array
    """(n + 1,) int64."""
    roads: pa.StringArray
    """(P,) source ids."""
    times: Float64Array
    """(P,) float64 seconds."""
    names: pa.StringArray
    """(n,) ids of the trips."""


def read_imported_trips(
    path: Path,
    roads: ImportedRoads,
    time_zone: str | None = None,
    columns: Mapping[str, str] | None = None,
    layout: str | None = None,
) -> Trajectories:
    """Read the trips of a file and look their road ids up; times are whole seconds, rounded down.

    Kinds: HOSER's CSV, the published generator's, START (`path`, `tlist`), LibCity's `.dyna` (a row per road), FMM
    (`cpath` with times per road, or `opath` with times per GPS point), and JSON Lines of Valhalla's `trace_attributes`.

    `time_zone` is the city's, such as Europe/Lisbon (see `importing.times`). `columns` names columns by the keys of
    `ROLES`, where the usual names do not apply. `layout` is one of `LAYOUTS`; None: it is found by the columns.

    Raises:
        DataError: a file or column is missing, an id is unknown, or a time cannot be read.
        ConfigError: an unknown time zone.
    """
    return read_imported_pieces(path, roads, time_zone, columns, layout)[0]


def read_imported_pieces(
    path: Path,
    roads: ImportedRoads,
    time_zone: str | None = None,
    columns: Mapping[str, str] | None = None,
    layout: str | None = None,
) -> tuple[Trajectories, Int64Array]:
    """Return the trips of `read_imported_trips`, and the number of the trip of the file that each is a piece of.

    The latter is (n,) int64; only trips of Valhalla can have several pieces.
    """
    if layout == "valhalla" or (layout is None and is_valhalla(path)):
        return read_valhalla(path, roads.network, time_zone)
    frame = read_table(path)
    read = _layout_of(path, frame, columns or {}, layout)
    lists = read(path, frame, roads, time_zone, columns or {})
    if (empty := np.flatnonzero(np.diff(lists.offsets) == 0)).size:
        raise DataError(path, "a trip has no roads.", row=int(empty[0]), hint="Remove the row.")
    rows = roads.rows_of(lists.roads)
    if (rows < 0).any():
        at = int(np.argmax(rows < 0))
        row = int(row_of_value(lists.offsets)[at])
        unknown = len(np.unique(np.asarray(lists.roads)[rows < 0]))
        hint = f"{unknown} ids of the file are unknown. Ids must be those of the roads file, in the same spelling."
        raise DataError(path, f"{lists.roads[at].as_py()[:60]!r} is not the id of a road.", row=row, hint=hint)
    names = np.asarray(lists.names.to_pandas(), object)
    trips = Trajectories(lists.offsets, rows, np.floor(lists.times).astype(np.int64), names)
    return trips, np.arange(len(trips))


_Layout = Callable[[Path, pd.DataFrame, ImportedRoads, str | None, Mapping[str, str]], _Lists]


_NEEDS: Mapping[str, tuple[str, ...]] = {
    "fmm": ("roads", "times"),
    "start": ("roads", "times"),
    "libcity": ("location", "time"),
}
"""Roles of the columns that each layout of a table needs."""
LAYOUTS = (*_NEEDS, "valhalla")
"""Layouts of trips by the names of their tools. `start` is lists of roads and times, as in HOSER's CSV too."""


def _layout_of(path: Path, frame: pd.DataFrame, chosen: Mapping[str, str], layout: str | None) -> _Layout:
    """Return the reader of a layout, by its columns if None. Raises DataError naming what is missing."""
    present = {role for role in ROLES if column_of(path, frame, role, ROLES, chosen) is not None}
    layout = _recognized(present) if layout is None else layout
    readers: Mapping[str | None, _Layout] = {"fmm": _fmm, "start": _road_lists, "libcity": _rows}
    missing = [role for role in _NEEDS.get(layout or "", ()) if role not in present]
    if layout in readers and not missing:
        return readers[layout]
    have = f"Columns of the file: {', '.join(map(str, frame.columns))}."
    if "roads" in present and missing in ([], ["times"]):
        raise DataError(path, "no column with times.", hint=f"{TIMES_HINT} {have}")
    if layout is None:
        known = "Known: rid_list, path or cpath with times; entity_id, location, time (LibCity)."
        raise DataError(path, "no column with the roads of trips.", hint=f"{known} {have}")
    hint = f"It is {' or '.join(ROLES[missing[0]])}. {name_column(missing[0])} {have}"
    raise DataError(path, f"no column with the {missing[0]} of trips, as {layout} has it.", hint=hint)


def _recognized(present: set[str]) -> str | None:
    """Return the layout of a table that has the columns of these roles; None if it is unknown."""
    if "roads" in present:
        return "fmm" if "point_roads" in present else "start" if "times" in present else None
    return "libcity" if {"location", "time"} <= present else None


def _column(path: Path, frame: pd.DataFrame, role: str, chosen: Mapping[str, str]) -> pd.Series | None:
    name = column_of(path, frame, role, ROLES, chosen)
    return None if name is None else frame[name]


def _names(path: Path, frame: pd.DataFrame, chosen: Mapping[str, str]) -> pa.StringArray:
    column = _column(path, frame, "trip_id", chosen)
    return texts_of(pd.Series(np.arange(len(frame))) if column is None else column)


def _road_lists(
    path: Path, frame: pd.DataFrame, roads: ImportedRoads, time_zone: str | None, chosen: Mapping[str, str]
) -> _Lists:
    """Read lists of roads and of as many times."""
    del roads
    offsets, ids = _list_column(path, frame, "roads", chosen)
    time_offsets, texts = _list_column(path, frame, "times", chosen)
    _require_same_lengths(path, offsets, time_offsets, "roads", "times")
    times = local_seconds(path, texts, row_of_value(time_offsets), time_zone)
    return _Lists(offsets, plain_ids(ids), times, _names(path, frame, chosen))


def _fmm(
    path: Path, frame: pd.DataFrame, roads: ImportedRoads, time_zone: str | None, chosen: Mapping[str, str]
) -> _Lists:
    """Read FMM's output: the path `cpath`, and times of roads or of the GPS points, which lie on the roads `opath`."""
    if _column(path, frame, "point_roads", chosen) is None:
        return _road_lists(path, frame, roads, time_zone, chosen)
    offsets, ids = _list_column(path, frame, "roads", chosen)
    point_offsets, point_ids = _list_column(path, frame, "point_roads", chosen)
    time_offsets, texts = _list_column(path, frame, "times", chosen)
    times = local_seconds(path, texts, row_of_value(time_offsets), time_zone)
    names = _names(path, frame, chosen)
    if np.array_equal(time_offsets, offsets):
        return _Lists(offsets, plain_ids(ids), times, names)
    _require_same_lengths(path, point_offsets, time_offsets, "opath", "times")
    along_m = None
    if _column(path, frame, "offset", chosen) is not None:
        _, along = _list_column(path, frame, "offset", chosen)
        along_m = np.asarray(pd.to_numeric(pd.Series(along.to_pylist()), errors="coerce"), np.float64)
    entered = point_times_to_entry_times(
        path,
        roads.network.length_m,
        (offsets, roads.rows_of(plain_ids(ids))),
        (point_offsets, roads.rows_of(plain_ids(point_ids))),
        times,
        along_m if along_m is not None and len(along_m) == len(times) else None,
    )
    return _Lists(offsets, plain_ids(ids), entered, names)


def _rows(
    path: Path, frame: pd.DataFrame, roads: ImportedRoads, time_zone: str | None, chosen: Mapping[str, str]
) -> _Lists:
    """Read one row per road (LibCity's `.dyna`): a trip is the rows of one traj_id of one entity_id."""
    del roads
    location, time = (_column(path, frame, role, chosen) for role in ("location", "time"))
    assert location is not None, "chosen by its columns"
    assert time is not None, "chosen by its columns"
    keys = [_column(path, frame, role, chosen) for role in ("entity", "trip_id")]
    parts = [texts_of(key) for key in keys if key is not None]
    if not parts:
        raise DataError(path, "no column entity_id or traj_id.", hint=name_column("trip_id"))
    names = np.asarray(pc.binary_join_element_wise(*parts, "-"), object)
    last = np.asarray(parts[-1], object)
    if len(np.unique(last)) == len(np.unique(names)):
        names = last  # traj_id alone identifies the trip
    trip, first = _in_order_of_appearance(names)
    order = np.argsort(trip, kind="stable")
    times = local_seconds(path, texts_of(time), np.arange(len(frame)), time_zone)
    counts = np.bincount(trip)
    return _Lists(offsets_of(counts), texts_of(location).take(pa.array(order)), times[order], pa.array(names[first]))


def _in_order_of_appearance(names: np.ndarray) -> tuple[Int64Array, Int64Array]:
    """Return the number of each value's group, in the order in which groups appear, and the first row of each group."""
    number, groups = pd.factorize(names)
    del groups
    trip = np.asarray(number, np.int64)
    return trip, np.unique(trip, return_index=True)[1]


def _list_column(
    path: Path, frame: pd.DataFrame, role: str, chosen: Mapping[str, str]
) -> tuple[Int64Array, pa.StringArray]:
    column = _column(path, frame, role, chosen)
    assert column is not None, "chosen by its columns"
    return lists_of(column)


def _require_same_lengths(path: Path, first: Int64Array, second: Int64Array, one: str, other: str) -> None:
    differ = np.diff(first) != np.diff(second)
    if differ.any():
        row = int(np.argmax(differ))
        problem = f"{int(np.diff(first)[row])} {one} but {int(np.diff(second)[row])} {other}."
        raise DataError(path, problem, row=row, hint=TIMES_HINT)
