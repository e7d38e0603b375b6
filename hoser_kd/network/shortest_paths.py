"""Least-cost paths between many pairs of roads, in chunks of bounded memory.

A path moves from road to road, so its cost is the sum over its connections; a cost of zero is a valid cost. Each chunk
runs Dijkstra's algorithm from a few roads at once (`scipy.sparse.csgraph.dijkstra`), and all paths of the chunk are
read from its predecessor arrays one step at a time. No array has a row for every road and a column for every road.

Shapes: N roads, L connections, K pairs of roads, P roads of all paths together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from hoser_kd.common.arrays import Float64Array, Int64Array, offsets_of
from hoser_kd.common.geodesy import great_circle_m
from hoser_kd.network.road_network import RoadNetwork

DEFAULT_MEMORY_BYTES = 256 * 2**20
"""Memory for the distances and predecessors of one chunk."""
_BYTES_PER_ROAD = 12
"""A float64 distance and an int32 predecessor."""


class Paths(NamedTuple):
    """K paths as a ragged array; path k visits `road_ids[offsets[k]:offsets[k + 1]]`."""

    offsets: Int64Array
    """(K + 1,) int64."""
    road_ids: Int64Array
    """(P,) int64: from the origin to the destination, both included."""
    cost: Float64Array
    """(K,) float64: sum over the connections of the path; inf where the destination is unreachable."""


def least_cost_paths(
    network: RoadNetwork,
    connection_cost: Float64Array,
    origins: Int64Array,
    destinations: Int64Array,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
) -> Paths:
    """Return a path of least cost for each pair of roads (Dijkstra, 1959).

    Searches start at the distinct origins, or at the distinct destinations on the reversed graph if those are fewer.
    The path of an unreachable destination is the origin alone. Which one of several paths of equal cost is returned
    depends on the direction of the search, but not on `memory_bytes`.

    Args:
        network: N roads and L connections.
        connection_cost: (L,) float64, not negative, in the order of `network.successors.indices`.
        origins: (K,) int64 road ids.
        destinations: (K,) int64 road ids.
        memory_bytes: memory for one chunk; one search at a time where it is less than 12 bytes per road.

    Raises:
        ValueError: `connection_cost` has the wrong length, or a cost is negative or NaN.
    """
    origins, destinations = np.asarray(origins, np.int64), np.asarray(destinations, np.int64)
    backward = len(np.unique(destinations)) < len(np.unique(origins))
    sources, targets = (destinations, origins) if backward else (origins, destinations)
    graph = _graph(network, connection_cost, backward)
    cost = np.full(len(origins), np.inf)
    walks = []
    for chunk in _trees(graph, sources, memory_bytes, predecessors=True):
        cost[chunk.pairs] = chunk.distance[chunk.row, targets[chunk.pairs]]
        # a walk toward the source of an unreachable road has to begin, and to end, at the origin
        first = np.where(np.isfinite(cost[chunk.pairs]), targets[chunk.pairs], origins[chunk.pairs])
        walks.append(_walk(chunk.predecessor, chunk.row, first, chunk.pairs))
    pair, step, road = (np.concatenate(parts) if parts else np.zeros(0, np.int64) for parts in _columns(walks))
    offsets = offsets_of(np.bincount(pair, minlength=len(origins)))
    road_ids = np.empty(len(road), np.int64)
    # forward searches are walked from the destination to the origin
    road_ids[offsets[pair] + step if backward else offsets[pair + 1] - 1 - step] = road
    return Paths(offsets, road_ids, cost)


def costs_to_go(
    network: RoadNetwork,
    connection_cost: Float64Array,
    roads: Int64Array,
    destinations: Int64Array,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
) -> Float64Array:
    """Return (K,) float64: the least cost from each road to its destination, inf where it is unreachable.

    Searches start at the distinct destinations, on the reversed graph. Arguments and errors are those of
    `least_cost_paths`.
    """
    roads, destinations = np.asarray(roads, np.int64), np.asarray(destinations, np.int64)
    cost = np.full(len(roads), np.inf)
    for chunk in _trees(_graph(network, connection_cost, backward=True), destinations, memory_bytes):
        cost[chunk.pairs] = chunk.distance[chunk.row, roads[chunk.pairs]]
    return cost


def nearest_reachable(
    network: RoadNetwork,
    origins: Int64Array,
    destinations: Int64Array,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
) -> Int64Array:
    """Return (K,) int64: the road reachable from each origin whose center is nearest to the destination's center.

    The destination itself where it is reachable; the first of several roads at the same great-circle distance.
    """
    origins, destinations = np.asarray(origins, np.int64), np.asarray(destinations, np.int64)
    nearest = destinations.copy()
    lat, lon = network.centroids.T
    graph = _graph(network, np.ones(len(network.successors.indices)), backward=False)
    for chunk in _trees(graph, origins, memory_bytes):
        reachable = np.isfinite(chunk.distance)
        for row, pair in zip(chunk.row.tolist(), chunk.pairs.tolist(), strict=True):
            goal = destinations[pair]
            if not reachable[row, goal]:
                roads = np.flatnonzero(reachable[row])
                away_m = great_circle_m(lat[roads], lon[roads], lat[goal], lon[goal])
                nearest[pair] = roads[np.argmin(away_m)]
    return nearest


class _Chunk(NamedTuple):
    """The searches of a chunk and the pairs that they answer."""

    pairs: Int64Array
    """(k,) int64: positions of the pairs among all K."""
    row: Int64Array
    """(k,) int64: the search of each pair."""
    distance: Float64Array
    """(searches, N) float64."""
    predecessor: npt.NDArray[np.int32]
    """(searches, N) int32, negative where there is none; empty unless requested."""


def _graph(network: RoadNetwork, connection_cost: Float64Array, backward: bool) -> csr_array:
    """Return the (N, N) sparse graph. Its stored zeros are connections; only absent entries are not."""
    indptr, indices = network.successors
    cost = np.asarray(connection_cost, np.float64)
    if cost.shape != indices.shape:
        raise ValueError(f"{cost.shape} costs for {len(indices)} connections")
    if not (cost >= 0).all():
        raise ValueError("the cost of a connection is negative or NaN")
    if backward:
        order = np.argsort(indices, kind="stable")
        indptr = offsets_of(np.bincount(indices, minlength=network.num_roads))
        origin = np.repeat(np.arange(network.num_roads), network.successors.degrees)
        indices, cost = origin[order], cost[order]
    size = network.num_roads
    return csr_array((cost, indices.astype(np.int32), indptr.astype(np.int32)), shape=(size, size))


def _trees(graph: csr_array, sources: Int64Array, memory_bytes: int, predecessors: bool = False) -> Iterator[_Chunk]:
    """Search from the distinct sources, as many at a time as the memory allows."""
    roots, root_of_pair = np.unique(sources, return_inverse=True)
    order = np.argsort(root_of_pair, kind="stable")
    first = offsets_of(np.bincount(root_of_pair, minlength=len(roots)))
    size = max(1, memory_bytes // (_BYTES_PER_ROAD * graph.shape[0]))
    for start in range(0, len(roots), size):
        end = min(start + size, len(roots))
        pairs = order[first[start] : first[end]]
        if predecessors:
            distance, previous = dijkstra(graph, indices=roots[start:end], return_predecessors=True)
        else:
            distance = dijkstra(graph, indices=roots[start:end])
            previous = np.zeros((0, 0), np.int32)
        yield _Chunk(pairs, root_of_pair[pairs] - start, distance, previous)


def _walk(
    predecessor: npt.NDArray[np.int32], row: Int64Array, road: Int64Array, pair: Int64Array
) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Follow predecessors from `road` to the root of `row`, one step of all pairs at a time.

    Returns the pair, the step (0 for the first road) and the road of each visit, int64.
    """
    visits = []
    step = 0
    while len(pair):
        visits.append((pair, np.full(len(pair), step), road))
        road = predecessor[row, road].astype(np.int64)
        onward = road >= 0
        pair, row, road = pair[onward], row[onward], road[onward]
        step += 1
    pairs, steps, roads = (np.concatenate(parts) for parts in _columns(visits))
    return pairs, steps, roads


def _columns(rows: list[tuple[Int64Array, Int64Array, Int64Array]]) -> tuple[list[Int64Array], ...]:
    """Return the three columns of a list of triples, also of an empty list."""
    return tuple([row[i] for row in rows] for i in range(3))
