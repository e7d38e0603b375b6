"""How a trip is decided, road by road: one object a trip under way, asked in rounds by `hoser_kd.generation.generator`.

In every round a trip names the nodes it wants expanded, and is told the successors of each with their costs (-log p)
and times. What the ways have in common: a trip ends at its destination; where it never gets there, the answer is the
expanded path whose end came closest to it (great circle), as in the published search.

`search`    the published one (HOSER: Cao et al., AAAI 2025): uniform cost, the cheapest node first, a road once.
`beam`      the `beam_width` cheapest paths of each length, all others forgotten; a road once.
`sampling`  each next road drawn by its probability at `temperature`, roads of the trip's past left out.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np

DecoderName = Literal["search", "beam", "sampling"]


class Node(NamedTuple):
    """A road about to be entered, at the end of a path; compares by cost, then by the order in which it came up."""

    cost: float
    """-log p of the whole path."""
    order: int
    """Settles ties: of equal costs, the one that came up first."""
    road: int
    """The road."""
    time: int
    """When it is entered, seconds since the epoch."""
    parent: int
    """Slot of the path it continues; -1: none."""


class Expanded(NamedTuple):
    """What became of a node."""

    node: Node
    """The node."""
    slot: int
    """Where its path is kept now."""
    away_m: float
    """Great-circle distance from it to the destination, meters."""
    candidates: list[int]
    """Successors; -1 behind the last."""
    costs: list[float]
    """-log p of each."""
    seconds: list[int]
    """Seconds until each is entered."""


@dataclass(frozen=True)
class Decoding:
    """Which decoder, and its settings."""

    name: DecoderName = "search"
    """Its name."""
    max_steps: int = 5000
    """Expansions a trip after which it ends."""
    beam_width: int = 8
    """Paths that go on from each length (beam)."""
    temperature: float = 1.0
    """Above 1 spreads, below 1 sharpens the draws (sampling)."""
    seed: int = 0
    """Of the draws (sampling)."""

    def describe(self) -> str:
        """Return the decoder and the settings that matter to it, for people."""
        if self.name == "beam":
            return f"beam search, {self.beam_width} paths wide, at most {self.max_steps:,} expansions a trip"
        if self.name == "sampling":
            return (
                f"sampling at temperature {self.temperature:g}, seed {self.seed}, at most {self.max_steps:,} "
                "expansions a trip"
            )
        return f"published uniform-cost search, at most {self.max_steps:,} expansions a trip"

    @property
    def nodes_a_round(self) -> int:
        """Nodes a trip may name in a round."""
        return self.beam_width if self.name == "beam" else 1

    @property
    def logit_scale(self) -> float:
        """What logits are multiplied by before they become probabilities."""
        return 1 / self.temperature if self.name == "sampling" else 1.0

    def begin(self, trip: int, origin: int, start_time: int, destination: int) -> Trip:
        """Return a trip at its origin; `trip` is its row among those asked for."""
        start = Node(0.0, 0, origin, start_time, -1)
        if self.name == "beam":
            return _Beam(trip, destination, start, self.max_steps, self.beam_width)
        if self.name == "sampling":
            return _Sampling(trip, destination, start, self.max_steps, self.seed)
        return _Search(trip, destination, start, self.max_steps)


class Trip(Protocol):
    """A trip under way."""

    trip: int
    """Its row among those asked for."""
    slots: dict[int, int]
    """Nodes it keeps, each with its parent."""
    freed: list[int]
    """Nodes it needs no more and that have not been given back yet."""
    expansions: int
    """Nodes expanded for it."""
    nearest_slot: int
    """The node that is closest to the destination; -1: none."""
    arrived: Node | None
    """The destination, when it was found."""

    def next_nodes(self) -> list[Node]:
        """Return the nodes to expand next; none when the trip is over."""

    def update(self, expanded: Expanded) -> None:
        """Take note of one expanded node."""


class _Trip:
    """What trips of all kinds keep."""

    __slots__ = (
        "arrived",
        "destination",
        "expansions",
        "freed",
        "max_steps",
        "nearest_m",
        "nearest_slot",
        "slots",
        "trip",
    )

    def __init__(self, trip: int, destination: int, max_steps: int) -> None:
        self.trip, self.destination, self.max_steps = trip, destination, max_steps
        self.slots: dict[int, int] = {}
        self.freed: list[int] = []
        self.expansions = 0
        self.nearest_m, self.nearest_slot = math.inf, -1
        self.arrived: Node | None = None

    def keep(self, slot: int, parent: int, away_m: float) -> None:
        self.expansions += 1
        self.slots[slot] = parent
        if away_m < self.nearest_m:
            self.nearest_m, self.nearest_slot = away_m, slot


class _Search(_Trip):
    """Uniform-cost search: the published decoder, ties included.

    Most nodes lead nowhere any more after a while. A node is given back once nothing in the frontier rests on it, so a
    trip's memory is that of the living branches.
    """

    __slots__ = ("best", "entered", "expanded", "frontier", "frontier_parent", "ref_count")

    def __init__(self, trip: int, destination: int, start: Node, max_steps: int) -> None:
        super().__init__(trip, destination, max_steps)
        self.frontier = [start]
        self.best = {start.road: 0.0}
        self.expanded: set[int] = set()
        self.entered = 1
        self.ref_count: dict[int, int] = {}
        """What rests on a node: its children, nodes in the frontier that continue it, and 1 for the nearest one."""
        self.frontier_parent = {start.road: -1}
        """The node that a road's entry in the frontier continues; a dearer entry for the road counts no more."""

    def next_nodes(self) -> list[Node]:
        while self.frontier and self.expansions < self.max_steps:
            node = heapq.heappop(self.frontier)
            road = node[2]
            if road == self.destination:
                self.arrived = node
                return []
            if road not in self.expanded:
                self.expanded.add(road)
                # from an entry that continues its parent it turns into a child of it: what rests there is the same
                del self.frontier_parent[road]
                return [node]
        return []

    def update(self, expanded: Expanded) -> None:
        node, slot, away_m, candidates, costs, seconds = expanded
        nearest = self.nearest_slot
        self.keep(slot, node[4], away_m)
        # 1 while this goes on, so that it is not given back
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
                if road not in self.expanded:  # an expanded road's entry is passed over when its turn comes
                    self.ref_count[slot] += 1
                    self._release(frontier_parent.get(road, -1))
                    frontier_parent[road] = slot
        self._release(slot)

    def _release(self, slot: int) -> None:
        """One thing less rests on a node; where nothing does, it goes, and rests on its parent no more."""
        while slot >= 0:
            self.ref_count[slot] -= 1
            if self.ref_count[slot]:
                return
            del self.ref_count[slot]
            self.freed.append(slot)
            slot = self.slots.pop(slot)


