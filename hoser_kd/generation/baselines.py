"""Baselines that answer requests (origin, start time, destination) with whole trips, without a neural network.

`markov`     the likeliest path of a first-order Markov chain over roads;
`shortest`   the path of least length;
`fastest`    the path of least travel time, by the mean speed of each road class in the hour of the start;
`retrieval`  the nearest training trip between the same two cells, `markov` where there is none.

All are deterministic. To add one, register a `Baseline` in `BASELINES`.

Shapes: n requests, N roads, L connections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from hoser_kd.common.arrays import Float64Array, Int64Array, offsets_of, row_of_value, take_rows
from hoser_kd.common.registry import Registry
from hoser_kd.generation.generator import GeneratedTrajectories
from hoser_kd.generation.od_pairs import OdPairs
from hoser_kd.generation.retrieval import Match, match_requests, shifted_trips
from hoser_kd.network.class_speeds import ClassSpeeds, entry_times, hour_of_day
from hoser_kd.network.markov import SMOOTHING_GRID, MarkovChain
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.shortest_paths import DEFAULT_MEMORY_BYTES, Paths, least_cost_paths, nearest_reachable
from hoser_kd.network.trajectories import Trajectories, concatenate

TripScore = Callable[[Trajectories, Trajectories], float]
"""Score of generated trips against the real trips of the same requests, lower is better: (real, generated) -> score."""


@dataclass(frozen=True)
class BaselineSettings:
    """What the baselines depend on besides the trips and the network."""

    smoothings: tuple[float, ...] = SMOOTHING_GRID
    """Smoothings of the Markov chain to choose from on validation trips by `score`."""
    score: TripScore | None = None
    """EDR of the same request in the pipeline; not needed where there is one smoothing."""
    num_validation_trips: int = 1000
    """Validation trips that the smoothing is chosen on, evenly spaced among all."""
    od_cell: Int64Array | None = None
    """(N,) int64: the cell of each road for retrieval; None: a cell per road, so only trips of the same OD match."""
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    """Memory for the path searches of one chunk."""


class TripBaseline(Protocol):
    """A fitted baseline."""

    def generate(self, od: OdPairs) -> GeneratedTrajectories:
        """Return one trip per request, in the order of the requests; `expansions` are 0."""

    def summary(self, od: OdPairs) -> dict[str, float]:
        """Return what was chosen in fitting, and how the requests are answered."""


@dataclass(frozen=True)
class Baseline:
    """A baseline of the registry."""

    name: str
    """Key in `BASELINES`."""
    label: str
    """Name in tables and figures."""
    description: str
    """What it does, in a sentence."""
    fit: Callable[[Trajectories, Trajectories, RoadNetwork, BaselineSettings], TripBaseline]
    """(train, val, network, settings) -> a fitted baseline. Nothing is learned from `val` but choices of settings."""
    uses_chain: bool = False
    """It uses the Markov chain, so its smoothing is chosen once for all baselines."""


BASELINES: Registry[Baseline] = Registry("baseline", __name__)
"""The baselines, in the order of the report."""


@dataclass(frozen=True)
class PathBaseline:
    """Answers a request with the path of least cost between its roads.

    Where the destination is unreachable, the path leads to the reachable road nearest to it, as in the published
    search. Road ids of the requests are valid on the network.
    """

    network: RoadNetwork
    """N roads and L connections."""
    speeds: ClassSpeeds
    """Speeds that travel times follow from."""
    costs: Float64Array | None = None
    """(L,) float64 cost of each connection; None: the seconds along the road it leaves, in the hour of the start."""
    smoothing: float | None = None
    """Smoothing of the Markov chain that the costs come from, if they do."""
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    """Memory for the searches of one chunk."""

    def generate(self, od: OdPairs) -> GeneratedTrajectories:
        """Return one trip per request."""
        if self.costs is not None:
            seconds = self.speeds.road_seconds(self.network)
            return _as_generated(self._trips(self.costs, seconds, od), od)
        hour = hour_of_day(od.start_times)
        rows = [np.flatnonzero(hour == h) for h in range(24)]
        trips = concatenate([self._trips_in_hour(h, od.take(rows[h])) for h in range(24) if len(rows[h]) or h == 0])
        return _as_generated(trips.take(np.argsort(np.concatenate(rows))), od)

    def summary(self, od: OdPairs) -> dict[str, float]:  # noqa: ARG002
        """Return the smoothing, if there is one."""
        return {} if self.smoothing is None else {"smoothing": self.smoothing}

    def _trips_in_hour(self, hour: int, od: OdPairs) -> Trajectories:
        seconds = self.speeds.road_seconds(self.network, hour)
        return self._trips(seconds[row_of_value(self.network.successors.indptr)], seconds, od)

    def _trips(self, costs: Float64Array, road_seconds: Float64Array, od: OdPairs) -> Trajectories:
        paths = self._paths(costs, od)
        times = entry_times(paths.offsets, road_seconds[paths.road_ids], od.start_times)
        return Trajectories(paths.offsets, paths.road_ids, times)

    def _paths(self, costs: Float64Array, od: OdPairs) -> Paths:
        paths = least_cost_paths(self.network, costs, od.origins, od.destinations, self.memory_bytes)
        lost = np.flatnonzero(np.isinf(paths.cost))
        if len(lost) == 0:
            return paths
        origins, goals = od.origins[lost], od.destinations[lost]
        goals = nearest_reachable(self.network, origins, goals, self.memory_bytes)
        nearest = least_cost_paths(self.network, costs, origins, goals, self.memory_bytes)
        lengths = np.concatenate([np.diff(paths.offsets), np.diff(nearest.offsets)])
        rows = np.arange(len(od))
        rows[lost] = len(od) + np.arange(len(lost))
        offsets, at = take_rows(offsets_of(lengths), rows)
        return Paths(offsets, np.concatenate([paths.road_ids, nearest.road_ids])[at], paths.cost)


@dataclass(frozen=True)
class RetrievalBaseline:
    """Answers a request with the nearest training trip between the same two cells, its times shifted to the start."""

    network: RoadNetwork
    """N roads."""
    train: Trajectories
    """Trips to answer with."""
    od_cell: Int64Array
    """(N,) int64: the cell of each road."""
    fallback: TripBaseline
    """Answers requests between cells that no training trip connects."""

    def match(self, od: OdPairs) -> Match:
        """Return the training trip that answers each request, -1 where the fallback does."""
        return match_requests(od, self.train, self.network, self.od_cell)

    def generate(self, od: OdPairs) -> GeneratedTrajectories:
        """Return one trip per request."""
        row = self.match(od).row
        found, missing = np.flatnonzero(row >= 0), np.flatnonzero(row < 0)
        retrieved = shifted_trips(self.train, row[found], od.start_times[found])
        trips = concatenate([retrieved, self.fallback.generate(od.take(missing))])
        return _as_generated(trips.take(np.argsort(np.concatenate([found, missing]))), od)

    def summary(self, od: OdPairs) -> dict[str, float]:
        """Return the shares of requests by how they are answered, and the summary of the fallback."""
        row, same_od = self.match(od)
        counts = {
            "same_od_share": same_od.sum(),
            "same_cells_share": ((row >= 0) & (same_od == 0)).sum(),
            "fallback_share": (row < 0).sum(),
        }
        shares = {name: float(count) / max(len(od), 1) for name, count in counts.items()}
        return shares | self.fallback.summary(od)


def fit_baselines(
    train: Trajectories,
    val: Trajectories,
    network: RoadNetwork,
    settings: BaselineSettings,
    names: Iterable[str] | None = None,
) -> dict[str, TripBaseline]:
    """Fit the named baselines, all by default, and return them by name; the smoothing is chosen once for all.

    Raises ConfigError where a name is unknown.
    """
    wanted = [BASELINES[name] for name in (BASELINES.names() if names is None else names)]
    if any(baseline.uses_chain for baseline in wanted):
        smoothing = _fit_markov(train, val, network, settings).smoothing
        settings = replace(settings, smoothings=settings.smoothings if smoothing is None else (smoothing,))
    return {baseline.name: baseline.fit(train, val, network, settings) for baseline in wanted}


def _fit_markov(
    train: Trajectories, val: Trajectories, network: RoadNetwork, settings: BaselineSettings
) -> PathBaseline:
    """Return the Markov chain's likeliest paths, with the smoothing of least score, the first of equal ones.

    Raises ValueError where there is a choice of smoothings but no score or no validation trip.
    """
    chain, speeds = MarkovChain.fit(train, network), ClassSpeeds.fit(train, network)

    def smoothed(smoothing: float) -> PathBaseline:
        costs = replace(chain, smoothing=smoothing).costs
        return PathBaseline(network, speeds, costs, smoothing, settings.memory_bytes)

    if len(settings.smoothings) == 1:
        return smoothed(settings.smoothings[0])
    if settings.score is None or len(val) == 0:
        raise ValueError("choosing a smoothing needs a score and validation trips; otherwise, give one smoothing")
    count = min(settings.num_validation_trips, len(val))
    real = val.take(np.linspace(0, len(val) - 1, count).round().astype(np.int64))
    od = OdPairs(real.origins, real.start_times, real.destinations, None)
    candidates = [smoothed(smoothing) for smoothing in settings.smoothings]
    return candidates[int(np.argmin([settings.score(real, candidate.generate(od)) for candidate in candidates]))]


def _fit_shortest(
    train: Trajectories, _: Trajectories, network: RoadNetwork, settings: BaselineSettings
) -> PathBaseline:
    # a road's length counts where it is left, so the destination's own, equal for all paths, does not count
    costs = network.length_m[row_of_value(network.successors.indptr)]
    return PathBaseline(network, ClassSpeeds.fit(train, network), costs, memory_bytes=settings.memory_bytes)


def _fit_fastest(
    train: Trajectories, _: Trajectories, network: RoadNetwork, settings: BaselineSettings
) -> PathBaseline:
    return PathBaseline(network, ClassSpeeds.fit(train, network), memory_bytes=settings.memory_bytes)


def _fit_retrieval(
    train: Trajectories, val: Trajectories, network: RoadNetwork, settings: BaselineSettings
) -> RetrievalBaseline:
    cell = np.arange(network.num_roads) if settings.od_cell is None else settings.od_cell
    return RetrievalBaseline(network, train, cell, _fit_markov(train, val, network, settings))


def _as_generated(trips: Trajectories, od: OdPairs) -> GeneratedTrajectories:
    reached = trips.destinations == od.destinations
    return GeneratedTrajectories(
        trips.offsets,
        trips.road_ids,
        trips.times,
        reached=reached,
        expansions=np.zeros(len(trips), np.int64),
    )


for _baseline in (
    Baseline(
        "markov",
        "Markov chain",
        "The likeliest path of a first-order Markov chain over roads, its smoothing chosen on validation trips.",
        _fit_markov,
        uses_chain=True,
    ),
    Baseline("shortest", "Shortest path", "The path of least length.", _fit_shortest),
    Baseline(
        "fastest",
        "Fastest path",
        "The path of least travel time, by the mean speed of each road class in the hour of the start.",
        _fit_fastest,
    ),
    Baseline(
        "retrieval",
        "Nearest training trip",
        "The nearest training trip between the same two cells; the Markov chain where there is none.",
        _fit_retrieval,
        uses_chain=True,
    ),
):
    BASELINES.register(_baseline.name, _baseline)
