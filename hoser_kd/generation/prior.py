"""A prior for generation: the costs of a step from the student, a Markov chain and road lengths.

A student is trained on steps of real trips, so it can be confident along branches that no real trip takes, and a search
by its costs alone follows them. With a prior, the step from road u to its candidate v costs

    (1 - markov_weight) * -log softmax(logits / temperature)[v]  +  markov_weight * -log p_markov(v | u)
    +  cost_per_km * length of v in km

The sum is not normalized over the candidates, so a branch costs less where student and chain agree. Sampling draws with
probabilities proportional to exp(-cost). The part without the student does not depend on the path, so its least sum
from a road to a destination is a lower bound of the remaining cost: the search is guided by it (see
`hoser_kd.generation.guided_search`).

Shapes: B expanded nodes, C maximum number of candidates, N roads, L connections.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from hoser_kd.common.arguments import check_kind
from hoser_kd.common.arrays import Float64Array, Int64Array
from hoser_kd.common.errors import ConfigError
from hoser_kd.common.hashing import digest_arrays
from hoser_kd.config.section import LARGEST, MAX_TEMPERATURE, MIN_TEMPERATURE
from hoser_kd.network.markov import MarkovChain
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.trajectories import Trajectories

if TYPE_CHECKING:
    from hoser_kd.config.generation import PriorConfig
    from hoser_kd.hoser import HOSER

DEFAULT_SMOOTHING = 3.0
"""Added to the count of every candidate of the Markov chain."""
_USAGE = "Prior.fit(train, network, markov_weight=0.5)"
_CACHED_DESTINATIONS = 16
"""Destinations whose costs to go are kept, for requests that share one."""


@dataclass(frozen=True)
class Prior:
    """A Markov chain and the weights of the costs. Raises TypeError or ConfigError for impossible values."""

    chain: MarkovChain
    """Chain of order 1 on the network of the student, fitted on the student's training trips."""
    markov_weight: float = 0.5
    """Weight of the chain, in [0, 1]; the student's is 1 minus it."""
    temperature: float = 1.0
    """Above 1 flattens, below 1 sharpens the student's probabilities."""
    cost_per_km: float = 0.0
    """Cost of the length of the entered road, nats per km."""

    def __post_init__(self) -> None:
        if not isinstance(self.chain, MarkovChain):
            raise TypeError(
                f"chain of a prior is of type {type(self.chain).__name__}, not a MarkovChain. Call {_USAGE}."
            )
        if self.chain.order != 1:
            raise ConfigError("chain of a prior has order 2. Fit one of order 1: MarkovChain.fit(train, network).")
        for name, allowed, low, high in (
            ("markov_weight", "a number from 0 to 1", 0.0, 1.0),
            ("temperature", "a number above 0 (0.0001 to 10000)", MIN_TEMPERATURE, MAX_TEMPERATURE),
            ("cost_per_km", "a number of 0 or more, at most 1e30", 0.0, LARGEST),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise ConfigError(f"{name} of a prior is {value!r}. Use {allowed}.")

    @classmethod
    def fit(
        cls, train: Trajectories, network: RoadNetwork, *, smoothing: float = DEFAULT_SMOOTHING, **weights: float
    ) -> Prior:
        """Return a prior with a chain fitted on training trips; `weights` are the other fields.

        Raises TypeError for an argument of the wrong type, ConfigError for an impossible value.
        """
        check_kind("train", train, Trajectories, _USAGE)
        check_kind("network", network, RoadNetwork, _USAGE)
        if isinstance(smoothing, bool) or not isinstance(smoothing, int | float) or not 0 < smoothing < math.inf:
            raise ConfigError(f"smoothing of a prior is {smoothing!r}. Use a finite number above 0.")
        return cls(MarkovChain.fit(train, network, smoothing), **weights)

    @classmethod
    def from_config(cls, config: PriorConfig, train: Trajectories, network: RoadNetwork) -> Prior | None:
        """Return the prior of the section `generation.prior`, None where it is off; `tune` is not considered."""
        weights = config.model_dump(include={"markov_weight", "temperature", "cost_per_km"})
        prior = cls.fit(train, network, smoothing=config.smoothing, **weights) if config.is_on else None
        return None if prior is None or prior.is_neutral else prior

    @property
    def is_neutral(self) -> bool:
        """Whether the costs are those of the student alone, so that the published search applies."""
        return self.markov_weight == 0 and self.temperature == 1 and self.cost_per_km == 0

    @property
    def has_bound(self) -> bool:
        """Whether the costs have a part that does not depend on the path."""
        return self.markov_weight > 0 or self.cost_per_km > 0

    def describe(self) -> str:
        """Return the weights as text."""
        return (
            f"prior: Markov weight {self.markov_weight:g}, smoothing {self.chain.smoothing:g}, "
            f"temperature {self.temperature:g}, {self.cost_per_km:g} per km"
        )

    def key(self) -> list[Any]:
        """Return everything that the generated trips depend on, as JSON."""
        return [self.markov_weight, self.temperature, self.cost_per_km, digest_arrays(self.chain.costs)]

    def check(self, model: HOSER) -> None:
        """Raise ValueError where the chain is of another network than the student."""
        own, tables = self.chain.network.successors, model.tables
        same = np.array_equal(own.indptr, tables.successor_start.cpu().numpy()) and np.array_equal(
            own.indices, tables.successor.cpu().numpy()
        )
        if not same:
            raise ValueError(
                f"the prior is of a network of {self.chain.network.num_roads} roads and {len(own.indices)} "
                f"connections, the model of {model.config.num_roads} and {len(tables.successor)}, or the connections "
                "differ. Fit the prior on the network of the student."
            )

    @cached_property
    def connection_costs(self) -> Float64Array:
        """(L,) float64: the part of the cost that does not depend on the path."""
        network = self.chain.network
        per_km: Float64Array = self.cost_per_km * network.length_m[network.successors.indices] / 1000
        return self.markov_weight * self.chain.costs + per_km

    def step_costs(self, roads: Int64Array, candidates: Tensor, logits: Tensor) -> Float64Array:
        """Return (B, C) float64: the cost of each candidate, inf after the last.

        `roads` (B,) int64; `candidates` (B, C) int64 in the order of the network's successors, -1 after the last;
        `logits` (B, C).
        """
        valid = candidates.cpu().numpy() >= 0
        first = self.chain.network.successors.indptr[roads]
        connection = np.where(valid, first[:, None] + np.arange(valid.shape[1]), 0)
        cost = self.connection_costs[connection]
        if self.markov_weight < 1:
            log_p = torch.log_softmax(logits.double() / self.temperature, dim=1).cpu().numpy()
            cost = cost - (1 - self.markov_weight) * log_p
        return np.where(valid, cost, np.inf)


class CostsToGo:
    """The least cost from every road to a destination, by the part of a prior that does not depend on the path.

    Where that part is zero everywhere, the costs are those of the Markov chain: no bound, but a way to finish.
    """

    def __init__(self, prior: Prior) -> None:
        successors, size = prior.chain.network.successors, prior.chain.network.num_roads
        costs = prior.connection_costs if prior.has_bound else prior.chain.costs
        # stored zeros are connections of no cost; transposing keeps them
        graph = csr_array((costs, successors.indices, successors.indptr), shape=(size, size))
        self._backward = graph.T.tocsr()
        self._recent: OrderedDict[int, Float64Array] = OrderedDict()

    def __call__(self, destination: int) -> Float64Array:
        """Return (N,) float64: the cost from each road, inf where the destination is unreachable."""
        costs = self._recent.pop(destination, None)
        if costs is None:
            costs = np.asarray(dijkstra(self._backward, indices=destination), np.float64)
        self._recent[destination] = costs
        if len(self._recent) > _CACHED_DESTINATIONS:
            self._recent.popitem(last=False)
        return costs


def with_weights(prior: Prior, markov_weight: float, temperature: float, cost_per_km: float) -> Prior:
    """Return the prior with other weights and the same chain."""
    return replace(prior, markov_weight=markov_weight, temperature=temperature, cost_per_km=cost_per_km)
