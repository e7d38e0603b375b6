"""Reading of trips from CSV block by block, with every check of a row and the messages of the whole file.

Memory grows with a block of the file, not with the file. `read_trips` in `hoser_kd.network.trajectories` collects the
blocks, `ingest_trips` in `hoser_kd.network.trip_ingestion` writes them to a file.
Shapes: n rows of a block, P roads of its trips.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hoser_kd.common.arrays import BoolArray, Int64Array, take_rows
from hoser_kd.common.errors import DataError
from hoser_kd.network.csv_files import read_csv_batches
from hoser_kd.network.trip_ids import TripIds
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


class TripBlock(NamedTuple):
    """Valid trips of a block; the fields of `hoser_kd.network.trajectories.Trajectories`."""

    offsets: Int64Array
    """(n + 1,) int64."""
    road_ids: Int64Array
    """(P,) int64."""
    times: Int64Array
    """(P,) int64: seconds since 1970-01-01."""
    ids: TripIds | None
    """(n,) ids, if the file has any."""


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

    def __iter__(self) -> Iterator[TripBlock]:
        """Yield the valid trips of each block that has any."""
        layout = self.layout
        optional = () if layout.ids is None else (layout.ids,)
        for batch in read_csv_batches(self.path, (layout.roads, layout.times), optional):
            trips = self._valid(batch)
            self._rows += batch.num_rows
            if len(trips.offsets) > 1 and not (self._refuses and self._bad_rows):
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

    def _valid(self, batch: pa.RecordBatch) -> TripBlock:
        roads = parse_roads(batch.column(self.layout.roads), numpy_spelling=self.layout.numpy_spelling)
        times = parse_time_lists(batch.column(self.layout.times))
        faults = find_faults(roads, times, self.network, self.layout)
        bad = self._count(faults, batch.num_rows)
        ids = self._ids(batch)
        if not bad.any():
            return TripBlock(roads.offsets, roads.values, times.values, ids)
        self._note_first(bad, faults, (roads, times))
        good = np.flatnonzero(~bad)
        offsets, road_at = take_rows(roads.offsets, good)
        _, time_at = take_rows(times.offsets, good)
        return TripBlock(offsets, roads.values[road_at], times.values[time_at], None if ids is None else ids[good])

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
