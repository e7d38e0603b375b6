"""Pools of next-step probabilities: their members, their fits and their invariances."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import approx_fprime
from small_city import grid_network, random_trips

from hoser_kd.common.arrays import offsets_of, row_of_value
from hoser_kd.common.errors import StoreError
from hoser_kd.config.student import StudentConfig
from hoser_kd.hoser import HOSER
from hoser_kd.network.markov import MarkovChain
from hoser_kd.student.losses import StoredLabels
from hoser_kd.student.next_step_baselines import next_step_metrics
from hoser_kd.student.next_step_metrics import evaluate_student
from hoser_kd.student.pools import (
    LOG_FLOOR,
    PoolWeights,
    StepProbabilities,
    fit_pool,
    markov_probabilities,
    pool,
    pool_metrics,
    share_of_gap_closed,
    student_probabilities,
    teacher_probabilities,
    temperature_scaled_nll,
)
from hoser_kd.teacher.soft_labels import SoftLabels

NETWORK = grid_network(5)
TRIPS = random_trips(NETWORK, 40)
AT, TRIP = TRIPS.step_positions()
OFFSETS = offsets_of(NETWORK.successors.degrees[TRIPS.road_ids[AT]])
TAKEN = OFFSETS[:-1] + NETWORK.candidate_index(TRIPS.road_ids[AT], TRIPS.road_ids[AT + 1])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = StudentConfig(hidden_dim=16, road_id_dim=8, attribute_dim=2)
    zones, transitions = np.zeros(NETWORK.num_roads, np.int64), np.zeros((1, 1), np.int64)
    return HOSER.build(config, NETWORK, zones, transitions, log1p_mean=3.0, log1p_std=0.5).eval()


def scored(seed=0, informed=0.0, spread=1.0):
    """Random scores; that of the true road is `informed` higher on average."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, spread, OFFSETS[-1])
    scores[TAKEN] += informed * rng.random(len(TAKEN))
    return StepProbabilities.of(scores, TRIPS, NETWORK)


members = st.builds(scored, st.integers(0, 50), st.floats(0, 3), st.floats(0.1, 3))


def labels_of(probabilities):
    return SoftLabels(OFFSETS, probabilities.log_p.astype(np.float32))


class TestMembers:
    def test_the_student_alone_equals_its_evaluation(self, model):
        expected = evaluate_student(model, TRIPS)
        for batch_size in (256, 7):
            metrics = student_probabilities(model, TRIPS, NETWORK, batch_size).metrics()
            assert metrics == pytest.approx({name: expected[name] for name in metrics}, abs=1e-5)

    def test_trips_of_one_road_have_no_step(self, model):
        one = random_trips(NETWORK, 3, 5, lengths=(1, 1))
        both = replace(
            TRIPS,
            offsets=np.concatenate([one.offsets, one.offsets[-1] + TRIPS.offsets[1:]]),
            road_ids=np.concatenate([one.road_ids, TRIPS.road_ids]),
            times=np.concatenate([one.times, TRIPS.times]),
        )
        alone, together = (student_probabilities(model, trips, NETWORK) for trips in (TRIPS, both))
        np.testing.assert_allclose(together.log_p, alone.log_p, atol=1e-5)
        np.testing.assert_array_equal(together.trip, alone.trip + 3)
        with pytest.raises(ValueError, match="no step"):
            student_probabilities(model, one, NETWORK)

    def test_stored_and_online_labels_are_the_same_member(self):
        labels = labels_of(scored(1, 2.0))
        stored = teacher_probabilities(labels, TRIPS, NETWORK)
        online = teacher_probabilities(StoredLabels(labels, TRIPS), TRIPS, NETWORK, batch_size=7)
        np.testing.assert_array_equal(online.log_p, stored.log_p)
        np.testing.assert_allclose(stored.log_p, scored(1, 2.0).log_p, atol=1e-5)

    def test_labels_of_other_trips_are_refused(self):
        with pytest.raises(StoreError, match="other trips"):
            teacher_probabilities(labels_of(scored()), random_trips(NETWORK, 10, 3), NETWORK)

    def test_a_markov_chain_equals_its_own_metrics(self):
        chain = MarkovChain.fit(random_trips(NETWORK, 60, 1), NETWORK, 0.3)
        metrics = markov_probabilities(chain, TRIPS).metrics()
        expected = next_step_metrics(chain.step_log_probabilities(TRIPS), TRIPS, NETWORK)
        assert metrics == pytest.approx({name: expected[name] for name in metrics})
        assert metrics["nll"] == pytest.approx(chain.nll(TRIPS))

    def test_scores_are_normalized_and_safe(self):
        scores = np.zeros(OFFSETS[-1])
        scores[: OFFSETS[1]] = -np.inf
        scores[TAKEN[1]] = -1e9
        probabilities = StepProbabilities.of(scores, TRIPS, NETWORK)
        sums = np.bincount(row_of_value(OFFSETS), np.exp(probabilities.log_p))
        np.testing.assert_allclose(sums, 1)
        assert probabilities.nll[0] == pytest.approx(np.log(OFFSETS[1]))
        assert probabilities.nll[1] == pytest.approx(-LOG_FLOOR)
        for wrong, message in ((np.nan, "NaN"), (np.inf, "inf")):
            with pytest.raises(ValueError, match=message):
                StepProbabilities.of(np.full(OFFSETS[-1], wrong), TRIPS, NETWORK)
        with pytest.raises(ValueError, match="candidates"):
            StepProbabilities.of(scores[1:], TRIPS, NETWORK)

    def test_a_tie_counts_as_a_guess(self):
        tie = StepProbabilities(np.array([0, 2]), np.log([0.5, 0.5]), np.array([0]), np.array([0]))
        assert tie.metrics() == pytest.approx(
            {"accuracy": 0.5, "decision_accuracy": 0.5, "nll": np.log(2), "calibration_error": 0.0}
        )

    def test_trip_totals_sum_to_the_mean(self):
        member = scored(2, 1.0)
        totals, counts = member.trip_totals()
        assert len(totals) == len(TRIPS)
        assert totals.sum() / counts.sum() == pytest.approx(member.metrics()["nll"])
        assert counts.tolist() == (TRIPS.lengths - 1).tolist()


