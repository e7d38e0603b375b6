"""Which road can follow which, from the nodes that directed roads run between.

Shapes: N directed roads.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from hoser_kd.common.arrays import Csr, Int64Array, offsets_of, ranges, row_of_value, take_rows


def connect(tail: Int64Array, head: Int64Array, edge: Int64Array) -> Csr:
    """Connect each road to all roads that leave its last node; allow a U-turn only if there is no other road.

    All are (N,) int64: first and last node, and the street; the two directions of a street share its number.
    """
    leaving = np.argsort(tail, kind="stable")
    first = np.searchsorted(tail[leaving], head)
    count = np.searchsorted(tail[leaving], head, side="right") - first
    road = row_of_value(offsets_of(count))
    following = leaving[ranges(first, count)]
    turns_back = edge[road] == edge[following]
    is_dead_end = np.bincount(road[~turns_back], minlength=len(tail)) == 0
    kept = ~turns_back | is_dead_end[road]
    return Csr(offsets_of(np.bincount(road[kept], minlength=len(tail))), following[kept])


def largest_component(successors: Csr) -> Int64Array:
    """Return the road indices of the largest strongly connected component, ascending."""
    count = len(successors.degrees)
    ones = np.ones(len(successors.indices), np.int8)
    graph = csr_array((ones, successors.indices, successors.indptr), (count, count))
    _, component = connected_components(graph, directed=True, connection="strong")
    return np.flatnonzero(component == np.bincount(component).argmax())


def between_connected_nodes(tail: Int64Array, head: Int64Array) -> Int64Array:
    """Return the roads between nodes of the largest strongly connected component of nodes, ascending.

    Here U-turns count everywhere. Done before `connect`, it removes roads without return, so that the streets in front
    of them become dead ends, where a U-turn is possible.
    """
    names, nodes = np.unique(np.concatenate([tail, head]), return_inverse=True)
    first, second = nodes[: len(tail)], nodes[len(tail) :]
    graph = csr_array((np.ones(len(tail), np.int8), (first, second)), (len(names), len(names)))
    _, component = connected_components(graph, directed=True, connection="strong")
    largest = component == np.bincount(component).argmax()
    return np.flatnonzero(largest[first] & largest[second])


def restrict(graph: Csr, kept: Int64Array) -> Csr:
    """Renumber the kept roads from 0 and drop connections to other roads."""
    new_id = np.full(len(graph.degrees), -1)
    new_id[kept] = np.arange(len(kept))
    offsets, at = take_rows(graph.indptr, kept)
    following = new_id[graph.indices[at]]
    inside = following >= 0
    return Csr(offsets_of(np.bincount(row_of_value(offsets)[inside], minlength=len(kept))), following[inside])
