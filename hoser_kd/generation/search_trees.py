"""The trees of paths that searches expand, and a random path of each.

The published search expands many nodes that are not on the trip it returns. These are states of the student off any
real trip, in which it was sure enough of itself to look further.

Shapes: n requests, E nodes that are expanded for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hoser_kd.common.arrays import Int64Array, offsets_of
from hoser_kd.common.progress import Progress, silent
from hoser_kd.generation.decoding import Decoding
from hoser_kd.generation.generator import generate
from hoser_kd.network.trajectories import Trajectories

if TYPE_CHECKING:
    from hoser_kd.generation.active_trips import Nodes, Successors
    from hoser_kd.hoser import HOSER


class SearchTrees(NamedTuple):
    """Expanded nodes, (E,) int64 each, sorted by request and then by the order of expansion."""

    request: Int64Array
    """Row of the request."""
    road: Int64Array
    """Road ids."""
    time: Int64Array
    """Times at which the roads are entered, seconds since the epoch."""
    parent: Int64Array
    """Node that it continues; -1 for an origin."""
    successor: Int64Array
    """A successor of the road, that of the first candidate; -1 where it has none."""


@dataclass(frozen=True)
class _ScaledSearch(Decoding):
    """The published search on logits that are divided by the temperature, so that it expands more nodes above 1."""

    @property
    def logit_scale(self) -> float:
        return 1 / self.temperature


def search_trees(
    model: HOSER,
    requests: Trajectories,
    *,
    temperature: float = 1.0,
    max_steps: int = 120,
    progress: Progress = silent,
) -> SearchTrees:
    """Return the nodes that the published search expands for the requests of trips, at most `max_steps` each.

    Memory grows with the expanded nodes. The result does not depend on how many trips are searched at once.
    """
    record = _Record()
    generate(
        model,
        requests.origins,
        requests.start_times,
        requests.destinations,
        decoding=_ScaledSearch("search", max_steps, temperature=temperature),
        on_expanded=record.add,
        progress=progress,
    )
    return record.trees()


class _Record:
    """Nodes as they are expanded. Slots are used again, so each node gets a number of its own."""

    def __init__(self) -> None:
        self._parts: list[Int64Array] = []
        self._node_of_slot = np.full(1, -1, np.int64)
        self._count = 0

    def add(self, nodes: Nodes, successors: Successors) -> None:
        """Add the nodes of a round; their parents still have their slots."""
        slots = successors.slots
        missing = int(slots.max()) + 2 - len(self._node_of_slot)
        if missing > 0:
            # the last entry, -1, stands for no parent
            self._node_of_slot = np.append(self._node_of_slot[:-1], np.full(len(self._node_of_slot) + missing, -1))
        parent = self._node_of_slot[nodes.parents]
        self._parts.append(np.stack([nodes.rows, nodes.roads, nodes.times, parent, successors.candidates[:, 0]]))
        self._node_of_slot[slots] = self._count + np.arange(len(slots))
        self._count += len(slots)

    def trees(self) -> SearchTrees:
        """Return the nodes sorted by request, with their parents renumbered."""
        columns = np.concatenate([np.zeros((5, 0), np.int64), *self._parts], axis=1)
        order = np.argsort(columns[0], kind="stable")
        place = np.append(np.empty(self._count, np.int64), -1)
        place[order] = np.arange(self._count)
        request, road, time, parent, successor = columns[:, order]
        return SearchTrees(request, road, time, place[parent], successor)


def random_paths(trees: SearchTrees, requests: Trajectories, seed: int) -> Trajectories:
    """Return a path of each tree, from its origin to a leaf, and one road further, so that the leaf is a step too.

    A leaf is an expanded node of which no child is expanded; each of a tree is equally probable. Where a leaf has no
    successor, the path ends at it. The last road of a path is arbitrary and entered at the leaf's time. A request for
    which nothing is expanded has its origin alone.
    """
    is_leaf = np.ones(len(trees.request), bool)
    is_leaf[trees.parent[trees.parent >= 0]] = False
    leaves = np.flatnonzero(is_leaf)
    draw = np.random.default_rng(seed).random(len(leaves))
    leaves = leaves[np.lexsort([draw, trees.request[leaves]])]
    rows, first = np.unique(trees.request[leaves], return_index=True)
    row, depth, node = _walk(trees, rows, leaves[first])
    further = np.flatnonzero(trees.successor[leaves[first]] >= 0)
    lengths = np.ones(len(requests), np.int64)
    lengths[rows] = np.bincount(row, minlength=len(requests))[rows]
    offsets = offsets_of(lengths + np.bincount(rows[further], minlength=len(requests)))
    road_ids = np.repeat(requests.origins, np.diff(offsets))
    times = np.repeat(requests.start_times, np.diff(offsets))
    at = offsets[row] + lengths[row] - 1 - depth
    road_ids[at], times[at] = trees.road[node], trees.time[node]
    last = offsets[rows[further] + 1] - 1
    chosen = leaves[first][further]
    road_ids[last], times[last] = trees.successor[chosen], trees.time[chosen]
    return Trajectories(offsets, road_ids, times)


def _walk(trees: SearchTrees, rows: Int64Array, leaves: Int64Array) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Return request, number of nodes below and node, (P,) int64 each, of all nodes between leaves and origins."""
    parts = []
    node, depth = leaves, 0
    while len(node):
        parts.append(np.stack([rows, np.full(len(node), depth), node]))
        inner = trees.parent[node] >= 0
        rows, node, depth = rows[inner], trees.parent[node[inner]], depth + 1
    row, below, node = np.concatenate([np.zeros((3, 0), np.int64), *parts], axis=1)
    return row, below, node
