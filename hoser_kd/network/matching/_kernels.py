"""The compiled loops of the map matching: nearest roads, shortest paths, Viterbi algorithm, routes with times.

All loops are in one module, because numba does not notice on disk that a compiled function of another module has
changed. Importing it imports numba (seconds).

Model (Newson and Krumm 2009): the states of a point are its nearest roads, with the position of the nearest point on
each. Emission: the distance to the road is normal with `sigma_m` (equation 1). Transition: the difference between
driven and straight distance is exponential with `beta_m` (equation 2).

Paths: consecutive points of all trips need paths from the same roads, so a search is kept as a sorted list of the roads
it reached. All lists lie in one pool of fixed size; a full pool is emptied. What is kept never changes a result:
distances are compared with the limit of the request, and roads at the same distance are settled in the order of ids.

Shapes: P points of n trips, K candidates of a point, N roads, L connections, S segments, M entries of the pool, R roads
of all pieces.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hoser_kd.common.arrays import Float64Array, Int64Array
from hoser_kd.common.numba_jit import compiled

if TYPE_CHECKING:
    from hoser_kd.network.matching.street_graph import StreetGraph

GAP, NO_PATH = 1, 2
"""Why a piece begins at a point: the time since the previous one is too long, or no path leads there."""
BYTES_PER_ENTRY = 16
LIMIT_STEP_M = 250.0
"""Searches reach to a multiple of this distance, so that a slightly larger request does not repeat them."""
# numba compiles a function once more for every argument that is a literal number in one call and a variable in another
_NONE: Any = np.int64(-1)


class States(NamedTuple):
    """Candidates of all points, nearest first."""

    road: Int64Array
    """(P, K) int64; -1 after the last candidate."""
    at_m: Float64Array
    """(P, K) float64: distance along the road, meters."""
    away_m: Float64Array
    """(P, K) float64: distance of the point from the road, meters."""


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
def find_candidates(graph, model, xy):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return road (P, K) int64, distance along it and distance from it (P, K) float64 of the nearest roads."""
    road = np.full((len(xy), model.candidates), -1, np.int64)
    at_m = np.zeros((len(xy), model.candidates))
    away_m = np.full((len(xy), model.candidates), np.inf)
    west, south, side = graph.grid
    for p in range(len(xy)):
        column, row = math.floor((xy[p, 0] - west) / side), math.floor((xy[p, 1] - south) / side)
        count = 0
        for r in range(max(row - 1, 0), min(row + 2, graph.grid_size[1])):
            for c in range(max(column - 1, 0), min(column + 2, graph.grid_size[0])):
                cell = r * graph.grid_size[0] + c
                for k in range(graph.cell_indptr[cell], graph.cell_indptr[cell + 1]):
                    segment = graph.cell_segments[k]
                    along, distance = _nearest(graph.segment_xy, segment, xy[p, 0], xy[p, 1])
                    if distance <= model.radius_m:
                        count = _insert(
                            road[p],
                            at_m[p],
                            away_m[p],
                            count,
                            graph.segment_road[segment],
                            graph.segment_from_m[segment] + along,
                            distance,
                        )
    return road, at_m, away_m


@compiled
def _nearest(segment_xy, segment, x, y):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return how far along a segment the nearest point lies, and its distance, meters."""
    dx, dy = segment_xy[segment, 2], segment_xy[segment, 3]
    from_x, from_y = x - segment_xy[segment, 0], y - segment_xy[segment, 1]
    square = dx * dx + dy * dy
    share = min(max((from_x * dx + from_y * dy) / square, 0.0), 1.0) if square > 0 else 0.0
    return share * math.sqrt(square), math.hypot(from_x - share * dx, from_y - share * dy)


@compiled
def _insert(road, at_m, away_m, count, new_road, new_at_m, new_away_m):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Insert a candidate into lists ordered by distance, then road, once per road; return the number of candidates."""
    slot = count
    for k in range(count):
        if road[k] == new_road:
            slot = k
            break
    if slot < count and (new_away_m, new_at_m) >= (away_m[slot], at_m[slot]):
        return count
    if slot == count:
        if count < len(road):
            count += 1
        elif (new_away_m, new_road) >= (away_m[count - 1], road[count - 1]):
            return count
        else:
            slot = count - 1
    while slot > 0 and (new_away_m, new_road) < (away_m[slot - 1], road[slot - 1]):
        road[slot], at_m[slot], away_m[slot] = road[slot - 1], at_m[slot - 1], away_m[slot - 1]
        slot -= 1
    road[slot], at_m[slot], away_m[slot] = new_road, new_at_m, new_away_m
    return count


