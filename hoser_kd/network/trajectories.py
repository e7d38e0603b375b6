"""Trajectories as ragged arrays of road ids and times, read from HOSER's CSV and stored as memory-mapped Arrow IPC.

Times are whole seconds since 1970-01-01. The text of the source is read as UTC without conversion, as in the published
code, so local times stay local.
Shapes: n trajectories, P points (roads) of all trajectories.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from hoser_kd.common.arguments import check_choice, check_kind, check_path
from hoser_kd.common.arrays import Int64Array, offsets_of, row_of_value, take_rows
from hoser_kd.common.errors import DataError
from hoser_kd.network.trip_ids import Ids, TripIds, id_column, joined_ids
from hoser_kd.network.trip_reading import TripReader
from hoser_kd.network.trip_validation import Lists, TripLayout, find_faults, refuse

if TYPE_CHECKING:
    from hoser_kd.network.road_network import RoadNetwork

SPLITS = ("train", "val", "test")
ON_BAD_ROW = ("refuse", "drop")
"""What a reader does with an invalid row."""
CHUNK_POINTS = 1 << 19
"""Roads per chunk: 4 MiB for each array of 64-bit numbers."""
_USAGE = "read_trips(csv_path, network, on_bad_row='drop')"


@dataclass(frozen=True)
class Trajectories:
    """n trajectories; trajectory i enters the roads `road_ids[offsets[i]:offsets[i + 1]]` at `times[…]`."""

    offsets: Int64Array
    """(n + 1,) int64."""
    road_ids: Int64Array
    """(P,) int64."""
    times: Int64Array
    """(P,) int64: seconds since 1970-01-01 at which each road is entered."""
    ids: Ids | None = None
    """(n,) str: ids of the source (`traj_id`), if any; those of a file are read as they are used."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Number of rows dropped with `on_bad_row="drop"`, by reason."""

    def __len__(self) -> int:
        """Number of trajectories."""
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        """Name the numbers of trips and of roads; the arrays may be long."""
        return f"{type(self).__name__}({len(self):,} trips, {len(self.road_ids):,} roads)"

    @property
    def lengths(self) -> Int64Array:
        """(n,) int64: number of roads of each trajectory."""
        return np.diff(self.offsets)

    @property
    def num_steps(self) -> int:
        """Number of steps (pairs of consecutive roads) in all trajectories."""
        return int(np.maximum(self.lengths - 1, 0).sum())

    @property
    def origins(self) -> Int64Array:
        """(n,) int64: first road of each trajectory."""
        return self.road_ids[self.offsets[:-1]]

    @property
    def destinations(self) -> Int64Array:
        """(n,) int64: last road of each trajectory."""
        return self.road_ids[self.offsets[1:] - 1]

    @property
    def start_times(self) -> Int64Array:
        """(n,) int64: time at which each trajectory enters its first road."""
        return self.times[self.offsets[:-1]]

    def take(self, rows: Int64Array) -> Trajectories:
        """Return the trajectories at the given indices, in that order."""
        offsets, at = take_rows(self.offsets, np.asarray(rows, np.int64))
        return Trajectories(offsets, self.road_ids[at], self.times[at], None if self.ids is None else self.ids[rows])

    def take_all_or(self, rows: Int64Array) -> Trajectories:
        """Return `take(rows)` of distinct rows in ascending order; without a copy where these are all rows."""
        return self if len(rows) == len(self) else self.take(rows)

    def chunks(self, max_points: int = CHUNK_POINTS) -> Iterator[Trajectories]:
        """Yield all trajectories in consecutive parts of about `max_points` roads, as views without ids.

        Statistics over steps are added up part by part, so that their memory does not grow with the trajectories.
        """
        bounds = np.searchsorted(self.offsets, np.arange(max_points, len(self.road_ids), max_points))
        for first, last in pairwise([0, *np.unique(bounds).tolist(), len(self)]):
            if first < last:
                start, end = self.offsets[first], self.offsets[last]
                yield Trajectories(
                    self.offsets[first : last + 1] - start, self.road_ids[start:end], self.times[start:end]
                )

    def roads(self, i: int) -> Int64Array:
        """Return the road ids of trajectory `i`, int64."""
        return self.road_ids[self.offsets[i] : self.offsets[i + 1]]

    def step_positions(self) -> tuple[Int64Array, Int64Array]:
        """Return the flat position of the current road and the trajectory of every step, both (steps,) int64."""
        row = row_of_value(self.offsets)
        inner = np.arange(len(self.road_ids)) + 1 < self.offsets[1:][row]
        return np.flatnonzero(inner), row[inner]

    def save(self, path: str | PathLike[str]) -> None:
        """Write an uncompressed Arrow IPC file, which `load` maps into memory."""
        columns = {
            "trajectory_id": id_column(self.ids, len(self)),
            "road_ids": pa.LargeListArray.from_arrays(self.offsets, self.road_ids),
            "times": pa.LargeListArray.from_arrays(self.offsets, self.times),
        }
        batch = pa.record_batch(columns)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Trajectories:
        """Memory-map a file written by `save`; arrays are read-only views. Raises DataError if the file is missing."""
        if not Path(path).is_file():
            raise DataError(path, "no such file.")
        with pa.ipc.open_file(pa.memory_map(str(path))) as reader:
            batch = reader.get_batch(0)
        roads, times = batch.column("road_ids"), batch.column("times")
        ids = TripIds(batch.column("trajectory_id"))
        return cls(roads.offsets.to_numpy(), roads.values.to_numpy(), times.values.to_numpy(), ids)

    def to_table(self) -> pa.Table:
        """Return trajectory_id, road_ids (list) and times (list of UTC timestamps), one row per trajectory."""
        stamps = pa.array(self.times, pa.timestamp("s", tz="UTC"))
        return pa.table(
            {
                "trajectory_id": id_column(self.ids, len(self)),
                "road_ids": pa.LargeListArray.from_arrays(self.offsets, self.road_ids),
                "times": pa.LargeListArray.from_arrays(self.offsets, stamps),
            }
        )

    def to_hoser_csv(self, path: str | PathLike[str], entity_ids: Int64Array | None = None) -> None:
        """Write HOSER's CSV: mm_id, entity_id, traj_id, rid_list, time_list (plain text, no NumPy reprs).

        `entity_ids`, (n,) int64, identify the drivers; default: a different one for each trajectory.
        """
        count = len(self)
        ids = id_column(self.ids, count)
        numbers = np.arange(count)
        entity_ids = numbers if entity_ids is None else np.asarray(entity_ids)

        def table(part: Trajectories, rows: slice) -> pa.Table:
            return pa.table(
                {
                    "mm_id": numbers[rows],
                    "entity_id": entity_ids[rows],
                    "traj_id": ids[rows],
                    "rid_list": _join(pa.array(part.road_ids).cast(pa.string()), part.offsets),
                    "time_list": _join(_format_times(part.times), part.offsets),
                }
            )

        self._write_csv(path, table)

    def to_published_csv(self, path: str | PathLike[str]) -> None:
        """Write the CSV of the published generator: gene_trace_road_id and gene_trace_datetime as lists in text."""

        def table(part: Trajectories, _: slice) -> pa.Table:
            quoted = pc.binary_join_element_wise("'", _format_times(part.times), "'", "")
            roads = _join(pa.array(part.road_ids).cast(pa.string()), part.offsets, ", ")
            times = _join(quoted, part.offsets, ", ")
            return pa.table(
                {
                    "gene_trace_road_id": pc.binary_join_element_wise("[", roads, "]", ""),
                    "gene_trace_datetime": pc.binary_join_element_wise("[", times, "]", ""),
                }
            )

        self._write_csv(path, table)

    def _write_csv(self, path: str | PathLike[str], table: Callable[[Trajectories, slice], pa.Table]) -> None:
        """Write the tables of all chunks, one after the other; `table` gets a chunk and its rows."""
        empty = table(Trajectories(self.offsets[:1], self.road_ids[:0], self.times[:0]), slice(0, 0))
        with pa.csv.CSVWriter(str(path), empty.schema) as writer:
            first = 0
            for part in self.chunks():
                writer.write_table(table(part, slice(first, first + len(part))))
                first += len(part)


