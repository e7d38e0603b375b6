"""The road network as the arrays that the compiled loops of the map matching read.

Coordinates are projected to meters around the center of the network (equirectangular), which within a city differs from
geodesics by less than 0.1 %. Lengths are those of the projected lines, so that positions on roads and distances between
them are of one kind, whatever the column `length` of the source holds.

Shapes: N roads, L allowed connections, S straight segments of all roads, C cells of a grid over the city.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from hoser_kd.common.arrays import BoolArray, Csr, Float64Array, Int64Array, offsets_of, ranges, row_of_value
from hoser_kd.common.geodesy import EARTH_RADIUS_M

if TYPE_CHECKING:
    from hoser_kd.network.road_network import RoadNetwork

_MAX_CELLS = 4_000_000
"""Cells of the grid at most; on a larger extent they become larger than the radius."""


class StreetGraph(NamedTuple):
    """Arrays of a network; a named tuple, because numba accepts no other record."""

    center: Float64Array
    """(2,) float64: lon, lat in degrees around which coordinates are projected."""
    length_m: Float64Array
    """(N,) float64: lengths of the projected lines."""
    indptr: Int64Array
    """(N + 1,) int64: start of the successors of each road."""
    indices: Int64Array
    """(L,) int64: successors that a path can take."""
    segment_road: Int64Array
    """(S,) int64: road of each segment, ascending."""
    segment_xy: Float64Array
    """(S, 4) float64: x and y of the start, then x and y of the vector to the end, meters."""
    segment_from_m: Float64Array
    """(S,) float64: distance along the road at which the segment starts."""
    grid: Float64Array
    """(3,) float64: west and south edge of the grid and the side of a cell, meters."""
    grid_size: Int64Array
    """(2,) int64: cells west-east and south-north."""
    cell_indptr: Int64Array
    """(C + 1,) int64: start of the segments of each cell."""
    cell_segments: Int64Array
    """Segments whose bounding box touches each cell, ascending within a cell."""


def build(network: RoadNetwork, radius_m: float, *, u_turns: bool) -> StreetGraph:
    """Return the arrays of a network; a point's roads within `radius_m` lie in its cell and the eight around it.

    `u_turns` keeps all connections onto the opposite direction of a street; otherwise only those at dead ends are kept.
    """
    center = (network.coords.min(0) + network.coords.max(0)) / 2
    xy = project(network.coords, center)
    road_of_coord = row_of_value(network.coord_offsets)
    first = np.flatnonzero(road_of_coord[1:] == road_of_coord[:-1])
    road = road_of_coord[first]
    vector = xy[first + 1] - xy[first]
    meters = np.hypot(vector[:, 0], vector[:, 1])
    length_m = np.bincount(road, meters, network.num_roads).astype(np.float64)
    before = np.cumsum(meters) - meters
    start_of_road = np.searchsorted(road, np.arange(network.num_roads))
    segment_xy = np.column_stack([xy[first], vector])
    successors = network.successors if u_turns else _without_u_turns(network)
    return StreetGraph(
        center,
        length_m,
        np.ascontiguousarray(successors.indptr),
        np.ascontiguousarray(successors.indices),
        road,
        segment_xy,
        before - before[start_of_road][road],
        *_grid(segment_xy, radius_m),
    )


def project(lon_lat: Float64Array, center: Float64Array) -> Float64Array:
    """Return (K, 2) float64 meters east and north of `center` (lon, lat) for (K, 2) lon, lat in degrees."""
    scale = np.array([np.cos(np.radians(center[1])), 1.0]) * np.radians(EARTH_RADIUS_M)
    return np.ascontiguousarray((lon_lat - center) * scale)


def is_u_turn(network: RoadNetwork, road: Int64Array, following: Int64Array) -> BoolArray:
    """Return (K,) bool: whether `following` runs between the same two ends as `road`, in the opposite direction.

    A street drawn once per direction has the same coordinates in reverse, so parallel roads between the same two ends
    do not count unless their lines have the same number of points and the same second point.
    """
    offsets, coords = network.coord_offsets, network.coords
    count = np.diff(offsets)
    same_ends = (coords[offsets[road]] == coords[offsets[following + 1] - 1]).all(1)
    same_ends &= (coords[offsets[road + 1] - 1] == coords[offsets[following]]).all(1)
    same_next = (coords[offsets[road] + 1] == coords[offsets[following + 1] - 2]).all(1)
    result: BoolArray = same_ends & same_next & (count[road] == count[following])
    return result


def _without_u_turns(network: RoadNetwork) -> Csr:
    """Return the connections without u-turns, except where nothing else follows."""
    origin, following = row_of_value(network.successors.indptr), network.successors.indices
    turns = is_u_turn(network, origin, following)
    has_other = np.bincount(origin, ~turns, network.num_roads) > 0
    keep = ~turns | ~has_other[origin]
    return Csr(offsets_of(np.bincount(origin[keep], minlength=network.num_roads)), following[keep])


def _grid(segment_xy: Float64Array, radius_m: float) -> tuple[Float64Array, Int64Array, Int64Array, Int64Array]:
    """Return edges, size, offsets and segments of the grid cells."""
    ends = np.stack([segment_xy[:, :2], segment_xy[:, :2] + segment_xy[:, 2:]])
    low, high = ends.min(0), ends.max(0)
    corner, extent = low.min(0), high.max(0) - low.min(0)
    side = max(radius_m, float(np.sqrt(extent.prod() / _MAX_CELLS)), float(extent.max()) / _MAX_CELLS)
    size = np.floor(extent / side).astype(np.int64) + 1
    first = np.floor((low - corner) / side).astype(np.int64)
    span = np.floor((high - corner) / side).astype(np.int64) - first + 1
    segment, within = _counted(span[:, 0] * span[:, 1])
    row, column = np.divmod(within, span[segment, 0])
    cell = (first[segment, 1] + row) * size[0] + first[segment, 0] + column
    order = np.argsort(cell, kind="stable")
    offsets = offsets_of(np.bincount(cell, minlength=int(size.prod())))
    return np.array([*corner, side]), size, offsets, segment[order]


def _counted(lengths: npt.NDArray[np.int64]) -> tuple[Int64Array, Int64Array]:
    """Return the row of every value of a ragged array with these lengths, and its place in the row."""
    return np.repeat(np.arange(len(lengths)), lengths), ranges(np.zeros(len(lengths), np.int64), lengths)
