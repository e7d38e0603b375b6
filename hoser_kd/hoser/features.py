"""Static inputs of HOSER: road attributes, the road graph and the zone graph.

Shapes: N roads, E ordered pairs of roads that share an end point, Z zones, K non-zero entries of the zone matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hoser_kd.common.arrays import Float32Array, Float64Array, Int64Array, ranges

if TYPE_CHECKING:
    from hoser_kd.network.road_network import RoadNetwork


@dataclass(frozen=True)
class GraphFeatures:
    """Inputs of the road network encoder (HOSER, section "Road Network Encoder").

    Fields have the names of the buffers in a published checkpoint.
    """

    road2zone: Int64Array
    """(N,) int64: zone of each road."""
    road_attr_len: Float32Array
    """(N,) float32: log1p(length in m), standardized over the roads."""
    road_attr_type: Int64Array
    """(N,) int64: index of the road's class."""
    road_attr_lon: Float32Array
    """(N,) float32: longitude of the center, standardized."""
    road_attr_lat: Float32Array
    """(N,) float32: latitude of the center, standardized."""
    road_edge_index: Int64Array
    """(2, E) int64: pairs (a, b), a != b, that share an end point, ordered by a, then b."""
    intersection_attr: Float32Array
    """(E, 2) float32: angle between the directions of a and b over pi, and 1 where b can follow a."""
    zone_edge_index: Int64Array
    """(2, K) int64: pairs of zones with traffic between them, row-major."""
    zone_edge_weight: Float32Array
    """(K,) float32: traffic over the square root of the product of both zones' totals."""

    @property
    def num_roads(self) -> int:
        """N."""
        return len(self.road2zone)

    @property
    def num_types(self) -> int:
        """Number of road classes."""
        return int(self.road_attr_type.max()) + 1


def build_graph_features(network: RoadNetwork, zones: Int64Array, zone_transitions: Any) -> GraphFeatures:
    """Compute all graph features.

    `zones`: (N,) int64, zone of each road. `zone_transitions`: (Z, Z) counts of zone changes between consecutive
    roads of the training trips, dense or a SciPy sparse array.
    """
    edges = road_graph(network)
    zone_edges, zone_weights = zone_graph(zone_transitions)
    return GraphFeatures(
        road2zone=np.asarray(zones, np.int64),
        road_attr_len=_standardize(np.log1p(network.length_m)),
        road_attr_type=network.road_type,
        road_attr_lon=_standardize(network.centroids[:, 1]),
        road_attr_lat=_standardize(network.centroids[:, 0]),
        road_edge_index=edges,
        intersection_attr=_edge_attributes(network, edges),
        zone_edge_index=zone_edges,
        zone_edge_weight=zone_weights,
    )


def road_graph(network: RoadNetwork) -> Int64Array:
    """Return (2, E) int64: ordered pairs of distinct roads that share an end point, by first road, then second.

    Roads are grouped by end point, so the cost grows with E, not with N².
    """
    num_roads = network.num_roads
    point = _equal_rows(np.concatenate([network.start, network.end]))
    road = np.tile(np.arange(num_roads), 2)
    # a loop road has the same end point twice and counts once
    incidence = _distinct(point * num_roads + road)
    point, road = np.divmod(incidence, num_roads)
    size = np.bincount(point)
    group_start = np.cumsum(size) - size
    first = np.repeat(road, size[point])
    second = road[ranges(group_start[point], size[point])]
    distinct = first != second
    keys = _distinct(first[distinct] * num_roads + second[distinct])
    return np.stack(np.divmod(keys, num_roads))


def _equal_rows(points: Float64Array) -> Int64Array:
    """Return (P,) int64: equal numbers, from 0, for equal rows of (P, 2)."""
    # np.unique over rows compares bytes or complex numbers, ten times slower on a million roads
    order = np.lexsort(points.T)
    ordered = points[order]
    is_new = (ordered[1:] != ordered[:-1]).any(axis=1)
    number = np.zeros(len(points), np.int64)
    number[order[1:]] = np.cumsum(is_new)
    return number


def _distinct(keys: Int64Array) -> Int64Array:
    """Return the distinct keys, ascending."""
    ordered = np.sort(keys)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if len(ordered) else ordered


def direction(from_lat_lon_deg: Float64Array, to_lat_lon_deg: Float64Array) -> Float64Array:
    """Return the direction in radians, [0, 2 pi), 0 is east; both (..., 2) float64, lat and lon in degrees."""
    delta = np.radians(to_lat_lon_deg - from_lat_lon_deg)
    east = np.cos(np.radians(from_lat_lon_deg[..., 0])) * delta[..., 1]
    radians: Float64Array = np.arctan2(delta[..., 0], east) % (2 * np.pi)
    return radians


def folded(angle: Float64Array) -> Float64Array:
    """Return the angle between two directions over pi, in [0, 1], from their difference."""
    absolute = np.abs(angle)
    share: Float64Array = np.minimum(absolute, 2 * np.pi - absolute) / np.pi
    return share


def zone_graph(zone_transitions: Any) -> tuple[Int64Array, Float32Array]:
    """Return the edges (2, K) int64 and weights (K,) float32 of the zone graph from its (Z, Z) counts."""
    if hasattr(zone_transitions, "tocoo"):
        matrix = zone_transitions.tocsr()
        matrix.sum_duplicates()
        coo = matrix.tocoo()
        keep = coo.data != 0
        row, column, count = (part[keep] for part in (coo.row, coo.col, coo.data))
        num_zones = matrix.shape[0]
    else:
        dense = np.asarray(zone_transitions)
        row, column = np.nonzero(dense)
        count, num_zones = dense[row, column], len(dense)
    total = np.maximum(np.bincount(row, weights=count, minlength=num_zones), 1.0)
    weight = count / np.sqrt(total[row] * total[column])
    return np.stack([row, column]).astype(np.int64), weight.astype(np.float32)


def _standardize(values: Float64Array) -> Float32Array:
    """Standardize with mean and population standard deviation, in float32 as published."""
    single = values.astype(np.float32)
    spread = single.std()
    # constant values have no scale
    standard: Float32Array = (single - single.mean()) / (spread if spread > 0 else np.float32(1))
    return standard


def _edge_attributes(network: RoadNetwork, edges: Int64Array) -> Float32Array:
    heading = direction(network.start, network.end)
    first, second = edges
    follows = network.candidate_index(first, second) >= 0
    return np.stack([folded(heading[first] - heading[second]), follows], axis=1).astype(np.float32)
