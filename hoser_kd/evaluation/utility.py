"""Utility of generated trips: a next-road model trained on them and tested on real trips.

The model is a Markov chain of order 1 (`hoser_kd.network.markov`). Trips are chosen by a hash of their roads and start
time, so the order of the trips does not matter.

Shapes: N roads, n trips, S steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hoser_kd.common.arrays import row_of_value
from hoser_kd.common.hashing import mixed
from hoser_kd.evaluation.memorization import route_hashes
from hoser_kd.network.markov import MarkovChain, step_connections
from hoser_kd.network.trajectories import Trajectories

if TYPE_CHECKING:
    from hoser_kd.common.arrays import BoolArray, Float64Array
    from hoser_kd.network.road_network import RoadNetwork

HELD_OUT = 5
"""One of this many trips is held out to choose the smoothing."""


class NextRoadScore(NamedTuple):
    """Next-road metrics of a chain on real trips."""

    nll: float
    """Negative log-likelihood of the true next road, nats, mean over steps."""
    accuracy: float
    """Share of steps whose most probable next road is the true one; k roads of equal probability count 1 / k."""


def score_next_roads(
    trips: Trajectories, real: Trajectories, network: RoadNetwork, num_trips: int
) -> NextRoadScore | None:
    """Fit a chain on `num_trips` of the trips (all, if fewer) and score it on real trips; None if these have no step.

    Steps that are no connection of the network are left out.
    """
    keys = mixed(route_hashes(trips) + trips.start_times.astype(np.uint64))
    rows = np.argsort(keys, kind="stable")[:num_trips]
    chain = fit_chain(trips.take(rows), network)
    taken = step_connections(split_at_gaps(real, network), network).taken
    if len(taken) == 0:
        return None
    return NextRoadScore(-float(chain.log_probabilities[taken].mean()), float(_chance_of_top(chain)[taken].mean()))


def fit_chain(trips: Trajectories, network: RoadNetwork) -> MarkovChain:
    """Return a chain of all trips, with the smoothing that is best on a held-out fifth of them."""
    keys = mixed(route_hashes(trips) + trips.start_times.astype(np.uint64))
    held_out = mixed(keys) % np.uint64(HELD_OUT) == 0
    fit, val = (split_at_gaps(trips.take(np.flatnonzero(part)), network) for part in (~held_out, held_out))
    smoothing = MarkovChain.tune(fit, val, network).smoothing if val.num_steps else 1.0
    return MarkovChain.fit(split_at_gaps(trips, network), network, smoothing)


def split_at_gaps(trips: Trajectories, network: RoadNetwork) -> Trajectories:
    """Return the trips, split where a road does not follow the one before it in the network."""
    at, _ = trips.step_positions()
    gaps = at[network.candidate_index(trips.road_ids[at], trips.road_ids[at + 1]) < 0] + 1
    return Trajectories(np.union1d(trips.offsets, gaps), trips.road_ids, trips.times) if len(gaps) else trips


def _chance_of_top(chain: MarkovChain) -> Float64Array:
    """Return, per connection, 1 over the number of most probable next roads if it is one of them, else 0; float64."""
    num_roads, origin = chain.network.num_roads, row_of_value(chain.network.successors.indptr)
    top = np.full(num_roads, -np.inf)
    np.maximum.at(top, origin, chain.log_probabilities)
    is_top: BoolArray = chain.log_probabilities == top[origin]
    number = np.bincount(origin, is_top, num_roads)
    return np.asarray(is_top / np.maximum(number[origin], 1), np.float64)