class TestPools:
    @settings(max_examples=20, deadline=None)
    @given(members, members, st.sampled_from(["arithmetic", "log_linear"]))
    def test_all_weight_on_one_member_is_that_member(self, a, b, kind):
        for weights, alone in (((1.0, 0.0), a), ((0.0, 1.0), b)):
            pooled = pool([a, b], PoolWeights(kind, weights))
            np.testing.assert_allclose(pooled.log_p, alone.log_p, atol=1e-12)
            assert pool_metrics([a, b], PoolWeights(kind, weights)) == pytest.approx(alone.metrics())

    @settings(max_examples=20, deadline=None)
    @given(st.lists(members, min_size=2, max_size=3))
    def test_a_log_linear_fit_is_at_least_as_good_as_its_members_at_any_temperature(self, several):
        fitted = pool_metrics(several, fit_pool(several, "log_linear"))["nll"]
        for member in several:
            tempered = pool_metrics([member], fit_pool([member], "log_linear"))["nll"]
            assert fitted <= tempered + 1e-8
            assert tempered <= member.metrics()["nll"] + 1e-12

    @settings(max_examples=20, deadline=None)
    @given(st.lists(members, min_size=2, max_size=3))
    def test_an_arithmetic_fit_is_at_least_as_good_as_its_members(self, several):
        fitted = pool_metrics(several, fit_pool(several, "arithmetic"))["nll"]
        assert fitted <= min(member.metrics()["nll"] for member in several) + 1e-12

    @settings(max_examples=15, deadline=None)
    @given(members, members, st.floats(0.3, 3))
    def test_the_order_and_the_temperature_of_the_members_do_not_matter(self, a, b, exponent):
        forward = fit_pool([a, b], "log_linear")
        backward = fit_pool([b, a], "log_linear")
        fitted = pool_metrics([a, b], forward)["nll"]
        assert pool_metrics([b, a], backward)["nll"] == pytest.approx(fitted, abs=1e-7)
        sharper = pool([b], PoolWeights("log_linear", (exponent,)))
        again = [a, sharper]
        assert pool_metrics(again, fit_pool(again, "log_linear"))["nll"] == pytest.approx(fitted, abs=1e-7)

    def test_a_grid_does_not_find_a_better_log_linear_pool(self):
        a, b = scored(0, 1.0), scored(1, 1.5)
        best = pool_metrics([a, b], fit_pool([a, b], "log_linear"))["nll"]
        grid = [
            pool_metrics([a, b], PoolWeights("log_linear", (x, y)))["nll"]
            for x in np.linspace(0, 2, 9)
            for y in np.linspace(0, 2, 9)
        ]
        assert best <= min(grid) + 1e-9
        assert best < min(a.metrics()["nll"], b.metrics()["nll"]) - 0.01

    def test_the_fit_is_where_the_gradient_vanishes(self):
        several = [scored(seed, 1.5) for seed in range(3)]
        weights = fit_pool(several, "log_linear")
        gradient = approx_fprime(
            np.array(weights.values), lambda values: pool_metrics(several, PoolWeights("log_linear", values))["nll"]
        )
        for value, slope in zip(weights.values, gradient, strict=True):
            assert abs(slope) < 1e-5 or (value == 0 and slope > 0)

    def test_the_arithmetic_pool_of_two_compares_shares_of_five_percent(self):
        """The published numbers of the mixture: the share of the teacher of least NLL among 0, .05, … 1."""
        student, teacher = scored(0, 1.0), scored(1, 2.0)
        p, q = np.exp(student.log_p[TAKEN]), np.exp(teacher.log_p[TAKEN])
        nll = [-np.log((1 - share) * p + share * q).mean() for share in np.linspace(0, 1, 21)]
        weights = fit_pool([student, teacher], "arithmetic")
        assert weights.values == pytest.approx((1 - 0.05 * np.argmin(nll), 0.05 * np.argmin(nll)))
        assert pool_metrics([student, teacher], weights)["nll"] == pytest.approx(min(nll), abs=1e-12)

    def test_a_perfect_member_takes_all_weight(self):
        perfect = scored(1, 100.0, spread=0.01)
        assert fit_pool([scored(0), perfect], "arithmetic").values == (0.0, 1.0)
        assert pool_metrics([scored(0), perfect], fit_pool([scored(0), perfect], "log_linear"))["accuracy"] > 0.99

    def test_impossible_true_roads_stay_finite(self):
        wrong = np.zeros(OFFSETS[-1])
        wrong[TAKEN] = -np.inf
        ruled_out = StepProbabilities.of(wrong, TRIPS, NETWORK)
        for kind in ("arithmetic", "log_linear"):
            weights = fit_pool([ruled_out, scored(0, 1.0)], kind)
            metrics = pool_metrics([ruled_out, scored(0, 1.0)], weights)
            assert np.isfinite(list(metrics.values())).all()
            assert metrics["nll"] <= scored(0, 1.0).metrics()["nll"] + 1e-9

    def test_pools_that_make_no_sense_are_refused(self):
        other = StepProbabilities.of(
            np.zeros(NETWORK.successors.degrees[random_trips(NETWORK, 1, 9).road_ids[:-1]].sum()),
            random_trips(NETWORK, 1, 9),
            NETWORK,
        )
        with pytest.raises(ValueError, match="same steps"):
            fit_pool([scored(), other], "arithmetic")
        with pytest.raises(ValueError, match="at least one"):
            fit_pool([], "log_linear")
        with pytest.raises(ValueError, match="2 weights for 1 members"):
            pool([scored()], PoolWeights("log_linear", (1.0, 0.0)))


