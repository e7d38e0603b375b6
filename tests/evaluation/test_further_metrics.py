"""Flows, requested cells, durations, diversity, privacy and utility: values by hand, bounds, and order of trips."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_city import grid_network, random_trips

from hoser_kd.common.arrays import offsets_of
from hoser_kd.config.evaluation import EvaluationConfig
from hoser_kd.evaluation.flows import divergence_of_keys
from hoser_kd.evaluation.metric_registry import METRICS
from hoser_kd.evaluation.metrics import evaluate, flatten
from hoser_kd.evaluation.pairing import cells_of, meters_from_corner, od_cells
from hoser_kd.evaluation.privacy import _chunks, auc, nearest_similarity, road_sets
from hoser_kd.evaluation.request_metrics import Diversity
from hoser_kd.evaluation.utility import fit_chain, score_next_roads, split_at_gaps
from hoser_kd.network.markov import MarkovChain, step_connections
from hoser_kd.network.trajectories import Trajectories, concatenate

NETWORK = grid_network()
REAL, TRAINING = random_trips(NETWORK, 40, seed=1), random_trips(NETWORK, 90, seed=2)
NEW = ("flows", "od_match", "paired_duration", "diversity", "privacy", "utility")


def trips_of(*walks: list[int], seconds: int = 30) -> Trajectories:
    roads = np.array([road for walk in walks for road in walk], np.int64)
    offsets = offsets_of(np.array([len(walk) for walk in walks]))
    return Trajectories(offsets, roads, np.arange(len(roads), dtype=np.int64) * seconds)


def new_metrics(*args, **kwargs) -> dict[str, float]:
    metrics = flatten(evaluate(*args, **kwargs))
    return {name: value for name, value in metrics.items() if name.partition(".")[0] in NEW}


def walk(start: int, count: int, turn: int = 0) -> list[int]:
    """Return connected roads, always taking the candidate at position `turn`."""
    roads = [start]
    while len(roads) < count:
        candidates = NETWORK.successors.row(roads[-1])
        roads.append(int(candidates[turn % len(candidates)]))
    return roads


def test_identical_trips():
    metrics = new_metrics(REAL, REAL, NETWORK, paired=True)
    for name in ("od_jsd", "turn_jsd", "cell_jsd"):
        assert metrics[f"flows.{name}"] == 0
    for side_m in (200, 500, 1000):
        assert metrics[f"od_match.within_{side_m}m_share"] == 1
    assert metrics["paired_duration.mae_min"] == metrics["paired_duration.mape"] == 0
    assert not any(name.startswith(("diversity", "privacy", "utility")) for name in metrics)


@given(st.integers(0, 2**16), st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_bounds_and_order_of_trips(seed, samples):
    rng = np.random.default_rng(seed)
    rows = np.repeat(rng.integers(0, len(REAL), 12), samples)
    generated = random_trips(NETWORK, len(rows), seed=seed)
    order, training_order = rng.permutation(len(rows)), rng.permutation(len(TRAINING))
    metrics = new_metrics(REAL.take(rows), generated, NETWORK, paired=True, training=TRAINING)
    moved = new_metrics(
        REAL.take(rows[order]), generated.take(order), NETWORK, paired=True, training=TRAINING.take(training_order)
    )
    assert metrics.keys() == moved.keys()
    for name, value in metrics.items():
        assert moved[name] == pytest.approx(value, rel=1e-12, abs=1e-14), name
        upper = math.inf if METRICS[name].unit in {"min", "nat"} or name.endswith("mape") else 1
        assert 0 <= value <= (math.log(2) + 1e-12 if name.endswith("jsd") else upper), name


def test_each_new_metric_has_a_source_or_is_beside_one_that_has():
    beside = {metric.real for metric in map(METRICS.__getitem__, METRICS)}
    own = {"diversity.entropy", "diversity.best_jaccard"}
    for name in METRICS:
        if name.partition(".")[0] in NEW and name not in own | beside and METRICS[name].same_as is None:
            assert METRICS[name].source, name


class TestFlows:
    def test_divergence_of_shares_by_hand(self):
        half = 0.5 * math.log(1 / 0.75) + 0.5 * (0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25))
        assert divergence_of_keys(np.array([7, 7]), np.array([7, 9])) == pytest.approx(half)
        assert divergence_of_keys(np.array([1]), np.array([2, 3])) == pytest.approx(math.log(2))
        assert divergence_of_keys(np.array([1]), np.array([], np.int64)) is None

    def test_turns_see_the_order_of_roads_and_cells_do_not(self):
        there, back = walk(0, 6), walk(0, 6)[::-1]
        metrics = new_metrics(trips_of(there), trips_of(back), NETWORK)
        assert metrics["flows.turn_jsd"] == pytest.approx(math.log(2))
        assert metrics["flows.cell_jsd"] == 0

    def test_trips_of_one_road_have_no_turns(self):
        assert "flows.turn_jsd" not in new_metrics(trips_of([0]), trips_of([0]), NETWORK)

    def test_a_trip_that_ends_elsewhere_changes_the_flows(self):
        lat, lon = NETWORK.centroids.T
        corner, opposite = int(np.argmin(lat + lon)), int(np.argmax(lat + lon))
        metrics = new_metrics(trips_of([corner, opposite]), trips_of([corner, corner]), NETWORK)
        assert metrics["flows.od_jsd"] == pytest.approx(math.log(2))


class TestRequestedCells:
    def test_wider_cells_match_more(self):
        ends = np.random.default_rng(0).integers(0, NETWORK.num_roads, (200, 2))
        real, generated = trips_of(*ends.tolist()), trips_of(*np.roll(ends, 1, 0).tolist())
        metrics = new_metrics(real, generated, NETWORK, paired=True)
        cell = od_cells(NETWORK, EvaluationConfig(od_cell_m=500.0))
        expected = (cell[ends] == cell[np.roll(ends, 1, 0)]).all(1).mean()
        assert metrics["od_match.within_500m_share"] == expected
        assert metrics["od_match.within_200m_share"] < expected < metrics["od_match.within_1000m_share"]

    def test_cells_of_the_settings_are_cells_of_the_offsets(self):
        config = EvaluationConfig(od_cell_m=350.0)
        np.testing.assert_array_equal(od_cells(NETWORK, config), cells_of(*meters_from_corner(NETWORK, config), 350.0))


class TestDurations:
    def test_over_trips_that_arrive(self):
        real = trips_of([1, 2, 3], [4, 5, 6], seconds=60)  # 2 min each
        generated = trips_of([1, 2, 9, 9, 3], [4, 5, 7], seconds=60)  # 4 min, and another end
        metrics = new_metrics(real, generated, NETWORK, paired=True)
        assert metrics["paired_duration.mae_min"] == 2
        assert metrics["paired_duration.mape"] == 1

    def test_left_out_where_no_trip_arrives_or_trips_are_not_paired(self):
        real, generated = trips_of([1, 2]), trips_of([1, 3])
        assert not any("duration" in name for name in new_metrics(real, generated, NETWORK, paired=True))
        assert not any("duration" in name for name in new_metrics(real, real, NETWORK))


class TestDiversity:
    def test_routes_by_hand(self):
        trips = trips_of([1, 2], [1, 2], [1, 3], [1, 4], [5], [5], [5], [5])
        diversity = Diversity.of(trips, np.array([0, 0, 0, 0, 1, 1, 1, 1]))
        assert diversity.samples.tolist() == [4, 4]
        assert diversity.distinct.tolist() == [3, 1]
        np.testing.assert_allclose(diversity.entropy, [0.5 * math.log(2) + 0.5 * math.log(4), 0])

    def test_samples_that_hold_the_real_route(self):
        real = trips_of([1, 2, 3], [4, 5, 6]).take(np.array([0, 0, 1, 1]))
        metrics = new_metrics(real, trips_of([1, 2, 3], [1, 9, 3], [4, 7, 6], [4, 8, 6]), NETWORK, paired=True)
        assert metrics["diversity.distinct_share"] == 1
        assert metrics["diversity.entropy"] == pytest.approx(math.log(2))
        assert metrics["diversity.covered_share"] == 0.5
        assert metrics["diversity.best_jaccard"] == pytest.approx((1 + 0.5) / 2)

    def test_requests_without_real_trips_are_grouped_by_origin_time_and_destination(self):
        generated = Trajectories(np.array([0, 2, 4]), np.array([1, 2, 1, 2]), np.array([0, 30, 0, 45]))
        metrics = new_metrics(REAL, generated, NETWORK, destinations=np.array([2, 2]))
        assert metrics["diversity.distinct_share"] == 0.5
        assert "diversity.covered_share" not in metrics
        other = new_metrics(REAL, generated, NETWORK, destinations=np.array([2, 3]))
        assert not any(name.startswith("diversity") for name in other)

    def test_left_out_where_a_request_has_one_sample(self):
        real = REAL.take(np.array([0, 0, 1]))
        assert not any(name.startswith("diversity") for name in new_metrics(real, real, NETWORK, paired=True))


class TestPrivacy:
    def test_nearest_equals_the_plain_definition_in_chunks_of_any_size(self):
        a, b = ([set(trips.roads(i).tolist()) for i in range(len(trips))] for trips in (REAL, TRAINING))
        plain = [max(len(x & y) / len(x | y) for y in b) for x in a]
        sets = [road_sets(trips, NETWORK.num_roads) for trips in (REAL, TRAINING)]
        for most in (1, 50, 10**6):
            np.testing.assert_allclose(nearest_similarity(*sets, max_common=most), plain, rtol=1e-15)

    def test_chunks_cover_every_row_and_stay_small(self):
        costs = np.random.default_rng(0).integers(0, 40, 200)
        chunks = list(_chunks(costs, 100))
        assert [row for first, last in chunks for row in range(first, last)] == list(range(200))
        assert max(costs[first:last].sum() for first, last in chunks) <= 100 + 40

    def test_trips_of_the_same_group_are_not_compared(self):
        sets = road_sets(trips_of([1, 2], [1, 2, 3], [8]), NETWORK.num_roads)
        groups = np.array([0, 1, 2])
        np.testing.assert_allclose(nearest_similarity(sets, sets, groups, groups), [2 / 3, 2 / 3, 0])

    @given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.lists(st.integers(0, 5), min_size=1, max_size=20))
    @settings(max_examples=50, deadline=None)
    def test_auc_is_the_share_of_ordered_pairs(self, members, others):
        pairs = [(m > o) + 0.5 * (m == o) for m in members for o in others]
        assert auc(np.array(members, float), np.array(others, float)) == pytest.approx(np.mean(pairs))

    def test_auc_does_not_load_scipy_stats(self):
        code = (
            "import sys, numpy as np\n"
            "from hoser_kd.evaluation.privacy import auc\n"
            "auc(np.ones(2), np.zeros(2))\n"
            "sys.exit('scipy.stats' in sys.modules)"
        )
        root = Path(__file__).parents[2]
        assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0

    def test_copied_training_trips_are_given_away_and_new_trips_are_not(self):
        training, real = random_trips(NETWORK, 60, seed=5), random_trips(NETWORK, 60, seed=6)
        copies = new_metrics(real, training, NETWORK, paired=True, training=training)
        assert copies["privacy.nearest_mean"] == copies["privacy.nearest_p5"] == 0
        assert copies["privacy.membership_auc"] > 0.95
        assert copies["privacy.real_nearest_mean"] > 0.3
        fresh = new_metrics(real, random_trips(NETWORK, 60, seed=7), NETWORK, paired=True, training=training)
        assert fresh["privacy.membership_auc"] == pytest.approx(0.5, abs=0.12)
        assert fresh["privacy.real_membership_auc"] == pytest.approx(0.5, abs=0.12)

    def test_trips_that_answer_test_requests_perfectly_do_not_look_like_training_trips(self):
        """A generated trip is not compared with the test trip of its own request, whose ends it shares."""
        metrics = new_metrics(REAL, REAL, NETWORK, paired=True, training=TRAINING)
        assert metrics["privacy.membership_auc"] == metrics["privacy.real_membership_auc"]
        assert metrics["privacy.membership_auc"] == pytest.approx(0.5, abs=0.12)

    def test_no_membership_inference_where_the_requests_are_not_those_of_test_trips(self):
        metrics = new_metrics(REAL, TRAINING, NETWORK, training=TRAINING)
        assert "privacy.nearest_mean" in metrics
        assert "privacy.membership_auc" not in metrics


class TestUtility:
    def test_score_equals_the_chain(self):
        score = score_next_roads(TRAINING, REAL, NETWORK, len(TRAINING))
        chain = fit_chain(TRAINING, NETWORK)
        assert score.nll == pytest.approx(chain.nll(REAL))
        log_p, hits = chain.log_probabilities, []
        for taken in step_connections(REAL, NETWORK).taken.tolist():
            road = np.searchsorted(NETWORK.successors.indptr, taken, side="right") - 1
            of_road = log_p[NETWORK.successors.indptr[road] : NETWORK.successors.indptr[road + 1]]
            hits.append((log_p[taken] == of_road.max()) / (of_road == of_road.max()).sum())
        assert score.accuracy == pytest.approx(np.mean(hits))

    def test_trips_like_the_real_ones_are_more_useful(self):
        straight = [walk(start, 12) for start in range(40)]
        other = [walk(start, 12, turn=1) for start in range(40)]
        like, unlike = (
            new_metrics(trips_of(*straight), trips_of(*trips), NETWORK, training=TRAINING)
            for trips in (straight, other)
        )
        assert like["utility.nll"] < unlike["utility.nll"]
        assert like["utility.accuracy"] > unlike["utility.accuracy"]
        assert like["utility.real_nll"] == unlike["utility.real_nll"]

    def test_the_chain_of_real_trips_counts_as_many_trips_as_are_generated(self):
        both = concatenate([TRAINING, random_trips(NETWORK, 300, seed=8)])
        few = score_next_roads(both, REAL, NETWORK, 20)
        assert few.nll != score_next_roads(both, REAL, NETWORK, 390).nll
        assert few == score_next_roads(both.take(np.arange(389, -1, -1)), REAL, NETWORK, 20)

    def test_the_smoothing_is_chosen_on_held_out_trips(self):
        assert fit_chain(TRAINING, NETWORK).smoothing > fit_chain(trips_of(*[walk(0, 12)] * 200), NETWORK).smoothing
        assert fit_chain(trips_of([0]), NETWORK).smoothing == 1.0  # no step to choose by

    def test_steps_without_a_connection_are_left_out(self):
        connected = walk(0, 4)
        broken = trips_of([*connected, 0, 0], [0])
        parts = split_at_gaps(broken, NETWORK)
        assert parts.num_steps == 3 + int(0 in NETWORK.successors.row(connected[-1]))
        chain = MarkovChain.fit(parts, NETWORK)
        assert chain.counts.sum() == parts.num_steps
        assert score_next_roads(TRAINING, trips_of([0], [1]), NETWORK, 10) is None
