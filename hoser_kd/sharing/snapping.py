"""The nearest road of a point.

Distances are planar around the center of the network, with an error below 0.1 % within a city.
Shapes: n points, K pairs of a point and a road.
"""

from __future__ import annotations

import numpy as np
import shapely

from hoser_kd.common.arrays import Float64Array, Int64Array
from hoser_kd.common.geodesy import EARTH_RADIUS_M
from hoser_kd.network.road_network import RoadNetwork

_TIE_M = 0.5
"""Roads that are at most this much farther than the nearest one count as equally near: the directions of a street."""


class RoadIndex:
    """Spatial index over the lines of a network."""

    def __init__(self, network: RoadNetwork) -> None:
        """Project the roads to meters and index them."""
        lat = np.radians(network.coords[:, 1].mean())
        self._scale = np.radians(1.0) * EARTH_RADIUS_M * np.array([np.cos(lat), 1.0])
        road_of_coord = np.repeat(np.arange(network.num_roads), np.diff(network.coord_offsets))
        self._lines = shapely.linestrings(network.coords * self._scale, indices=road_of_coord)
        self._tree = shapely.STRtree(self._lines)
        heading = (network.end - network.start)[:, ::-1] * self._scale
        self._heading = heading / np.maximum(np.hypot(*heading.T), 1e-9)[:, None]

    def nearest(self, points: Float64Array, toward: Float64Array | None = None) -> tuple[Int64Array, Float64Array]:
        """Return the nearest road, (n,) int64, and the distance to it in meters, (n,) float64.

        `points` (n, 2) lon, lat in degrees, finite. The directions of a street are equally near: of these, the road
        that heads most closely along `toward`, (n, 2) differences in degrees, is taken, else the one of the lowest id.
        """
        if len(points) == 0:
            return np.zeros(0, np.int64), np.zeros(0)
        place = shapely.points(points * self._scale)
        [_, some], distance_m = self._tree.query_nearest(place, return_distance=True, all_matches=False)
        point, road = self._tree.query(place, predicate="dwithin", distance=distance_m + _TIE_M)
        agreement = np.zeros(len(point))
        if toward is not None:
            along = toward * self._scale
            agreement = -np.round((self._heading[road] * along[point]).sum(1), 6)
        order = np.lexsort((road, agreement, point))
        _, first = np.unique(point[order], return_index=True)
        chosen = np.asarray(some, np.int64)
        chosen[point[order][first]] = road[order][first]
        return chosen, np.asarray(shapely.distance(place, self._lines[chosen]), np.float64)
