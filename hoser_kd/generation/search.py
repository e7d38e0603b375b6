"""The published search: uniform cost, cheapest node first (HOSER: Cao et al., AAAI 2025).

With a prior, `hoser_kd.generation.guided_search` guides it to the destination.
"""

from __future__ import annotations

import heapq
import math

from hoser_kd.generation.trip_state import Expanded, Node, StepLimit, TripState


class Search(TripState):
    """Uniform-cost search: the published decoder, including its tie-breaking.

    A node is released once no node of the frontier descends from it, so the memory of a trip is that of its active
    branches.
    """

    __slots__ = ("best", "entered", "expanded", "frontier", "frontier_parent", "ref_count")

    def __init__(self, trip: int, destination: int, start: Node, decoding: StepLimit) -> None:
        super().__init__(trip, destination, decoding.max_steps)
        self.frontier = [start]
        self.best = {start.road: 0.0}
        self.expanded: set[int] = set()
        self.entered = 1
        self.ref_count: dict[int, int] = {}
        """References to a slot: its children, frontier nodes that continue it, and 1 if it is the nearest one."""
        self.frontier_parent = {start.road: -1}
        """Slot that the cheapest frontier entry of a road continues; costlier entries of the road hold no reference."""

    def next_nodes(self) -> list[Node]:
        while self.frontier and self.expansions < self.max_steps:
            node = heapq.heappop(self.frontier)
            road = node[2]
            if road == self.destination:
                self.arrived = node
                return []
            if road not in self.expanded:
                self.expanded.add(road)
                # the frontier entry becomes a child of the same parent, so the parent's ref_count does not change
                del self.frontier_parent[road]
                return [node]
        return []

    def update(self, expanded: Expanded) -> None:
        node, slot, away_m, candidates, costs, seconds = expanded
        nearest = self.nearest_slot
        self.keep(slot, node[4], away_m)
        # held during this call, so that it is not released
        self.ref_count[slot] = 1
        if self.nearest_slot != nearest:
            self.ref_count[slot] += 1
            self._release(nearest)
        so_far, time, best, frontier_parent = node[0], node[3], self.best, self.frontier_parent
        for road, cost, wait in zip(candidates, costs, seconds, strict=True):
            total = so_far + cost
            if road >= 0 and total < best.get(road, math.inf):
                best[road] = total
                heapq.heappush(self.frontier, Node(total, self.entered, road, time + wait, slot))
                self.entered += 1
                if road not in self.expanded:  # next_nodes skips the entries of expanded roads
                    self.ref_count[slot] += 1
                    self._release(frontier_parent.get(road, -1))
                    frontier_parent[road] = slot
        self._release(slot)

    def _release(self, slot: int) -> None:
        """Drop one reference to a slot; without references it is freed, and so is its reference to its parent."""
        while slot >= 0:
            self.ref_count[slot] -= 1
            if self.ref_count[slot]:
                return
            del self.ref_count[slot]
            self.freed.append(slot)
            slot = self.slots.pop(slot)