def read_trips(csv_path: str | PathLike[str], network: RoadNetwork, on_bad_row: str = "refuse") -> Trajectories:
    """Read `train.csv`, `val.csv` or `test.csv` of HOSER's format and validate every row against the network.

    A row is invalid if its lists differ in length, it has fewer than two roads, a road id is unknown, a time is not
    formatted as `2013-07-01T00:01:15Z` or is before 1970, times decrease, or two consecutive roads are not connected.
    `on_bad_row`: "refuse" raises DataError for the first invalid row; "drop" skips them and counts them in `.dropped`.
    Raises TypeError or ValueError for an argument of the wrong kind.
    """
    from hoser_kd.network.road_network import RoadNetwork  # here, so that stored trips are read without geopandas

    check_path("csv_path", csv_path, _USAGE)
    check_kind("network", network, RoadNetwork, f"{_USAGE} with network = read_network(folder)")
    check_choice("on_bad_row", on_bad_row, ON_BAD_ROW, _USAGE)
    return read_trip_csv(csv_path, network, HOSER_LAYOUT, on_bad_row)


read_hoser = read_trips
"""The name inside this package."""


def read_published_csv(csv_path: str | PathLike[str], network: RoadNetwork, on_bad_row: str = "refuse") -> Trajectories:
    """Read the CSV of the published generator, validated like `read_trips`, but with one road as the minimum.

    Road ids may be spelled `5` or, as NumPy prints them, `np.int64(5)`.
    """
    return read_trip_csv(csv_path, network, PUBLISHED_LAYOUT, on_bad_row)


