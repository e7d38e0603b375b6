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
import math
from dataclasses import dataclass, field
from os import PathLike

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from hoser_kd.errors import DataError
from hoser_kd.hoser import HOSER, Decoder, Prefix
from hoser_kd.progress import Progress, silent
from hoser_kd.ragged import BoolArray, Int64Array, offsets_of
from hoser_kd.trajectories import Trajectories


@dataclass(frozen=True)
class GeneratedTrajectories(Trajectories):
    """Generated trips, with what the search says of each."""

    reached: BoolArray = field(default_factory=lambda: np.zeros(0, bool))
    """(n,) bool: the trip ends at its destination."""
    expansions: Int64Array = field(default_factory=lambda: np.zeros(0, np.int64))
    """(n,) int64: nodes the search expanded, each a call of the model in the published code."""

    def to_table(self) -> pa.Table:
        """Return the trips as `Trajectories.to_table` does, with reached and expansions."""
        return super().to_table().append_column("reached", pa.array(self.reached)).append_column(
            "expansions", pa.array(self.expansions))

    @classmethod
    def read_parquet(cls, path: str | PathLike[str]) -> GeneratedTrajectories:
        """Read back a Parquet file of `to_table`."""
        table = pq.read_table(path).combine_chunks()
        roads, times = table["road_ids"].combine_chunks(), table["times"].combine_chunks()
        return cls(
            np.asarray(roads.offsets, np.int64), roads.flatten().to_numpy(),
            times.flatten().cast(pa.timestamp("s", tz="UTC")).cast(pa.int64()).to_numpy(),
            table["trajectory_id"].to_numpy(),
            reached=table["reached"].to_numpy(), expansions=table["expansions"].to_numpy(),
        )


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
    nearest_m: float = math.inf
    nearest_slot: int = -1

    def enter(self, cost: float, time: int, slot: int, candidates: list[int], costs: list[float],
              seconds: list[int]) -> None:
        """Let the successors of the node in `slot` enter the frontier, where they better the best seen."""
        for road, step_cost, wait in zip(candidates, costs, seconds, strict=True):
            total = cost + step_cost
            if road >= 0 and total < self.best.get(road, math.inf):
                self.best[road] = total
                heapq.heappush(self.frontier, (total, self.entered, road, time + wait, slot))
                self.entered += 1


class _Nodes:
    """Expanded nodes of all searches under way, by slot; a slot is used again when its search is over."""

    def __init__(self, decoder: Decoder, capacity: int) -> None:
        self.parent = np.full(capacity, -1, np.int64)
        self.road = np.zeros(capacity, np.int64)
        self.time = np.zeros(capacity, np.int64)
        shape = (decoder.num_layers, capacity, decoder.token_width)
        self.keys = torch.zeros(shape, device=decoder.fused.device)
        self.values = torch.zeros(shape, device=decoder.fused.device)
        self._free = list(range(capacity - 1, -1, -1))

    def take(self, count: int) -> Int64Array:
        """Hand out free slots, growing by doubling where they run out."""
        while len(self._free) < count:
            size = len(self.parent)
            for name in ("parent", "road", "time"):
                setattr(self, name, np.concatenate([getattr(self, name), np.zeros(size, np.int64)]))
            self.keys, self.values = (torch.cat([kept, torch.zeros_like(kept)], dim=1)
                                      for kept in (self.keys, self.values))
            self._free.extend(range(2 * size - 1, size - 1, -1))
        return np.array([self._free.pop() for _ in range(count)], np.int64)

    def give_back(self, slots: list[int]) -> None:
        """Take slots back."""
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

    def prefix(self, slots: Int64Array) -> Prefix | None:
        """Return roads, times, keys and values of the paths that end at these slots; None where all are empty."""
        if (slots < 0).all():
            return None
        path = self.paths(slots)
        device = self.keys.device
        at = torch.from_numpy(np.maximum(path, 0)).to(device)
        road_ids, times, mask = (torch.from_numpy(part).to(device)
                                 for part in (self.road[path], self.time[path], path >= 0))
        return Prefix(road_ids, times, mask, self.keys[:, at], self.values[:, at])


def generate(
    model: HOSER,
    origins: Int64Array,
    start_times: Int64Array,
    destinations: Int64Array,
    max_steps: int = 5000,
    *,
    concurrent: int = 256,
    progress: Progress = silent,
) -> GeneratedTrajectories:
    """Generate a trip for each origin, start time and destination.

    `origins`, `destinations` (n,) int64 road ids; `start_times` (n,) int64 seconds since the epoch, UTC. `concurrent`
    trips are searched at once; it changes speed and memory, never an answer. The model must know its time scale.

    Raises DataError naming the row where a road id does not exist, ValueError where the arrays differ in length.
    """
    origins, start_times, destinations = (
        np.asarray(values, np.int64) for values in (origins, start_times, destinations)
    )
    _check(model, origins, start_times, destinations)
    engine = _Engine(model, origins, start_times, destinations, max_steps)
    waiting = iter(range(len(origins)))
    active: list[_Search] = []
    finished = 0
    while True:
        for trip in waiting:
            active.append(engine.begin(trip))
            if len(active) == concurrent:
                break
        if not active:
            return engine.result()
        active = engine.round(active)
        if engine.num_finished != finished:
            finished = engine.num_finished
            progress("generating trips", finished, len(origins))


