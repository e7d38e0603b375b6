"""Rows of GPS points, batch by batch, become batches of whole trips. Memory holds a batch and the names of the trips.

Most files hold one trip after the other: the last trip of a batch waits for the next one. In other files, such as
the points of all vehicles by time, the trips are interleaved: their rows are first distributed over temporary files.

Shapes: R rows of a batch.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from hoser_kd.common.arrays import Float64Array, Int64Array, offsets_of
from hoser_kd.common.calendar import SECONDS_PER_DAY, utc_offset_s
from hoser_kd.config.raw_data import PointsConfig
from hoser_kd.network.gps_points import GpsPoints

BATCH_POINTS = 500_000
"""About as many points are read, cleaned and matched at a time."""
_MOST_FILES = 200
"""Temporary files that are open at the same time."""


class PointRows(NamedTuple):
    """Rows of a file; all (R,)."""

    trip: npt.NDArray[np.object_]
    """Name of the trip, None where it is missing."""
    vehicle: npt.NDArray[np.object_]
    t: Float64Array
    """Seconds since 1970-01-01 UTC."""
    lon: Float64Array
    lat: Float64Array

    def take(self, rows: Any) -> PointRows:
        """Return some of the rows."""
        return PointRows(*(values[rows] for values in self))


Batches = Callable[[], Iterator[PointRows]]
"""Starts to read a file from its beginning."""


def texts(values: Any) -> npt.NDArray[np.object_]:
    """Return a column as an array of str, with None where a value is missing."""
    series = pd.Series(np.asarray(values, dtype=object))
    result = np.asarray(series.astype(str), dtype=object)
    result[series.isna().to_numpy()] = None
    return result


def days_of_vehicles(vehicle: Any, t: Float64Array, settings: PointsConfig) -> npt.NDArray[np.object_]:
    """Return `vehicle/date` for each row: the points of a vehicle on one local day are a trip."""
    seconds = np.where(np.isfinite(t), t, 0).astype(np.int64)
    day = (seconds + utc_offset_s(seconds, str(settings.time_zone))) // SECONDS_PER_DAY
    names: npt.NDArray[np.object_] = texts(vehicle).astype(str).astype(object)
    return np.asarray(names + "/" + day.astype("datetime64[D]").astype(str).astype(object), dtype=object)


def whole_trips(batches: Batches, counts: Counter[str]) -> Iterator[GpsPoints]:
    """Yield the trips of a file in the order in which they appear; adds to `counts` the rows, and those without a trip.

    A file of more than one batch is read twice: first to see where its trips lie.
    """
    survey = _Survey()
    for batch in batches():
        survey.add(batch)
    counts["points_read"] += survey.num_rows
    counts["invalid_points"] += survey.without_trip
    if survey.num_batches == 1 and survey.last is not None:
        yield grouped(_of_trips(survey.last))
    elif survey.num_batches:
        rows = (_of_trips(batch) for batch in batches())
        yield from _one_after_the_other(rows) if survey.is_grouped else _interleaved(rows, survey)


def _of_trips(rows: PointRows) -> PointRows:
    known = pd.notna(rows.trip)
    return rows if known.all() else rows.take(known)


class _Survey:
    """Names and sizes of the trips of a file, in the order in which they appear."""

    def __init__(self) -> None:
        self.rank: dict[str, int] = {}
        self.size: list[int] = []
        self.is_grouped = True
        """The rows of each trip follow one another."""
        self.num_rows = self.without_trip = self.num_batches = 0
        self.last: PointRows | None = None
        self._open = ""

    def add(self, rows: PointRows) -> None:
        """Take the next rows."""
        self.num_batches += 1
        self.num_rows += len(rows.trip)
        self.last = rows
        names = _of_trips(rows).trip
        self.without_trip += len(rows.trip) - len(names)
        if len(names) == 0:
            return
        starts = np.flatnonzero(np.concatenate([[True], names[1:] != names[:-1]]))
        lengths = np.diff(np.append(starts, len(names)))
        for name, length in zip(names[starts].tolist(), lengths.tolist(), strict=True):
            self._add_run(name, length)

    def _add_run(self, name: str, length: int) -> None:
        rank = self.rank.setdefault(name, len(self.size))
        if rank == len(self.size):
            self.size.append(0)
        elif name != self._open:
            self.is_grouped = False
        self.size[rank] += length
        self._open = name


def grouped(rows: PointRows) -> GpsPoints:
    """Return rows as trips, in the order in which the trips and their points appear; every row has a trip."""
    code, names = pd.factorize(rows.trip)
    order = np.argsort(code, kind="stable")
    offsets = offsets_of(np.bincount(code, minlength=len(names)))
    vehicles = texts(rows.vehicle[order[offsets[:-1]]])
    vehicles[pd.isna(vehicles)] = ""
    return GpsPoints(offsets, texts(names), vehicles, rows.t[order], rows.lon[order], rows.lat[order])


def _one_after_the_other(batches: Iterator[PointRows]) -> Iterator[GpsPoints]:
    """Yield the trips of rows that are grouped by trip; the last trip of a batch waits for the next one."""
    waiting: list[PointRows] = []
    for batch in batches:
        rows = _joined([*waiting, batch])
        if len(rows.trip) == 0:
            continue
        is_last = rows.trip == rows.trip[-1]
        if not is_last.all():
            yield grouped(rows.take(~is_last))
        waiting = [rows.take(is_last)]
    if waiting:
        yield grouped(waiting[0])


def _joined(parts: list[PointRows]) -> PointRows:
    return parts[0] if len(parts) == 1 else PointRows(*map(np.concatenate, zip(*parts, strict=True)))


def _interleaved(batches: Iterator[PointRows], survey: _Survey) -> Iterator[GpsPoints]:
    """Yield the trips of rows in any order, by way of temporary files of about a batch each."""
    size = np.array(survey.size, np.int64)
    per_file = max(BATCH_POINTS, -(-int(size.sum()) // _MOST_FILES))
    file_of_trip = (np.cumsum(size) - size) // per_file
    with tempfile.TemporaryDirectory(prefix="hoser-kd-points-") as folder:
        files = _distribute(batches, survey.rank, file_of_trip, Path(folder))
        for file in files:
            with pa.OSFile(str(file)) as source, pa.ipc.open_stream(source) as reader:
                table = reader.read_all()
            trip, vehicle = (np.asarray(table[name].to_pandas(), object) for name in ("trip", "vehicle"))
            yield grouped(PointRows(trip, vehicle, *(table[name].to_numpy() for name in ("t", "lon", "lat"))))


def _distribute(
    batches: Iterator[PointRows], rank: dict[str, int], file_of_trip: Int64Array, folder: Path
) -> list[Path]:
    """Write the rows of each trip to its file, in their order; return the files."""
    writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
    for rows in batches:
        code, names = pd.factorize(rows.trip)
        number = file_of_trip[[rank[name] for name in names.tolist()]][code]
        for each in np.unique(number).tolist():
            part = rows.take(np.flatnonzero(number == each))
            columns = [pa.array(part.trip, pa.string()), pa.array(part.vehicle, pa.string()), *map(pa.array, part[2:])]
            batch = pa.record_batch(columns, names=list(PointRows._fields))
            if each not in writers:
                writers[each] = pa.ipc.new_stream(str(folder / str(each)), batch.schema)
            writers[each].write_batch(batch)
    for writer in writers.values():
        writer.close()
    return [folder / str(each) for each in sorted(writers)]
