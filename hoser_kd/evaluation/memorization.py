"""Exact duplicates: trips with the same roads in the same order as another trip.

Shapes: n trips, m known trips.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hoser_kd.common.arrays import row_of_value
from hoser_kd.common.hashing import mixed

if TYPE_CHECKING:
    from hoser_kd.common.arrays import BoolArray
    from hoser_kd.network.trajectories import Trajectories


def copied(trips: Trajectories, known: Trajectories) -> BoolArray:
    """Return (n,) bool: whether a trip has exactly the roads of one of the m `known` trips; all have one road or more.

    Memory and time grow with the total number of roads, not with n · m: trips are matched by a hash of their roads, and
    matches are compared road by road.
    """
    is_copy = np.zeros(len(trips), bool)
    if len(trips) == 0 or len(known) == 0:
        return is_copy
    mine, others = _hashes(trips), _hashes(known)
    order = np.argsort(others, kind="stable")
    place = np.minimum(np.searchsorted(others, mine, sorter=order), len(others) - 1)
    match = order[place]
    for row in np.flatnonzero(others[match] == mine).tolist():
        is_copy[row] = np.array_equal(trips.roads(row), known.roads(int(match[row])))
    return is_copy


def route_hashes(trips: Trajectories) -> npt.NDArray[np.uint64]:
    """Return (n,) uint64: a hash of each trip's sequence of roads; all trips have one road or more."""
    return _hashes(trips)


def _hashes(trips: Trajectories) -> npt.NDArray[np.uint64]:
    """Return (n,) uint64: sum over a trip's roads of the hash of road and position (splitmix64)."""
    return np.concatenate([np.zeros(0, np.uint64), *(_chunk_hashes(part) for part in trips.chunks())])


def _chunk_hashes(trips: Trajectories) -> npt.NDArray[np.uint64]:
    place = np.arange(len(trips.road_ids)) - trips.offsets[:-1][row_of_value(trips.offsets)]
    keys = trips.road_ids.astype(np.uint64) + (place.astype(np.uint64) << np.uint64(40))
    summed: npt.NDArray[np.uint64] = np.add.reduceat(mixed(keys), trips.offsets[:-1])
    return summed
