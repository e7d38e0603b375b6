"""Which trips are copies of others: the same roads in the same order.

Shapes: n trips, m trips they may be copies of, P roads of n trips together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hoser_kd.common.arrays import row_of_value

if TYPE_CHECKING:
    from hoser_kd.common.arrays import BoolArray
    from hoser_kd.network.trajectories import Trajectories

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def copied(trips: Trajectories, known: Trajectories) -> BoolArray:
    """Return (n,) bool: whether a trip has exactly the roads of one of `known`. All have a road or more.

    Memory and time grow with the roads of both, not with n · m: trips meet by a hash of their roads, and those that
    meet are compared road by road.
    """
    found = np.zeros(len(trips), bool)
    if len(trips) == 0 or len(known) == 0:
        return found
    mine, others = _hashes(trips), _hashes(known)
    order = np.argsort(others, kind="stable")
    place = np.minimum(np.searchsorted(others, mine, sorter=order), len(others) - 1)
    match = order[place]
    for row in np.flatnonzero(others[match] == mine).tolist():
        found[row] = np.array_equal(trips.roads(row), known.roads(int(match[row])))
    return found


def _hashes(trips: Trajectories) -> npt.NDArray[np.uint64]:
    """Return (n,) uint64: a sum over a trip's roads of each with its place, scrambled (splitmix64)."""
    place = np.arange(len(trips.road_ids)) - trips.offsets[:-1][row_of_value(trips.offsets)]
    x = trips.road_ids.astype(np.uint64) + (place.astype(np.uint64) << np.uint64(40)) + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * _MIX[0]
    x = (x ^ (x >> np.uint64(27))) * _MIX[1]
    summed: npt.NDArray[np.uint64] = np.add.reduceat(x ^ (x >> np.uint64(31)), trips.offsets[:-1])
    return summed
