"""GPS points of trips as ragged arrays, with one Parquet schema for all sources.

Times are seconds since 1970-01-01 UTC, with fractions; coordinates are WGS 84 degrees (EPSG:4326).
Shapes: n trips, P points of all trips.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hoser_kd.common.arrays import BoolArray, Float64Array, Int64Array, offsets_of, row_of_value, take_rows
from hoser_kd.common.errors import DataError

SCHEMA = pa.schema(
    [
        pa.field("trip_id", pa.string(), nullable=False),
        pa.field("vehicle_id", pa.string(), nullable=False),
        pa.field("t", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("lon", pa.float64(), nullable=False),
        pa.field("lat", pa.float64(), nullable=False),
        pa.field("part", pa.int32(), nullable=False),
    ]
)
"""Columns of the Parquet file, one row per point in driving order. `part` numbers the parts of a trip that was cut."""


@dataclass(frozen=True)
class GpsPoints:
    """n trips; trip i has the points `t[offsets[i]:offsets[i + 1]]`, `lon[…]`, `lat[…]`."""

    offsets: Int64Array
    """(n + 1,) int64."""
    trip_ids: npt.NDArray[np.object_]
    """(n,) str: ids of the source. The parts of a trip that was cut are consecutive and have the same id."""
    vehicle_ids: npt.NDArray[np.object_]
    """(n,) str: ids of the vehicles, empty where the source has none."""
    t: Float64Array
    """(P,) float64: seconds since 1970-01-01 UTC."""
    lon: Float64Array
    """(P,) float64: degrees."""
    lat: Float64Array
    """(P,) float64: degrees."""

    def __len__(self) -> int:
        """Number of trips."""
        return len(self.offsets) - 1

    @property
    def num_points(self) -> int:
        """Number of points of all trips, P."""
        return len(self.t)

    @property
    def start_times(self) -> Float64Array:
        """(n,) float64: time of each trip's first point; every trip has one."""
        return self.t[self.offsets[:-1]]

    @property
    def parts(self) -> Int64Array:
        """(n,) int64: number of each trip among consecutive ones with the same id, from 0."""
        new = np.ones(len(self), bool)
        new[1:] = self.trip_ids[1:] != self.trip_ids[:-1]
        at = np.arange(len(self))
        parts: Int64Array = at - np.maximum.accumulate(np.where(new, at, 0))
        return parts

    def take(self, rows: Int64Array) -> GpsPoints:
        """Return the trips at the given indices, in that order."""
        offsets, at = take_rows(self.offsets, np.asarray(rows, np.int64))
        return GpsPoints(offsets, self.trip_ids[rows], self.vehicle_ids[rows], self.t[at], self.lon[at], self.lat[at])

    def to_table(self) -> pa.Table:
        """Return the points in the columns of `SCHEMA`; times are rounded to milliseconds."""
        row = row_of_value(self.offsets)
        milliseconds = np.round(self.t * 1000).astype(np.int64)
        columns = [
            pa.array(self.trip_ids, pa.string()).take(pa.array(row)),
            pa.array(self.vehicle_ids, pa.string()).take(pa.array(row)),
            pa.array(milliseconds).cast(pa.timestamp("ms", tz="UTC")),
            pa.array(self.lon),
            pa.array(self.lat),
            pa.array(self.parts[row], pa.int32()),
        ]
        return pa.table(columns, schema=SCHEMA)

    @classmethod
    def from_table(cls, table: pa.Table) -> GpsPoints:
        """Return the trips of a table with the columns of `SCHEMA`, one per run of equal trip_id and part."""
        table = table.combine_chunks()
        count = len(table)
        changes = np.ones(count, bool)
        changes[1:] = _differs(table["trip_id"])
        if "part" in table.column_names:
            changes[1:] |= _differs(table["part"])
        first = np.flatnonzero(changes)
        milliseconds = table["t"].cast(pa.timestamp("ms", tz="UTC")).cast(pa.int64())
        return cls(
            np.append(first, count).astype(np.int64),
            np.asarray(table["trip_id"].take(first).to_pandas(), dtype=object),
            np.asarray(table["vehicle_id"].take(first).to_pandas(), dtype=object),
            milliseconds.to_numpy() / 1000,
            table["lon"].to_numpy(),
            table["lat"].to_numpy(),
        )


def _differs(column: pa.ChunkedArray) -> BoolArray:
    """Return (rows - 1,) bool: whether each value but the first differs from the one before."""
    return np.asarray(pc.not_equal(column.slice(1), column.slice(0, max(len(column) - 1, 0))), dtype=bool)


def write_points(path: str | PathLike[str], batches: Iterable[GpsPoints]) -> int:
    """Write trips to a Parquet file, one row group per batch, so that memory holds one batch; return their number."""
    total = 0
    with pq.ParquetWriter(str(path), SCHEMA, compression="zstd") as writer:
        for batch in batches:
            total += len(batch)
            if batch.num_points:
                writer.write_table(batch.to_table(), row_group_size=max(batch.num_points, 1))
    return total


class PointsFile:
    """The trips of a Parquet file with the columns of `SCHEMA`, batch by batch or all at once."""

    def __init__(self, path: str | PathLike[str]) -> None:
        """Open the file. Raises DataError if it is missing or lacks a column."""
        if not Path(path).is_file():
            raise DataError(path, "no such file.")
        self._file = pq.ParquetFile(path)
        required = [name for name in SCHEMA.names if name != "part"]
        missing = [name for name in required if name not in self._file.schema_arrow.names]
        if missing:
            raise DataError(path, f"column {', '.join(missing)} is missing.", hint=f"Columns: {', '.join(required)}.")

    def __len__(self) -> int:
        """Number of batches."""
        return int(self._file.num_row_groups)

    @property
    def num_points(self) -> int:
        """Number of points of all batches."""
        return int(self._file.metadata.num_rows)

    def batch(self, i: int) -> GpsPoints:
        """Return the trips of a row group."""
        return GpsPoints.from_table(self._file.read_row_group(i))

    def all(self) -> GpsPoints:
        """Return all trips."""
        return GpsPoints.from_table(self._file.read())


def concatenate_points(parts: list[GpsPoints]) -> GpsPoints:
    """Return the trips of all parts, in order."""
    lengths = [np.diff(part.offsets) for part in parts]
    return GpsPoints(
        offsets_of(np.concatenate([np.zeros(0, np.int64), *lengths])),
        np.concatenate([np.zeros(0, object), *(part.trip_ids for part in parts)]),
        np.concatenate([np.zeros(0, object), *(part.vehicle_ids for part in parts)]),
        np.concatenate([np.zeros(0), *(part.t for part in parts)]),
        np.concatenate([np.zeros(0), *(part.lon for part in parts)]),
        np.concatenate([np.zeros(0), *(part.lat for part in parts)]),
    )
