"""Which test trip each trip of a file answers.

Shapes: n generated trips.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hoser_kd.common.arrays import Int64Array

if TYPE_CHECKING:
    from hoser_kd.network.trajectories import Trajectories


@dataclass(frozen=True)
class TripMatch:
    """Test trips that generated trips answer."""

    test_rows: Int64Array | None
    """(n,) int64: row of the test trip of each generated trip; None: they are not paired."""
    num_matched: int
    """Number of generated trips whose origin and destination are those of a test trip."""
    num_trips: int
    """n."""
    message: str
    """How the trips were matched, or why they are not paired; a sentence or two."""
    num_test: int
    """Number of test trips."""

    @property
    def num_covered(self) -> int:
        """Number of different test trips that are answered; all of them where the trips are not paired."""
        return self.num_test if self.test_rows is None else len(np.unique(self.test_rows))

    @property
    def is_complete(self) -> bool:
        """Whether the trips are compared with all test trips."""
        return self.num_covered == self.num_test

    @property
    def most_repeats(self) -> int:
        """Largest number of generated trips that answer the same test trip; 1 where the trips are not paired."""
        return 1 if self.test_rows is None else int(np.bincount(self.test_rows).max(initial=0))


def match_test_trips(
    trips: Trajectories, test: Trajectories, origins: Int64Array | None = None, destinations: Int64Array | None = None
) -> TripMatch:
    """Pair generated trips with test trips if all of them answer one.

    `origins`, `destinations`: (n,) int64, what was requested, where the file holds it; by default, the first and the
    last road of each trip. Without them, as many trips as test trips with the same origins and start times, row by row,
    are paired by row, so that trips that miss their destination are paired too. Otherwise the k-th generated trip of an
    OD is paired with the k-th test trip of that OD, and with the first again where there are more generated ones.
    """
    if destinations is None and _same_starts(trips, test):
        message = f"All {len(trips):,} trips have the origin and the start time of the test trip of the same row."
        return TripMatch(np.arange(len(test)), len(trips), len(trips), f"{message} They are paired by row.", len(test))
    requested = origins is not None and destinations is not None
    first = trips.origins if origins is None else origins
    last = trips.destinations if destinations is None else destinations
    rows = _rows_of_same_od(first, last, test)
    matched = int((rows >= 0).sum())
    what = "the requested origin and destination" if requested else "the first and the last road"
    if matched == len(trips):
        covered = len(np.unique(rows))
        message = (
            f"All {matched:,} trips are paired with test trips by {what}; they cover {covered:,} of {len(test):,} test "
            "trips."
        )
        return TripMatch(rows, matched, len(trips), message, len(test))
    message = (
        f"{matched:,} of {len(trips):,} trips match the origin and destination of a test trip by {what}, so the trips "
        "are not paired, and metrics of the same request are left out. To get them, generate trips for ODs of test "
        "trips only, or add the columns origin_road_id and destination_road_id with the requested roads."
    )
    return TripMatch(None, matched, len(trips), message, len(test))


def _same_starts(trips: Trajectories, test: Trajectories) -> bool:
    """Return whether trips start on the same roads at the same times, row by row."""
    return np.array_equal(trips.origins, test.origins) and np.array_equal(trips.start_times, test.start_times)


def _rows_of_same_od(origins: Int64Array, destinations: Int64Array, test: Trajectories) -> Int64Array:
    """Return (n,) int64: the test trip of the same OD, k-th with k-th modulo their number; -1 without any."""
    width = int(max(destinations.max(initial=0), test.destinations.max(initial=0))) + 1
    key, known = origins * width + destinations, test.origins * width + test.destinations
    order = np.argsort(known, kind="stable")
    start = np.searchsorted(known[order], key, side="left")
    count = np.searchsorted(known[order], key, side="right") - start
    own = np.argsort(key, kind="stable")
    rank = np.empty(len(key), np.int64)
    rank[own] = np.arange(len(key)) - np.searchsorted(key[own], key[own])
    rows: Int64Array = np.full(len(key), -1, np.int64)
    has = count > 0
    rows[has] = order[start[has] + rank[has] % count[has]]
    return rows