@compiled
def choose_states(graph, reach, model, offsets, t, xy, states):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return the chosen candidate (P,) int64, -1 where the point has none, and why a piece begins there, (P,) int8."""
    chosen = np.full(len(xy), -1, np.int64)
    begins = np.zeros(len(xy), np.int8)
    score = np.full((len(xy), model.candidates), -np.inf)
    came_from = np.full((len(xy), model.candidates), -1, np.int64)
    for trip in range(len(offsets) - 1):
        last = _NONE
        for p in range(offsets[trip], offsets[trip + 1]):
            if states.road[p, 0] < 0:
                continue
            if last >= 0:
                begins[p] = _advance(graph, reach, model, t, xy, states, last, p, score, came_from)
                if begins[p]:
                    _trace_back(states, score, came_from, last, chosen)
            if last < 0 or begins[p]:
                for j in range(model.candidates):
                    if states.road[p, j] >= 0:
                        score[p, j] = -0.5 * (states.away_m[p, j] / model.sigma_m) ** 2
            last = p
        if last >= 0:
            _trace_back(states, score, came_from, last, chosen)
    return chosen, begins


@compiled
def _advance(graph, reach, model, t, xy, states, last, p, score, came_from):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Score the candidates of point `p` from those of point `last`; return GAP or NO_PATH where a piece begins."""
    seconds = t[p] - t[last]
    if seconds > model.max_gap_s:
        return GAP
    straight_m = math.hypot(xy[p, 0] - xy[last, 0], xy[p, 1] - xy[last, 1])
    limit_m = search_limit(model, t, xy, last, p)
    best = -np.inf
    for i in range(model.candidates):
        if states.road[last, i] < 0:
            break
        if score[last, i] == -np.inf:
            continue
        find_list(graph, reach, states.road[last, i], limit_m)
        for j in range(model.candidates):
            if states.road[p, j] < 0:
                break
            driven_m = driven(graph, reach, model, states, last, i, p, j)
            if driven_m > limit_m:
                continue
            value = score[last, i] - abs(driven_m - straight_m) / model.beta_m
            value -= 0.5 * (states.away_m[p, j] / model.sigma_m) ** 2
            if value > score[p, j]:
                score[p, j], came_from[p, j] = value, i
                best = max(best, value)
    return NO_PATH if best == -np.inf else 0


@compiled
def search_limit(model, t, xy, last, p):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return the length of the longest possible path between two points, meters."""
    straight_m = math.hypot(xy[p, 0] - xy[last, 0], xy[p, 1] - xy[last, 1])
    # both points can lie `radius_m` away from where the vehicle was
    return min(straight_m + model.max_detour_m, model.max_speed_m_s * (t[p] - t[last]) + 2 * model.radius_m)


@compiled
def stays(model, states, last, i, p, j):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return whether both states lie on one road, the second not farther behind the first than noise explains."""
    behind_m = states.at_m[last, i] - states.at_m[p, j]
    return states.road[last, i] == states.road[p, j] and behind_m <= model.backward_m


@compiled
def driven(graph, reach, model, states, last, i, p, j):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return the length of the shortest path from candidate `i` of `last` to `j` of `p`, meters; inf without one."""
    if stays(model, states, last, i, p, j):
        return max(states.at_m[p, j] - states.at_m[last, i], 0.0)
    road = states.road[last, i]
    entry = entry_of(reach, road, states.road[p, j])
    if entry < 0:
        return np.inf
    return graph.length_m[road] - states.at_m[last, i] + reach.away_m[entry] + states.at_m[p, j]


@compiled
def _trace_back(states, score, came_from, last, chosen):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Write the most probable candidates of the piece that ends at point `last`."""
    state = np.argmax(score[last])
    p = last
    while True:
        chosen[p] = state
        state = came_from[p, state]
        if state < 0:
            return
        p -= 1
        while states.road[p, 0] < 0:
            p -= 1


