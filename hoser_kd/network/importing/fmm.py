"""Entry times along FMM's paths, from the times of the GPS points.

Shapes: n trips, P roads of all paths, G GPS points of all trips, N roads of the network.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hoser_kd.common.arrays import Float64Array, Int64Array, row_of_value
from hoser_kd.common.errors import DataError


def point_times_to_entry_times(
    file: Path,
    length_m: Float64Array,
    paths: tuple[Int64Array, Int64Array],
    points: tuple[Int64Array, Int64Array],
    times: Float64Array,
    along_m: Float64Array | None = None,
) -> Float64Array:
    """Return the time at which each road of each path is entered, (P,) float64, interpolated by distance.

    Args:
        file: for messages.
        length_m: (N,) float64 lengths of the roads.
        paths: offsets (n + 1,) and roads (P,) int64, FMM's `cpath`.
        points: offsets (n + 1,) and roads (G,) int64, FMM's `opath`; -1 where an id is unknown.
        times: (G,) float64 seconds, one per point.
        along_m: (G,) float64 distance of each point along its road, FMM's `offset`; None: the middle of the road.

    Raises:
        DataError: a point does not lie on the path of its trip, at or behind the point before.
    """
    path_offsets, path_roads = paths
    point_offsets, point_roads = points
    place = _places(path_offsets, path_roads, point_offsets, point_roads)
    if (place < 0).any():
        at = int(np.argmax(place < 0))
        row = int(row_of_value(point_offsets)[at])
        problem = f"point {at - int(point_offsets[row])} of opath is not on cpath."
        raise DataError(file, problem, row=row, hint="Both columns must come from the same run of FMM.")
    before_m = np.cumsum(length_m[path_roads]) - length_m[path_roads]
    within_m = length_m[point_roads] / 2 if along_m is None else np.nan_to_num(along_m)
    entered = np.empty(len(path_roads))
    for trip in range(len(path_offsets) - 1):
        road = slice(path_offsets[trip], path_offsets[trip + 1])
        point = slice(point_offsets[trip], point_offsets[trip + 1])
        position = before_m[place[point]] + np.clip(within_m[point], 0, length_m[point_roads[point]])
        entered[road] = np.interp(before_m[road], np.maximum.accumulate(position), times[point])
    return entered


def _places(
    path_offsets: Int64Array, path_roads: Int64Array, point_offsets: Int64Array, point_roads: Int64Array
) -> Int64Array:
    """Return the position in all paths of each point's road, at or behind that of the point before; -1 without one."""
    place = np.full(len(point_roads), -1, np.int64)
    roads, wanted = path_roads.tolist(), point_roads.tolist()
    # a scan that resumes where the last point lay: a recurrence, linear in roads and points
    for trip in range(len(path_offsets) - 1):
        at, end = int(path_offsets[trip]), int(path_offsets[trip + 1])
        for point in range(int(point_offsets[trip]), int(point_offsets[trip + 1])):
            try:
                at = roads.index(wanted[point], at, end)
            except ValueError:
                break
            place[point] = at
    return place
