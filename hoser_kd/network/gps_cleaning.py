"""Cleaning of GPS points: invalid points, duplicates, jumps, gaps, stops, standing ends. Everything removed is counted.

All steps are array operations over the points of a batch of trips.
Shapes: P points.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from hoser_kd.common.arrays import BoolArray, Float64Array, Int64Array, offsets_of, row_of_value
from hoser_kd.common.geodesy import great_circle_m
from hoser_kd.config.raw_data import PointsConfig
from hoser_kd.network.gps_points import GpsPoints

REASONS = (
    "invalid_points",
    "points_out_of_order",
    "duplicate_points",
    "jumps_removed",
    "cuts_at_jumps",
    "cuts_at_gaps",
    "cuts_at_stops",
    "points_in_stops",
    "standing_points",
    "trips_too_short",
)
"""What is counted, in the order of the steps."""
DEFAULT_STOP_S = 600.0
"""A day of a vehicle is cut at stops longer than this where `max_stop_s` is not set."""
_JUMP_ROUNDS = 5


def clean(points: GpsPoints, settings: PointsConfig, counts: Counter[str], *, by_day: bool = False) -> GpsPoints:
    """Return the trips without faulty points, cut where they are interrupted; adds to `counts`.

    `by_day`: the trips are days of a vehicle, which are cut at stops even where `max_stop_s` is not set.
    """
    work = _Work(points)
    lon, lat, t = points.lon, points.lat, points.t
    valid = np.isfinite(t) & np.isfinite(lon) & np.isfinite(lat) & (np.abs(lon) <= 180) & (np.abs(lat) <= 90)
    valid &= (lon != 0) | (lat != 0)  # receivers without a position report 0, 0
    work.keep(valid, counts, "invalid_points")
    counts["points_out_of_order"] += work.sort_by_time()
    work.keep(~work.follows(work.steps_s() == 0), counts, "duplicate_points")
    for _ in range(_JUMP_ROUNDS):
        jumps = _jumps(work, settings.max_speed_m_s)
        if not jumps.any():
            break
        work.keep(~jumps, counts, "jumps_removed")
    work.cut(_too_fast(work, settings.max_speed_m_s), counts, "cuts_at_jumps")
    work.cut(work.steps_s() > settings.max_gap_s, counts, "cuts_at_gaps")
    stop_s = settings.max_stop_s or (DEFAULT_STOP_S if by_day else None)
    if stop_s is not None and settings.standing_m > 0:
        _cut_stops(work, settings.standing_m, stop_s, counts)
    if settings.standing_m > 0:
        work.keep(~_standing_ends(work, settings.standing_m), counts, "standing_points")
    return work.trips(settings, counts)


class _Work:
    """Points under work; `piece` is the number of the piece that each point belongs to, ascending."""

    def __init__(self, points: GpsPoints) -> None:
        self.points = points
        self.row = row_of_value(points.offsets)
        self.piece = self.row.copy()
        self.t, self.lon, self.lat = points.t, points.lon, points.lat

    def _select(self, at: Int64Array) -> None:
        self.row, self.piece = self.row[at], self.piece[at]
        self.t, self.lon, self.lat = self.t[at], self.lon[at], self.lat[at]

    def keep(self, kept: BoolArray, counts: Counter[str], reason: str) -> None:
        """Remove the other points and count them."""
        counts[reason] += int((~kept).sum())
        if not kept.all():
            self._select(np.flatnonzero(kept))

    def sort_by_time(self) -> int:
        """Sort the points of each trip by time; return the number that were earlier than their predecessor."""
        out_of_order = int((self.steps_s() < 0).sum())
        if out_of_order:
            self._select(np.lexsort((self.t, self.piece)))
        return out_of_order

    def same(self) -> BoolArray:
        """(P - 1,) bool: whether each point but the first belongs to the piece of the one before."""
        same: BoolArray = self.piece[1:] == self.piece[:-1]
        return same

    def steps_s(self) -> Float64Array:
        """(P - 1,) float64: seconds from the previous point; NaN between pieces."""
        return np.where(self.same(), np.diff(self.t), np.nan)

    def steps_m(self) -> Float64Array:
        """(P - 1,) float64: meters from the previous point; NaN between pieces."""
        meters = great_circle_m(self.lat[:-1], self.lon[:-1], self.lat[1:], self.lon[1:])
        return np.where(self.same(), meters, np.nan)

    def follows(self, steps: BoolArray) -> BoolArray:
        """(P,) bool: whether the step to each point is one of these."""
        return np.concatenate([np.zeros(min(len(self.t), 1), bool), steps])

    def cut(self, steps: BoolArray, counts: Counter[str], reason: str) -> None:
        """Begin a new piece behind each of these steps."""
        counts[reason] += int(steps.sum())
        new = self.follows(steps | ~self.same())
        self.piece = np.cumsum(new)

    def ends(self) -> tuple[Int64Array, Int64Array]:
        """Return first and last position of each piece."""
        first = np.flatnonzero(np.concatenate([np.ones(min(len(self.t), 1), bool), ~self.same()]))
        return first, np.append(first[1:], len(self.t)) - 1

    def trips(self, settings: PointsConfig, counts: Counter[str]) -> GpsPoints:
        """Return the pieces as trips, without those that are too short."""
        first, last = self.ends()
        lengths = last - first + 1
        points = self.points
        row = self.row[first]
        trips = GpsPoints(
            offsets_of(lengths), points.trip_ids[row], points.vehicle_ids[row], self.t, self.lon, self.lat
        )
        long_enough = (lengths >= settings.min_points) & (_extent_m(trips) >= settings.min_length_m)
        counts["trips_too_short"] += int((~long_enough).sum())
        return trips if long_enough.all() else trips.take(np.flatnonzero(long_enough))


def _extent_m(trips: GpsPoints) -> Float64Array:
    """Return the diagonal of each trip's bounding box in meters."""
    if len(trips) == 0:
        return np.zeros(0)
    first = trips.offsets[:-1]
    south, north = np.minimum.reduceat(trips.lat, first), np.maximum.reduceat(trips.lat, first)
    west, east = np.minimum.reduceat(trips.lon, first), np.maximum.reduceat(trips.lon, first)
    return great_circle_m(south, west, north, east)


