"""Mean speeds of road classes by hour of the day, from training trips, and entry times along a path.

Shapes: N roads, C classes (`network.highway_names`), S steps, P points of n trips together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hoser_kd.common.arrays import Float64Array, Int64Array, row_of_value
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.trajectories import Trajectories

LEAST_STEPS = 30
"""Steps that a mean speed rests on; with fewer, the next coarser mean is used."""
FALLBACK_M_PER_S = 30 / 3.6
"""Speed where no training step takes any time: 30 km/h."""


@dataclass(frozen=True)
class ClassSpeeds:
    """Mean speeds: meters over seconds, each summed over steps, so steps of zero seconds do no harm."""

    by_class: Float64Array
    """(C,) float64, m/s, positive."""
    by_hour: Float64Array
    """(24, C) float64, m/s, positive: by hour of the day (UTC, as the trips' times have it)."""

    @classmethod
    def fit(cls, train: Trajectories, network: RoadNetwork) -> ClassSpeeds:
        """Return the speeds of training steps, by the class of the road that a step leaves and the hour it entered it.

        A class in an hour with fewer than 30 steps has the speed of the class, a class with fewer the overall speed.
        """
        num_classes = len(network.highway_names)
        sums = np.zeros((3, 24 * num_classes))
        for part in train.chunks():
            at, _ = part.step_positions()
            road = part.road_ids[at]
            group = hour_of_day(part.times[at]) * num_classes + network.road_type[road]
            seconds = np.maximum(part.times[at + 1] - part.times[at], 0).astype(np.float64)
            # adds the values one by one to the sum so far, so that chunks have no influence on the rounding
            for total, values in zip(sums, (1.0, network.length_m[road], seconds), strict=True):
                np.add.at(total, group, values)
        hourly = sums.reshape(3, 24, num_classes)
        overall = _mean_speed(hourly.sum((1, 2)), np.float64(FALLBACK_M_PER_S), least=1)
        by_class = _mean_speed(hourly.sum(1), overall)
        return cls(by_class, _mean_speed(hourly, by_class))

    def road_seconds(self, network: RoadNetwork, hour: int | None = None) -> Float64Array:
        """Return (N,) float64: seconds along each road, in an hour of the day (0 to 23) or, with None, over all."""
        speed = self.by_class if hour is None else self.by_hour[hour]
        seconds: Float64Array = network.length_m / speed[network.road_type]
        return seconds


def hour_of_day(times: Int64Array) -> Int64Array:
    """Return the hour of the day, 0 to 23, of times in seconds since the epoch."""
    return np.asarray(times, np.int64) % 86_400 // 3_600


def entry_times(offsets: Int64Array, point_seconds: Float64Array, start_times: Int64Array) -> Int64Array:
    """Return (P,) int64: whole seconds since the epoch at which each point's road is entered.

    A trip enters its first road at its start time (`start_times`, (n,) int64) and the next road when it has left the
    one before, as in the published generator. `point_seconds`: (P,) float64, the seconds along each point's road, not
    negative. Every trip has a point or more. Sums are rounded, not steps, so that short roads do not shift a trip.
    """
    # integers add up to the same sums whatever trips lie in front
    milliseconds = np.rint(point_seconds * 1000).astype(np.int64)
    before = np.cumsum(milliseconds) - milliseconds
    row = row_of_value(offsets)
    elapsed = before - before[offsets[:-1]][row]
    times: Int64Array = np.asarray(start_times, np.int64)[row] + (elapsed + 500) // 1000
    return times


def _mean_speed(sums: Float64Array, coarser: Float64Array | np.float64, least: int = LEAST_STEPS) -> Float64Array:
    """Return meters over seconds where the steps suffice and both are positive, `coarser` elsewhere; m/s.

    `sums`: (3, …) float64, the steps, their meters and their seconds.
    """
    steps, meters, seconds = sums
    usable = (steps >= least) & (seconds > 0) & (meters > 0)
    speed: Float64Array = np.where(usable, meters / np.where(usable, seconds, 1.0), coarser)
    return speed
