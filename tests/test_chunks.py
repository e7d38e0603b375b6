"""Statistics over steps are added up chunk by chunk: the size of a chunk changes no bit of any of them."""

from __future__ import annotations

import numpy as np
import pytest
from small_city import grid_network, random_trips

from hoser_kd.evaluation.memorization import copied, route_hashes
from hoser_kd.evaluation.sampling_floor import jsd_floors
from hoser_kd.grid.token_table import resolution
from hoser_kd.hoser import time_label_statistics
from hoser_kd.network.class_speeds import ClassSpeeds
from hoser_kd.network.markov import MarkovChain
from hoser_kd.network.trajectories import Trajectories, concatenate
from hoser_kd.network.trip_consistency import distinct_intervals, repeated_trips, time_problem
from hoser_kd.network.zones import transitions
from hoser_kd.student.next_step_metrics import frequency_baseline

NETWORK = grid_network(6)
TRAIN, OTHERS = random_trips(NETWORK, 120, seed=1), random_trips(NETWORK, 20, seed=2)
TEST = concatenate([OTHERS, TRAIN.take(np.array([3, 119]))])
ZONES = np.arange(NETWORK.num_roads) % 5


def chain(order):
    fitted = MarkovChain.fit(TRAIN, NETWORK, order=order)
    return fitted.counts, fitted.pair_keys, fitted.pair_counts


STATISTICS = {
    "transitions": lambda: transitions(ZONES, TRAIN, 5),
    "resolution": lambda: list(resolution(ZONES, NETWORK, TRAIN).items()),
    "class speeds": lambda: ClassSpeeds.fit(TRAIN, NETWORK).by_hour,
    "chain of order 1": lambda: chain(1)[0],
    "chain of order 2": lambda: np.concatenate(chain(2)),
    "copies": lambda: copied(TEST, TRAIN),
    "routes": lambda: route_hashes(TRAIN),
    "repeated trips": lambda: repeated_trips(TEST, TRAIN),
    "intervals": lambda: distinct_intervals(TRAIN),
    "frequency baseline": lambda: list(frequency_baseline(TRAIN, TEST, NETWORK).items()),
    "floors": lambda: np.array([list(floor) for floor in jsd_floors(TRAIN, NETWORK, 10, resamples=3).values()]),
    "time labels": lambda: time_label_statistics(TRAIN),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_the_size_of_chunks_has_no_influence(name, monkeypatch):
    whole = STATISTICS[name]()
    monkeypatch.setattr(Trajectories.chunks, "__defaults__", (50,))
    monkeypatch.setattr("hoser_kd.network.markov._PAIRS_AT_ONCE", 100)
    assert len(list(TRAIN.chunks())) > 10
    np.testing.assert_array_equal(STATISTICS[name](), whole)


def test_the_scale_of_times_is_that_of_all_steps():
    at, _ = TRAIN.step_positions()
    labels = np.log1p((TRAIN.times[at + 1] - TRAIN.times[at]).astype(np.float64))
    assert time_label_statistics(TRAIN) == (labels.mean(), labels.std())
    same = np.sort(np.concatenate([TRAIN.times, TRAIN.times]))[: len(TRAIN.times)] * 0
    assert time_label_statistics(Trajectories(TRAIN.offsets, TRAIN.road_ids, same)) == (0.0, 1.0)


def test_times_without_information_are_found_across_chunks(monkeypatch):
    monkeypatch.setattr(Trajectories.chunks, "__defaults__", (50,))
    place = np.arange(len(TRAIN.road_ids)) - np.repeat(TRAIN.offsets[:-1], TRAIN.lengths)
    even = Trajectories(TRAIN.offsets, TRAIN.road_ids, 1_372_636_800 + 7 * place)
    assert f"all {TRAIN.num_steps} intervals between roads are 7 s" in time_problem({"train": even})
    assert time_problem({"train": TRAIN}) is None


def test_all_rows_are_taken_without_a_copy():
    assert TRAIN.take_all_or(np.arange(len(TRAIN))) is TRAIN
    assert len(TRAIN.take_all_or(np.array([4, 7]))) == 2
