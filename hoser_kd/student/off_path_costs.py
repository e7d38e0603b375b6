"""Costs of connections from LM-TAD, for destination-conditioned targets (`hoser_kd.student.off_path`).

A way to a destination is a least-cost path over the road graph, so a cost may depend on two roads only. LM-TAD predicts
the next road from the whole history. Its probability of a connection is therefore averaged over histories, those of
all visits of a road in the given trips:

    cost(road → r) = -log mean over visits of p_LMTAD(r | history)

The means of a road's candidates sum to 1. A road without a visit has the costs of the Markov chain. The pool of both is
log-linear, normalized per road, with the exponents of least NLL on validation steps (`hoser_kd.student.pools`).

Shapes: N roads, L connections, K candidates of all steps of a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from hoser_kd.common.arrays import Float64Array, Int64Array, row_of_value, take_rows
from hoser_kd.student.pools import LOG_FLOOR, StepProbabilities, fit_pool, teacher_probabilities

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hoser_kd.network.markov import MarkovChain
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories
    from hoser_kd.student.losses import LabelSource


@dataclass(frozen=True)
class RoadCosts:
    """Costs of all connections, `hoser_kd.network.markov.ConnectionCosts`."""

    network: RoadNetwork
    """N roads and L connections."""
    costs: Float64Array
    """(L,) float64, nats, not negative."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Where the costs come from, for the history of the training."""


def teacher_costs(scores: LabelSource, histories: Trajectories, chain: MarkovChain) -> RoadCosts:
    """Return LM-TAD's costs over the histories of these trips, those of `chain` on roads that none visits.

    `scores` is queried once per step, in chunks. The metric `costs_teacher_share` is the share of the connections, of
    roads with two candidates or more, whose cost is LM-TAD's.
    """
    network = chain.network
    successors = network.successors
    total, visits = np.zeros(len(successors.indices)), np.zeros(network.num_roads)
    for part in histories.chunks():
        if part.num_steps == 0:
            continue
        roads = part.road_ids[part.step_positions()[0]]
        _, connection = take_rows(successors.indptr, roads)
        np.add.at(total, connection, np.exp(teacher_probabilities(scores, part, network).log_p))
        visits += np.bincount(roads, minlength=network.num_roads)
    origin = row_of_value(successors.indptr)
    known = visits[origin] > 0
    mean = np.maximum(total / np.maximum(visits[origin], 1), np.exp(LOG_FLOOR))
    is_choice = successors.degrees[origin] > 1
    share = float(known[is_choice].mean()) if is_choice.any() else 0.0
    costs = np.where(known, np.maximum(-np.log(mean), 0.0), chain.costs)
    return RoadCosts(network, costs, {"costs_teacher_share": share})


def pooled_costs(teacher: RoadCosts, chain: MarkovChain, val: Trajectories) -> RoadCosts:
    """Return the log-linear pool of both, normalized per road; exponents are those of least NLL on the steps of `val`.

    The metrics also have `costs_teacher_exponent` and `costs_markov_exponent`.
    """
    network = chain.network
    exponents = fit_pool(
        [_on_steps(costs, val, network) for costs in (teacher.costs, chain.costs)], "log_linear"
    ).values
    costs = -_normalized(-exponents[0] * teacher.costs - exponents[1] * chain.costs, network.successors.indptr)
    named = {"costs_teacher_exponent": exponents[0], "costs_markov_exponent": exponents[1]}
    return RoadCosts(network, np.maximum(costs, 0.0), {**teacher.metrics, **named})


def _on_steps(costs: Float64Array, trips: Trajectories, network: RoadNetwork) -> StepProbabilities:
    """Return the probabilities of the candidates of every step of the trips."""
    _, connection = take_rows(network.successors.indptr, trips.road_ids[trips.step_positions()[0]])
    return StepProbabilities.of(-costs[connection], trips, network)


def _normalized(log_weights: Float64Array, indptr: Int64Array) -> Float64Array:
    """Return (L,) log-weights minus the log of the sum over the connections of their road."""
    origin, num_roads = row_of_value(indptr), len(indptr) - 1
    top = np.full(num_roads, -np.inf)
    np.maximum.at(top, origin, log_weights)
    shifted = log_weights - top[origin]
    normalized: Float64Array = shifted - np.log(np.bincount(origin, np.exp(shifted), num_roads)[origin])
    return normalized
