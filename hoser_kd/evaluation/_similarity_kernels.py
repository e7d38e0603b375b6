"""The compiled loop of the metrics: all distances between two trips in one pass over their roads.

DTW and edit distances are recurrences, which array operations cannot express. Compiled, a pair of 40-road trips takes
tens of microseconds. Importing this module imports numba (seconds), so `hoser_kd.evaluation.trip_similarity` imports it
on first use.

Shapes: N roads, P pairs, n roads of the real trip of a pair, m roads of the generated one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from hoser_kd.common.geodesy import unit_vectors
from hoser_kd.common.numba_jit import compiled

if TYPE_CHECKING:
    from hoser_kd.common.arrays import Float64Array, Int64Array
    from hoser_kd.network.trajectories import Trajectories

RADIUS_KM = 6378.0
"""Earth radius of Hausdorff and DTW, as published."""
EDR_RADIUS_M = 6378137.0
"""Earth radius of EDR, as published."""

HAUSDORFF_KM, DTW_KM, EDR, EDR_PUBLISHED, ROAD_EDITS = range(5)
"""Columns of the result of `pair_distances`."""


def pair_distances(
    real: Trajectories, generated: Trajectories, pairs: Int64Array, centroids: Float64Array, edr_threshold_m: float
) -> Float64Array:
    """Return (P, 5) float64: Hausdorff (km), DTW (km), EDR, EDR as published, and edits between the road sequences.

    Every trip has at least one road. `pairs` is (P, 2) int64 of (real, generated) rows; `centroids` is (N, 2) float64
    lat, lon in degrees. EDR counts a match below `edr_threshold_m` and is divided by the longer trip's number of roads;
    the published EDR swaps latitude and longitude. The edits are an absolute count (Levenshtein). DTW is exact; the
    published values come from an approximation that is never below it.
    """
    match_below = math.sin(min(edr_threshold_m / (2 * EDR_RADIUS_M), math.pi / 2)) ** 2
    points = unit_vectors(centroids), unit_vectors(centroids[:, ::-1])
    result: Float64Array = _sweep(_arrays(real), _arrays(generated), np.array(pairs, np.int64), points, match_below)
    return result


def _arrays(trips: Trajectories) -> tuple[Int64Array, Int64Array]:
    """Return offsets and road ids; read-only views of a file are copied, because numba would compile again for them."""
    offsets, roads = (values if values.flags.writeable else values.copy() for values in (trips.offsets, trips.road_ids))
    return offsets, roads


@compiled
def _sweep(real, generated, pairs, points, match_below):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Run all recurrences row by row, keeping one row of each table; return (P, 5) float64."""
    (real_offsets, real_roads), (generated_offsets, generated_roads), (point, swapped) = real, generated, points
    out = np.empty((len(pairs), 5))
    longest = 0
    for p in range(len(pairs)):
        g = pairs[p, 1]
        longest = max(longest, generated_offsets[g + 1] - generated_offsets[g])
    nearest = np.empty(longest)
    dtw = np.empty(longest + 1)
    edr = np.empty(longest + 1, np.int64)
    edr_published = np.empty(longest + 1, np.int64)
    edits = np.empty(longest + 1, np.int64)
    for p in range(len(pairs)):
        real = real_roads[real_offsets[pairs[p, 0]] : real_offsets[pairs[p, 0] + 1]]
        generated = generated_roads[generated_offsets[pairs[p, 1]] : generated_offsets[pairs[p, 1] + 1]]
        n, m = len(real), len(generated)
        for j in range(m + 1):
            dtw[j] = np.inf
            edr[j] = edr_published[j] = edits[j] = j
        dtw[0] = 0.0
        nearest[:m] = np.inf
        farthest = 0.0
        for i in range(n):
            a = real[i]
            # the diagonal predecessor of the next cell in each table, read before it is overwritten
            dtw_corner, edr_corner, published_corner, edit_corner = dtw[0], edr[0], edr_published[0], edits[0]
            dtw[0] = np.inf
            edr[0] = edr_published[0] = edits[0] = i + 1
            nearest_to_a = np.inf
            for j in range(m):
                b = generated[j]
                hav = _haversine(point, a, b)
                nearest_to_a = min(nearest_to_a, hav)
                nearest[j] = min(nearest[j], hav)

                above = dtw[j + 1]
                dtw[j + 1] = 2 * RADIUS_KM * math.asin(min(math.sqrt(hav), 1.0)) + min(above, dtw[j], dtw_corner)
                dtw_corner = above

                edr_corner = _edit(edr, j, edr_corner, hav < match_below)
                published_corner = _edit(edr_published, j, published_corner, _haversine(swapped, a, b) < match_below)
                edit_corner = _edit(edits, j, edit_corner, a == b)
            farthest = max(farthest, nearest_to_a)
        for j in range(m):
            farthest = max(farthest, nearest[j])
        out[p, HAUSDORFF_KM] = 2 * RADIUS_KM * math.asin(min(math.sqrt(farthest), 1.0))
        out[p, DTW_KM] = dtw[m]
        out[p, EDR] = edr[m] / max(n, m)
        out[p, EDR_PUBLISHED] = edr_published[m] / max(n, m)
        out[p, ROAD_EDITS] = edits[m]
    return out


@compiled
def _haversine(point, a, b):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    x, y, z = point[a, 0] - point[b, 0], point[a, 1] - point[b, 1], point[a, 2] - point[b, 2]
    return 0.25 * (x * x + y * y + z * z)


@compiled
def _edit(row, j, corner, matches):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Compute one cell of an edit table in place; return the diagonal predecessor of the next cell."""
    above = row[j + 1]
    row[j + 1] = min(above + 1, row[j] + 1, corner + (0 if matches else 1))
    return above
