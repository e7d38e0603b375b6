"""Measure map matching where the driven roads are known: GPS points along trips, and how well they are found again.

Shapes: n trips, R roads of all trips, P points, N roads of the network.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hoser_kd.common.arrays import Float64Array, Int64Array, offsets_of, ranges, row_of_value
from hoser_kd.common.geodesy import EARTH_RADIUS_M
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.trajectories import Trajectories


class GpsPoints(NamedTuple):
    """Points of n trips, as `match_trips` reads them."""

    offsets: Int64Array
    """(n + 1,) int64."""
    t: Float64Array
    """(P,) float64 seconds."""
    lon: Float64Array
    """(P,) float64 degrees."""
    lat: Float64Array
    """(P,) float64 degrees."""


class Agreement(NamedTuple):
    """Agreement of matched roads with true ones, weighted by length."""

    recall: float
    """Share of the true length that is found."""
    precision: float
    """Share of the found length that is true."""
    exact: float
    """Share of trips found with exactly the true roads."""


def drive(trips: Trajectories, network: RoadNetwork, every_s: float, noise_m: float, seed: int = 0) -> GpsPoints:
    """Return a point every `every_s` seconds along the roads of each trip, and one at its end, with normal noise.

    A vehicle drives each road at constant speed between the entry times of `trips`, and the last one at the mean speed
    of the trip. `noise_m` is the standard deviation of the error in each direction, meters.
    """
    along_m, at_s, offsets = _timetable(trips, network)
    duration = at_s[offsets[1:] - 1] - at_s[offsets[:-1]]
    samples = np.floor(duration / every_s).astype(np.int64) + 1
    extra = samples * every_s - every_s < duration  # a last point at the end
    counts = samples + extra
    point_offsets = offsets_of(counts)
    row = row_of_value(point_offsets)
    place = ranges(np.zeros(len(counts), np.int64), counts)
    elapsed = np.minimum(place * every_s, duration[row])
    # one increasing axis for all trips, so that one interpolation serves all
    shift = (offsets_of(np.ceil(duration).astype(np.int64) + 1)[:-1]).astype(np.float64)
    trip_of_stop = row_of_value(offsets)
    axis = at_s - at_s[offsets[:-1]][trip_of_stop] + shift[trip_of_stop]
    position = np.interp(elapsed + shift[row], axis, along_m)
    lon, lat = _places(trips, network, row, position).T
    rng = np.random.default_rng(seed)
    meters_per_degree = np.radians(EARTH_RADIUS_M)
    lon = lon + rng.normal(0, noise_m, len(lon)) / (meters_per_degree * np.cos(np.radians(lat)))
    lat = lat + rng.normal(0, noise_m, len(lat)) / meters_per_degree
    return GpsPoints(point_offsets, trips.start_times[row] + elapsed, lon, lat)


def agreement(matched: Trajectories, input_trip: Int64Array, truth: Trajectories, network: RoadNetwork) -> Agreement:
    """Compare the roads of matched pieces with those of the true trip; a road driven twice counts twice."""
    num_roads = network.num_roads
    found_keys = input_trip[row_of_value(matched.offsets)] * num_roads + matched.road_ids
    true_keys = row_of_value(truth.offsets) * num_roads + truth.road_ids
    keys, found_count = np.unique(found_keys, return_counts=True)
    wanted, true_count = np.unique(true_keys, return_counts=True)
    common, at_found, at_true = np.intersect1d(keys, wanted, return_indices=True)
    length_m = network.length_m[common % num_roads]
    shared_m = float((np.minimum(found_count[at_found], true_count[at_true]) * length_m).sum())
    pieces = np.bincount(input_trip, minlength=len(truth))
    exact = [
        bool(pieces[trip] == 1 and np.array_equal(matched.roads(piece), truth.roads(trip)))
        for piece, trip in enumerate(input_trip.tolist())
    ]
    return Agreement(
        shared_m / float(network.length_m[truth.road_ids].sum()),
        shared_m / max(float(network.length_m[matched.road_ids].sum()), 1e-9),
        sum(exact) / len(truth),
    )


def _timetable(trips: Trajectories, network: RoadNetwork) -> tuple[Float64Array, Float64Array, Int64Array]:
    """Return the distance along all roads of all trips, and the time, at every road's start and each trip's end."""
    length_m = network.length_m[trips.road_ids]
    row = row_of_value(trips.offsets)
    before_m = np.cumsum(length_m) - length_m
    last = trips.offsets[1:] - 1
    seconds = (trips.times[last] - trips.start_times).astype(np.float64)
    driven_m = before_m[last] - before_m[trips.offsets[:-1]]
    speed = np.where(seconds > 0, driven_m / np.maximum(seconds, 1), 8.0)
    end_s = trips.times[last] + length_m[last] / np.maximum(speed, 1.0)
    stops = np.arange(len(row)) + row
    ends = trips.offsets[1:] + np.arange(len(trips))
    along_m, at_s = np.empty(len(row) + len(trips)), np.empty(len(row) + len(trips))
    along_m[stops], at_s[stops] = before_m, trips.times
    along_m[ends], at_s[ends] = before_m[last] + length_m[last], end_s
    return along_m, at_s, trips.offsets + np.arange(len(trips) + 1)


def _places(trips: Trajectories, network: RoadNetwork, row: Int64Array, position_m: Float64Array) -> Float64Array:
    """Return (P, 2) float64 lon, lat of positions along the joined roads of all trips, each on a road of its trip."""
    import shapely

    length_m = network.length_m[trips.road_ids]
    start_m = np.cumsum(length_m) - length_m
    step = np.searchsorted(start_m, position_m, side="right") - 1
    step = np.clip(step, trips.offsets[row], trips.offsets[row + 1] - 1)
    share = np.clip((position_m - start_m[step]) / np.maximum(length_m[step], 1e-9), 0, 1)
    points = shapely.line_interpolate_point(network.geometry[trips.road_ids[step]], share, normalized=True)
    return np.column_stack([shapely.get_x(points), shapely.get_y(points)])
