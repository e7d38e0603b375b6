"""Trajectories as ragged arrays of road ids and times, read from HOSER's CSV and stored as memory-mapped Arrow IPC.

Times are whole seconds since 1970-01-01. The text of the source is read as UTC without conversion, as in the published
code, so local times stay local.
Shapes: n trajectories, P points (roads) of all trajectories.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from hoser_kd.common.arrays import BoolArray, Int64Array, offsets_of, row_of_value, take_rows
from hoser_kd.common.errors import DataError
from hoser_kd.network.csv_files import csv_header, read_csv_columns

if TYPE_CHECKING:
    from hoser_kd.network.road_network import RoadNetwork

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Trajectories:
    """n trajectories; trajectory i enters the roads `road_ids[offsets[i]:offsets[i + 1]]` at `times[…]`."""

    offsets: Int64Array
    """(n + 1,) int64."""
    road_ids: Int64Array
    """(P,) int64."""
    times: Int64Array
    """(P,) int64: seconds since 1970-01-01 at which each road is entered."""
    ids: npt.NDArray[np.object_] | None = None
    """(n,) str: ids of the source (`traj_id`), if any."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Number of rows dropped with `on_bad_row="drop"`, by reason."""

    def __len__(self) -> int:
        """Number of trajectories."""
        return len(self.offsets) - 1

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
        ids = np.arange(len(self)).astype(str) if self.ids is None else self.ids
        columns = {
            "trajectory_id": pa.array(ids, pa.string()),
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
        ids = np.asarray(batch.column("trajectory_id").to_pandas(), dtype=object)
        return cls(roads.offsets.to_numpy(), roads.values.to_numpy(), times.values.to_numpy(), ids)

    def to_table(self) -> pa.Table:
        """Return trajectory_id, road_ids (list) and times (list of UTC timestamps), one row per trajectory."""
        ids = np.arange(len(self)).astype(str) if self.ids is None else self.ids
        stamps = pa.array(self.times, pa.timestamp("s", tz="UTC"))
        return pa.table(
            {
                "trajectory_id": pa.array(ids, pa.string()),
                "road_ids": pa.LargeListArray.from_arrays(self.offsets, self.road_ids),
                "times": pa.LargeListArray.from_arrays(self.offsets, stamps),
            }
        )

    def to_hoser_csv(self, path: str | PathLike[str], entity_ids: Int64Array | None = None) -> None:
        """Write HOSER's CSV: mm_id, entity_id, traj_id, rid_list, time_list (plain text, no NumPy reprs).

        `entity_ids`, (n,) int64, identify the drivers; default: a different one for each trajectory.
        """
        count = len(self)
        ids = np.arange(count).astype(str) if self.ids is None else self.ids
        table = pa.table(
            {
                "mm_id": np.arange(count),
                "entity_id": np.arange(count) if entity_ids is None else entity_ids,
                "traj_id": pa.array(ids, pa.string()),
                "rid_list": _join(pa.array(self.road_ids).cast(pa.string()), self.offsets),
                "time_list": _join(_format_times(self.times), self.offsets),
            }
        )
        pa.csv.write_csv(table, str(path))

    def to_published_csv(self, path: str | PathLike[str]) -> None:
        """Write the CSV of the published generator: gene_trace_road_id and gene_trace_datetime as lists in text."""
        quoted = pc.binary_join_element_wise("'", _format_times(self.times), "'", "")
        roads = _join(pa.array(self.road_ids).cast(pa.string()), self.offsets, ", ")
        times = _join(quoted, self.offsets, ", ")
        table = pa.table(
            {
                "gene_trace_road_id": pc.binary_join_element_wise("[", roads, "]", ""),
                "gene_trace_datetime": pc.binary_join_element_wise("[", times, "]", ""),
            }
        )
        pa.csv.write_csv(table, str(path))


def read_hoser(csv_path: str | PathLike[str], network: RoadNetwork, on_bad_row: str = "refuse") -> Trajectories:
    """Read `train.csv`, `val.csv` or `test.csv` of HOSER's format and validate every row against the network.

    A row is invalid if its lists differ in length, it has fewer than two roads, a road id is unknown, a time is not
    formatted as `2013-07-01T00:01:15Z`, times decrease, or two consecutive roads are not connected.
    `on_bad_row`: "refuse" raises DataError for the first invalid row; "drop" skips them and counts them in `.dropped`.
    """
    path = Path(csv_path)
    columns = {"rid_list": pa.string(), "time_list": pa.string()}
    if path.is_file() and "traj_id" in csv_header(path):
        columns["traj_id"] = pa.string()
    table = read_csv_columns(path, columns)
    ids = table["traj_id"] if "traj_id" in columns else None
    return _build(path, table["rid_list"], table["time_list"], ids, network, on_bad_row)


def read_published_csv(csv_path: str | PathLike[str], network: RoadNetwork, on_bad_row: str = "refuse") -> Trajectories:
    """Read the CSV of the published generator, validated like `read_hoser`, but with one road as the minimum."""
    path = Path(csv_path)
    table = read_csv_columns(path, {"gene_trace_road_id": pa.string(), "gene_trace_datetime": pa.string()})
    return _build(
        path, table["gene_trace_road_id"], table["gene_trace_datetime"], None, network, on_bad_row, shortest=1
    )


def concatenate(parts: Iterable[Trajectories]) -> Trajectories:
    """Return the trajectories of all parts, in order; ids are kept if every part has them."""
    kept = list(parts)
    ids = [part.ids for part in kept if part.ids is not None]
    return Trajectories(
        offsets_of(np.concatenate([part.lengths for part in kept])),
        np.concatenate([part.road_ids for part in kept]),
        np.concatenate([part.times for part in kept]),
        np.concatenate(ids) if len(ids) == len(kept) else None,
    )


def _build(
    path: Path,
    roads: pa.ChunkedArray,
    times: pa.ChunkedArray,
    ids: pa.ChunkedArray | None,
    network: RoadNetwork,
    on_bad_row: str,
    shortest: int = 2,
) -> Trajectories:
    if on_bad_row not in ("refuse", "drop"):
        raise ValueError(f"on_bad_row must be 'refuse' or 'drop', not {on_bad_row!r}")
    if len(roads) == 0:
        raise DataError(path, "no trajectories.", hint="The file needs at least one row.")
    road_offsets, road_ids = _parse_lists(roads, pa.int64())
    time_offsets, seconds = _parse_lists(times, pa.timestamp("s", tz="UTC"))
    names = None if ids is None else np.asarray(pc.fill_null(ids, "").to_pandas(), dtype=object)
    reasons = _bad_rows(road_offsets, road_ids, time_offsets, seconds, network, shortest)
    bad = np.zeros(len(roads), bool)
    dropped: dict[str, int] = {}
    for reason, rows in reasons.items():
        first_reason = rows & ~bad
        if first_reason.any():
            dropped[reason] = int(first_reason.sum())
        bad |= rows
    if bad.any() and on_bad_row == "refuse":
        row = int(np.argmax(bad))
        reason = next(text for text, rows in reasons.items() if rows[row])
        raise DataError(
            path,
            f"{reason}; {int(bad.sum())} of {len(bad)} rows are invalid.",
            row=row,
            hint="Fix the row, or set `source.on_bad_row: drop` to skip and count invalid rows.",
        )
    if bad.all():
        raise DataError(path, f"all rows are invalid: {dropped}.")
    if not bad.any():
        return Trajectories(road_offsets, road_ids, seconds, names)
    good = np.flatnonzero(~bad)
    offsets, road_at = take_rows(road_offsets, good)
    _, time_at = take_rows(time_offsets, good)
    return Trajectories(offsets, road_ids[road_at], seconds[time_at], None if names is None else names[good], dropped)


def _parse_lists(texts: pa.ChunkedArray, kind: pa.DataType) -> tuple[Int64Array, Int64Array]:
    """Parse `[1, 2]` or `1,2` for all rows at once; return offsets and values, the smallest int64 where invalid."""
    lists = pc.split_pattern(pc.fill_null(texts, "").combine_chunks(), ",")
    values = pc.ascii_trim(lists.flatten(), " \t[]'\"")
    if kind != pa.int64():
        # Arrow accepts more than the format allows: a UTC offset would shift the time, a date alone would be midnight
        is_format = pc.and_(pc.equal(pc.binary_length(values), 20), pc.ends_with(values, "Z"))
        values = pc.if_else(is_format, values, None)
    try:
        numbers = pc.cast(values, kind)
    except pa.ArrowInvalid:
        pattern = r"^-?\d{1,18}$" if kind == pa.int64() else r"^\d{4}-\d\d-\d\d[T ]([01]\d|2[0-3]):[0-5]\d:[0-5]\dZ$"
        readable = pc.if_else(pc.match_substring_regex(values, pattern), values, None)
        numbers = _cast_one_by_one(readable, kind)
    integers = pc.fill_null(pc.cast(numbers, pa.int64()), np.iinfo(np.int64).min)
    return lists.offsets.to_numpy().astype(np.int64), integers.to_numpy(zero_copy_only=False).astype(np.int64)


def _cast_one_by_one(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """Cast with null for invalid values; called on invalid files only, since the pattern accepts 30 February."""
    try:
        return pc.cast(texts, kind)
    except pa.ArrowInvalid:

        def one(text: pa.Scalar) -> pa.Scalar:
            try:
                return text.cast(kind)
            except pa.ArrowInvalid:
                return pa.scalar(None, kind)

        return pa.array([one(text) for text in texts], kind)


def _bad_rows(
    road_offsets: Int64Array,
    road_ids: Int64Array,
    time_offsets: Int64Array,
    seconds: Int64Array,
    network: RoadNetwork,
    shortest: int,
) -> dict[str, BoolArray]:
    """Return a mask of the invalid rows for each reason, in the order in which reasons are reported."""
    count = len(road_offsets) - 1
    lengths = np.diff(road_offsets)
    row = row_of_value(road_offsets)

    def rows_with(flags: BoolArray, rows: Int64Array) -> BoolArray:
        return np.bincount(rows[flags], minlength=count).astype(bool)

    outside = (road_ids < 0) | (road_ids >= network.num_roads)
    time_row = row_of_value(time_offsets)
    missing = np.iinfo(np.int64).min
    backwards = (np.diff(seconds) < 0) & (time_row[1:] == time_row[:-1])
    same = row[1:] == row[:-1]
    known = same & ~outside[1:] & ~outside[:-1]
    at = np.flatnonzero(known)
    broken = np.zeros(len(same), bool)
    broken[at] = network.candidate_index(road_ids[at], road_ids[at + 1]) < 0
    return {
        "rid_list and time_list differ in length": lengths != np.diff(time_offsets),
        f"fewer than {shortest} roads": lengths < shortest,
        "a road id is not in roadmap.geo": rows_with(outside, row),
        "a time is not formatted as YYYY-MM-DDTHH:MM:SSZ": rows_with(seconds == missing, time_row),
        "a time is earlier than the previous one": rows_with(backwards, time_row[1:]),
        "a road is not connected to the previous one in roadmap.rel": rows_with(broken, row[1:]),
    }


def _format_times(times: Int64Array) -> pa.StringArray:
    return pc.strftime(pa.array(times, pa.timestamp("s", tz="UTC")), format="%Y-%m-%dT%H:%M:%SZ")


def _join(texts: pa.StringArray, offsets: Int64Array, separator: str = ",") -> pa.StringArray:
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), texts), separator)
