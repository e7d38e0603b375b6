"""Division of matched trips into training, validation and test trips, and copies across them.

Shapes: m pieces of trips.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from hoser_kd.common.arrays import BoolArray, Int64Array, ranges
from hoser_kd.common.calendar import SECONDS_PER_DAY
from hoser_kd.common.errors import DataError
from hoser_kd.common.hashing import mixed
from hoser_kd.config.raw_data import SplitConfig
from hoser_kd.network.trajectories import SPLITS, Trajectories


class DividedTrips(NamedTuple):
    """Trips of each split."""

    parts: dict[str, Trajectories]
    """Trips by split, in their former order."""
    copies_across_splits: int
    """Pieces that equal one of an earlier split."""
    copies_removed: int
    """How many of them are left out."""


def divide(
    trips: Trajectories, trip: Int64Array, trip_start: Int64Array, settings: SplitConfig, place: Path
) -> DividedTrips:
    """Return the pieces of each split; copies across splits are counted, and by setting removed from the later one.

    `trip` and `trip_start` are those of `split_pieces`. Raises DataError, which names `place`, if a split is empty.
    """
    split = split_pieces(trip, trip_start, settings, place)
    copies = copies_of_earlier_splits(trips, split)
    kept = ~copies if settings.remove_copies else np.ones(len(trips), bool)
    parts = {name: trips.take(np.flatnonzero((split == number) & kept)) for number, name in enumerate(SPLITS)}
    for name, part in parts.items():
        if len(part) == 0:
            hint = "Set `source.split.remove_copies: false`, or use other trips."
            raise DataError(place, f"all trips of {name} are copies of trips of an earlier split.", hint=hint)
    return DividedTrips(parts, int(copies.sum()), int((~kept).sum()))


def split_pieces(trip: Int64Array, trip_start: Int64Array, settings: SplitConfig, place: Path) -> Int64Array:
    """Return the split of each piece, (m,) int64: rows of `SPLITS`. The pieces of one trip have the same split.

    `trip` (m,) int64 is the number of the GPS trip that each piece belongs to, and `trip_start` (m,) int64 the local
    time in seconds at which that trip starts. Nothing else decides.

    Raises DataError, which names `place`, if a split would be empty.
    """
    trips, first, of_piece = np.unique(trip, return_index=True, return_inverse=True)
    if settings.by == "trip":
        order = np.random.default_rng(settings.seed).permutation(len(trips))
        bounds = np.round(np.cumsum(settings.shares)[:2] * len(trips)).astype(int)
        split = np.zeros(len(trips), np.int64)
        split[order[bounds[0] :]] = 1
        split[order[bounds[1] :]] = 2
        hint = "Use more trips, or other `source.split.shares`."
    else:
        split = _by_date(trip_start[first] // SECONDS_PER_DAY, settings.shares)
        hint = "Use data of three days or more, or set `source.split.by: trip`."
    empty = [name for number, name in enumerate(SPLITS) if not (split == number).any()]
    if empty:
        problem = f"no trips for {', '.join(empty)}: {len(trips)} trips, split by {settings.by}."
        raise DataError(place, problem, hint=hint)
    return split[of_piece]


def _by_date(day: Int64Array, shares: tuple[float, float, float]) -> Int64Array:
    """Return the split of each trip: whole days, so that the shares are met as closely as possible."""
    days, of_trip, count = np.unique(day, return_inverse=True, return_counts=True)
    if len(days) < len(SPLITS):
        return np.zeros(len(day), np.int64)
    before = np.cumsum(count)[:-1] / len(day)  # share of the trips on the first 1, 2, … days
    train = int(np.argmin(np.abs(before[:-1] - shares[0])))
    val = train + 1 + int(np.argmin(np.abs(before[train + 1 :] - shares[0] - shares[1])))
    split_of_day = (np.arange(len(days)) > train).astype(np.int64) + (np.arange(len(days)) > val)
    split: Int64Array = split_of_day[of_trip]
    return split


def copies_of_earlier_splits(trips: Trajectories, split: Int64Array) -> BoolArray:
    """Return (m,) bool: whether a piece equals one of an earlier split in all roads and times.

    Such copies come from trips that a data set holds twice, under different ids.
    """
    position = ranges(np.zeros_like(trips.lengths), trips.lengths).astype(np.uint64)
    values = mixed(mixed(position + mixed(trips.road_ids.astype(np.uint64))) + trips.times.astype(np.uint64))
    keys = np.add.reduceat(values, trips.offsets[:-1]) if len(trips) else values
    _, group = np.unique(keys, return_inverse=True)
    earliest = np.full(int(group.max(initial=-1)) + 1, len(SPLITS), np.int64)
    np.minimum.at(earliest, group, split)
    copies: BoolArray = earliest[group] < split
    return copies