class TestTemperature:
    def test_scaling_undoes_a_wrong_temperature(self):
        rng = np.random.default_rng(1)
        scores = rng.normal(0, 2, OFFSETS[-1])
        honest = StepProbabilities.of(scores, TRIPS, NETWORK)
        # the true road is sampled from the member itself
        noise = scores + rng.gumbel(0, 1, len(scores))
        best = np.maximum.reduceat(noise, OFFSETS[:-1])
        honest = replace(honest, taken=np.flatnonzero(noise == best[row_of_value(OFFSETS)]))
        sharp = pool([honest], PoolWeights("log_linear", (3.0,)))
        temperature, nll = temperature_scaled_nll(sharp, sharp)
        assert temperature == pytest.approx(3 * temperature_scaled_nll(honest, honest).temperature, rel=1e-4)
        assert temperature == pytest.approx(3.0, rel=0.25)
        assert nll < sharp.metrics()["nll"] - 0.1
        assert nll == pytest.approx(temperature_scaled_nll(honest, honest).nll, abs=1e-7)

    def test_a_member_worse_than_chance_gets_an_infinite_temperature(self):
        wrong = StepProbabilities.of(np.where(np.isin(np.arange(OFFSETS[-1]), TAKEN), -1.0, 0.0), TRIPS, NETWORK)
        temperature, nll = temperature_scaled_nll(wrong, wrong)
        assert temperature == np.inf
        assert nll == pytest.approx(np.log(np.diff(OFFSETS)).mean())


class TestShareOfGapClosed:
    def test_is_a_ratio_of_means_and_one_value_per_seed(self):
        closed = share_of_gap_closed([1.0, 1.2], [0.8, 1.1], [0.5, 0.7])
        assert closed.share == pytest.approx(0.15 / 0.5)
        assert closed.by_seed == pytest.approx((0.4, 0.2))

    def test_without_a_gap_there_is_no_share(self):
        closed = share_of_gap_closed([1.0], [0.9], [1.0])
        assert np.isnan(closed.share)
        assert np.isnan(closed.by_seed[0])

    @pytest.mark.parametrize("wrong", [([], [], []), ([1.0], [1.0, 2.0], [0.5])])
    def test_other_seeds_are_refused(self, wrong):
        with pytest.raises(ValueError, match="same seeds"):
            share_of_gap_closed(*wrong)
