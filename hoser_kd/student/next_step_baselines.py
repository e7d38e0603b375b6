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
    from collections.abc import Callable, Mapping

    from hoser_kd.common.arrays import Float64Array
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories

FREQUENCY_SMOOTHING = 1.0
"""Smoothing of the frequency baseline: counts plus one."""


def step_results(
    candidates: CandidateLogProbabilities, trips: Trajectories, network: RoadNetwork
) -> dict[str, Float64Array]:
    """Return results of log-probabilities for the candidates of every step of trips, by name, each (S,) float64.

    `trip` (row of the trip), `correct`, `in_top_3`, `decision` (two candidates or more), `decision_correct`, `nll`
    (nats) and `confidence` (largest probability). Where several candidates are equally probable, a step counts as
    correct with the chance to guess the true one.
    """
    at, trip = trips.step_positions()
    offsets, log_p = candidates
    step = row_of_value(offsets)
    true_log_p = log_p[offsets[:-1] + network.candidate_index(trips.road_ids[at], trips.road_ids[at + 1])]
    best = np.maximum.reduceat(log_p, offsets[:-1])
    tied = np.bincount(step, log_p == best[step], len(at))
    better = np.bincount(step, log_p > true_log_p[step], len(at))
    correct = np.where(true_log_p == best, 1 / tied, 0.0)
    decision = (np.diff(offsets) > 1).astype(np.float64)
    return {
        "trip": trip.astype(np.float64),
        "correct": correct,
        "in_top_3": (better < 3).astype(np.float64),
        "decision": decision,
        "decision_correct": correct * decision,
        "nll": -true_log_p,
        "confidence": np.exp(best),
    }


def next_step_metrics(
    candidates: CandidateLogProbabilities, trips: Trajectories, network: RoadNetwork
) -> dict[str, float]:
    """Return metrics of log-probabilities for the candidates of every step of trips.

    `accuracy`, `top_3`, `nll` (nats per step), `calibration_error` (expected, 15 equal bins of confidence),
    `decision_share` and `decision_accuracy` (steps with two candidates or more; 0 where there are none), `steps`, from
    `step_results`.

    Raises ValueError where the trips have no step.
    """
    if trips.num_steps == 0:
        raise ValueError("the trips have no step")
    return _metrics_of(step_results(candidates, trips, network))


def _metrics_of(steps: Mapping[str, Float64Array]) -> dict[str, float]:
    decision = steps["decision"] > 0
    return {
        "accuracy": float(steps["correct"].mean()),
        "top_3": float(steps["in_top_3"].mean()),
        "nll": float(steps["nll"].mean()),
        "calibration_error": calibration_error(steps["confidence"], steps["correct"]),
        "decision_share": float(decision.mean()),
        "decision_accuracy": float(steps["correct"][decision].mean()) if decision.any() else 0.0,
        "steps": float(len(decision)),
    }


def counting_models(train: Trajectories, val: Trajectories, network: RoadNetwork) -> dict[str, MarkovChain]:
    """Return the chains `frequency`, `markov_1` and `markov_2`, fitted on `train`.

    Smoothing, and the backoff of order 2, are those of least NLL on `val`. The frequency baseline (counts plus one) is
    the chain of order 1 without a choice of smoothing.
    """
    return {
        "frequency": MarkovChain.fit(train, network, FREQUENCY_SMOOTHING),
        "markov_1": MarkovChain.tune(train, val, network, order=1),
        "markov_2": MarkovChain.tune(train, val, network, order=2),
    }


def next_step_baselines(
    chains: Mapping[str, MarkovChain],
    trips: Trajectories,
    network: RoadNetwork,
    on_steps: Callable[[str, dict[str, Float64Array]], object] = lambda _name, _steps: None,
) -> dict[str, dict[str, float]]:
    """Return the metrics of `counting_models` on `trips` by name, with their smoothing and backoff.

    `on_steps` gets the name and the `step_results` of each.
    """
    rows = {}
    for name, chain in chains.items():
        steps = step_results(chain.step_log_probabilities(trips), trips, network)
        on_steps(name, steps)
        rows[name] = _metrics_of(steps) | {"smoothing": chain.smoothing}
        if chain.order == 2:
            rows[name]["backoff"] = chain.backoff
    return rows
