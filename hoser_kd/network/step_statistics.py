"""Steps of trips by their number, without arrays over all steps.

Shapes: n trips, S steps (pairs of consecutive roads) of all trips, K steps of a request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hoser_kd.common.arrays import Float64Array, Int64Array, offsets_of

if TYPE_CHECKING:
    from hoser_kd.network.trajectories import Trajectories


class Steps:
    """The steps of trips in the order of `Trajectories.step_positions`."""

    def __init__(self, trips: Trajectories) -> None:
        """Memory: one number per trip."""
        self._trips = trips
        self._before = offsets_of(np.maximum(trips.lengths - 1, 0))

    def __len__(self) -> int:
        """S."""
        return int(self._before[-1])

    def positions(self, first: int, last: int) -> Int64Array:
        """Return the flat positions of the current roads of the steps `first` to before `last`, int64."""
        trip = int(np.searchsorted(self._before, first, side="right")) - 1
        end = int(np.searchsorted(self._before, last, side="left"))
        before = np.clip(self._before[trip : end + 1], first, last)
        counts = before[1:] - before[:-1]
        shift = np.asarray(self._trips.offsets[trip:end] - self._before[trip:end], np.int64)
        positions: Int64Array = np.arange(first, last) + np.repeat(shift, counts)
        return positions

    def seconds(self, first: int, last: int) -> Float64Array:
        """Return the seconds until the next road is entered, for these steps, float64."""
        if first >= last:
            return np.zeros(0)
        at = self.positions(first, last)
        start = int(at[0])
        times = self._trips.times[start : int(at[-1]) + 2]
        return (times[at - start + 1] - times[at - start]).astype(np.float64)


def position_of_step(trips: Trajectories, steps: Int64Array) -> Int64Array:
    """Return the flat positions of the current roads of some steps, (K,) int64."""
    before = offsets_of(np.maximum(trips.lengths - 1, 0))
    trip = np.searchsorted(before, steps, side="right") - 1
    positions: Int64Array = trips.offsets[trip] + steps - before[trip]
    return positions
