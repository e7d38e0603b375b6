"""The search with a prior: uniform-cost search guided by a lower bound of the remaining cost (A*).

Costs with a prior are flatter than the student's: at a road where the student is certain, the published search pays
almost nothing, while the Markov chain's smoothing charges every branching. More roads therefore cost less than the trip
to the destination, and a uniform-cost search expands them all before it arrives; at the same limit of expansions, fewer
trips arrive. Two measures keep the arrival rate at that of reachable destinations:

- *Order.* A node is expanded by its cost plus the costs to go, the least possible remaining cost without the student
  (Hart, Nilsson and Raphael, 1968). The bound is admissible and consistent, since the student's part is never negative.
  It is applied as reduced costs, cost(u, v) + to_go(v) - to_go(u), with which uniform-cost search is A*. Roads from
  which the destination is unreachable are not entered.
- *Finish.* A trip that reaches the limit of expansions follows the least costs to go from the cheapest frontier node in
  that respect. That path enters no expanded road, so it ends at the destination after as many expansions as it has
  roads. Times still come from the student.

An unreachable destination has no bound: the result is the published one, the path that ends closest to it.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Callable

import numpy as np

from hoser_kd.common.arrays import Float64Array
from hoser_kd.generation.decoding import Decoding
from hoser_kd.generation.search import Search
from hoser_kd.generation.trip_state import Expanded, Node


class GuidedSearch(Search):
    """A search that is guided to its destination by the costs to go."""

    __slots__ = ("_costs_to_go", "_finishing", "_to_go")

    def __init__(
        self,
        trip: int,
        destination: int,
        start: Node,
        decoding: Decoding,
        costs_to_go: Callable[[int], Float64Array],
        *,
        has_bound: bool,
    ) -> None:
        """`costs_to_go`: (N,) float64 of a destination. `has_bound`: they are a lower bound of the search's costs."""
        super().__init__(trip, destination, start, decoding)
        self._costs_to_go = costs_to_go
        self._finishing = False
        to_go = costs_to_go(destination) if has_bound else None
        self._to_go = to_go if to_go is not None and np.isfinite(to_go[start.road]) else None

    def next_nodes(self) -> list[Node]:
        nodes = super().next_nodes()
        if nodes or self.arrived is not None or self._finishing or not self.frontier:
            return nodes
        self._begin_finish()
        return super().next_nodes()

    def update(self, expanded: Expanded) -> None:
        if self._to_go is not None:
            gain = self._to_go[expanded.candidates] - self._to_go[expanded.node.road]
            # reduced costs are not negative, except for rounding; the finish orders nodes by the costs to go alone
            costs = gain if self._finishing else np.maximum(np.array(expanded.costs) + gain, 0.0)
            expanded = expanded._replace(costs=costs.tolist())
        super().update(expanded)

    def _begin_finish(self) -> None:
        """Order the frontier by the costs to go and lift the limit of expansions, as every road is expanded once."""
        to_go = self._costs_to_go(self.destination)
        self._to_go, self._finishing, self.max_steps = to_go, True, sys.maxsize
        self.frontier = [
            node._replace(cost=float(to_go[node.road]))
            for node in self.frontier
            # of several entries of a road, only the cheapest has a path that is still stored
            if np.isfinite(to_go[node.road]) and node.road not in self.expanded and node.cost == self.best[node.road]
        ]
        self.best = {node.road: node.cost for node in self.frontier}
        heapq.heapify(self.frontier)
