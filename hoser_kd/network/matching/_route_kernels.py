"""Compiled assembly of the roads between the chosen states, with the times at which they are entered.

Shapes: P points of n trips, R roads of all pieces together, N roads of the network.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hoser_kd.common.arrays import Float64Array, Int64Array
from hoser_kd.common.numba_jit import compiled
from hoser_kd.network.matching._path_kernels import entry_of, find_list
from hoser_kd.network.matching._viterbi_kernels import driven, search_limit, stays


class Routes(NamedTuple):
    """Pieces of trips as roads with times."""

    road: Int64Array
    """(R,) int64."""
    entered: Float64Array
    """(R,) float64: time at which the road is entered, seconds."""
    piece_start: Int64Array
    """(pieces + 1,) int64: offsets into the roads."""
    first_point: Int64Array
    """(pieces,) int64: first point of the piece."""


@compiled
def assemble(graph, reach, model, offsets, t, xy, states, chosen, begins):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Return road (R,) int64, entry time (R,) float64, offsets (pieces + 1,) int64 and first point (pieces,) int64."""
    roads, entered = np.empty(4 * len(t) + 16, np.int64), np.empty(4 * len(t) + 16)
    piece_start, first_point = np.zeros(len(t) + 1, np.int64), np.empty(len(t), np.int64)
    stack = np.empty(len(graph.length_m), np.int64)
    pieces, used = 0, 0
    for trip in range(len(offsets) - 1):
        last, first_left_m = np.int64(-1), 0.0
        for p in range(offsets[trip], offsets[trip + 1]):
            if chosen[p] < 0:
                continue
            if last >= 0 and not begins[p]:
                while used + len(stack) + 1 > len(roads):
                    roads, entered = _doubled(roads), _doubled(entered)
                used = _extend(graph, reach, model, t, xy, states, last, p, chosen, roads, entered, used, stack)
            else:
                if last >= 0:
                    used = _trim(model, states, chosen, piece_start[pieces - 1], first_left_m, last, roads, entered, used)
                    piece_start[pieces] = used
                if used + 1 > len(roads):
                    roads, entered = _doubled(roads), _doubled(entered)
                road = states.road[p, chosen[p]]
                roads[used], entered[used] = road, t[p]
                first_left_m = graph.length_m[road] - states.at_m[p, chosen[p]]
                first_point[pieces] = p
                used += 1
                pieces += 1
            last = p
        if last >= 0:
            used = _trim(model, states, chosen, piece_start[pieces - 1], first_left_m, last, roads, entered, used)
            piece_start[pieces] = used
    return roads[:used], entered[:used], piece_start[: pieces + 1], first_point[:pieces]


@compiled
def _doubled(values):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return a copy with room for twice as many values."""
    larger = np.empty(2 * len(values), values.dtype)
    larger[: len(values)] = values
    return larger


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
        roads[start : used - 1] = roads[start + 1 : used].copy()
        entered[start : used - 1] = entered[start + 1 : used].copy()
        used -= 1
    return used
