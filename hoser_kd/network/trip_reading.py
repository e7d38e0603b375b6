"""Reading of trips from CSV block by block, with every check of a row and the messages of the whole file.

Memory grows with a block of the file, not with the file. `ingest_trips` writes what it reads to a file that is mapped
into memory.
Shapes: n rows of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hoser_kd.common.array_files import GrowingArray
from hoser_kd.common.arrays import BoolArray, offsets_of, take_rows
from hoser_kd.common.errors import DataError
from hoser_kd.network.csv_files import read_csv_batches
from hoser_kd.network.trajectories import HOSER_LAYOUT, Trajectories
from hoser_kd.network.trip_ids import TripIds, mapped_ids
from hoser_kd.network.trip_validation import (
    Fault,
    Lists,
    Refusal,
    TripLayout,
    describe_row,
    find_faults,
    parse_roads,
    parse_time_lists,
    refuse_rows,
)

if TYPE_CHECKING:
    from hoser_kd.network.road_network import RoadNetwork


class TripReader:
    """Iterates over the valid trips of a file, block by block.

    After the last block it raises DataError if the file has no row or no valid one or, with `on_bad_row` "refuse", an
    invalid one; the message counts the invalid rows of the whole file.
    """

    def __init__(self, path: Path, network: RoadNetwork, layout: TripLayout, on_bad_row: str) -> None:
        """`on_bad_row` as for `read_trips`."""
        self.path, self.network, self.layout = path, network, layout
        self._refuses = on_bad_row == "refuse"
        self._counts: dict[str, int] = {}
        self._rows = self._bad_rows = 0
        self._first: Refusal | None = None

    @property
    def dropped(self) -> dict[str, int]:
        """Number of invalid rows so far by reason, in the order in which reasons are examined."""
        return {reason: count for reason, count in self._counts.items() if count}

    def __iter__(self) -> Iterator[Trajectories]:
        """Yield the valid trips of each block that has any."""
        layout = self.layout
        optional = () if layout.ids is None else (layout.ids,)
        for batch in read_csv_batches(self.path, (layout.roads, layout.times), optional):
            trips = self._valid(batch)
            self._rows += batch.num_rows
            if len(trips) and not (self._refuses and self._bad_rows):
                yield trips
        self._finish()

    def _finish(self) -> None:
        if self._rows == 0:
            raise DataError(self.path, "no trajectories.", hint="The file needs at least one row.")
        if self._first is not None and self._refuses:
            refuse_rows(self.path, self._first, self._bad_rows, self._rows, self.layout)
        if self._bad_rows == self._rows:
            reasons = "; ".join(f"{reason} ({count})" for reason, count in self.dropped.items())
            raise DataError(
                self.path, f"all rows are invalid: {reasons}.", hint="Fix the file: nothing is left to keep."
            )

    def _valid(self, batch: pa.RecordBatch) -> Trajectories:
        roads = parse_roads(batch.column(self.layout.roads), numpy_spelling=self.layout.numpy_spelling)
        times = parse_time_lists(batch.column(self.layout.times))
        faults = find_faults(roads, times, self.network, self.layout)
        bad = self._count(faults, batch.num_rows)
        ids = self._ids(batch)
        if not bad.any():
            return Trajectories(roads.offsets, roads.values, times.values, ids)
        self._note_first(bad, faults, (roads, times))
        good = np.flatnonzero(~bad)
        offsets, road_at = take_rows(roads.offsets, good)
        _, time_at = take_rows(times.offsets, good)
        return Trajectories(offsets, roads.values[road_at], times.values[time_at], None if ids is None else ids[good])

    def _ids(self, batch: pa.RecordBatch) -> TripIds | None:
        if self.layout.ids is None or self.layout.ids not in batch.schema.names:
            return None
        return TripIds(pc.fill_null(batch.column(self.layout.ids), ""))

    def _count(self, faults: list[Fault], count: int) -> BoolArray:
        """Add to the counts, each row by its first reason; returns (n,) bool, the invalid rows."""
        bad = np.zeros(count, bool)
        for fault in faults:
            here = int((fault.rows & ~bad).sum())
            self._counts[fault.reason] = self._counts.get(fault.reason, 0) + here
            bad |= fault.rows
        self._bad_rows += int(bad.sum())
        return bad

    def _note_first(self, bad: BoolArray, faults: list[Fault], lists: tuple[Lists, Lists]) -> None:
        if self._first is None:
            first = describe_row(int(np.argmax(bad)), faults, lists, self.network, self.layout)
            self._first = first._replace(row=first.row + self._rows)


def ingest_trips(csv_path: Path, network: RoadNetwork, on_bad_row: str, target: Path) -> Trajectories:
    """Read and validate a split of a city and write it to `target`, as `read_trips` and `Trajectories.save` do.

    Returns the trips of the written file. Neither memory nor the size of the CSV limits it; while it runs, the folder
    of `target` also holds the trips in temporary files. Raises DataError as `read_trips`.
    """
    reader = TripReader(csv_path, network, HOSER_LAYOUT, on_bad_row)
    # a fixed name, so that a killed run leaves nothing that the next one does not remove
    folder = target.with_name(f".{target.stem}-parts")
    folder.mkdir(exist_ok=True)
    with (
        GrowingArray(folder / "lengths", np.int64) as lengths,
        GrowingArray(folder / "roads", np.int64) as roads,
        GrowingArray(folder / "times", np.int64) as times,
        _GrowingIds(folder) as ids,
    ):
        for trips in reader:
            lengths.append(trips.lengths)
            roads.append(trips.road_ids)
            times.append(trips.times)
            ids.append(trips)
        Trajectories(offsets_of(lengths.mapped()), roads.mapped(), times.mapped(), ids.mapped()).save(target)
    folder.rmdir()
    return replace(Trajectories.load(target), dropped=reader.dropped)


class _GrowingIds:
    """Ids that grow on disk: their UTF-8 bytes, and the number of bytes of each."""

    def __init__(self, folder: Path) -> None:
        self._bytes = GrowingArray(folder / "id_bytes", np.uint8)
        self._lengths = GrowingArray(folder / "id_lengths", np.int64)
        self._any = False

    def append(self, trips: Trajectories) -> None:
        """Add the ids of some trips, if they have any."""
        if not isinstance(trips.ids, TripIds):
            return
        self._any = True
        texts = trips.ids.texts
        self._bytes.append(_text_of(texts))
        self._lengths.append(pc.binary_length(texts).to_numpy())

    def mapped(self) -> TripIds | None:
        """Return all ids; None if the trips have none."""
        data, lengths = self._bytes.mapped(), self._lengths.mapped()
        return mapped_ids(data, lengths) if self._any else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for array in (self._bytes, self._lengths):
            array.__exit__(None, None, None)


def _text_of(texts: pa.Array) -> npt.NDArray[np.uint8]:
    """Return the UTF-8 bytes of all strings, one after the other."""
    texts = pc.cast(texts, pa.large_string())
    _, offsets, data = texts.buffers()
    if data is None:
        return np.zeros(0, np.uint8)
    first, last = np.frombuffer(offsets, np.int64)[[texts.offset, texts.offset + len(texts)]]
    return np.frombuffer(data, np.uint8)[first:last]
