"""Retrieval: which training trip is nearest to a requested origin, destination and start time.

Shapes: n requests, m training trips, N roads, A candidate trips of n requests together.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hoser_kd.common.arrays import Float64Array, Int64Array, offsets_of, ranges, row_of_value
from hoser_kd.common.geodesy import great_circle_m
from hoser_kd.generation.od_pairs import OdPairs
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.trajectories import Trajectories

_DAY_S = 86_400
_MOST_CANDIDATES = 4_000_000
"""Candidate trips compared at once."""


class Match(NamedTuple):
    """The training trip that answers each request."""

    row: Int64Array
    """(n,) int64: row of the training trip, -1 where no trip connects the same two cells."""
    same_od: Int64Array
    """(n,) int64: 1 where it has the requested origin and destination roads, else 0."""


def match_requests(od: OdPairs, train: Trajectories, network: RoadNetwork, od_cell: Int64Array) -> Match:
    """Return the nearest training trip of each request among those between the same two cells.

    Trips with the same origin and destination roads come first; then the least sum of the great-circle distances
    between both origins and between both destinations; then the nearest start by time of day; then the first row.
    `od_cell`: (N,) int64, not negative, the cell of each road.
    """
    num_cells = int(od_cell.max(initial=0)) + 1
    known = od_cell[train.origins] * num_cells + od_cell[train.destinations]
    order = np.argsort(known, kind="stable")
    known = known[order]
    key = od_cell[od.origins] * num_cells + od_cell[od.destinations]
    first = np.searchsorted(known, key, side="left")
    count = np.searchsorted(known, key, side="right") - first
    best = np.full(len(od), -1, np.int64)
    for rows in _chunks(count):
        request = np.repeat(rows, count[rows])
        trip = order[ranges(first[rows], count[rows])]
        best[rows[count[rows] > 0]] = _nearest(request, trip, od, train, network)
    answered = best >= 0
    same = np.zeros(len(od), np.int64)
    same[answered] = _same_od(np.flatnonzero(answered), best[answered], od, train)
    return Match(best, same)


def _chunks(count: Int64Array) -> list[Int64Array]:
    """Split requests so that each part has about `_MOST_CANDIDATES` candidates at most."""
    part = np.cumsum(count) // _MOST_CANDIDATES
    return np.split(np.arange(len(count), dtype=np.int64), np.flatnonzero(np.diff(part)) + 1)


def _same_od(request: Int64Array, trip: Int64Array, od: OdPairs, train: Trajectories) -> Int64Array:
    """Return 1 where a trip has the origin and destination roads of its request, else 0."""
    same = (od.origins[request] == train.origins[trip]) & (od.destinations[request] == train.destinations[trip])
    return np.asarray(same, np.int64)


def _nearest(
    request: Int64Array, trip: Int64Array, od: OdPairs, train: Trajectories, network: RoadNetwork
) -> Int64Array:
    """Return the nearest trip of each distinct request; both (A,) int64, `request` ascending."""
    away_m = _between_m(network, od.origins[request], train.origins[trip])
    away_m += _between_m(network, od.destinations[request], train.destinations[trip])
    apart_s = np.abs(od.start_times[request] - train.start_times[trip]) % _DAY_S
    apart_s = np.minimum(apart_s, _DAY_S - apart_s)
    order = np.lexsort((trip, apart_s, away_m, -_same_od(request, trip, od, train), request))
    _, first = np.unique(request[order], return_index=True)
    nearest: Int64Array = trip[order][first]
    return nearest


def _between_m(network: RoadNetwork, a: Int64Array, b: Int64Array) -> Float64Array:
    """Return great-circle distances between the centers of roads, meters."""
    lat, lon = network.centroids.T
    return great_circle_m(lat[a], lon[a], lat[b], lon[b])


def shifted_trips(train: Trajectories, rows: Int64Array, start_times: Int64Array) -> Trajectories:
    """Return training trips with their times shifted to start at `start_times`, (n,) int64."""
    trips = train.take(rows)
    row = row_of_value(trips.offsets)
    return Trajectories(offsets_of(trips.lengths), trips.road_ids, trips.times + (start_times - trips.start_times)[row])