def _too_fast(work: _Work, max_speed_m_s: float) -> BoolArray:
    """(P - 1,) bool: whether the step would need a higher speed."""
    fast: BoolArray = work.steps_m() > max_speed_m_s * work.steps_s()
    return fast


def _jumps(work: _Work, max_speed_m_s: float) -> BoolArray:
    """(P,) bool: points that can be neither reached nor left in time, or at the end of a trip one of the two."""
    if len(work.t) < 3:
        return np.zeros(len(work.t), bool)
    fast, same = _too_fast(work, max_speed_m_s), work.same()
    arrives = np.concatenate([[False], fast])
    leaves = np.concatenate([fast, [False]])
    is_first, is_last = np.concatenate([[True], ~same]), np.concatenate([~same, [True]])
    next_fast = np.concatenate([leaves[1:], [False]])
    previous_fast = np.concatenate([[False], arrives[:-1]])
    two_behind = np.concatenate([~is_last[1:], [False]])
    two_before = np.concatenate([[False], ~is_first[:-1]])
    bad: BoolArray = arrives & leaves
    bad |= is_first & leaves & ~next_fast & two_behind
    bad |= is_last & arrives & ~previous_fast & two_before
    return bad


def _cut_stops(work: _Work, standing_m: float, stop_s: float, counts: Counter[str]) -> None:
    """Cut where consecutive points stay closer than `standing_m` for longer than `stop_s`; drop the points between."""
    slow = work.steps_m() < standing_m
    starts = slow & ~np.concatenate([[False], slow[:-1]])[: len(slow)]
    ends = slow & ~np.concatenate([slow[1:], [False]])[: len(slow)]
    first, last = np.flatnonzero(starts), np.flatnonzero(ends) + 1
    long_stop = work.t[last] - work.t[first] > stop_s
    first, last = first[long_stop], last[long_stop]
    steps = np.zeros(max(len(work.t) - 1, 0), bool)
    steps[first] = True
    inside = np.zeros(len(work.t) + 1, np.int64)
    inside[first + 1] += 1
    inside[last] -= 1
    work.cut(steps, counts, "cuts_at_stops")
    work.keep(np.cumsum(inside)[: len(work.t)] == 0, counts, "points_in_stops")


def _standing_ends(work: _Work, standing_m: float) -> BoolArray:
    """(P,) bool: points near the first or the last point of their piece, except the one next to the moving part."""
    first, last = work.ends()
    count = last - first + 1
    at = np.arange(len(work.t))

    def away(from_position: Int64Array) -> BoolArray:
        origin = np.repeat(from_position, count)
        return great_circle_m(work.lat[origin], work.lon[origin], work.lat, work.lon) > standing_m

    # positions of the first point away from the start, and of the last point away from the end
    leaves = np.minimum.reduceat(np.where(away(first), at, len(at)), first) if len(at) else first
    arrives = np.maximum.reduceat(np.where(away(last), at, -1), first) if len(at) else first
    moves = np.repeat((leaves <= last) & (arrives >= first), count)
    standing: BoolArray = moves & ((at < np.repeat(leaves, count) - 1) | (at > np.repeat(arrives, count) + 1))
    return standing
