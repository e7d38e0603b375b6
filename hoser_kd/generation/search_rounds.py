"""The search of many trips at once, as arrays and compiled loops: the results are those of `Search` and `GuidedSearch`.

Shapes: A places for active trips, H entries of a frontier, R entries of a table of roads, M slots of the path tree,
B trips that expand a node in a round, N roads.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from hoser_kd.common.arrays import Float64Array, Int64Array
from hoser_kd.generation import _search_kernels as kernel
from hoser_kd.generation.active_trips import Nodes, Successors, finished_trip
from hoser_kd.generation.trajectories import GeneratedTrip
from hoser_kd.hoser.incremental import PathTree

_FIRST_ENTRIES = 64
"""H and R at the start; both double when a trip needs more."""
_PLAIN, _GUIDED, _FINISHING = 0, 1, 2


class SearchTrips:
    """Active trips of the published search, or of the search that a prior guides."""

    def __init__(
        self,
        tree: PathTree,
        places: int,
        max_steps: int,
        costs_to_go: Callable[[int], Float64Array] | None = None,
        *,
        has_bound: bool = False,
    ) -> None:
        """`places` (A): most trips at once; `costs_to_go` and `has_bound` as in `GuidedSearch`; None: not guided."""
        self._tree, self._max_steps = tree, max_steps
        self._costs_to_go, self._has_bound = costs_to_go, has_bound
        self._row = np.zeros(places, np.int64)
        self._free = list(range(places - 1, -1, -1))
        self._active: Int64Array = np.zeros(0, np.int64)
        destination, expansions, limit, entered, nearest_slot = np.zeros((5, places), np.int64)
        self._trips = destination, expansions, limit, entered, np.zeros(places), nearest_slot
        self._frontier = (
            np.zeros((places, _FIRST_ENTRIES)),
            np.zeros((places, _FIRST_ENTRIES), np.int64),
            np.zeros((places, _FIRST_ENTRIES, 3), np.int64),
            np.zeros(places, np.int64),
        )
        self._seen = (
            np.full((places, _FIRST_ENTRIES), -1, np.int64),
            np.zeros((places, _FIRST_ENTRIES)),
            np.zeros((places, _FIRST_ENTRIES), bool),
            np.zeros((places, _FIRST_ENTRIES), np.int64),
            np.zeros(places, np.int64),
        )
        self._nodes = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._guided = np.full(places, _PLAIN, np.int64)
        self._to_go: Float64Array = np.zeros((places, 0))
        self._node_cost: Float64Array = np.zeros(0)
        self._node: Int64Array = np.zeros((0, 3), np.int64)

    def __len__(self) -> int:
        return len(self._active)

    def begin(self, row: int, origin: int, start_time: int, destination: int) -> None:
        a = self._free.pop()
        self._active = np.append(self._active, a)
        self._row[a] = row
        for part, value in zip(self._trips, (destination, 0, self._max_steps, 1, np.inf, kernel.NO_SLOT), strict=True):
            part[a] = value
        cost, order, heap, size = self._frontier
        cost[a, 0], order[a, 0], heap[a, 0], size[a] = 0.0, 0, (origin, start_time, kernel.NO_SLOT), 1
        road, best, expanded, parent, count = self._seen
        road[a] = -1
        at = kernel.find(road[a], origin)
        road[a, at], best[a, at], expanded[a, at], parent[a, at], count[a] = origin, 0.0, False, kernel.NO_SLOT, 1
        self._guide(a, origin, destination)

    def _guide(self, a: int, origin: int, destination: int) -> None:
        self._guided[a] = _PLAIN
        if self._costs_to_go is None or not self._has_bound:
            return
        to_go = self._costs_to_go(destination)
        if np.isfinite(to_go[origin]):
            self._guided[a] = _GUIDED
            self._bound(a, to_go)

    def _bound(self, a: int, to_go: Float64Array) -> None:
        if self._to_go.shape[1] == 0:
            self._to_go = np.zeros((len(self._row), len(to_go)))
        self._to_go[a] = to_go

    def next_round(self) -> tuple[list[tuple[int, GeneratedTrip]], Nodes]:
        places, cost, node, outcome = self._next(self._active)
        if self._costs_to_go is not None:
            self._finish_the_stopped(places, cost, node, outcome)
        ends = outcome != kernel.EXPAND
        finished = [
            (int(self._row[a]), self._result(a, node[i] if outcome[i] == kernel.ARRIVED else None))
            for i, a in zip(np.flatnonzero(ends).tolist(), places[ends].tolist(), strict=True)
        ]
        if finished:
            self._remove(places[ends])
        self._active, self._node_cost, self._node = places[~ends], cost[~ends], node[~ends]
        return finished, Nodes(self._row[self._active], *np.ascontiguousarray(self._node.T))

    def _next(self, places: Int64Array) -> tuple[Int64Array, Float64Array, Int64Array, Int64Array]:
        count = len(places)
        cost, node, outcome = np.zeros(count), np.zeros((count, 3), np.int64), np.zeros(count, np.int64)
        kernel.next_nodes(places, self._trips, self._frontier, self._seen, cost, node, outcome)
        return places, cost, node, outcome

    def _finish_the_stopped(
        self, places: Int64Array, cost: Float64Array, node: Int64Array, outcome: Int64Array
    ) -> None:
        """Let the trips at their limit of expansions follow the least costs to go from their frontier."""
        waiting = (outcome == kernel.STOPPED) & (self._guided[places] != _FINISHING)
        for i in np.flatnonzero(waiting & (self._frontier[3][places] > 0)).tolist():
            a = int(places[i])
            to_go = self._costs_to_go(int(self._trips[0][a]))  # type: ignore[misc]
            self._bound(a, to_go)
            self._guided[a], self._trips[2][a] = _FINISHING, sys.maxsize
            kernel.begin_finish(a, self._frontier, self._seen, to_go)
            _, cost[i : i + 1], node[i : i + 1], outcome[i : i + 1] = self._next(places[i : i + 1])

    def _result(self, a: int, last: Int64Array | None) -> GeneratedTrip:
        arrived = None if last is None else (int(last[0]), int(last[1]), int(last[2]))
        return finished_trip(self._tree, arrived, int(self._trips[5][a]), int(self._trips[1][a]))

    def _remove(self, places: Int64Array) -> None:
        """Release the slots of finished trips, and their places."""
        _, owner = self._nodes
        of_place = np.zeros(len(self._row) + 1, bool)  # the last entry stands for no owner
        of_place[places] = True
        slots = np.flatnonzero(of_place[owner])
        owner[slots] = kernel.NO_SLOT
        self._tree.give_back(slots)
        self._free.extend(places.tolist())

    def update(self, successors: Successors) -> None:
        self._make_room(successors.candidates.shape[1])
        freed = kernel.update(
            self._active,
            self._trips,
            self._frontier,
            self._seen,
            self._nodes,
            self._tree.parent,
            tuple(successors),
            self._node_cost,
            self._node,
            self._to_go,
            self._guided,
        )
        self._tree.give_back(freed)

    def _make_room(self, num_candidates: int) -> None:
        """Lengthen the arrays where a round could fill them."""
        references, owner = self._nodes
        more = len(self._tree.parent) - len(owner)
        if more:
            no_slots = np.full(more, kernel.NO_SLOT)
            self._nodes = np.concatenate([references, np.zeros(more, np.int64)]), np.concatenate([owner, no_slots])
        cost, order, heap, size = self._frontier
        while size.max() + num_candidates > cost.shape[1]:
            cost, order, heap = (np.concatenate([part, np.zeros_like(part)], axis=1) for part in (cost, order, heap))
        self._frontier = cost, order, heap, size
        road, *values, count = self._seen
        # a table that is at most half full has short chains
        while 2 * (count.max() + num_candidates) > road.shape[1]:
            longer = tuple(np.zeros((len(part), 2 * part.shape[1]), part.dtype) for part in values)
            road, values = kernel.widened(road, tuple(values), longer), [*longer]
        self._seen = road, values[0], values[1], values[2], count
