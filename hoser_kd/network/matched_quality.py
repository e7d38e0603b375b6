"""How well GPS trips were matched to roads: measures of each piece and of the whole.

Shapes: P points of all GPS trips, m pieces.
"""

from __future__ import annotations

from collections import Counter
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


def measure_pieces(points: GpsPoints, matched: MatchedTrips, network: RoadNetwork, piece: Int64Array) -> PieceMeasures:
    """Return the measures of each piece; `piece` is that of `piece_of_point`."""
    trips, count = matched.trips, len(matched.trips)
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


class WorstPiece(NamedTuple):
    """One of the pieces whose points lie farthest from their roads."""

    trip: str
    distance_m: float
    """Mean distance of its points."""
    farthest_m: float
    roads: Int64Array
    """Its roads, (r,) int64."""
    places: Float64Array
    """Its points, (k, 2) float64 lon, lat."""


class Distances:
    """Counts of distances in whole millimeters, so that quantiles of any number of points need little memory."""

    def __init__(self) -> None:
        self.counts = np.zeros(1, np.int64)

    def add(self, distance_m: Float64Array) -> None:
        """Count distances, in meters."""
        new = np.bincount(np.rint(distance_m * 1000).astype(np.int64), minlength=len(self.counts))
        new[: len(self.counts)] += self.counts
        self.counts = new

    def quantiles(self, q: Float64Array) -> Float64Array:
        """Return the quantiles in meters, as `np.quantile` does; zeros if nothing was counted."""
        below = np.cumsum(self.counts)
        place = np.asarray(q, np.float64) * max(int(below[-1]) - 1, 0)
        low, high = (np.searchsorted(below, side(place), side="right") / 1000 for side in (np.floor, np.ceil))
        values: Float64Array = (low + (high - low) * (place - np.floor(place))) * bool(below[-1])
        return values

    def sample(self, count: int = 20_000) -> Float64Array:
        """Return up to `count` values with the same distribution, ascending."""
        total = int(self.counts.sum())
        return self.quantiles(np.linspace(0, 1, min(count, total))) if total else np.zeros(0)


class MatchTotals:
    """Measures of all matched trips, added batch by batch; memory grows with the pieces, not with their points."""

    def __init__(self, network: RoadNetwork, num_worst: int) -> None:
        """`num_worst`: how many of the worst pieces are kept."""
        self.network = network
        self.num_worst = num_worst
        self.worst: list[WorstPiece] = []
        self._measures: list[PieceMeasures] = []
        self._lengths: list[Int64Array] = []
        self._pieces_per_trip: list[Int64Array] = []
        self._distances = Distances()
        self._used = np.zeros(network.num_roads, bool)
        self._counts: Counter[str] = Counter()
        self._num_points = self._num_matched = self._num_raw = self._num_raw_matched = self._unconnected = 0

    def add(self, points: GpsPoints, matched: MatchedTrips, raw_trip: Int64Array) -> None:
        """Add a batch; `raw_trip` (n,) int64 is the number of the raw trip of each GPS trip, ascending."""
        piece = piece_of_point(points, matched)
        measures = measure_pieces(points, matched, self.network, piece)
        self._measures.append(measures)
        self._lengths.append(matched.trips.lengths)
        self._pieces_per_trip.append(np.unique(matched.input_trip, return_counts=True)[1])
        self._distances.add(matched.point_distance_m[piece >= 0])
        self._used[matched.trips.road_ids] = True
        self._counts.update(matched.counts)
        self._num_points += points.num_points
        self._num_matched += int((piece >= 0).sum())
        self._num_raw += len(np.unique(raw_trip))
        self._num_raw_matched += len(np.unique(raw_trip[matched.input_trip]))
        self._unconnected += unconnected_steps(matched, self.network)
        new = [
            WorstPiece(
                str(points.trip_ids[matched.input_trip[row]]),
                float(measures.distance_m[row]),
                float(measures.farthest_m[row]),
                matched.trips.roads(row).copy(),
                np.column_stack([points.lon, points.lat])[piece == row],
            )
            for row in np.argsort(-measures.distance_m, kind="stable")[: self.num_worst].tolist()
        ]
        self.worst = sorted([*self.worst, *new], key=lambda each: -each.distance_m)[: self.num_worst]

    @property
    def num_pieces(self) -> int:
        """Number of pieces so far."""
        return sum(map(len, self._lengths))

    @property
    def counts(self) -> dict[str, int]:
        """What was left out or split, by reason."""
        return dict(self._counts)

    def measures(self) -> PieceMeasures:
        """Return the measures of all pieces."""
        return PieceMeasures(*(np.concatenate(each) for each in zip(*self._measures, strict=True)))

    def distributions(self) -> dict[str, Float64Array]:
        """Return the values of each measure, for a figure."""
        measures = self.measures()
        return {
            "distance to the road, m": self._distances.sample(),
            "longest gap of a trip, s": measures.longest_gap_s,
            "speed, m/s": measures.speed_m_s,
            "path over straight line": measures.detour,
            "roads of a trip": np.concatenate(self._lengths).astype(np.float64),
            "pieces per trip": np.concatenate(self._pieces_per_trip).astype(np.float64),
        }

    def summary(self) -> dict[str, Any]:
        """Return the metrics of the whole."""
        measures = self.measures()

        def quantile(values: Float64Array, q: float) -> float:
            known = values[np.isfinite(values)]
            return round(float(np.quantile(known, q)), 3) if len(known) else 0.0

        median, p95 = (round(float(value), 3) for value in self._distances.quantiles(np.array([0.5, 0.95])))
        return {
            "gps_trips": self._num_raw,
            "pieces": self.num_pieces,
            "matched_trips_share": round(self._num_raw_matched / max(self._num_raw, 1), 5),
            "matched_points_share": round(self._num_matched / max(self._num_points, 1), 5),
            "pieces_per_trip": round(self.num_pieces / max(self._num_raw_matched, 1), 3),
            "unconnected_steps": self._unconnected,
            "roads_used": int(self._used.sum()),
            "distance_m_median": median,
            "distance_m_p95": p95,
            "gap_s_p95": quantile(measures.longest_gap_s, 0.95),
            "gap_s_longest": quantile(measures.longest_gap_s, 1.0),
            "speed_m_s_median": quantile(measures.speed_m_s, 0.5),
            "speed_m_s_p99": quantile(measures.speed_m_s, 0.99),
            "detour_median": quantile(measures.detour, 0.5),
            "detour_p95": quantile(measures.detour, 0.95),
            **self._counts,
        }
