"""Metrics of a file of trips: repeated and few test trips, and times that cannot be right."""

from __future__ import annotations

import math

import numpy as np
import pytest
from small_city import grid_network, random_trips

from hoser_kd.config.evaluation import EvaluationConfig
from hoser_kd.evaluation.file_metrics import cautions, evaluate_matched
from hoser_kd.evaluation.metrics import evaluate, flatten
from hoser_kd.evaluation.trip_matching import match_test_trips
from hoser_kd.network.trajectories import Trajectories

NETWORK = grid_network()
TEST = random_trips(NETWORK, 220, seed=3)
DISTRIBUTIONS = ("distance.jsd", "radius.jsd", "duration.jsd", "trip_duration.jsd", "road_use.jsd", "flows.turn_jsd")


def measured(trips):
    """Metrics and cautions of trips, matched with `TEST`."""
    match = match_test_trips(trips, TEST)
    assert match.test_rows is not None
    metrics = flatten(evaluate_matched(trips, match, TEST, NETWORK, EvaluationConfig()))
    return metrics, " ".join(cautions("copy", trips, match, TEST))


def moved(trips, seconds):
    return Trajectories(trips.offsets, trips.road_ids, trips.times + seconds)


def test_one_test_trip_many_times_has_no_divergence_and_a_caution():
    metrics, caution = measured(TEST.take(np.zeros(220, np.int64)))
    assert not [name for name in metrics if name.endswith("jsd")]
    assert (metrics["counts.real"], metrics["counts.generated"], metrics["counts.pairs"]) == (1, 220, 220)
    assert "copy answers 1 of 220 test trips (0.5%): its metrics describe these trips" in caution
    assert "Divergences (JSD) are left out: they need 200 answered test trips and 10% of them." in caution
    assert "Up to 220 trips of copy answer the same test trip" in caution


def test_distributions_count_a_repeated_test_trip_once():
    """One trip 100 times beside all others: against 100 copies of it the divergence would be 0."""
    rows = np.concatenate([np.arange(220), np.full(99, 7)])
    metrics, caution = measured(TEST.take(rows))
    once = flatten(evaluate(TEST, TEST.take(rows), NETWORK))
    assert {name: metrics[name] for name in DISTRIBUTIONS} == {name: once[name] for name in DISTRIBUTIONS}
    assert metrics["distance.jsd"] > 0.03
    assert metrics["paired.edr"] == 0
    assert metrics["counts.pairs"] == 319
    assert "Up to 100 trips" in caution
    assert "answers" not in caution


def test_several_samples_of_every_test_trip_are_as_good_as_one():
    rows = np.repeat(np.arange(220), 3)
    metrics, caution = measured(TEST.take(rows))
    assert all(math.isclose(metrics[name], 0, abs_tol=1e-12) for name in DISTRIBUTIONS)
    assert metrics["diversity.covered_share"] == 1
    assert "Up to 3 trips" in caution


def test_all_test_trips_have_the_metrics_of_evaluate_and_no_caution():
    metrics, caution = measured(TEST)
    assert metrics == flatten(evaluate(TEST, TEST, NETWORK, paired=True))
    assert caution == ""


def test_most_test_trips_have_divergences_and_a_caution():
    metrics, caution = measured(TEST.take(np.arange(210)))
    assert metrics["distance.jsd"] == 0
    assert "copy answers 210 of 220 test trips (95.5%)" in caution
    assert "left out" not in caution


@pytest.mark.parametrize(
    ("trips", "message"),
    [
        (
            Trajectories(TEST.offsets, TEST.road_ids, TEST.times * 1000),
            "copy's trips is 4 days, that of the real trips 5 min",
        ),
        (
            Trajectories(TEST.offsets, TEST.road_ids, np.repeat(TEST.start_times, TEST.lengths)),
            "The median duration of copy's trips is 0 s, that of the real trips",
        ),
        (moved(TEST, 31 * 365 * 86_400), "220 of 220 trips of copy start at another time than the test trips"),
        (moved(TEST, 31 * 365 * 86_400), "by a median of 11,315 days: check their times"),
    ],
)
def test_times_that_cannot_be_right_have_a_caution(trips, message):
    assert message in measured(trips)[1]
