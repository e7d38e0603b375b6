"""Mixtures of student and teacher: metrics agree with the evaluation of the student."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_city import grid_network, random_trips

from hoser_kd.common.arrays import offsets_of
from hoser_kd.config.schema import StudentConfig
from hoser_kd.hoser import HOSER
from hoser_kd.student.mixture import StepProbabilities, predict_probabilities
from hoser_kd.student.next_step_metrics import evaluate_student
from hoser_kd.teacher.soft_labels import SoftLabels


@pytest.fixture(scope="module")
def case():
    network = grid_network(5)
    trips = random_trips(network, 20)
    torch.manual_seed(0)
    config = StudentConfig(hidden_dim=16, road_id_dim=8, attribute_dim=2)
    model = HOSER.build(
        config,
        network,
        np.zeros(network.num_roads, np.int64),
        np.zeros((1, 1), np.int64),
        log1p_mean=3.0,
        log1p_std=0.5,
    ).eval()
    at, _ = trips.step_positions()
    offsets = offsets_of(network.successors.degrees[trips.road_ids[at]])
    # an informed teacher: the score of the true road is 4 higher
    scores = np.zeros(offsets[-1], np.float32)
    scores[offsets[:-1] + network.candidate_index(trips.road_ids[at], trips.road_ids[at + 1])] = 4
    return model, trips, predict_probabilities(model, trips, SoftLabels(offsets, scores))


def test_the_student_alone_is_what_its_evaluation_says(case):
    model, trips, probabilities = case
    expected = evaluate_student(model, trips)
    for name, value in probabilities.metrics(0.0).items():
        assert value == pytest.approx(expected[name], abs=1e-5)


def test_a_teacher_that_knows_is_taken_whole(case):
    _, _, probabilities = case
    assert probabilities.metrics(1.0)["accuracy"] == 1.0
    assert probabilities.best_share() == 1.0


def test_a_tie_counts_as_a_guess():
    half = np.array([0.5, 0.5])
    tie = StepProbabilities(half, half, np.array([0, 0]), np.array([True, False]), np.array([2]))
    assert tie.metrics(0.3) == pytest.approx({"accuracy": 0.5, "decision_accuracy": 0.5, "nll": np.log(2)})
