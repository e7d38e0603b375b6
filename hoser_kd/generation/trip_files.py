"""Trips of any generator from a file: Parquet of this package, the published CSV, or CSV in HOSER's columns.

Shapes: n trips, N roads.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hoser_kd.common.arrays import Int64Array, offsets_of
from hoser_kd.common.errors import DataError
from hoser_kd.network.csv_files import csv_header, read_csv_columns
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.times import require_utc
from hoser_kd.network.trajectories import (
    GENERATED_LAYOUT,
    PUBLISHED_LAYOUT,
    Trajectories,
    check_trips,
    read_trip_csv,
)
from hoser_kd.network.trip_validation import TripLayout

PARQUET_LAYOUT = TripLayout("road_ids", "times", 1, hint="Fix the row: road ids are those of the city's roadmap.geo.")
"""Columns of `GeneratedTrajectories.to_table`."""
OD_COLUMNS = ("origin_road_id", "destination_road_id")
"""Optional columns of a CSV with the requested origin and destination of each trip."""
_LAYOUTS = (
    "A file of trips is a CSV (or CSV.gz) with the columns gene_trace_road_id and gene_trace_datetime (published) or "
    "rid_list and time_list (HOSER), or a Parquet file with the list columns road_ids and times."
)
_PARQUET = {".parquet", ".pq"}


@dataclass(frozen=True)
class TripFile:
    """Trips of a file, and what was requested if the file holds it."""

    trips: Trajectories
    """n trips, valid on the road network."""
    layout: str
    """`parquet`, `published` or `hoser`."""
    origins: Int64Array | None = None
    """(n,) int64: requested origin of each trip."""
    destinations: Int64Array | None = None
    """(n,) int64: requested destination of each trip."""


def read_trips(path: str | PathLike[str], network: RoadNetwork) -> TripFile:
    """Read generated trips; the layout follows from the file's extension and columns.

    Road ids may be spelled as NumPy prints them (`np.int64(5)`). A trip needs one road or more, as many times as roads,
    times that do not decrease, and roads that are connected on the network.

    Raises:
        DataError: the file is missing or of another layout, or a row is invalid; the message names row, column, value
            and fix.
    """
    file = Path(path)
    require_file(file)
    if file.suffix.lower() in _PARQUET:
        return TripFile(_read_parquet(file, network), "parquet")
    try:
        return _read_csv(file, network)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(file, f"cannot be read: {error}.", hint="A name that ends in .gz is a gzip file.") from None


def require_file(file: Path) -> None:
    """Raise DataError if there is no such file."""
    if not file.is_file():
        raise DataError(file, "no such file.", hint=_LAYOUTS)


def _read_csv(file: Path, network: RoadNetwork) -> TripFile:
    try:
        header = csv_header(file)
    except UnicodeDecodeError:
        raise DataError(file, "this is not a CSV file: it is not UTF-8 text.", hint=_LAYOUTS) from None
    names = {"published": PUBLISHED_LAYOUT, "hoser": GENERATED_LAYOUT}
    layout = next((name for name, each in names.items() if {each.roads, each.times} & set(header)), None)
    if layout is None:
        columns = ", ".join(header)[:200] or "none"
        raise DataError(file, f"no column with trips; the columns are: {columns}.", hint=_LAYOUTS)
    trips = read_trip_csv(file, network, names[layout])
    if not set(OD_COLUMNS) <= set(header):
        return TripFile(trips, layout)
    table = read_csv_columns(file, dict.fromkeys(OD_COLUMNS, pa.int64()))
    origins, destinations = (_requested(file, name, table[name], network.num_roads) for name in OD_COLUMNS)
    return TripFile(trips, layout, origins, destinations)


def _requested(file: Path, name: str, column: pa.ChunkedArray, num_roads: int) -> Int64Array:
    """Return a column of requested roads, (n,) int64."""
    roads: Int64Array = pc.fill_null(column, -1).to_numpy().astype(np.int64)
    bad = (roads < 0) | (roads >= num_roads)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(
            file,
            f"{name} is {column[row].as_py()}, not a road.",
            row=row,
            hint=f"Road ids run from 0 to {num_roads - 1}.",
        )
    return roads


def _read_parquet(file: Path, network: RoadNetwork) -> Trajectories:
    layout = PARQUET_LAYOUT
    try:
        present = pq.read_schema(file).names
        if missing := [name for name in (layout.roads, layout.times) if name not in present]:
            raise DataError(file, f"column {', '.join(missing)} is missing.", hint=_LAYOUTS)
        table = pq.read_table(file, columns=[layout.roads, layout.times])
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(file, f"cannot be read as Parquet: {error}.", hint=_LAYOUTS) from None
    if table.num_rows == 0:
        raise DataError(file, "no trips.", hint="The file needs at least one row.")
    offsets, roads = _list_column(file, layout.roads, table[layout.roads], "whole numbers")
    time_offsets, times = _list_column(file, layout.times, table[layout.times], "timestamps of whole seconds")
    if (unequal := np.diff(offsets) != np.diff(time_offsets)).any():
        row = int(np.argmax(unequal))
        counts = f"{offsets[row + 1] - offsets[row]} roads and {time_offsets[row + 1] - time_offsets[row]} times"
        raise DataError(
            file, f"{counts}; road_ids and times differ in length.", row=row, hint="A trip needs one time per road."
        )
    trips = Trajectories(offsets, roads, times)
    check_trips(file, trips, network, layout)
    return trips


def _list_column(file: Path, name: str, column: pa.ChunkedArray, expected: str) -> tuple[Int64Array, Int64Array]:
    """Return the offsets and values of a list column; a missing value is the smallest int64."""
    kind = column.type.value_type if pa.types.is_list(column.type) or pa.types.is_large_list(column.type) else None
    if kind is None or not (pa.types.is_integer(kind) or pa.types.is_timestamp(kind)):
        raise DataError(file, f"column {name} holds {column.type}, not lists of {expected}.", hint=_LAYOUTS)
    require_utc(file, name, kind)
    values = pc.list_flatten(column)
    try:
        if pa.types.is_timestamp(values.type):
            values = pc.cast(values, pa.timestamp("s", tz=values.type.tz))
        numbers = pc.fill_null(pc.cast(values, pa.int64()), np.iinfo(np.int64).min)
    except pa.ArrowInvalid as error:
        raise DataError(file, f"column {name}: {error}.", hint=f"It holds lists of {expected}.") from None
    counts = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    return offsets_of(counts.astype(np.int64)), numbers.to_numpy().astype(np.int64)
