"""Values of each trip or step: distance, radius, duration, road visits.

Distance, radius and step duration follow the published evaluation (HOSER: Cao et al., AAAI 2025, section
"Experiments"), including its earth radius.

Shapes: N roads, n trips, S steps of all trips, P points (visited roads) of all trips.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hoser_kd.common.arrays import Float64Array, Int64Array, row_of_value
from hoser_kd.common.geodesy import EARTH_RADIUS_M, great_circle_m

if TYPE_CHECKING:
    from collections.abc import Callable

    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories

GREAT_CIRCLE_RADIUS_KM = 6371.009
"""Earth radius of distance and radius, as published."""


def traveled_km(trips: Trajectories, network: RoadNetwork) -> Float64Array:
    """Return (n,) float64: sum of the great-circle distances between consecutive road centers, km."""
    at, trip = trips.step_positions()
    points = network.centroids
    steps = _great_circle_km(points[trips.road_ids[at]], points[trips.road_ids[at + 1]])
    return _sums(trip, steps, len(trips))


def radius_km(trips: Trajectories, network: RoadNetwork) -> Float64Array:
    """Return (n,) float64: mean distance of a trip's road centers from their mean latitude and longitude, km."""
    trip, distance_km = _distance_from_mean(trips, network)
    return _sums(trip, distance_km, len(trips)) / trips.lengths


def gyration_km(trips: Trajectories, network: RoadNetwork) -> Float64Array:
    """Return (n,) float64: root mean square distance of a trip's road centers from their mean, km."""
    trip, distance_km = _distance_from_mean(trips, network)
    return np.sqrt(_sums(trip, distance_km**2, len(trips)) / trips.lengths)


def _distance_from_mean(trips: Trajectories, network: RoadNetwork) -> tuple[Int64Array, Float64Array]:
    """Return (P,) int64 trip of each point and (P,) float64 distance from the mean point of its trip, km."""
    trip = row_of_value(trips.offsets)
    points = network.centroids[trips.road_ids]
    mean = np.column_stack([_sums(trip, column, len(trips)) for column in points.T]) / trips.lengths[:, None]
    return trip, _great_circle_km(mean[trip], points)


def step_minutes(trips: Trajectories) -> Float64Array:
    """Return (S,) float64: minutes from each road to the next, over all trips."""
    at, _ = trips.step_positions()
    return (trips.times[at + 1] - trips.times[at]) / 60


def length_km(trips: Trajectories, network: RoadNetwork) -> Float64Array:
    """Return (n,) float64: sum of the lengths of a trip's roads, km."""
    return _sums(row_of_value(trips.offsets), network.length_m[trips.road_ids], len(trips)) / 1000


def trip_minutes(trips: Trajectories) -> Float64Array:
    """Return (n,) float64: minutes from entering the first road to entering the last."""
    return (trips.times[trips.offsets[1:] - 1] - trips.start_times) / 60


MEASURES: dict[str, Callable[[Trajectories, RoadNetwork], Float64Array]] = {
    "distance": traveled_km,
    "radius": radius_km,
    "gyration": gyration_km,
    "duration": lambda trips, _: step_minutes(trips),
    "trip_length": length_km,
    "trip_duration": lambda trips, _: trip_minutes(trips),
}
"""Measures whose distributions are compared, by the section of their metrics."""


TIMED = ("duration", "trip_duration")
"""Measures that need the times of the roads."""


def road_use(trips: Trajectories, network: RoadNetwork) -> Int64Array:
    """Return (N,) int64: visits of each road."""
    return np.bincount(trips.road_ids, minlength=network.num_roads)


def _sums(group: Int64Array, values: Float64Array, num_groups: int) -> Float64Array:
    """Return (num_groups,) float64 sums of the values of each group."""
    return np.asarray(np.bincount(group, values, num_groups), np.float64)


def _great_circle_km(a: Float64Array, b: Float64Array) -> Float64Array:
    """Return (K,) float64 km between two (K, 2) arrays of points, latitude and longitude in degrees."""
    angle = great_circle_m(a[:, 0], a[:, 1], b[:, 0], b[:, 1]) / EARTH_RADIUS_M
    return angle * GREAT_CIRCLE_RADIUS_KM