HOSER_LAYOUT = TripLayout(ids="traj_id")
"""The splits of a city."""
_FIX_TRIP = "Fix the row: road ids are those of the city's roadmap.geo, times are written as 2013-07-01T00:01:15Z."
PUBLISHED_LAYOUT = TripLayout("gene_trace_road_id", "gene_trace_datetime", 1, numpy_spelling=True, hint=_FIX_TRIP)
"""The published generator's CSV."""
GENERATED_LAYOUT = TripLayout(shortest=1, numpy_spelling=True, hint=_FIX_TRIP)
"""Generated trips in HOSER's columns."""


def read_trip_csv(
    csv_path: str | PathLike[str], network: RoadNetwork, layout: TripLayout, on_bad_row: str = "refuse"
) -> Trajectories:
    """Read the trips of a CSV file, plain or gzip-compressed (`.gz`), and validate every row like `read_trips`."""
    check_choice("on_bad_row", on_bad_row, ON_BAD_ROW, _USAGE)
    reader = TripReader(Path(csv_path), network, layout, on_bad_row)
    return replace(concatenate(Trajectories(*block) for block in reader), dropped=reader.dropped)


def check_trips(path: str | PathLike[str], trips: Trajectories, network: RoadNetwork, layout: TripLayout) -> None:
    """Validate trips of another source than a CSV, with one time per road, like the rows of `read_trip_csv`."""
    lists = Lists(trips.offsets, trips.road_ids), Lists(trips.offsets, trips.times)
    faults = find_faults(*lists, network, layout)
    bad = np.logical_or.reduce([fault.rows for fault in faults])
    if bad.any():
        refuse(Path(path), bad, faults, lists, network, layout)


def concatenate(parts: Iterable[Trajectories]) -> Trajectories:
    """Return the trajectories of all parts, in order; ids are kept if every part has them."""
    kept = list(parts)
    ids = [part.ids for part in kept if part.ids is not None]
    return Trajectories(
        offsets_of(np.concatenate([part.lengths for part in kept])),
        np.concatenate([part.road_ids for part in kept]),
        np.concatenate([part.times for part in kept]),
        joined_ids(ids) if len(ids) == len(kept) else None,
    )


def _format_times(times: Int64Array) -> pa.StringArray:
    return pc.strftime(pa.array(times, pa.timestamp("s", tz="UTC")), format="%Y-%m-%dT%H:%M:%SZ")


def _join(texts: pa.StringArray, offsets: Int64Array, separator: str = ",") -> pa.StringArray:
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), texts), separator)
