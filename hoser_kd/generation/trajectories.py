"""Generated trips as arrays and as a table. Shapes: n trips, P roads of a trip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hoser_kd.common.arrays import BoolArray, Int64Array, offsets_of
from hoser_kd.network.trajectories import Trajectories


class GeneratedTrip(NamedTuple):
    """A finished trip."""

    road_ids: Int64Array
    """(P,) int64."""
    times: Int64Array
    """(P,) int64: seconds since the epoch."""
    reached: bool
    """Whether it ends at its destination."""
    expansions: int
    """Nodes expanded for it."""


@dataclass(frozen=True, repr=False)
class GeneratedTrajectories(Trajectories):
    """Generated trips with the outcome of each."""

    reached: BoolArray = field(default_factory=lambda: np.zeros(0, bool))
    """(n,) bool: the trip ends at its destination."""
    expansions: Int64Array = field(default_factory=lambda: np.zeros(0, np.int64))
    """(n,) int64: expanded nodes; the published code calls the model once for each."""

    def __repr__(self) -> str:
        """Name the numbers of trips, of roads, and of trips that reach their destination."""
        return f"{super().__repr__()[:-1]}, {int(self.reached.sum()):,} reached)"

    @classmethod
    def of_trips(cls, trips: Sequence[GeneratedTrip], ids: np.ndarray | None = None) -> GeneratedTrajectories:
        """Collect finished trips in this order; `ids` (n,) are their names."""
        roads, times, reached, expansions = zip(*trips, strict=True) if trips else ((), (), (), ())
        none = np.zeros(0, np.int64)
        return cls(
            offsets_of(np.array([len(part) for part in roads], np.int64)),
            np.concatenate([none, *roads]),
            np.concatenate([none, *times]),
            ids,
            reached=np.array(reached, bool),
            expansions=np.array(expansions, np.int64),
        )

    def to_table(self) -> pa.Table:
        """Return the table of `Trajectories.to_table` with the columns reached and expansions."""
        return (
            super()
            .to_table()
            .append_column("reached", pa.array(self.reached))
            .append_column("expansions", pa.array(self.expansions))
        )

    @classmethod
    def read_parquet(cls, path: str | PathLike[str]) -> GeneratedTrajectories:
        """Read a Parquet file of `to_table`."""
        return cls.of_table(pq.read_table(path))

    @classmethod
    def of_table(cls, table: pa.Table) -> GeneratedTrajectories:
        """Return the trips of a table of `to_table`."""
        table = table.combine_chunks()
        roads, times = table["road_ids"].combine_chunks(), table["times"].combine_chunks()
        return cls(
            np.asarray(roads.offsets, np.int64),
            roads.flatten().to_numpy(),
            times.flatten().cast(pa.timestamp("s", tz="UTC")).cast(pa.int64()).to_numpy(),
            table["trajectory_id"].to_numpy(),
            reached=table["reached"].to_numpy(),
            expansions=table["expansions"].to_numpy(),
        )
