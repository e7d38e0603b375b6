"""The state of a trip that is being generated: what every decoder receives, returns and keeps."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol


class Node(NamedTuple):
    """The end of a path: a road that is about to be entered. Nodes compare by cost, then by order."""

    cost: float
    """-log p of the whole path; with a prior, the sum of its costs."""
    order: int
    """Breaks ties: of equal costs, the node that was created first."""
    road: int
    """Road id."""
    time: int
    """Time at which the road is entered, seconds since the epoch."""
    parent: int
    """Slot of the path that it continues; -1: none."""


class Expanded(NamedTuple):
    """Result of expanding a node."""

    node: Node
    """The node."""
    slot: int
    """Slot that stores its path."""
    away_m: float
    """Great-circle distance from the node to the destination, meters."""
    candidates: list[int]
    """Successors; -1 after the last."""
    costs: list[float]
    """-log p of each, or its cost with a prior."""
    seconds: list[int]
    """Seconds until each is entered."""


class Trip(Protocol):
    """A trip that is being generated."""

    trip: int
    """Its row among the requests."""
    slots: dict[int, int]
    """Slots of the nodes it keeps, each with the slot of its parent."""
    freed: list[int]
    """Slots it no longer needs and that are not yet released by the generator."""
    expansions: int
    """Nodes expanded for it."""
    nearest_slot: int
    """Slot of the node closest to the destination; -1: none."""
    arrived: Node | None
    """The node of the destination once it is reached."""

    def next_nodes(self) -> list[Node]:
        """Return the nodes to expand next; empty when the trip is finished."""

    def update(self, expanded: Expanded) -> None:
        """Receive the result of one expanded node."""


class StepLimit(Protocol):
    """The setting that limits a trip; `hoser_kd.generation.decoding.Decoding` has it."""

    @property
    def max_steps(self) -> int:
        """Expansions after which the trip ends."""


class TripState:
    """State that the trips of all decoders share; a base class for decoders."""

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
        """`trip`: row of the request."""
        self.trip, self.destination, self.max_steps = trip, destination, max_steps
        self.slots: dict[int, int] = {}
        self.freed: list[int] = []
        self.expansions = 0
        self.nearest_m, self.nearest_slot = math.inf, -1
        self.arrived: Node | None = None

    def keep(self, slot: int, parent: int, away_m: float) -> None:
        """Store an expanded node and remember the one closest to the destination."""
        self.expansions += 1
        self.slots[slot] = parent
        if away_m < self.nearest_m:
            self.nearest_m, self.nearest_slot = away_m, slot
