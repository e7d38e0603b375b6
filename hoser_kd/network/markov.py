"""Markov chains over roads: smoothed counts of which road follows which.

Order 1 conditions the next road on the current one, with additive smoothing. Order 2 conditions it on the current and
the previous road and interpolates with order 1 by a Dirichlet prior (MacKay and Peto, 1995): the weight of the counts
is c / (c + backoff), c being how often training trips made the same previous step.

`destination_aware_log_probabilities` conditions the chain on a destination: a candidate is as probable as the
likeliest path through it.

Shapes: N roads, L connections, S steps, A candidates of S steps together, K distinct pairs of connections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Literal, NamedTuple, Protocol

import numpy as np

from hoser_kd.common.arrays import Float64Array, Int64Array, row_of_value, take_rows
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.shortest_paths import DEFAULT_MEMORY_BYTES, costs_to_go
from hoser_kd.network.trajectories import Trajectories

SMOOTHING_GRID = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Smoothings to choose from on validation trips."""
BACKOFF_GRID = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Backoffs of order 2 to choose from on validation trips."""


_PAIRS_AT_ONCE = 1 << 20


class CandidateLogProbabilities(NamedTuple):
    """Log-probabilities of the candidates of S steps, a ragged array in the order of `network.successors`."""

    offsets: Int64Array
    """(S + 1,) int64."""
    values: Float64Array
    """(A,) float64, nats; -inf for a candidate that is impossible."""


class StepConnections(NamedTuple):
    """The connections that the steps of trips take."""

    taken: Int64Array
    """(S,) int64: the connection of each step, a position in `network.successors.indices`."""
    previous: Int64Array
    """(S,) int64: that of the step before, -1 for the first step of a trip."""


@dataclass(frozen=True)
class MarkovChain:
    """A chain of order 1 or 2 over the roads of a network."""

    network: RoadNetwork
    """N roads and L connections."""
    counts: Int64Array
    """(L,) int64: how often training trips take each connection."""
    smoothing: float = 1.0
    """Added to the count of every candidate; positive."""
    pair_keys: Int64Array | None = None
    """(K,) int64, sorted: first connection * L + second connection; None for order 1."""
    pair_counts: Int64Array | None = None
    """(K,) int64: how often training trips take the second connection directly after the first."""
    backoff: float = 10.0
    """Weight of order 1 in order 2, in counts; positive."""

    def __post_init__(self) -> None:
        """Raise ValueError where smoothing or backoff is not positive."""
        for name in ("smoothing", "backoff"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)!r}")

    @classmethod
    def fit(
        cls,
        train: Trajectories,
        network: RoadNetwork,
        smoothing: float = 1.0,
        order: Literal[1, 2] = 1,
        backoff: float = 10.0,
    ) -> MarkovChain:
        """Count the steps of training trips.

        Raises ValueError where `order` is neither 1 nor 2, or smoothing or backoff is not positive.
        """
        if order not in (1, 2):
            raise ValueError(f"order is 1 or 2, not {order!r}")
        num_connections = len(network.successors.indices)
        counts = np.zeros(num_connections, np.int64)
        pairs = _PairCounts()
        for part in train.chunks():
            steps = step_connections(part, network)
            np.add.at(counts, steps.taken, 1)
            if order == 2:
                inner = steps.previous >= 0
                pairs.add(steps.previous[inner] * num_connections + steps.taken[inner])
        chain = cls(network, counts, smoothing, backoff=backoff)
        if order == 1:
            return chain
        keys, pair_counts = pairs.result()
        return replace(chain, pair_keys=keys, pair_counts=pair_counts)

    @classmethod
    def tune(
        cls,
        train: Trajectories,
        val: Trajectories,
        network: RoadNetwork,
        order: Literal[1, 2] = 1,
        smoothings: Sequence[float] = SMOOTHING_GRID,
        backoffs: Sequence[float] = BACKOFF_GRID,
    ) -> MarkovChain:
        """Fit with the smoothing and, for order 2, the backoff of least NLL per step on validation trips.

        Raises ValueError where the validation trips have no step.
        """
        if val.num_steps == 0:
            raise ValueError("the validation trips have no step to choose the smoothing by")
        counted = cls.fit(train, network, smoothings[0], order)
        weights = product(smoothings, backoffs if order == 2 else backoffs[:1])
        chains = [replace(counted, smoothing=smoothing, backoff=backoff) for smoothing, backoff in weights]
        return min(chains, key=lambda chain: chain.nll(val))

    @property
    def order(self) -> int:
        """1 or 2: roads that the next one depends on."""
        return 1 if self.pair_keys is None else 2

    @cached_property
    def log_probabilities(self) -> Float64Array:
        """(L,) float64, nats: log-probability of each connection given the road it leaves, of order 1."""
        successors = self.network.successors
        origin = row_of_value(successors.indptr)
        total = np.bincount(origin, self.counts, self.network.num_roads) + self.smoothing * successors.degrees
        log_p: Float64Array = np.log((self.counts + self.smoothing) / total[origin])
        return np.minimum(log_p, 0.0)

    @property
    def costs(self) -> Float64Array:
        """(L,) float64, nats, not negative: minus the log-probabilities; a path of least cost is the likeliest one."""
        return np.abs(self.log_probabilities)

    @cached_property
    def _context_counts(self) -> Int64Array:
        """(L,) int64: how often training trips continue after each connection; 0 for order 1."""
        num_connections = len(self.network.successors.indices)
        if self.pair_keys is None or self.pair_counts is None:
            return np.zeros(num_connections, np.int64)
        counts = np.zeros(num_connections, np.int64)
        np.add.at(counts, self.pair_keys // num_connections, self.pair_counts)
        return counts

    def connection_log_probabilities(self, connections: Int64Array, previous: Int64Array) -> Float64Array:
        """Return (K,) float64, nats: log-probability of each connection after the one before it.

        Both (K,) int64 positions in `network.successors.indices`; `previous` is -1 at the start of a trip, where, as
        after a connection that no training trip continues from, order 1 applies.
        """
        log_p = self.log_probabilities[connections]
        if self.pair_keys is None or self.pair_counts is None or len(self.pair_keys) == 0:
            return log_p
        key = previous * len(self.network.successors.indices) + connections
        place = np.minimum(np.searchsorted(self.pair_keys, key), len(self.pair_keys) - 1)
        known = (previous >= 0) & (self.pair_keys[place] == key)
        count = np.where(known, self.pair_counts[place], 0)
        total = np.where(previous >= 0, self._context_counts[previous], 0)
        mixed = np.log((count + self.backoff * np.exp(log_p)) / (total + self.backoff))
        return np.where(total > 0, np.minimum(mixed, 0.0), log_p)

    def step_log_probabilities(self, trips: Trajectories) -> CandidateLogProbabilities:
        """Return the log-probabilities of the candidates of every step of trips, in the order of the steps."""
        at, _ = trips.step_positions()
        offsets, candidate = take_rows(self.network.successors.indptr, trips.road_ids[at])
        previous = step_connections(trips, self.network).previous[row_of_value(offsets)]
        return CandidateLogProbabilities(offsets, self.connection_log_probabilities(candidate, previous))

    def nll(self, trips: Trajectories) -> float:
        """Return the mean negative log-likelihood of the steps of trips, nats per step; NaN without steps."""
        steps = step_connections(trips, self.network)
        if len(steps.taken) == 0:
            return float("nan")
        return -float(self.connection_log_probabilities(steps.taken, steps.previous).mean())


class _PairCounts:
    """Counts of keys that come in parts. Memory grows with the distinct keys, not with all."""

    def __init__(self) -> None:
        self._keys, self._counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._waiting: list[Int64Array] = []

    def add(self, keys: Int64Array) -> None:
        """Count each of these keys once."""
        self._waiting.append(keys)
        # as many as there are distinct ones, so that sorting them all again is no more than twice the work
        if sum(map(len, self._waiting)) > max(len(self._keys), _PAIRS_AT_ONCE):
            self.result()

    def result(self) -> tuple[Int64Array, Int64Array]:
        """Return the distinct keys, ascending, and how often each occurred."""
        keys, counts = np.unique(np.concatenate([self._keys[:0], *self._waiting]), return_counts=True)
        together = np.union1d(self._keys, keys)
        total = np.zeros(len(together), np.int64)
        total[np.searchsorted(together, self._keys)] = self._counts
        total[np.searchsorted(together, keys)] += counts
        self._keys, self._counts, self._waiting = together, total, []
        return together, total


def step_connections(trips: Trajectories, network: RoadNetwork) -> StepConnections:
    """Return the connection that every step takes and that of the step before it in the same trip.

    Trips are valid on the network: every road follows the one before it.
    """
    at, trip = trips.step_positions()
    road = trips.road_ids[at]
    taken = network.successors.indptr[road] + network.candidate_index(road, trips.road_ids[at + 1])
    previous = np.full(len(taken), -1, np.int64)
    same = np.flatnonzero(trip[1:] == trip[:-1]) + 1
    previous[same] = taken[same - 1]
    return StepConnections(taken, previous)


class ConnectionCosts(Protocol):
    """Costs of the connections of a network, such as a Markov chain."""

    @property
    def network(self) -> RoadNetwork:
        """N roads and L connections."""

    @property
    def costs(self) -> Float64Array:
        """(L,) float64, nats, not negative, in the order of `network.successors.indices`."""


class DestinationCosts(NamedTuple):
    """Costs of the candidates of S steps on the way to a destination, ragged in the order of `network.successors`."""

    offsets: Int64Array
    """(S + 1,) int64."""
    step: Float64Array
    """(A,) float64, nats: cost of the connection to each candidate."""
    to_go: Float64Array
    """(A,) float64, nats: least cost from each candidate to the destination; inf where it is unreachable."""


def destination_costs(
    connections: ConnectionCosts, roads: Int64Array, destinations: Int64Array, memory_bytes: int = DEFAULT_MEMORY_BYTES
) -> DestinationCosts:
    """Return the costs of the candidates of each road and their costs to go; the other arguments as below."""
    network, costs = connections.network, connections.costs
    offsets, connection = take_rows(network.successors.indptr, np.asarray(roads, np.int64))
    goal = np.asarray(destinations, np.int64)[row_of_value(offsets)]
    to_go = costs_to_go(network, costs, network.successors.indices[connection], goal, memory_bytes)
    return DestinationCosts(offsets, costs[connection], to_go)


def destination_aware_log_probabilities(
    chain: MarkovChain, roads: Int64Array, destinations: Int64Array, memory_bytes: int = DEFAULT_MEMORY_BYTES
) -> CandidateLogProbabilities:
    """Return log-probabilities of the candidates of each road, conditioned on a destination.

    q(r | road, destination) ∝ exp(-cost(road → r) - cost_to_go(r, destination)) over the candidates r, where a cost is
    minus the log-probability of order 1 and the cost to go that of the likeliest path from r to the destination. A
    candidate from which the destination is unreachable is impossible (-inf); where it is so from all candidates, the
    chain's own log-probabilities are returned. Roads without candidates have none.

    Args:
        chain: the chain; of order 2 only its order 1 is used.
        roads: (S,) int64, the current road of each step.
        destinations: (S,) int64, the destination of each step.
        memory_bytes: memory for the searches of one chunk of destinations.
    """
    offsets, cost, to_go = destination_costs(chain, roads, destinations, memory_bytes)
    step, own = row_of_value(offsets), -cost
    reachable = np.bincount(step, np.isfinite(to_go), len(roads))[step] > 0
    return CandidateLogProbabilities(offsets, _log_normalize(np.where(reachable, own - to_go, own), step, len(roads)))


def _log_normalize(log_weight: Float64Array, group: Int64Array, num_groups: int) -> Float64Array:
    """Return log-weights minus the log of their group's sum, so that each group sums to 1."""
    top = np.full(num_groups, -np.inf)
    np.maximum.at(top, group, log_weight)
    shifted = log_weight - top[group]
    normalized: Float64Array = shifted - np.log(np.bincount(group, np.exp(shifted), num_groups)[group])
    return normalized
