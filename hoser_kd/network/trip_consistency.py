"""Whether the splits of a city are different trips, and whether their times carry information.

Shapes: n trips, P points of all trips, S steps.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from hoser_kd.common.arrays import BoolArray, Int64Array, row_of_value
from hoser_kd.common.hashing import mixed
from hoser_kd.network.trajectories import Trajectories

MAX_REPEATED_SHARE = 0.9
"""Above this share of validation or test trips that are training trips, no metric means anything."""
_DAY = 86_400


def repeated_trips(trips: Trajectories, reference: Trajectories) -> BoolArray:
    """Return which trips equal a trip of `reference` in all roads and times, (n,) bool.

    Trips are compared by a 64-bit hash.
    """
    equal: BoolArray = np.isin(_hashes(trips), _hashes(reference))
    return equal


def split_overlap(splits: Mapping[str, Trajectories]) -> dict[str, int]:
    """Return the number of validation and test trips that equal a training trip, and of test trips in validation.

    Keys: val_in_train, test_in_train, test_in_val.
    """
    hashes = {name: _hashes(trips) for name, trips in splits.items()}
    return {
        f"{name}_in_{other}": int(np.isin(hashes[name], hashes[other]).sum())
        for name, other in (("val", "train"), ("test", "train"), ("test", "val"))
    }


def overlap_problem(splits: Mapping[str, Trajectories]) -> str | None:
    """Return which splits repeat trips of others, with the counts and the fix; None if none does."""
    overlap = split_overlap(splits)
    texts = [
        f"{overlap[f'{name}_in_{other}']} of {len(splits[name])} {words}"
        for name, other, words in (
            ("test", "train", "test trips are training trips"),
            ("val", "train", "validation trips are training trips"),
            ("test", "val", "test trips are validation trips"),
        )
        if overlap[f"{name}_in_{other}"]
    ]
    if not texts:
        return None
    counts = "; ".join(texts)
    return f"{counts}, with the same roads and times. Metrics on them measure memory: remove them from one split."


def constant_interval_s(trips: Trajectories) -> int | None:
    """Return the interval in seconds that all roads of all trips have: there is no time information. None otherwise.

    One interval alone is not constant.
    """
    seconds = distinct_intervals(trips, most=2)
    return int(seconds[0]) if trips.num_steps > 1 and len(seconds) == 1 else None


def has_times(trips: Trajectories) -> bool:
    """Return whether any road of a trip is entered later than the one before it; True for trips without steps."""
    return constant_interval_s(trips) != 0


def time_problem(splits: Mapping[str, Trajectories]) -> str | None:
    """Return in which way the times of trips carry no information, with the fix; None if they do."""
    for split, trips in splits.items():
        seconds = constant_interval_s(trips)
        if seconds is not None:
            left_out = "" if seconds else " Metrics of times and durations are left out."
            return (
                f"There is no time information in the {split} trips: all {trips.num_steps} intervals between roads are "
                f"{seconds} s. Predicted times and durations are meaningless.{left_out} Give "
                "the time at which each road is entered."
            )
        of_day = trips.start_times % _DAY
        if len(trips) > 1 and (of_day == of_day[0]).all():
            hour, minute = divmod(int(of_day[0]) // 60, 60)
            return (
                f"All {len(trips)} {split} trips start at the same time of day, {hour:02}:{minute:02}: departure times "
                "carry no information. Give the time at which each road is entered."
            )
    return None


def distinct_intervals(trips: Trajectories, most: int | None = None) -> Int64Array:
    """Return the distinct seconds between roads, ascending, int64; not all of them once there are `most`."""
    distinct = np.zeros(0, np.int64)
    for part in trips.chunks():
        at, _ = part.step_positions()
        distinct = np.union1d(distinct, part.times[at + 1] - part.times[at])
        if most is not None and len(distinct) >= most:
            break
    return distinct


def trip_problems(splits: Mapping[str, Trajectories]) -> list[str]:
    """Return what makes valid trips unfit to measure a student, one text per problem with its fix; empty if none."""
    return [problem for problem in (overlap_problem(splits), time_problem(splits)) if problem is not None]


def _hashes(trips: Trajectories) -> npt.NDArray[np.uint64]:
    """Return a hash of the roads and times of each trip, (n,) uint64; every trip has a road."""
    parts = [np.zeros(0, np.uint64), *(_chunk_hashes(part) for part in trips.chunks())]
    return np.concatenate(parts)


def _chunk_hashes(trips: Trajectories) -> npt.NDArray[np.uint64]:
    row = row_of_value(trips.offsets)
    position = (np.arange(len(row)) - trips.offsets[:-1][row]).astype(np.uint64)
    values = mixed(mixed(mixed(position) + trips.road_ids.astype(np.uint64)) + trips.times.astype(np.uint64))
    total: npt.NDArray[np.uint64] = np.add.reduceat(values, trips.offsets[:-1])
    return mixed(total + trips.lengths.astype(np.uint64))
