"""Decoders: how a trip is found, road by road. One object per active trip, advanced in rounds by the generator.

In every round a trip names the nodes to expand and then receives, for each of them, its successors with their costs
(-log p) and times. All decoders have this in common: a trip ends at its destination; if it does not get there, the
result is the expanded path whose end is closest to the destination (great circle), as in the published search.

`search`    published (HOSER: Cao et al., AAAI 2025): uniform cost, cheapest node first, each road once.
`beam`      the `beam_width` cheapest paths of each length; each road once.
`sampling`  each next road drawn by its probability at `temperature`, without the roads already visited.

A prior (`hoser_kd.generation.prior`) replaces the costs for all of them and guides the search to its destination.

The published search is in `hoser_kd.generation.search`. To add a decoder, write a class with the methods of `Trip`
(`hoser_kd.generation.trip_state`) and register a `DecoderSpec` in `hoser_kd.config.variants.DECODERS`. Settings,
command line and `generate(..., decoding=name)` then accept its name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hoser_kd.common.errors import ConfigError
from hoser_kd.config.section import MAX_TEMPERATURE, MIN_TEMPERATURE
from hoser_kd.config.variants import DECODERS
from hoser_kd.generation.search import Search
from hoser_kd.generation.trip_state import Expanded, Node, Trip, TripState

if TYPE_CHECKING:
    from hoser_kd.config.generation import GenerationConfig
    from hoser_kd.generation.prior import Prior


@dataclass(frozen=True)
class Decoding:
    """Name and settings of a decoder. Raises ConfigError for an unknown name or an impossible value."""

    name: str = "search"
    """A name in `hoser_kd.config.variants.DECODERS`."""
    max_steps: int = 5000
    """Expansions per trip after which it ends."""
    beam_width: int = 8
    """Paths kept of each length (beam)."""
    temperature: float = 1.0
    """Above 1 flattens, below 1 sharpens the probabilities (sampling)."""
    seed: int = 0
    """Seed of the draws (sampling)."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise ConfigError(f"name of a decoder is {self.name!r}. Use one of {', '.join(map(repr, DECODERS))}.")
        DECODERS[self.name]
        for name, least in (("max_steps", 1), ("beam_width", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{name} of a decoder is {value!r}. Use an integer of {least} or more.")
        value, low, high = self.temperature, MIN_TEMPERATURE, MAX_TEMPERATURE
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ConfigError(f"temperature of a decoder is {value!r}. Use a number from {low:g} to {high:g}.")

    @classmethod
    def from_config(cls, config: GenerationConfig) -> Decoding:
        """Return the decoder of the section `generation` of a city's settings."""
        return cls(config.decoder, config.max_steps, config.beam_width, config.temperature, config.seed)

    @property
    def spec(self) -> DecoderSpec:
        """The registered decoder."""
        spec: DecoderSpec = DECODERS[self.name]
        return spec

    def describe(self, prior: Prior | None = None) -> str:
        """Return the decoder and its settings as text, with those of a prior that replaces its costs."""
        text = f"{self.spec.describe(self)}, at most {self.max_steps:,} expansions per trip"
        if prior is None or prior.is_neutral:
            return text
        guided = ", guided by its costs to go" if self.spec.is_guided else ""
        return f"{text.removeprefix('published ')}; {prior.describe()}{guided}"

    @property
    def nodes_per_round(self) -> int:
        """Maximum number of nodes that a trip names in a round."""
        return self.spec.nodes_per_round(self)

    @property
    def logit_scale(self) -> float:
        """Factor of the logits before they become probabilities."""
        return self.spec.logit_scale(self)

    def begin(self, trip: int, origin: int, start_time: int, destination: int) -> Trip:
        """Return a trip at its origin; `trip` is its row among the requests."""
        return self.spec.trip_class(trip, destination, Node(0.0, 0, origin, start_time, -1), self)


@dataclass(frozen=True)
class DecoderSpec:
    """A decoder that can be chosen by name."""

    trip_class: Callable[[int, int, Node, Decoding], Trip]
    """Creates a trip from (row, destination, start node, settings)."""
    summary: str
    """One line for settings and docs: what a trip is."""
    describe: Callable[[Decoding], str]
    """Returns the decoder with the settings that matter to it, for reports."""
    nodes_per_round: Callable[[Decoding], int] = lambda _: 1
    """Returns the maximum number of nodes that a trip names in a round."""
    logit_scale: Callable[[Decoding], float] = lambda _: 1.0
    """Returns the factor of the logits."""
    is_guided: bool = False
    """Whether the costs to go of a prior guide it to the destination, as `GuidedSearch` in place of `trip_class`."""
    allows_samples: bool = False
    """Whether repeated requests give different trips, so that `samples_per_od` above 1 makes sense."""


class _Beam(TripState):
    """Beam search: paths grow by one road per round. With width 1 it is greedy decoding."""

    __slots__ = ("entered", "expanded", "following", "width")

    def __init__(self, trip: int, destination: int, start: Node, decoding: Decoding) -> None:
        super().__init__(trip, destination, decoding.max_steps)
        self.width = decoding.beam_width
        self.following = [start]
        self.expanded: set[int] = set()
        self.entered = 1

    def next_nodes(self) -> list[Node]:
        room = min(self.width, self.max_steps - self.expansions)
        chosen: list[Node] = []
        for node in sorted(self.following):
            # costs only grow, so paths costlier than one that has arrived are dropped
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


class _Sampling(TripState):
    """Ancestral sampling that visits each road once; a trip without an unvisited successor ends."""

    __slots__ = ("draw", "next", "visited")

    def __init__(self, trip: int, destination: int, start: Node, decoding: Decoding) -> None:
        super().__init__(trip, destination, decoding.max_steps)
        self.next: Node | None = start
        self.visited = {start.road}
        # one generator per trip, so that draws do not depend on the other active trips
        self.draw = np.random.default_rng([decoding.seed, trip])

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
        # relative to the most probable choice: if a visited road had nearly all the probability, the rest underflows
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


def check_decoder(name: str, spec: object) -> None:
    """Validate a decoder before it is registered. Raises TypeError with the right call."""
    usage = f"Call DECODERS.register({name!r}, DecoderSpec(TripClass, 'summary', lambda decoding: 'description'))."
    if not isinstance(spec, DecoderSpec):
        raise TypeError(f"decoder {name!r} is {spec!r}, not a DecoderSpec. {usage}")
    if not isinstance(spec.trip_class, type):
        raise TypeError(f"trip_class of decoder {name!r} is {spec.trip_class!r}, not a class. {usage}")
    missing = [method for method in ("next_nodes", "update") if not callable(getattr(spec.trip_class, method, None))]
    if missing:
        raise TypeError(
            f"class {spec.trip_class.__name__} of decoder {name!r} has no method {' and no '.join(missing)}. "
            "Define next_nodes(self) -> list[Node] and update(self, expanded: Expanded) -> None."
        )
    for field in ("describe", "nodes_per_round", "logit_scale"):
        if not callable(getattr(spec, field)):
            raise TypeError(f"{field} of decoder {name!r} is {getattr(spec, field)!r}, not a function. {usage}")
    if not isinstance(spec.summary, str):
        raise TypeError(f"summary of decoder {name!r} is {spec.summary!r}, not a string. {usage}")


DECODERS.register(
    "search",
    DecoderSpec(Search, "the published uniform-cost search", lambda _: "published uniform-cost search", is_guided=True),
)
DECODERS.register(
    "beam",
    DecoderSpec(
        _Beam,
        "the beam_width most probable paths of each length",
        lambda decoding: f"beam search, {decoding.beam_width} paths wide",
        nodes_per_round=lambda decoding: decoding.beam_width,
    ),
)
DECODERS.register(
    "sampling",
    DecoderSpec(
        _Sampling,
        "each next road drawn by its probability",
        lambda decoding: f"sampling at temperature {decoding.temperature:g}, seed {decoding.seed}",
        logit_scale=lambda decoding: 1 / decoding.temperature,
        allows_samples=True,
    ),
)
