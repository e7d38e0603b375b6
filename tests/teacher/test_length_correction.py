"""Correction of the lengths of sampled trips: acceptance, temperature, and the choice on validation trips."""

from __future__ import annotations

import numpy as np
import pytest

from hoser_kd.teacher.length_correction import (
    MAX_REJECTION,
    TEMPERATURES,
    LengthCorrection,
    acceptance_for,
    choose_correction,
    length_divergence,
    length_edges,
    shares,
)

RNG = np.random.default_rng(0)
REAL, VAL = RNG.poisson(18, 20_000) + 2, RNG.poisson(18, 4000) + 2
LONG = RNG.poisson(21, 40_000) + 2


def test_accepted_trips_have_the_real_lengths():
    correction = acceptance_for(LONG, REAL)
    accepted = LONG[correction.accepts(LONG, RNG.random(len(LONG)))]
    assert abs(accepted.mean() - REAL.mean()) < 0.15 < abs(LONG.mean() - REAL.mean())
    edges = length_edges(VAL)
    before, after = (length_divergence(shares(each, edges), shares(VAL, edges)) for each in (LONG, accepted))
    assert after < 0.1 * before
    # the rarest lengths are accepted always, so that no trip is wasted without need
    assert max(correction.acceptance) == 1
    assert len(accepted) > len(LONG) / MAX_REJECTION


def test_rejection_is_limited():
    correction = acceptance_for(np.full(1000, 30), REAL)
    assert correction.acceptance_of(np.array([30]))[0] > 0
    assert all(0 <= each <= 1 for each in correction.acceptance)


def test_equal_lengths_are_one_bin():
    correction = acceptance_for(np.full(50, 7), np.full(10, 7))
    assert correction.accepts(np.full(50, 7), np.full(50, 0.999)).all()


@pytest.mark.parametrize(
    ("kind", "num_tried", "chosen"),
    [("none", 0, {"none"}), ("acceptance", 2, {"acceptance"}), ("temperature", 5, {"temperature"}), ("auto", 6, None)],
)
def test_the_correction_closest_to_validation_is_chosen(kind, num_tried, chosen):
    """Trips are longer at a lower temperature, and right at 1.25."""
    temperatures = []

    def sample_lengths(temperature):
        temperatures.append(temperature)
        return np.random.default_rng(1).poisson(18 + 12 * (2.5 - temperature), 4000) + 2

    correction, rows = choose_correction(kind, sample_lengths, REAL, VAL, temperature=2.0)
    assert len(rows) == num_tried
    assert correction.kind in (chosen or {"acceptance", "temperature"})
    if rows:
        best = min(rows, key=lambda row: row["length_jsd"])
        assert (best["correction"], best["temperature"]) == (correction.kind, correction.temperature)
    if kind == "temperature":
        assert temperatures == [2.0, *(2.0 * factor for factor in TEMPERATURES)]
        assert correction.temperature == 2.5


def test_lengths_that_are_right_are_not_corrected_by_temperature():
    def sample_lengths(temperature):
        return np.random.default_rng(1).poisson(18 * temperature, 4000) + 2

    correction, _ = choose_correction("temperature", sample_lengths, REAL, VAL)
    assert (correction.kind, correction.temperature) == ("none", 1.0)


def test_a_teacher_whose_trips_never_end_gives_no_correction():
    correction, rows = choose_correction("auto", lambda _: np.zeros(0, np.int64), REAL, VAL)
    assert correction.kind == "none"
    assert all(row["accepted"] == 0 for row in rows)


def test_a_correction_survives_json():
    correction = acceptance_for(LONG, REAL, 1.3)
    assert LengthCorrection.from_json(correction.to_json()) == correction
