"""Compiled loops for generation on a CPU: paths by their parent links, and attention along them.

Keys and values of a path are scattered over the node store. Array code would gather hundreds of megabytes per round
and read them once; a loop reads them in place.

Shapes: B paths, P roads of the longest path, M nodes in the store, N roads, e width of a token, d width of a head.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from hoser_kd.common.geodesy import EARTH_RADIUS_M
from hoser_kd.common.numba_jit import compiled
from hoser_kd.hoser.batches import MAX_DISTANCE_M, MAX_INTERVAL_MIN

_METERS = EARTH_RADIUS_M / MAX_DISTANCE_M


@compiled
def trace(parent, depth, slots):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return (B, P) int64 slots of the paths that end in `slots` (B,), in path order, -1 after the end."""
    longest = 0
    for slot in slots:
        longest = max(longest, depth[slot])
    path = np.full((len(slots), longest), -1, np.int64)
    for b in range(len(slots)):
        slot = slots[b]
        for place in range(depth[slot] - 1, -1, -1):
            path[b, place] = slot
            slot = parent[slot]
    return path


@compiled
def pairs(path, length, road, minute, point):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return clipped distances and intervals between the last road of each path and all its roads, (B, P) float32 each.

    `road` (M,) and `minute` (M,) of the nodes, `point` (N, 3) float64 of the roads.
    """
    distance = np.zeros(path.shape, np.float32)
    interval = np.zeros(path.shape, np.float32)
    for b in range(len(path)):
        last = path[b, length[b] - 1]
        x, y, z = point[road[last], 0], point[road[last], 1], point[road[last], 2]
        for j in range(length[b] - 1):
            slot = path[b, j]
            r = road[slot]
            chord = np.sqrt((point[r, 0] - x) ** 2 + (point[r, 1] - y) ** 2 + (point[r, 2] - z) ** 2)
            distance[b, j] = min(chord * _METERS, 1.0)
            minutes = np.float32(abs(minute[slot] - minute[last]))
            interval[b, j] = min(minutes, np.float32(MAX_INTERVAL_MIN)) / np.float32(MAX_INTERVAL_MIN)
    return distance, interval


@partial(compiled, fastmath={"reassoc", "contract", "nsz", "arcp"})
def attend(joint, store, path, length, distance, interval, pair_key, pair_value, heads):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return (B, e) float32: attention of the last road of each path over the path.

    `joint` (B, 3 e) holds the scaled queries first; `store` (M, 2 e) a layer's keys and values by slot; `pair_key` and
    `pair_value` (2, d) the contributions of a unit of distance and of interval to a key and a value.
    """
    e = store.shape[1] // 2
    d = e // heads
    out = np.zeros((len(path), e), np.float32)
    share = np.empty(path.shape[1], np.float32)
    for b in range(len(path)):
        n = length[b]
        for h in range(heads):
            query = joint[b, h * d : (h + 1) * d]
            by_distance = np.float32(0)
            by_interval = np.float32(0)
            for c in range(d):
                by_distance += query[c] * pair_key[0, c]
                by_interval += query[c] * pair_key[1, c]
            top = np.float32(-np.inf)
            for j in range(n):
                key = store[path[b, j], h * d : (h + 1) * d]
                score = np.float32(0)
                for c in range(d):
                    score += query[c] * key[c]
                share[j] = score + by_distance * distance[b, j] + by_interval * interval[b, j]
                top = max(top, share[j])
            total = np.float32(0)
            for j in range(n):
                share[j] = np.exp(share[j] - top)
                total += share[j]
            sum_distance = np.float32(0)
            sum_interval = np.float32(0)
            mixed = out[b, h * d : (h + 1) * d]
            for j in range(n):
                weight = share[j] / total
                sum_distance += weight * distance[b, j]
                sum_interval += weight * interval[b, j]
                value = store[path[b, j], e + h * d : e + (h + 1) * d]
                for c in range(d):
                    mixed[c] += weight * value[c]
            for c in range(d):
                mixed[c] += sum_distance * pair_value[0, c] + sum_interval * pair_value[1, c]
    return out
