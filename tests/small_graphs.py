"""Small random road networks for properties, with dead ends, self loops and islands, and plain searches on them."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from hypothesis import strategies as st

from hoser_kd.common.arrays import Csr, offsets_of
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.trajectories import Trajectories

MAX_ROADS = 7


def network_of(successors: list[list[int]], seed: int = 0, lengths: list[float] | None = None) -> RoadNetwork:
    """Return a network with these successors, and lines at random places within a few kilometers."""
    num_roads = len(successors)
    rng = np.random.default_rng(seed)
    return RoadNetwork(
        coord_offsets=np.arange(num_roads + 1, dtype=np.int64) * 2,
        coords=np.array([-8.6, 41.1]) + rng.uniform(0, 0.05, (2 * num_roads, 2)),
        length_m=rng.integers(0, 500, num_roads).astype(float) if lengths is None else np.array(lengths, float),
        highway=np.array([("primary", "residential")[k % 2] for k in range(num_roads)], object),
        successors=Csr(
            offsets_of(np.array([len(s) for s in successors])),
            np.array([r for row in successors for r in row], np.int64),
        ),
    )


@st.composite
def networks(draw) -> RoadNetwork:
    num_roads = draw(st.integers(1, MAX_ROADS))
    row = st.lists(st.integers(0, num_roads - 1), unique=True, max_size=3)
    return network_of(draw(st.lists(row, min_size=num_roads, max_size=num_roads)), draw(st.integers(0, 99)))


@st.composite
def walks(draw, network: RoadNetwork, max_trips: int = 6) -> Trajectories:
    """Trips on a network, some of one road, with steps of 0 to 90 s."""
    trips, times = [], []
    for _ in range(draw(st.integers(1, max_trips))):
        trip = [draw(st.integers(0, network.num_roads - 1))]
        for _ in range(draw(st.integers(0, 6))):
            following = network.successors.row(trip[-1]).tolist()
            if following:
                trip.append(draw(st.sampled_from(following)))
        waits = [draw(st.integers(0, 90)) for _ in trip[1:]]
        trips.append(trip)
        times.append(draw(st.integers(0, 10**9)) + np.cumsum([0, *waits]))
    offsets = offsets_of(np.array([len(trip) for trip in trips]))
    return Trajectories(offsets, np.concatenate(trips).astype(np.int64), np.concatenate(times).astype(np.int64))


def edges(network: RoadNetwork) -> list[tuple[int, int]]:
    """All connections (origin, destination), in the order of the network."""
    return [(a, b) for a in range(network.num_roads) for b in network.successors.row(a).tolist()]


def least_costs(network: RoadNetwork, costs) -> list[list[float]]:
    """Least cost from every road to every road, by relaxing all connections until nothing changes."""
    size = network.num_roads
    best = [[0.0 if a == b else math.inf for b in range(size)] for a in range(size)]
    for _ in range(size):
        for (a, b), cost in zip(edges(network), costs, strict=True):
            for goal in range(size):
                best[a][goal] = min(best[a][goal], float(cost) + best[b][goal])
    return best


def path_cost(network: RoadNetwork, costs, roads) -> float:
    """Cost of a path; KeyError where it leaves the network."""
    cost_of = dict(zip(edges(network), costs, strict=True))
    return sum(float(cost_of[int(a), int(b)]) for a, b in pairwise(roads))
