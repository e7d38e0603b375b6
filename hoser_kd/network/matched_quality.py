"""How well GPS trips were matched to roads: measures of each piece and of the whole.

Shapes: P points of all GPS trips, m pieces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hoser_kd.common.arrays import Float64Array, Int64Array, row_of_value
from hoser_kd.common.geodesy import great_circle_m

if TYPE_CHECKING:
    from hoser_kd.network.gps_points import GpsPoints
    from hoser_kd.network.matching import MatchedTrips
    from hoser_kd.network.road_network import RoadNetwork


class PieceMeasures(NamedTuple):
    """Measures of matched pieces, all (m,)."""

    distance_m: Float64Array
    """Mean distance of the points from their roads, in meters."""
    farthest_m: Float64Array
    """Largest distance of a point from its road, in meters."""
    longest_gap_s: Float64Array
    """Longest time between two consecutive matched points, in seconds."""
    speed_m_s: Float64Array
    """Length of the roads between the first and the last over the time on them, in m/s; NaN without time."""
    detour: Float64Array
    """Length of the path over the straight line between its ends; NaN for lines under 100 m."""


MIN_STRAIGHT_M = 100.0
"""A path between closer ends is a round trip, whose straight line has no meaning."""


def piece_of_point(points: GpsPoints, matched: MatchedTrips) -> Int64Array:
    """Return the piece of each point, (P,) int64, -1 for points whose road is not one of a piece's roads."""
    trip = row_of_value(points.offsets)
    piece = np.searchsorted(matched.first_point, np.arange(points.num_points), side="right") - 1
    inside = (piece >= 0) & (matched.point_road >= 0)
    if len(matched.input_trip):
        inside &= matched.input_trip[np.maximum(piece, 0)] == trip
        trips = matched.trips
        stride = int(max(trips.road_ids.max(), matched.point_road.max())) + 1
        driven = row_of_value(trips.offsets) * stride + trips.road_ids
        inside &= np.isin(np.maximum(piece, 0) * stride + matched.point_road, driven)
    return np.where(inside, piece, -1)


def measure_pieces(points: GpsPoints, matched: MatchedTrips, network: RoadNetwork) -> PieceMeasures:
    """Return the measures of each piece."""
    trips, count = matched.trips, len(matched.trips)
    piece = piece_of_point(points, matched)
    at = np.flatnonzero(piece >= 0)
    of_point, distance = piece[at], matched.point_distance_m[at]
    mean = np.bincount(of_point, distance, count) / np.maximum(np.bincount(of_point, minlength=count), 1)
    farthest, gap = np.zeros(count), np.zeros(count)
    np.maximum.at(farthest, of_point, distance)
    same = of_point[1:] == of_point[:-1]
    np.maximum.at(gap, of_point[1:][same], np.diff(points.t[at])[same])
    length = network.length_m[trips.road_ids]
    total = np.bincount(row_of_value(trips.offsets), length, count)
    first, last = trips.offsets[:-1], trips.offsets[1:] - 1
    # the first and the last road are driven in part only
    seconds = (trips.times[last] - trips.times[first + 1]).astype(np.float64)
    start, end = network.start[trips.origins], network.end[trips.destinations]
    straight = great_circle_m(start[:, 0], start[:, 1], end[:, 0], end[:, 1])
    with np.errstate(divide="ignore", invalid="ignore"):
        speed = np.where(seconds > 0, (total - length[first] - length[last]) / seconds, np.nan)
        detour = np.where(straight >= MIN_STRAIGHT_M, total / straight, np.nan)
    return PieceMeasures(mean, farthest, gap, speed, detour)


def unconnected_steps(matched: MatchedTrips, network: RoadNetwork) -> int:
    """Return the number of consecutive roads that are not connected in the network, which should be 0."""
    at, _ = matched.trips.step_positions()
    return int((network.candidate_index(matched.trips.road_ids[at], matched.trips.road_ids[at + 1]) < 0).sum())


def summarize(
    points: GpsPoints, matched: MatchedTrips, measures: PieceMeasures, network: RoadNetwork, raw_trip: Int64Array
) -> dict[str, Any]:
    """Return the metrics of the whole; `raw_trip` (n,) int64 is the number of the raw trip of each GPS trip."""
    in_piece = piece_of_point(points, matched) >= 0
    num_raw = int(raw_trip[-1]) + 1 if len(raw_trip) else 0
    with_pieces = len(np.unique(raw_trip[matched.input_trip]))
    distance = matched.point_distance_m[in_piece]

    def quantile(values: Float64Array, q: float) -> float:
        known = values[np.isfinite(values)]
        return round(float(np.quantile(known, q)), 3) if len(known) else 0.0

    return {
        "gps_trips": num_raw,
        "pieces": len(matched.trips),
        "matched_trips_share": round(with_pieces / max(num_raw, 1), 5),
        "matched_points_share": round(float(in_piece.mean()) if len(in_piece) else 0.0, 5),
        "pieces_per_trip": round(len(matched.trips) / max(with_pieces, 1), 3),
        "unconnected_steps": unconnected_steps(matched, network),
        "roads_used": len(np.unique(matched.trips.road_ids)),
        "distance_m_median": quantile(distance, 0.5),
        "distance_m_p95": quantile(distance, 0.95),
        "gap_s_p95": quantile(measures.longest_gap_s, 0.95),
        "gap_s_longest": quantile(measures.longest_gap_s, 1.0),
        "speed_m_s_median": quantile(measures.speed_m_s, 0.5),
        "speed_m_s_p99": quantile(measures.speed_m_s, 0.99),
        "detour_median": quantile(measures.detour, 0.5),
        "detour_p95": quantile(measures.detour, 0.95),
        **matched.counts,
    }


def worst_pieces(measures: PieceMeasures, count: int) -> Int64Array:
    """Return the pieces whose points lie farthest from their roads on average, the worst first."""
    return np.argsort(-measures.distance_m, kind="stable")[:count]
