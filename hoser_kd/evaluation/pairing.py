"""Pair real and generated trips by the cells of their origins and destinations, as the published evaluation does.

Shapes: N roads, n trips, P pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyproj

if TYPE_CHECKING:
    from hoser_kd.common.arrays import BoolArray, Float64Array, Int64Array
    from hoser_kd.config.evaluation import EvaluationConfig
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories

PUBLISHED_CORNERS = {"Beijing": (39.79, 116.25), "Porto": (41.1406, -8.689), "San Francisco": (37.7083, -122.5123)}
"""Latitude and longitude of the corner from which the published evaluation counts the OD cells of each city."""
REQUEST_CELL_DEG = 0.001
"""Side of the cells of `requests.od_cell_share`, degrees."""
_NEAR_DEG = 0.3


def od_cells(network: RoadNetwork, config: EvaluationConfig) -> Int64Array:
    """Return (N,) int64: the OD cell of each road's center, `config.od_cell_m` wide."""
    return cells_of(*meters_from_corner(network, config), config.od_cell_m)


def meters_from_corner(network: RoadNetwork, config: EvaluationConfig) -> tuple[Float64Array, Float64Array]:
    """Return (N,) float64 meters eastwards and (N,) float64 meters northwards of each road's center.

    They are geodesic distances (WGS 84) from a south-west corner, eastwards along the road's own parallel and
    northwards along its meridian, as published. Without `od_corner`, the corner is the published one in the three
    published cities and the south-west corner of the road centers elsewhere.
    """
    lat, lon = network.centroids.T
    south, west = config.od_corner or _default_corner(float(lat.min()), float(lon.min()))
    geod = pyproj.Geod(ellps="WGS84")
    _, _, east_m = geod.inv(np.full_like(lon, west), lat, lon, lat)
    _, _, north_m = geod.inv(lon, np.full_like(lat, south), lon, lat)
    # A geodesic has no sign: without one, roads on both sides of the corner would share cells.
    return np.copysign(east_m, lon - west), np.copysign(north_m, lat - south)


def cells_of(east_m: Float64Array, north_m: Float64Array, side_m: float) -> Int64Array:
    """Return (N,) int64: the square cell of each point, `side_m` wide, counted from the corner of the offsets."""
    columns = np.floor(east_m / side_m).astype(np.int64)
    rows = np.floor(north_m / side_m).astype(np.int64)
    rows -= rows.min()
    cells: Int64Array = (columns - columns.min()) * (rows.max() + 1) + rows
    return cells


def _default_corner(south: float, west: float) -> tuple[float, float]:
    """Return the published corner of a published city, the city's own corner elsewhere."""
    for corner in PUBLISHED_CORNERS.values():
        if abs(south - corner[0]) < _NEAR_DEG and abs(west - corner[1]) < _NEAR_DEG:
            return corner
    return south, west


def pair_by_od_cell(real: Trajectories, generated: Trajectories, cell: Int64Array) -> Int64Array:
    """Return (P, 2) int64 rows of real and generated trips between the same two OD cells.

    The k-th real trip of an OD is paired with the k-th generated one, as published. Pairs are ordered by the first
    generated trip of their OD. `cell` is (N,) int64, the cell of each road.
    """
    both = [cell[trips.origins] * (cell.max() + 1) + cell[trips.destinations] for trips in (real, generated)]
    od = np.unique(np.concatenate(both), return_inverse=True)[1]
    real_od, generated_od = od[: len(real)], od[len(real) :]
    real_rank, generated_rank = _rank_within(real_od), _rank_within(generated_od)
    width = max(len(real), len(generated))
    _, real_row, generated_row = np.intersect1d(
        real_od * width + real_rank, generated_od * width + generated_rank, assume_unique=True, return_indices=True
    )
    first = np.full(od.max() + 1, len(generated))
    np.minimum.at(first, generated_od, np.arange(len(generated)))
    order = np.lexsort((generated_rank[generated_row], first[generated_od[generated_row]]))
    return np.column_stack([real_row, generated_row])[order]


def _rank_within(group: Int64Array) -> Int64Array:
    """Return (n,) int64: the number of earlier entries of the same group."""
    order = np.argsort(group, kind="stable")
    ordered = group[order]
    rank = np.empty(len(group), np.int64)
    rank[order] = np.arange(len(group)) - np.searchsorted(ordered, ordered)
    return rank


def in_same_request_cell(network: RoadNetwork, roads: Int64Array, other_roads: Int64Array) -> BoolArray:
    """Return (n,) bool: whether roads i of both (n,) int64 arrays have their centers in the same 0.001° cell."""
    cell = np.floor(network.centroids / REQUEST_CELL_DEG).astype(np.int64)
    same: BoolArray = (cell[roads] == cell[other_roads]).all(1)
    return same
