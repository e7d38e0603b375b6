"""Next-step metrics of baselines that count: frequency and Markov chains of order 1 and 2.

The metrics are those of `hoser_kd.student.next_step_metrics.evaluate_student`, so their rows stand beside a student's.

Shapes: S steps, A candidates of S steps together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hoser_kd.common.arrays import row_of_value
from hoser_kd.network.markov import CandidateLogProbabilities, MarkovChain
from hoser_kd.student.next_step_metrics import calibration_error

if TYPE_CHECKING:
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories

FREQUENCY_SMOOTHING = 1.0
"""Smoothing of the frequency baseline: counts plus one."""


def next_step_metrics(
    candidates: CandidateLogProbabilities, trips: Trajectories, network: RoadNetwork
) -> dict[str, float]:
    """Return metrics of log-probabilities for the candidates of every step of trips.

    `accuracy`, `top_3`, `nll` (nats per step), `calibration_error` (expected, 15 equal bins of confidence),
    `decision_share` and `decision_accuracy` (steps with two candidates or more; 0 where there are none), `steps`. Where
    several candidates are equally probable, a step counts as correct with the chance to guess the true one.

    Raises ValueError where the trips have no step.
    """
    at, _ = trips.step_positions()
    if len(at) == 0:
        raise ValueError("the trips have no step")
    offsets, log_p = candidates
    step = row_of_value(offsets)
    true_log_p = log_p[offsets[:-1] + network.candidate_index(trips.road_ids[at], trips.road_ids[at + 1])]
    best = np.maximum.reduceat(log_p, offsets[:-1])
    tied = np.bincount(step, log_p == best[step], len(at))
    better = np.bincount(step, log_p > true_log_p[step], len(at))
    correct = np.where(true_log_p == best, 1 / tied, 0.0)
    decision = np.diff(offsets) > 1
    return {
        "accuracy": float(correct.mean()),
        "top_3": float((better < 3).mean()),
        "nll": -float(true_log_p.mean()),
        "calibration_error": calibration_error(np.exp(best), correct),
        "decision_share": float(decision.mean()),
        "decision_accuracy": float(correct[decision].mean()) if decision.any() else 0.0,
        "steps": float(len(at)),
    }


def next_step_baselines(
    train: Trajectories, val: Trajectories, trips: Trajectories, network: RoadNetwork
) -> dict[str, dict[str, float]]:
    """Return the metrics of `frequency`, `markov_1` and `markov_2` on `trips`, fitted on `train`.

    Smoothing, and the backoff of order 2, are those of least NLL on `val` and stand beside the metrics. The frequency
    baseline (counts plus one) is the chain of order 1 without a choice of smoothing.
    """
    chains = {
        "frequency": MarkovChain.fit(train, network, FREQUENCY_SMOOTHING),
        "markov_1": MarkovChain.tune(train, val, network, order=1),
        "markov_2": MarkovChain.tune(train, val, network, order=2),
    }
    return {
        name: next_step_metrics(chain.step_log_probabilities(trips), trips, network)
        | {"smoothing": chain.smoothing}
        | ({"backoff": chain.backoff} if chain.order == 2 else {})
        for name, chain in chains.items()
    }