@compiled
def find_list(graph, reach, source, limit_m):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
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
def entry_of(reach, source, road):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
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
    queued = _relax(graph, reach, source, _NONE, 0.0, np.int64(0))
    count = 0
    while queued > 0:
        road, away_m = np.int64(reach.heap_road[0]), reach.heap_key[0]
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
        if right < size and (keys[right] < keys[child] or (keys[right] == keys[child] and roads[right] < roads[child])):
            child = right
        if key < keys[child] or (key == keys[child] and road <= roads[child]):
            break
        keys[at], roads[at] = keys[child], roads[child]
        at, child = child, 2 * child + 1
    keys[at], roads[at] = key, road
    return size


@compiled
def assemble(graph, reach, model, offsets, t, xy, states, chosen, begins, roads, entered, pieces):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Write the roads between the chosen states; return the numbers of roads, -1 if there is no room, and of pieces.

    `roads` int64 and `entered` float64 receive the roads and their entry times. Rows of `pieces`, (P + 1, 2) int64,
    receive the position of each piece's first road, and its first point.
    """
    stack = np.empty(len(graph.length_m), np.int64)
    count, used = 0, np.int64(0)
    for trip in range(len(offsets) - 1):
        last, first_left_m = _NONE, 0.0
        for p in range(offsets[trip], offsets[trip + 1] + 1):
            is_end = p == offsets[trip + 1]
            if not is_end and chosen[p] < 0:
                continue
            if last >= 0 and (is_end or begins[p]):
                used = _trim(model, states, chosen, pieces[count - 1, 0], first_left_m, last, roads, entered, used)
            if is_end:
                break
            if used + len(stack) + 1 > len(roads):
                return -1, count
            if last >= 0 and not begins[p]:
                used = _extend(graph, reach, model, t, xy, states, last, p, chosen, roads, entered, used, stack)
            else:
                road = states.road[p, chosen[p]]
                first_left_m = graph.length_m[road] - states.at_m[p, chosen[p]]
                pieces[count, 0], pieces[count, 1] = used, p
                roads[used], entered[used] = road, t[p]
                used += 1
                count += 1
            last = p
    pieces[count, 0] = used
    return used, count


@compiled
def _extend(graph, reach, model, t, xy, states, last, p, chosen, roads, entered, used, stack):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Append the roads entered between two points, with times in proportion to the distance; return the new length."""
    i, j = chosen[last], chosen[p]
    if stays(model, states, last, i, p, j):
        return used
    source, road = states.road[last, i], states.road[p, j]
    find_list(graph, reach, source, search_limit(model, t, xy, last, p))
    total_m = driven(graph, reach, model, states, last, i, p, j)
    left_m = graph.length_m[source] - states.at_m[last, i]
    count = 0
    while road >= 0:
        stack[count] = entry_of(reach, source, road)
        road = reach.previous[stack[count]]
        count += 1
    for k in range(count - 1, -1, -1):
        share = (left_m + reach.away_m[stack[k]]) / total_m if total_m > 0 else 0.0
        roads[used] = reach.road[stack[k]]
        entered[used] = t[last] + share * (t[p] - t[last])
        used += 1
    return used


@compiled
def _trim(model, states, chosen, start, first_left_m, last, roads, entered, used):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Remove the last and the first road of a piece where almost nothing of them is driven; return the new length."""
    if used - start > 1 and states.at_m[last, chosen[last]] <= model.end_m:
        used -= 1
    if used - start > 1 and first_left_m <= model.end_m:
        used -= 1
        for k in range(start, used):
            roads[k], entered[k] = roads[k + 1], entered[k + 1]
    return used