def _check(model: HOSER, origins: Int64Array, start_times: Int64Array, destinations: Int64Array) -> None:
    if not len(origins) == len(start_times) == len(destinations):
        raise ValueError("origins, start_times and destinations differ in length")
    for name, roads in (("origins", origins), ("destinations", destinations)):
        outside = (roads < 0) | (roads >= model.config.num_roads)
        if outside.any():
            row = int(np.argmax(outside))
            raise DataError(name, f"road {roads[row]} does not exist.", row=row,
                            mend=f"Ids run from 0 to {model.config.num_roads - 1}.")


class _Engine:
    """Advances searches round by round and keeps the answers of those that end."""

    def __init__(self, model: HOSER, origins: Int64Array, start_times: Int64Array, destinations: Int64Array,
                 max_steps: int) -> None:
        self._decoder = Decoder(model)
        self._nodes = _Nodes(self._decoder, 4096)
        self._origins, self._start_times, self._destinations = origins, start_times, destinations
        self._max_steps = max_steps
        self._answers: dict[int, tuple[Int64Array, Int64Array, bool, int]] = {}

    @property
    def num_finished(self) -> int:
        return len(self._answers)

    def begin(self, trip: int) -> _Search:
        origin, start = int(self._origins[trip]), int(self._start_times[trip])
        return _Search(trip, int(self._destinations[trip]), [(0.0, 0, origin, start, -1)], {origin: 0.0})

    def round(self, active: list[_Search]) -> list[_Search]:
        """Expand one node of every search; returns those that go on."""
        going: list[_Search] = []
        popped: list[tuple[float, int, int, int, int]] = []
        for search in active:
            node = self._next(search)
            if node is not None:
                going.append(search)
                popped.append(node)
        if going:
            self._expand(going, popped)
        return going

    def _next(self, search: _Search) -> tuple[float, int, int, int, int] | None:
        """Pop the node to expand, or end the search."""
        while search.frontier and len(search.expanded) < self._max_steps:
            node = heapq.heappop(search.frontier)
            _, _, road, time, parent = node
            if road == search.destination:
                self._end(search, parent, (road, time))
                return None
            if road not in search.expanded:
                search.expanded.add(road)
                return node
        self._end(search, search.nearest_slot)
        return None

    def _end(self, search: _Search, slot: int, last: tuple[int, int] | None = None) -> None:
        """Record the answer: the path to `slot`, and behind it the destination and its time if that was reached."""
        slots = self._nodes.paths(np.array([slot]))[0] if slot >= 0 else np.zeros(0, np.int64)
        roads, times = self._nodes.road[slots], self._nodes.time[slots]
        if last is not None:
            roads, times = np.append(roads, last[0]), np.append(times, last[1])
        self._answers[search.trip] = (roads, times, last is not None, len(search.expanded))
        self._nodes.give_back(search.slots)

    def _expand(self, searches: list[_Search], popped: list[tuple[float, int, int, int, int]]) -> None:
        """Ask the model about one node of each search, with one call, and let the successors enter."""
        nodes = self._nodes
        roads, times, parents = (np.array([node[at] for node in popped], np.int64) for at in (2, 3, 4))
        trips = np.array([search.trip for search in searches])
        device = nodes.keys.device
        road_t, time_t, start_t, destination_t = (
            torch.from_numpy(values).to(device)
            for values in (roads, times, self._start_times[trips], self._destinations[trips])
        )
        decoded = self._decoder.step(road_t, time_t, start_t, destination_t, nodes.prefix(parents))
        slots = nodes.take(len(searches))
        nodes.road[slots], nodes.time[slots], nodes.parent[slots] = roads, times, parents
        at = torch.from_numpy(slots).to(device)
        nodes.keys[:, at], nodes.values[:, at] = decoded.keys, decoded.values
        away_m = self._decoder.tables.distances_m(road_t, destination_t)
        successors = zip(
            decoded.candidates.tolist(),
            (-torch.log_softmax(decoded.logits, dim=1)).tolist(),
            self._seconds(decoded.times).tolist(),
            strict=True,
        )
        for search, node, slot, metres, (candidates, costs, seconds) in zip(
            searches, popped, slots.tolist(), away_m.tolist(), successors, strict=True
        ):
            search.slots.append(slot)
            if metres < search.nearest_m:
                search.nearest_m, search.nearest_slot = metres, slot
            search.enter(node[0], node[3], slot, candidates, costs, seconds)

    def _seconds(self, predicted: Tensor) -> Tensor:
        """Return whole seconds, int64, from standardised predictions."""
        return self._decoder.model.time_scale.seconds(predicted).round().long()

    def result(self) -> GeneratedTrajectories:
        """Return the answers in the order of the trips."""
        roads, times, reached, expansions = zip(*(self._answers[trip] for trip in sorted(self._answers)), strict=True)
        return GeneratedTrajectories(
            offsets_of(np.array([len(part) for part in roads])), np.concatenate(roads), np.concatenate(times),
            reached=np.array(reached), expansions=np.array(expansions),
        )
