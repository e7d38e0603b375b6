"""Compiled hidden Markov model of the map matching (Newson and Krumm 2009).

The states of a point are its nearest roads, with the position of the nearest point on each. Emission: the distance to
the road is normal with `sigma_m` (equation 1). Transition: the difference between driven and straight distance is
exponential with `beta_m` (equation 2). The Viterbi algorithm finds the most probable sequence of states.

Shapes: P points of n trips, K candidates of a point, N roads, S segments.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from hoser_kd.common.arrays import Float64Array, Int64Array
from hoser_kd.common.numba_jit import compiled
from hoser_kd.network.matching._path_kernels import entry_of, find_list

GAP, NO_PATH = 1, 2
"""Why a piece begins at a point: the time since the previous one is too long, or no path leads there."""


class Model(NamedTuple):
    """Numbers of `MatchingSettings`, as the loops read them."""

    candidates: int
    radius_m: float
    sigma_m: float
    beta_m: float
    max_gap_s: float
    max_speed_m_s: float
    max_detour_m: float
    backward_m: float
    end_m: float


class States(NamedTuple):
    """Candidates of all points, nearest first."""

    road: Int64Array
    """(P, K) int64; -1 after the last candidate."""
    at_m: Float64Array
    """(P, K) float64: distance along the road, meters."""
    away_m: Float64Array
    """(P, K) float64: distance of the point from the road, meters."""


@compiled
def find_candidates(graph, model, xy):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
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
def choose_states(graph, reach, model, offsets, t, xy, states):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Return the chosen candidate (P,) int64, -1 where the point has none, and why a piece begins there, (P,) int8."""
    chosen = np.full(len(xy), -1, np.int64)
    begins = np.zeros(len(xy), np.int8)
    score = np.full((len(xy), model.candidates), -np.inf)
    came_from = np.full((len(xy), model.candidates), -1, np.int64)
    for trip in range(len(offsets) - 1):
        last = np.int64(-1)
        for p in range(offsets[trip], offsets[trip + 1]):
            if states.road[p, 0] < 0:
                continue
            if last >= 0:
                begins[p] = _advance(graph, reach, model, t, xy, states, last, p, score, came_from)
                if begins[p]:
                    _trace_back(states, score, came_from, offsets[trip], last, chosen)
            if last < 0 or begins[p]:
                for j in range(model.candidates):
                    if states.road[p, j] >= 0:
                        score[p, j] = -0.5 * (states.away_m[p, j] / model.sigma_m) ** 2
            last = p
        if last >= 0:
            _trace_back(states, score, came_from, offsets[trip], last, chosen)
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
def search_limit(model, t, xy, last, p):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Return the length of the longest possible path between two points, meters."""
    straight_m = math.hypot(xy[p, 0] - xy[last, 0], xy[p, 1] - xy[last, 1])
    # both points can lie `radius_m` away from where the vehicle was
    return min(straight_m + model.max_detour_m, model.max_speed_m_s * (t[p] - t[last]) + 2 * model.radius_m)


@compiled
def stays(model, states, last, i, p, j):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Return whether both states lie on one road, the second in front of the first or behind it by no more than noise."""
    behind_m = states.at_m[last, i] - states.at_m[p, j]
    return states.road[last, i] == states.road[p, j] and behind_m <= model.backward_m


@compiled
def driven(graph, reach, model, states, last, i, p, j):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Return the length of the shortest path from candidate `i` of `last` to `j` of `p`, inf if there is none, meters."""
    if stays(model, states, last, i, p, j):
        return max(states.at_m[p, j] - states.at_m[last, i], 0.0)
    road = states.road[last, i]
    entry = entry_of(reach, road, states.road[p, j])
    if entry < 0:
        return np.inf
    return graph.length_m[road] - states.at_m[last, i] + reach.away_m[entry] + states.at_m[p, j]


@compiled
def _trace_back(states, score, came_from, first, last, chosen):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
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
