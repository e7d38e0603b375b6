"""Next-step metrics of counting baselines against their definitions in plain Python."""

from __future__ import annotations

import numpy as np
import pytest
from small_city import grid_network, random_trips
from small_graphs import network_of

from hoser_kd.network.markov import CandidateLogProbabilities, MarkovChain
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.student.next_step_baselines import counting_models, next_step_baselines, next_step_metrics
from hoser_kd.student.next_step_metrics import calibration_error, frequency_baseline

# steps 0 → 1, 1 → 0, 0 → 3, 3 → 0; the candidates of 0 are 3, 1, 2
NETWORK = network_of([[3, 1, 2], [0], [0], [0, 1]])
TRIP = Trajectories(np.array([0, 5]), np.array([0, 1, 0, 3, 0]), np.arange(5))


def metrics_of(*rows):
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    return next_step_metrics(CandidateLogProbabilities(offsets, np.log(np.concatenate(rows))), TRIP, NETWORK)


def test_metrics_equal_their_definitions():
    metrics = metrics_of([0.2, 0.7, 0.1], [1.0], [0.3, 0.6, 0.1], [0.5, 0.5])
    correct = np.array([1, 1, 0, 0.5])
    assert metrics == pytest.approx(
        {
            "accuracy": correct.mean(),
            "top_3": 1.0,
            "nll": -np.log([0.7, 1.0, 0.3, 0.5]).mean(),
            "calibration_error": calibration_error(np.array([0.7, 1.0, 0.6, 0.5]), correct),
            "decision_share": 0.75,
            "decision_accuracy": 0.5,
            "steps": 4.0,
        }
    )


def test_trips_without_a_step_are_refused():
    trips = Trajectories(np.array([0, 1]), np.array([0]), np.array([0]))
    with pytest.raises(ValueError, match="no step"):
        next_step_metrics(MarkovChain.fit(TRIP, NETWORK).step_log_probabilities(trips), trips, NETWORK)


def test_rows_of_all_baselines():
    network = grid_network(4)
    train, val, test = (random_trips(network, count, seed) for seed, count in enumerate((60, 10, 15)))
    rows = next_step_baselines(counting_models(train, val, network), test, network)
    assert list(rows) == ["frequency", "markov_1", "markov_2"]
    known = frequency_baseline(train, test, network)
    assert {name: rows["frequency"][name] for name in known} == pytest.approx(known)
    chain = MarkovChain.tune(train, val, network, order=2)
    assert rows["markov_2"]["nll"] == pytest.approx(chain.nll(test))
    assert (rows["markov_2"]["smoothing"], rows["markov_2"]["backoff"]) == (chain.smoothing, chain.backoff)