class _Beam(_Trip):
    """Beam search, a road longer each round; one path wide it is the greedy choice."""

    __slots__ = ("entered", "expanded", "following", "width")

    def __init__(self, trip: int, destination: int, start: Node, max_steps: int, width: int) -> None:
        super().__init__(trip, destination, max_steps)
        self.width = width
        self.following = [start]
        self.expanded: set[int] = set()
        self.entered = 1

    def next_nodes(self) -> list[Node]:
        room = min(self.width, self.max_steps - self.expansions)
        chosen: list[Node] = []
        for node in sorted(self.following):
            # costs only grow: whatever is dearer than a path that has arrived can be forgotten
            if len(chosen) >= room or (self.arrived is not None and node.cost >= self.arrived.cost):
                break
            if node.road == self.destination:
                self.arrived = node
            elif node.road not in self.expanded:
                self.expanded.add(node.road)
                chosen.append(node)
        self.following = []
        return chosen

    def update(self, expanded: Expanded) -> None:
        node = expanded.node
        self.keep(expanded.slot, expanded.node.parent, expanded.away_m)
        for road, cost, wait in zip(expanded.candidates, expanded.costs, expanded.seconds, strict=True):
            if road >= 0 and road not in self.expanded:
                self.following.append(Node(node.cost + cost, self.entered, road, node.time + wait, expanded.slot))
                self.entered += 1


class _Sampling(_Trip):
    """Ancestral sampling without driving a road twice; a trip with nowhere new to go is over."""

    __slots__ = ("draw", "next", "visited")

    def __init__(self, trip: int, destination: int, start: Node, max_steps: int, seed: int) -> None:
        super().__init__(trip, destination, max_steps)
        self.next: Node | None = start
        self.visited = {start.road}
        # a generator of its own: what is drawn does not depend on which trips are under way beside it
        self.draw = np.random.default_rng([seed, trip])

    def next_nodes(self) -> list[Node]:
        if self.next is not None and self.next.road == self.destination:
            self.arrived = self.next
            return []
        return [] if self.next is None or self.expansions >= self.max_steps else [self.next]

    def update(self, expanded: Expanded) -> None:
        self.keep(expanded.slot, expanded.node.parent, expanded.away_m)
        node = expanded.node
        choices = [
            (cost, road, wait)
            for road, cost, wait in zip(expanded.candidates, expanded.costs, expanded.seconds, strict=True)
            if road >= 0 and road not in self.visited
        ]
        self.next = None
        # against the likeliest of those left: beside a road that is left out, all of them may be next to nothing
        least = min(choices, default=(0.0,))[0]
        shares = [math.exp(least - cost) for cost, _, _ in choices]
        at = self.draw.random() * sum(shares)
        for share, (cost, road, wait) in zip(shares, choices, strict=True):
            self.next = Node(node.cost + cost, node.order + 1, road, node.time + wait, expanded.slot)
            at -= share
            if at < 0:
                break
        if self.next is not None:
            self.visited.add(self.next.road)
