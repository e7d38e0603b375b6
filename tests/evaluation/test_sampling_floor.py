"""The divergence of real trips from real trips at the same number of trips."""

from __future__ import annotations

import numpy as np
import pytest
from small_city import grid_network, random_trips

from hoser_kd.evaluation.metric_registry import METRICS
from hoser_kd.evaluation.metrics import evaluate
from hoser_kd.evaluation.sampling_floor import jsd_floor, jsd_floors

NETWORK = grid_network()
TRIPS = random_trips(NETWORK, 300)
VALUES = np.random.default_rng(0).gamma(2.0, 1.5, 4000)


def test_the_floor_falls_with_the_number_of_trips_and_is_seeded():
    floors = [jsd_floor(VALUES, n, resamples=30) for n in (50, 200, 1000)]
    means = [floor.mean for floor in floors]
    assert means[0] > 2 * means[1] > 4 * means[2] > 0
    assert all(floor.quantile_95 >= floor.mean for floor in floors)
    assert jsd_floor(VALUES, 50, resamples=30) == floors[0]
    assert jsd_floor(VALUES, 50, resamples=30, seed=1) != floors[0]


def test_samples_are_disjoint_where_the_trips_suffice():
    assert jsd_floor(VALUES, 2000, resamples=3).disjoint
    assert not jsd_floor(VALUES, 2001, resamples=3).disjoint
    distinct = np.arange(10.0)
    overlap = jsd_floor(distinct, 5, resamples=20, divergence=lambda a, b: float(len(np.intersect1d(a, b))))
    assert (overlap.mean, overlap.quantile_95) == (0.0, 0.0)
    with_replacement = jsd_floor(distinct, 6, resamples=20, divergence=lambda a, b: float(len(np.intersect1d(a, b))))
    assert with_replacement.mean > 1


def test_bootstrap_halves_estimate_the_floor_of_disjoint_ones():
    few = jsd_floor(VALUES[:400], 400, resamples=60)
    many = jsd_floor(VALUES, 400, resamples=60)
    assert few.mean == pytest.approx(many.mean, rel=0.25)


def test_steps_are_sampled_by_trip():
    """Values that are equal within a trip: the samples differ by their trips, not by their steps."""
    per_trip = np.repeat(np.arange(40.0), 50)
    offsets = np.arange(0, 2001, 50)
    by_trip = jsd_floor(per_trip, 20, offsets=offsets, resamples=20)
    as_independent = jsd_floor(per_trip, 1000, resamples=20)
    # the open last bin holds the largest values of both samples
    assert by_trip.mean > 0.9 * np.log(2)
    assert as_independent.mean < 0.1


def test_every_distribution_metric_has_a_floor():
    floors = jsd_floors(TRIPS, NETWORK, 100, resamples=20)
    assert set(floors) == {name for name in METRICS if name.endswith(".jsd")}
    real = evaluate(TRIPS.take(np.arange(100)), TRIPS.take(np.arange(100, 200)), NETWORK)
    for name, floor in floors.items():
        section, _, key = name.partition(".")
        assert 0 < floor.mean < np.log(2)
        assert real[section][key] == pytest.approx(floor.mean, rel=0.6), name
    wider = jsd_floors(TRIPS, NETWORK, 20, resamples=20)
    assert all(wider[name].mean > floor.mean for name, floor in floors.items())


def test_no_trips_have_no_floor():
    for n, values in ((0, VALUES), (5, VALUES[:0])):
        with pytest.raises(ValueError, match="1 or more"):
            jsd_floor(values, n)
