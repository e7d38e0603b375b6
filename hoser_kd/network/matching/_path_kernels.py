"""Compiled shortest paths from the end of a road to the roads around it, kept per road.

Consecutive points of all trips ask for paths from the same roads, so a search is kept as a sorted list of the roads it
reached, up to a distance. All lists lie in one pool of fixed size; a full pool is emptied. What is kept never changes a
result: distances are compared with the limit of the request, and roads at the same distance are settled in the order of
their ids.

Shapes: N roads, L connections, M entries of the pool.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hoser_kd.common.arrays import Float64Array, Int64Array
from hoser_kd.common.numba_jit import compiled
from hoser_kd.network.matching.street_graph import StreetGraph

BYTES_PER_ENTRY = 16
LIMIT_STEP_M = 250.0
"""Searches reach to a multiple of this distance, so that a slightly larger request does not repeat them."""


class Reach(NamedTuple):
    """The kept searches, and the work arrays of a search."""

    start: Int64Array
    """(N,) int64: first entry of the list of each road, -1 without one."""
    size: Int64Array
    """(N,) int64: entries of the list of each road."""
    limit: Float64Array
    """(N,) float64: distance to which the list is complete, meters."""
    used: Int64Array
    """(1,) int64: entries of the pool in use."""
    searches: Int64Array
    """(1,) int64: number of searches so far."""
    road: npt.NDArray[np.int32]
    """(M,) int32: the reached road; ascending within a list."""
    away_m: Float64Array
    """(M,) float64: distance from the end of the first road to the start of the reached one, meters."""
    previous: npt.NDArray[np.int32]
    """(M,) int32: the road before the reached one, -1 where it follows the first road."""
    best: Float64Array
    """(N,) float64: distances of the search at work."""
    via: npt.NDArray[np.int32]
    """(N,) int32: predecessors of the search at work."""
    stamp: Int64Array
    """(N,) int64: number of the search that wrote `best`."""
    done: Int64Array
    """(N,) int64: number of the search that settled the road."""
    settled: npt.NDArray[np.int32]
    """(N,) int32: roads in the order in which they are settled."""
    heap_key: Float64Array
    """(L + 1,) float64: the queue of the search, a binary heap ordered by distance, then road."""
    heap_road: npt.NDArray[np.int32]
    """(L + 1,) int32."""


def new_reach(graph: StreetGraph, cache_mb: int) -> Reach:
    """Return an empty pool of `cache_mb` MB, but with room for one search of the whole network."""
    num_roads, num_connections = len(graph.length_m), len(graph.indices)
    entries = max(cache_mb * 2**20 // BYTES_PER_ENTRY, num_roads)
    return Reach(
        np.full(num_roads, -1, np.int64),
        np.zeros(num_roads, np.int64),
        np.zeros(num_roads),
        np.zeros(1, np.int64),
        np.zeros(1, np.int64),
        np.empty(entries, np.int32),
        np.empty(entries),
        np.empty(entries, np.int32),
        np.empty(num_roads),
        np.empty(num_roads, np.int32),
        np.zeros(num_roads, np.int64),
        np.zeros(num_roads, np.int64),
        np.empty(num_roads, np.int32),
        np.empty(num_connections + 1),
        np.empty(num_connections + 1, np.int32),
    )


@compiled
def find_list(graph, reach, source, limit_m):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Make sure that the list of `source` is complete to `limit_m`."""
    if reach.start[source] >= 0 and reach.limit[source] >= limit_m:
        return
    limit = math.ceil(limit_m / LIMIT_STEP_M) * LIMIT_STEP_M
    count = _search(graph, reach, source, limit)
    if reach.used[0] + count > len(reach.road):
        reach.start[:] = -1
        reach.used[0] = 0
    first = reach.used[0]
    roads = np.sort(reach.settled[:count])
    for k in range(count):
        road = roads[k]
        reach.road[first + k] = road
        reach.away_m[first + k] = reach.best[road]
        reach.previous[first + k] = reach.via[road]
    reach.start[source], reach.size[source], reach.limit[source] = first, count, limit
    reach.used[0] = first + count


@compiled
def entry_of(reach, source, road):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Return the entry of `road` in the list of `source`, -1 if it is not reached."""
    low = reach.start[source]
    end = low + reach.size[source]
    high = end
    while low < high:
        middle = (low + high) // 2
        if reach.road[middle] < road:
            low = middle + 1
        else:
            high = middle
    return low if low < end and reach.road[low] == road else -1


@compiled
def _search(graph, reach, source, limit):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Run Dijkstra's algorithm from the end of `source`; return how many roads start within `limit`."""
    reach.searches[0] += 1
    number = reach.searches[0]
    queued = _relax(graph, reach, source, -1, 0.0, 0)
    count = 0
    while queued > 0:
        road, away_m = reach.heap_road[0], reach.heap_key[0]
        queued = _pop(reach.heap_key, reach.heap_road, queued)
        if reach.done[road] == number:
            continue
        reach.done[road] = number
        reach.settled[count] = road
        count += 1
        if away_m + graph.length_m[road] <= limit:
            queued = _relax(graph, reach, road, road, away_m + graph.length_m[road], queued)
    return count


@compiled
def _relax(graph, reach, road, previous, away_m, queued):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Queue the successors of `road` that `away_m` is an improvement for; return the length of the queue."""
    number = reach.searches[0]
    for at in range(graph.indptr[road], graph.indptr[road + 1]):
        following = graph.indices[at]
        if reach.stamp[following] != number or away_m < reach.best[following]:
            reach.stamp[following], reach.best[following], reach.via[following] = number, away_m, previous
            queued = _push(reach.heap_key, reach.heap_road, queued, away_m, following)
    return queued


@compiled
def _push(keys, roads, size, key, road):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Add an entry to a binary heap of `size` entries; return its new size."""
    at = size
    while at > 0:
        parent = (at - 1) // 2
        if keys[parent] < key or (keys[parent] == key and roads[parent] <= road):
            break
        keys[at], roads[at] = keys[parent], roads[parent]
        at = parent
    keys[at], roads[at] = key, road
    return size + 1


@compiled
def _pop(keys, roads, size):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Remove the first entry of a binary heap of `size` entries; return its new size."""
    size -= 1
    key, road = keys[size], roads[size]
    at, child = 0, 1
    while child < size:
        right = child + 1
        if right < size and (
            keys[right] < keys[child] or (keys[right] == keys[child] and roads[right] < roads[child])
        ):
            child = right
        if key < keys[child] or (key == keys[child] and road <= roads[child]):
            break
        keys[at], roads[at] = keys[child], roads[child]
        at, child = child, 2 * child + 1
    keys[at], roads[at] = key, road
    return size
