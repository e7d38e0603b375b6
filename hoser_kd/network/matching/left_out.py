"""Cut matched trips where they drive on roads that the network leaves out.

Shapes: n input trips, P points of all input trips, m pieces, R roads of all pieces.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hoser_kd.common.arrays import Float64Array, Int64Array, offsets_of, row_of_value
from hoser_kd.network.matching.matcher import MatchedTrips
from hoser_kd.network.trajectories import Trajectories


def without_left_out_roads(
    matched: MatchedTrips, num_roads: int, offsets: Int64Array, t: Float64Array, min_roads: int
) -> MatchedTrips:
    """Return the pieces on roads below `num_roads`; roads from there on are those that the network leaves out.

    A piece is cut before and behind such roads, and the parts keep their entry times. Parts of fewer than `min_roads`
    roads are left out. `offsets` (n + 1,) int64 and `t` (P,) float64 seconds are those of the input trips. The points
    on left-out roads count as points without a road.
    """
    trips = matched.trips
    inside = trips.road_ids < num_roads
    on_left_out = matched.point_road >= num_roads
    if inside.all() and not on_left_out.any():
        return replace(matched, counts={**matched.counts, "points_on_left_out_roads": 0, "cuts_at_left_out_roads": 0})
    piece = row_of_value(trips.offsets)
    begins = np.ones(len(piece), bool)
    begins[1:] = (piece[1:] != piece[:-1]) | ~inside[:-1]
    part, at = np.cumsum(begins)[inside], np.flatnonzero(inside)
    _, first, lengths = np.unique(part, return_index=True, return_counts=True)
    kept = np.flatnonzero(lengths >= min_roads)
    start = at[first[kept]]
    wanted = at[np.isin(part, part[first[kept]])]
    input_trip = matched.input_trip[piece[start]]
    new = Trajectories(offsets_of(lengths[kept]), trips.road_ids[wanted], trips.times[wanted])
    whole = start == trips.offsets[:-1][piece[start]]
    first_point = np.where(whole, matched.first_point[piece[start]], _first_points(offsets, t, input_trip, new))
    counts = {
        **matched.counts,
        "short_pieces": matched.counts["short_pieces"] + len(lengths) - len(kept),
        "unmatched_trips": len(offsets) - 1 - len(np.unique(input_trip)),
        "points_on_left_out_roads": int(on_left_out.sum()),
        "cuts_at_left_out_roads": int((np.diff(inside.astype(np.int8)) != 0)[piece[1:] == piece[:-1]].sum()),
    }
    return MatchedTrips(
        new,
        input_trip,
        first_point,
        np.where(on_left_out, -1, matched.point_road),
        np.where(on_left_out, np.nan, matched.point_distance_m),
        counts,
    )


def _first_points(offsets: Int64Array, t: Float64Array, input_trip: Int64Array, trips: Trajectories) -> Int64Array:
    """Return the first point of each piece's input trip that is not before the piece, (m,) int64."""
    epoch = float(t.min(initial=0.0))
    stride = float(t.max(initial=0.0)) - epoch + 2
    key = row_of_value(offsets) * stride + (t - epoch)
    first: Int64Array = np.searchsorted(key, input_trip * stride + (trips.start_times - epoch)).astype(np.int64)
    return np.minimum(first, offsets[1:][input_trip] - 1)
