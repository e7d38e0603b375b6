"""The trips that are active at the same time, and the nodes that they expand in a round.

`ObjectTrips` holds an object per trip (`hoser_kd.generation.trip_state.Trip`), for every decoder. The published search
has arrays instead (`hoser_kd.generation.search_rounds`), with the same results.

Shapes: B nodes expanded in a round, C maximum number of candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

from hoser_kd.common.arrays import Float64Array, Int64Array
from hoser_kd.generation.trajectories import GeneratedTrip
from hoser_kd.generation.trip_state import Expanded, Node, Trip
from hoser_kd.hoser.incremental import PathTree


class Nodes(NamedTuple):
    """The nodes of a round, (B,) int64 each."""

    rows: Int64Array
    """Row of the node's trip among the requests."""
    roads: Int64Array
    """Road ids."""
    times: Int64Array
    """Times at which the roads are entered, seconds since the epoch."""
    parents: Int64Array
    """Slots of the paths that they continue; -1: none."""


class Successors(NamedTuple):
    """Results of the nodes of a round."""

    slots: Int64Array
    """(B,) int64: slots that store their paths."""
    away_m: Float64Array
    """(B,) float64: great-circle distances to the destinations, meters."""
    candidates: Int64Array
    """(B, C) int64: successors; -1 after the last."""
    costs: Float64Array
    """(B, C) floating point: cost of each."""
    seconds: Int64Array
    """(B, C) int64: seconds until each is entered."""


class ActiveTrips(Protocol):
    """Trips that are being generated."""

    def __len__(self) -> int:
        """Return the number of active trips."""

    def begin(self, row: int, origin: int, start_time: int, destination: int) -> None:
        """Add a trip at its origin; `row`: its row among the requests."""

    def next_round(self) -> tuple[list[tuple[int, GeneratedTrip]], Nodes]:
        """Return the trips that are finished, which are active no longer, and the nodes that the others expand."""

    def update(self, successors: Successors) -> None:
        """Receive the results of the nodes of the last round."""


def finished_trip(
    tree: PathTree, arrived: tuple[int, int, int] | None, nearest_slot: int, expansions: int
) -> GeneratedTrip:
    """Return the path to the destination, `arrived` (road, time, parent), or the path that ends closest to it."""
    roads, times = tree.path(nearest_slot if arrived is None else arrived[2])
    if arrived is not None:
        roads, times = np.append(roads, arrived[0]), np.append(times, arrived[1])
    return GeneratedTrip(roads, times, arrived is not None, expansions)


class ObjectTrips:
    """Active trips as objects of a decoder."""

    def __init__(self, tree: PathTree, begin: Callable[[int, int, int, int], Trip], decoder: str) -> None:
        """`begin` creates a trip from (row, origin, start time, destination); `decoder` is its name, for errors."""
        self._tree, self._begin, self._decoder = tree, begin, decoder
        self._active: list[Trip] = []
        self._batch: list[tuple[Trip, Node]] = []

    def __len__(self) -> int:
        return len(self._active)

    def begin(self, row: int, origin: int, start_time: int, destination: int) -> None:
        self._active.append(self._begin(row, origin, start_time, destination))

    def next_round(self) -> tuple[list[tuple[int, GeneratedTrip]], Nodes]:
        requested = [(trip, trip.next_nodes()) for trip in self._active]
        finished = [(trip.trip, self._end(trip)) for trip, nodes in requested if not nodes]
        self._active = [trip for trip, nodes in requested if nodes]
        self._batch = [(trip, node) for trip, nodes in requested for node in nodes]
        rows = np.array([trip.trip for trip, _ in self._batch], np.int64)
        return finished, Nodes(rows, *(np.array([node[at] for _, node in self._batch], np.int64) for at in (2, 3, 4)))

    def update(self, successors: Successors) -> None:
        for (trip, node), result in zip(self._batch, _rows(successors), strict=True):
            trip.update(Expanded(node, *result))
            if trip.freed:
                self._tree.give_back(trip.freed)
                trip.freed.clear()

    def _end(self, trip: Trip) -> GeneratedTrip:
        """Return the result of a finished trip. Raises ValueError without a road."""
        if trip.arrived is None and trip.nearest_slot < 0:
            raise ValueError(
                f"decoder {self._decoder!r} finished trip {trip.trip} without a road. Its update() must keep the "
                "nodes of the path: call self.keep(expanded.slot, expanded.node.parent, expanded.away_m), and its "
                "next_nodes() must return the start node first."
            )
        last = None if trip.arrived is None else (trip.arrived.road, trip.arrived.time, trip.arrived.parent)
        result = finished_trip(self._tree, last, trip.nearest_slot, trip.expansions)
        self._tree.give_back(list(trip.slots))
        return result


def _rows(successors: Successors) -> Iterator[tuple[int, float, list[int], list[float], list[int]]]:
    return zip(*(part.tolist() for part in successors), strict=True)
