"""Generation by the published search (Cao et al., AAAI 2025): uniform-cost search over roads, many trips at once.

For one origin, start time and destination: a node is a path; its cost is the sum of -log p along it. The cheapest
node is expanded, a road once; a successor enters if its total is better than the best seen for that road. The search
ends at the destination, or after `max_steps` expansions or with nothing left; then the answer is the expanded path
whose end was closest to the destination. Time moves on by whole seconds, max(expm1(predicted), 0) rounded.

Searches of different trips know nothing of each other, so a round expands one node of each with one call of the
model. A node keeps the keys and values of its road only and finds those of its path through its parents: it costs one
token. A finished search gives its place, and its nodes' memory, to the next trip, so memory grows with the number of
searches under way and not with the number of trips.

Letters: G searches under way, B nodes expanded in a round, P roads of the longest path among them.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from hoser_kd.errors import HoserKdError
from hoser_kd.geodesy import great_circle_m
from hoser_kd.progress import Progress, silent
from hoser_kd.ragged import BoolArray, Int64Array, offsets_of
from hoser_kd.trajectories import Trajectories

if TYPE_CHECKING:
    from hoser_kd.hoser import HOSER


@dataclass(frozen=True)
class GeneratedTrajectories(Trajectories):
    """Generated trips, with what the search says of each."""

    reached: BoolArray = field(default_factory=lambda: np.zeros(0, bool))
    """(n,) bool: the trip ends at its destination."""
    expansions: Int64Array = field(default_factory=lambda: np.zeros(0, np.int64))
    """(n,) int64: nodes the search expanded, each a call of the model in the published code."""


@dataclass
class _Search:
    """One trip under way."""

    trip: int
    destination: int
    frontier: list[tuple[float, int, int, int, int]]
    """Heap of (cost, order of entry, road, time, slot of the parent or -1); entry order settles ties."""
    best: dict[int, float]
    """Least cost seen for a road."""
    expanded: set[int] = field(default_factory=set)
    slots: list[int] = field(default_factory=list)
    """Slots of its expanded nodes."""
    entered: int = 1
    nearest_m: float = float("inf")
    nearest_slot: int = -1


class _Nodes:
    """Expanded nodes of all searches under way, by slot; a slot is used again when its search is over."""

    def __init__(self, capacity: int) -> None:
        self.parent = np.full(capacity, -1, np.int64)
        self.road = np.zeros(capacity, np.int64)
        self.time = np.zeros(capacity, np.int64)
        self._free = list(range(capacity - 1, -1, -1))

    def take(self, count: int) -> Int64Array:
        """Hand out free slots, growing by doubling where they run out."""
        while len(self._free) < count:
            size = len(self.parent)
            for name in ("parent", "road", "time"):
                setattr(self, name, np.concatenate([getattr(self, name), np.zeros(size, np.int64)]))
            self._free.extend(range(2 * size - 1, size - 1, -1))
        return np.array([self._free.pop() for _ in range(count)], np.int64)

    def give_back(self, slots: list[int]) -> None:
        self._free.extend(slots)

    def paths(self, slots: Int64Array) -> Int64Array:
        """Return the slots of the paths that end at these slots, (B, P) int64, right-aligned, -1 before the start."""
        columns = [slots]
        while True:
            last = columns[-1]
            parents = np.where(last >= 0, self.parent[last], -1)
            if (parents < 0).all():
                return np.stack(columns[::-1], axis=1)
            columns.append(parents)
