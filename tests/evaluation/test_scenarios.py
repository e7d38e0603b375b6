"""Scenarios contain the right trips, and failures have the right cause."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_city import grid_network, random_trips

from hoser_kd.common.arrays import offsets_of
from hoser_kd.common.errors import ConfigError
from hoser_kd.config.evaluation import EvaluationConfig
from hoser_kd.config.student import StudentConfig
from hoser_kd.evaluation.failures import failures
from hoser_kd.evaluation.memorization import copied
from hoser_kd.evaluation.metrics import evaluate
from hoser_kd.evaluation.scenarios import LEAST_TRIPS, SCENARIOS, evaluate_scenarios, in_center, next_step_by, scenarios
from hoser_kd.generation.trajectories import GeneratedTrajectories
from hoser_kd.hoser import HOSER
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.student.next_step_metrics import evaluate_student, step_table, summarize_steps

NETWORK = grid_network()
SETTINGS = EvaluationConfig(center=(41.145, -8.655), center_radius_m=400.0)
SATURDAY = 1_372_464_000
HOUR = 3600


def test_days_and_hours():
    starts = SATURDAY + np.array([-1, 0, 2 * 86_400 - 1, 2 * 86_400, 7 * HOUR, 10 * HOUR - 1, 10 * HOUR, 18 * HOUR])
    zero = np.zeros(8, np.int64)
    results = scenarios(zero, starts, zero, NETWORK, SETTINGS)
    assert results["weekend"].tolist() == [False, True, True, False, True, True, True, True]
    assert results["peak"].tolist() == [False] * 4 + [True, True, False, True]
    assert (results["weekday"] ^ results["weekend"]).all()
    assert (results["peak"] ^ results["off_peak"]).all()
    other = scenarios(zero, starts, zero, NETWORK, EvaluationConfig(peak_hours=((0, 1),)))
    assert other["peak"].tolist() == [False, True, False, True, False, False, False, False]


def test_places_partition_the_trips():
    center = in_center(NETWORK, SETTINGS)
    inside, outside = np.flatnonzero(center)[0], np.flatnonzero(~center)[0]
    origins, destinations = np.array([inside, outside, inside, outside]), np.array([inside, inside, outside, outside])
    results = scenarios(origins, np.zeros(4, np.int64), destinations, NETWORK, SETTINGS)
    places = np.array([results[name] for name in ("within_center", "to_center", "from_center", "suburb")])
    np.testing.assert_array_equal(places, np.eye(4, dtype=bool))
    assert results["center"].tolist() == [True, True, True, False]
    assert (results["center"] ^ results["suburb"]).all()
    assert in_center(NETWORK, EvaluationConfig()).mean() == pytest.approx(0.25, abs=0.05)


def test_metrics_of_a_scenario_are_those_of_its_trips():
    real, generated = random_trips(NETWORK, 60, 0), random_trips(NETWORK, 60, 1)
    requests = real.origins, real.start_times, real.destinations
    results = evaluate_scenarios(real, generated, NETWORK, SETTINGS, requests=requests, paired=True)
    belongs = scenarios(*requests, NETWORK, SETTINGS)
    assert set(results) == {name for name in SCENARIOS if belongs[name].sum() >= LEAST_TRIPS}
    rows = np.flatnonzero(belongs["off_peak"])
    expected = evaluate(real.take(rows), generated.take(rows), NETWORK, SETTINGS, paired=True)
    # too few trips for a divergence
    kept = {
        section: {key: value for key, value in values.items() if not key.endswith("jsd")}
        for section, values in expected.items()
    }
    assert results["off_peak"] == {section: values for section, values in kept.items() if values}


def test_scenarios_of_enough_trips_have_divergences(monkeypatch):
    real, generated = random_trips(NETWORK, 60, 0), random_trips(NETWORK, 60, 1)
    requests = real.origins, real.start_times, real.destinations
    count = int(scenarios(*requests, NETWORK, SETTINGS)["off_peak"].sum())
    for minimum, has_divergence in ((count, True), (count + 1, False)):
        monkeypatch.setattr("hoser_kd.evaluation.scenarios.MIN_TRIPS_FOR_JSD", minimum)
        metrics = evaluate_scenarios(real, generated, NETWORK, SETTINGS, requests=requests, paired=True)["off_peak"]
        assert ("jsd" in metrics["distance"]) == has_divergence
        assert ("road_use" in metrics) == has_divergence
        assert ("flows" in metrics) == has_divergence
        assert "generated_mean" in metrics["distance"]


def test_copies_of_training_trips_are_counted_by_scenario():
    real, training = random_trips(NETWORK, 60, 0), random_trips(NETWORK, 60, 1)
    half = random_trips(NETWORK, 60, 0)
    requests = real.origins, real.start_times, real.destinations
    belongs = scenarios(*requests, NETWORK, SETTINGS)
    # off-peak trips repeat training trips, peak trips do not
    rows = np.where(belongs["peak"], np.arange(60), 60 + np.arange(60))
    both = Trajectories(
        np.concatenate([half.offsets, half.offsets[-1] + training.offsets[1:]]),
        np.concatenate([half.road_ids, training.road_ids]),
        np.concatenate([half.times, training.times]),
    )
    results = evaluate_scenarios(
        real, both.take(rows), NETWORK, SETTINGS, requests=requests, training=training, paired=True
    )
    assert results["off_peak"]["training"] == {"memorized_share": 1.0, "real_memorized_share": 0.0}
    assert results["peak"]["training"]["memorized_share"] == 0.0
    assert 0 < results["weekday"]["training"]["memorized_share"] < 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=3), min_size=1, max_size=12),
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=3), min_size=0, max_size=12),
)
def test_copies_are_trips_with_the_same_roads_in_the_same_order(trips, known):
    def trips_of(roads):
        flat = np.array([road for trip in roads for road in trip], np.int64)
        return Trajectories(offsets_of(np.array([len(trip) for trip in roads], np.int64)), flat, np.zeros_like(flat))

    assert copied(trips_of(trips), trips_of(known)).tolist() == [trip in known for trip in trips]


def test_a_hash_collision_is_no_copy(monkeypatch):
    trips = random_trips(NETWORK, 5, 0)
    monkeypatch.setattr("hoser_kd.evaluation.memorization._hashes", lambda trips: np.zeros(len(trips), np.uint64))
    assert copied(trips, random_trips(NETWORK, 5, 1)).tolist() == [False] * 5


@pytest.mark.parametrize("wrong", [{"peak_hours": [[10, 7]]}, {"peak_hours": [[22, 26]]}, {"center": [-8.6, 410]}])
def test_impossible_hours_and_places_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"from < to|latitude, then longitude"):
        EvaluationConfig(**wrong)


def test_next_steps_by_part_add_up_to_the_whole():
    torch.manual_seed(0)
    model = HOSER.build(
        StudentConfig(hidden_dim=16, road_id_dim=8, attribute_dim=2),
        NETWORK,
        np.arange(NETWORK.num_roads) % 5,
        np.ones((5, 5)),
        log1p_mean=3.0,
        log1p_std=0.5,
    )
    trips = random_trips(NETWORK, 40, 2)
    whole = evaluate_student(model, trips)
    parts = next_step_by(model, trips, NETWORK, batch_size=7)
    assert model.training
    assert set(parts["road_class"]) == set(NETWORK.highway)
    for groups in parts.values():
        steps = np.array([metrics["steps"] for metrics in groups.values()])
        assert steps.sum() == whole["steps"] == trips.num_steps
        for metric in ("accuracy", "nll", "time_mae_s"):
            values = np.array([metrics[metric] for metrics in groups.values()])
            assert (values * steps).sum() / steps.sum() == pytest.approx(whole[metric], rel=1e-4)
    by_scenario = next_step_by(model, trips, NETWORK, SETTINGS)
    belongs = scenarios(trips.origins, trips.start_times, trips.destinations, NETWORK, SETTINGS)
    for name, rows in belongs.items():
        if rows.any():
            alone = evaluate_student(model, trips.take(np.flatnonzero(rows)))
            for metric, value in by_scenario["scenario"][name].items():
                assert value == pytest.approx(alone[metric], rel=1e-4)
    assert set(by_scenario) == {"scenario", *parts}
    hour = f"{trips.times[0] % 86_400 // HOUR:02d}"
    assert parts["hour"][hour]["steps"] >= 1


def test_a_table_gives_the_same_metrics_as_the_model_bit_for_bit(small_city, small_model):
    """One pass over the model is enough for the means and for all groups."""
    trips, network = small_city.trips["val"], small_city.network
    table = step_table(small_model, trips, batch_size=7)
    assert len(table) == trips.num_steps
    assert summarize_steps(table) == evaluate_student(small_model, trips, batch_size=7)
    assert next_step_by(table, trips, network, SETTINGS) == next_step_by(
        small_model, trips, network, SETTINGS, batch_size=7
    )
    at, trip = trips.step_positions()
    order = np.lexsort([table["time"], table["trip"]])
    np.testing.assert_array_equal(table["trip"][order], trip)
    np.testing.assert_array_equal(table["road"][order], trips.road_ids[at])
    np.testing.assert_array_equal(table["time"][order], trips.times[at])
    np.testing.assert_array_equal(table["destination"][order], trips.destinations[trip])


def test_a_table_compares_with_the_teacher(small_city, small_model):
    trips = small_city.trips["val"]

    def teacher(batch, candidates):
        return candidates.float().masked_fill(candidates < 0, -torch.inf)

    table = step_table(small_model, trips, labels=teacher, temperature=2.0)
    assert summarize_steps(table) == evaluate_student(small_model, trips, labels=teacher, temperature=2.0)
    assert table.has_teacher


def test_failures_have_their_causes_and_the_worst_come_first():
    real = random_trips(NETWORK, 4, 3, lengths=(8, 12))
    other = random_trips(NETWORK, 40, 4, lengths=(8, 12))
    stranger = next(other.roads(i) for i in range(40) if len(np.intersect1d(other.roads(i), real.roads(1))) < 3)
    roads = [real.roads(0), stranger, real.roads(2)[:3], real.roads(3)[:1]]
    flat = np.concatenate(roads)
    generated = GeneratedTrajectories(
        offsets_of(np.array([len(part) for part in roads])),
        flat,
        np.zeros_like(flat),
        reached=np.array([True, True, False, False]),
        expansions=np.array([9, 9, 50, 7]),
    )
    results = failures(generated, real.destinations, 50, NETWORK, real)
    assert {failure.row: failure.cause for failure in results} == {1: "another route", 2: "step limit", 3: "no path"}
    away = [failure.away_km for failure in results]
    assert away == sorted(away, reverse=True)
    assert min(away) > 0
    assert {failure.row for failure in failures(generated, real.destinations, 50, NETWORK)} == {2, 3}
    lost = replace(generated, reached=np.zeros(4, bool))
    assert len(failures(lost, real.destinations, 50, NETWORK, real)) == 4
