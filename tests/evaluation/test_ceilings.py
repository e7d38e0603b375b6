"""Ceilings: which pools are measured, their table, intervals and shares of the gap."""

from __future__ import annotations

import json

import numpy as np
import pytest
from small_city import grid_network, random_trips

from hoser_kd.evaluation.ceilings import LABELS, Splits, ceiling_rows, gap_closed, measure_ceilings, summary_rows
from hoser_kd.evaluation.ceilings import teacher_beyond_markov as beyond
from hoser_kd.student.pools import StepProbabilities, fit_pool, pool_metrics

NETWORK = grid_network(5)
TRIPS = [random_trips(NETWORK, 150, seed) for seed in (0, 1)]


def model(seed, informed, *, hint=None):
    """Random scores whose true road is `informed` higher; `hint` is the seed of noise that several models share."""
    splits = []
    for split, trips in enumerate(TRIPS):
        at, _ = trips.step_positions()
        offsets = np.concatenate([[0], np.cumsum(NETWORK.successors.degrees[trips.road_ids[at]])])
        scores = np.random.default_rng([seed, split]).normal(0, 1, offsets[-1])
        taken = offsets[:-1] + NETWORK.candidate_index(trips.road_ids[at], trips.road_ids[at + 1])
        shared = np.random.default_rng([hint or seed, split, 9]).random(len(at)) < 0.5
        scores[taken] += informed * shared
        splits.append(StepProbabilities.of(scores, trips, NETWORK))
    return Splits(*splits)


PLAIN = {seed: model(seed, 1.0) for seed in range(3)}
DISTILLED = {seed: model(seed, 1.3) for seed in range(3)}
TEACHER, MARKOV = model(10, 2.0), model(11, 1.0)


@pytest.fixture(scope="module")
def ceilings():
    return measure_ceilings(PLAIN, DISTILLED, TEACHER, MARKOV)


@pytest.fixture(scope="module")
def rows(ceilings):
    return {(row["name"], row["kind"]): row for row in ceiling_rows(ceilings)}


def test_every_seed_and_pair_of_seeds_is_fitted(ceilings, rows):
    assert {name for name, _ in rows} == set(LABELS)
    for kind in ("arithmetic", "log_linear"):
        assert [fit.seeds for fit in ceilings.of("student_teacher", kind)] == [(0,), (1,), (2,)]
        assert [fit.seeds for fit in ceilings.of("student_student", kind)] == [(0, 1), (0, 2), (1, 2)]
    assert ceilings.notes == []
    assert list(dict.fromkeys(name for name, _ in rows)) == list(LABELS)


def test_weights_are_fitted_on_validation_and_measured_on_test(ceilings):
    [fit] = [fit for fit in ceilings.of("student_teacher_markov", "log_linear") if fit.seeds == (1,)]
    members = [PLAIN[1], TEACHER, MARKOV]
    weights = fit_pool([member.val for member in members], "log_linear")
    assert tuple(fit.weights.values()) == weights.values
    assert fit.metrics == pool_metrics([member.test for member in members], weights)
    assert weights != fit_pool([member.test for member in members], "log_linear")


def test_rows_are_means_with_both_kinds_of_interval(rows):
    row = rows["student_teacher", "log_linear"]
    nll = [
        pool_metrics([PLAIN[seed].test, TEACHER.test], fit_pool([PLAIN[seed].val, TEACHER.val], "log_linear"))["nll"]
        for seed in PLAIN
    ]
    assert row["nll"] == pytest.approx(np.mean(nll))
    vanilla = [PLAIN[seed].test.metrics()["nll"] for seed in PLAIN]
    assert row["nll_minus_student"] == pytest.approx(np.mean(nll) - np.mean(vanilla))
    for name, value in (("nll", row["nll"]), ("difference", row["nll_minus_student"])):
        seeds, trips = row[f"{name}_seeds"], row[f"{name}_trips"]
        assert seeds[0] < value < seeds[1]
        assert trips[0] < value < trips[1]
        assert seeds != trips
    # paired by trip: far narrower than the interval of the NLL itself
    assert np.ptp(row["difference_trips"]) < np.ptp(row["nll_trips"])
    assert rows["student", None]["nll_minus_student"] == 0
    assert rows["teacher", None]["nll_seeds"] is None
    assert rows["student_student", "log_linear"]["nll_seeds"] is None
    assert rows["student_student", "log_linear"]["nll_trips"] is not None


def test_pools_are_ordered_as_their_information(rows):
    def nll(name, kind="log_linear"):
        return rows[name, kind]["nll"]

    assert nll("student_teacher_markov") < nll("student_teacher") < nll("student_student") < nll("student", None)
    assert rows["student_tempered", None]["nll"] <= nll("student", None) + 0.01


def test_the_gap_is_that_of_the_means(ceilings, rows):
    gap = gap_closed(ceilings)["student_teacher"]
    vanilla, distilled = rows["student", None]["nll"], rows["distilled", None]["nll"]
    assert gap["share"] == pytest.approx(
        (vanilla - distilled) / (vanilla - rows["student_teacher", "log_linear"]["nll"])
    )
    assert list(gap["by_seed"]) == [0, 1, 2]
    assert gap["seeds"][0] < np.mean(list(gap["by_seed"].values())) < gap["seeds"][1]


def test_a_teacher_that_counts_adds_nothing_beyond_the_control():
    adds = beyond(measure_ceilings(PLAIN, {}, TEACHER, MARKOV))
    assert adds["nll"] < 0
    assert adds["trips"][1] < 0
    # a teacher with the probabilities of the Markov chain
    copies = beyond(measure_ceilings(PLAIN, {}, MARKOV, MARKOV))
    assert copies["nll"] == pytest.approx(0, abs=1e-6)


def test_one_seed_has_no_ensemble_and_no_interval_over_seeds():
    ceilings = measure_ceilings({4: PLAIN[0]}, {4: DISTILLED[0]}, TEACHER, MARKOV)
    assert "two vanilla students" in ceilings.notes[0]
    rows = {row["name"]: row for row in ceiling_rows(ceilings)}
    assert "student_student" not in rows
    assert rows["student"]["nll_seeds"] is None
    assert rows["student"]["nll_trips"] is not None
    assert gap_closed(ceilings)["student_teacher"]["seeds"] is None


def test_without_distillation_there_is_no_share():
    ceilings = measure_ceilings(PLAIN, {}, TEACHER, MARKOV)
    assert gap_closed(ceilings) is None
    assert "no distilled student" in ceilings.notes[0]
    with pytest.raises(ValueError, match="at least one"):
        measure_ceilings({}, {}, TEACHER, MARKOV)


def test_everything_is_plain_json_and_the_table_has_one_text_per_interval(ceilings, rows):
    content = json.loads(json.dumps(ceilings.to_json(), allow_nan=False))
    assert len(content["rows"]) == len(rows)
    table = summary_rows(content["rows"])
    assert {tuple(row) for row in table} == {tuple(table[0])}
    assert " to " in table[0]["over seeds"]
    assert table[[row["model"] for row in table].index(LABELS["teacher"])]["over seeds"] == "–"
