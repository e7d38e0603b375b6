"""Trips sampled from the teacher: probabilities, the road graph, seeds, batch sizes and windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from small_city import grid_network

from hoser_kd.common.arrays import Csr, offsets_of
from hoser_kd.lmtad import LMTAD, LMTADConfig
from hoser_kd.teacher import trip_sampling
from hoser_kd.teacher.trip_sampling import TripSampler, uniform

NETWORK = grid_network(4)
NUM_CELLS = 9
CELLS = np.random.default_rng(3).integers(0, NUM_CELLS, NETWORK.num_roads)


def teacher_with(block_size=40, scale=2.0, **changes):
    torch.manual_seed(0)
    model = LMTAD(LMTADConfig(block_size, NUM_CELLS + 3, n_layer=2, n_head=2, n_embd=16, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)  # far from uniform, so that a wrong history shows
    return model


TEACHER = teacher_with()


def sampler(teacher=TEACHER, network=NETWORK, tokens=CELLS, **options):
    return TripSampler(teacher, tokens, network, **options)


def expected_next(teacher, path, temperature=1.0, window=None, destination=None):
    """Reference: the probabilities of the successors and of the end after a path, one call of the teacher."""
    prefix = [] if destination is None else [destination]
    history = [teacher.config.sot_token, *prefix, *CELLS[path]]
    whole = teacher.predict_next_distribution(history, window).double().numpy() ** (1 / temperature)
    successors = NETWORK.successors.row(path[-1])
    cells = CELLS[successors]
    shared = whole[cells] / (cells[:, None] == cells).sum(1)
    options = np.append(shared, whole[teacher.config.eot_token])
    return successors, options / options.sum()


def grouped(trips, steps):
    """Attempts by their first roads: the path of `steps` roads, and what follows it (-1: the end)."""
    followed = {}
    for a, b in zip(trips.offsets[:-1], trips.offsets[1:], strict=True):
        roads = trips.road_ids[a:b].tolist()
        if len(roads) >= steps:
            followed.setdefault(tuple(roads[:steps]), []).append(roads[steps] if len(roads) > steps else -1)
    return followed


@pytest.mark.parametrize(("temperature", "window"), [(1.0, "full"), (1.7, "full"), (1.0, 3)])
def test_sampled_roads_follow_the_teachers_probabilities(temperature, window):
    """Chi-square of what follows the most frequent paths. All attempts end, so none is left out of the sample."""
    teacher = teacher_with()
    sampled = sampler(teacher, temperature=temperature, window=window, seed=5, max_steps=400).sample(0, 40_000)
    assert sampled.too_long == 0
    tested = 0
    for steps in (2, 4):
        for path, followers in sorted(grouped(sampled, steps).items(), key=lambda item: -len(item[1]))[:6]:
            successors, expected = expected_next(teacher, list(path), temperature, None if window == "full" else window)
            counts = [followers.count(road) for road in [*successors.tolist(), -1]]
            if min(expected * len(followers)) < 5:
                continue
            assert chisquare(counts, expected * len(followers)).pvalue > 1e-4, path
            tested += 1
    assert tested >= 6


def test_first_roads_follow_the_teachers_first_token():
    """A cell's probability is divided evenly among its roads. Attempts that end at once are counted, not returned."""
    whole = TEACHER.predict_next_distribution([TEACHER.config.sot_token]).double().numpy()
    expected = (whole[CELLS] / np.bincount(CELLS)[CELLS]).astype(float)
    expected /= expected.sum()
    object_of_test = sampler(seed=1)
    np.testing.assert_allclose(object_of_test.start_probability, expected, atol=1e-6)
    starts = object_of_test._starts(np.arange(20_000))
    counts = np.bincount(starts, minlength=NETWORK.num_roads)
    assert chisquare(counts, expected * len(starts)).pvalue > 1e-4


def test_destination_first_road_and_next_road_follow_a_teacher_that_reads_the_destination():
    teacher = teacher_with(scale=3.0, destination_prefix=True)
    drawn = sampler(teacher, seed=6, max_steps=400)
    attempts = np.arange(40_000)
    destinations = drawn._destinations(attempts)
    sot = teacher.config.sot_token
    at_first = teacher.predict_next_distribution([sot]).double().numpy()[:NUM_CELLS]
    seen = np.unique(CELLS)
    counts = np.bincount(destinations, minlength=NUM_CELLS)[seen]
    assert chisquare(counts, at_first[seen] / at_first[seen].sum() * len(attempts)).pvalue > 1e-4

    frequent = int(np.bincount(destinations).argmax())
    theirs = np.flatnonzero(destinations == frequent)
    whole = teacher.predict_next_distribution([sot, frequent]).double().numpy()
    expected = whole[CELLS] / np.bincount(CELLS)[CELLS]
    starts = drawn._starts(theirs, destinations[theirs])
    counts = np.bincount(starts, minlength=NETWORK.num_roads)
    assert chisquare(counts, expected / expected.sum() * len(starts)).pvalue > 1e-4

    sampled = drawn.sample(0, len(attempts))
    assert sampled.too_long == 0
    rows = np.flatnonzero(destinations[sampled.attempt] == frequent)
    last = sampled.road_ids[sampled.offsets[1:] - 1]
    assert sampled.ended_elsewhere == (CELLS[last] != destinations[sampled.attempt]).sum() > 0
    followed = grouped(sampled.trajectories().take(rows), 2)  # all trips have two roads or more
    path, followers = max(followed.items(), key=lambda item: len(item[1]))
    successors, expected = expected_next(teacher, list(path), destination=frequent)
    counts = [followers.count(road) for road in [*successors.tolist(), -1]]
    assert chisquare(counts, expected * len(followers)).pvalue > 1e-4
    _, blind = expected_next(teacher, list(path), destination=(frequent + 1) % NUM_CELLS)
    assert chisquare(counts, blind * len(followers)).pvalue < 1e-4  # another destination gives other roads


@torch.no_grad()
def test_the_destination_stays_where_a_history_is_cut():
    teacher = teacher_with(block_size=6, destination_prefix=True)
    destinations, path = np.array([3, 7]), torch.from_numpy(np.random.default_rng(0).integers(0, NUM_CELLS, (2, 9)))
    history = trip_sampling._History(teacher, 2, 6, 30, half=False, destinations=destinations)
    for length in range(1, 10):
        vectors = history.append(path[:, length - 1])
        for row, destination in enumerate(destinations.tolist()):
            tokens = [teacher.config.sot_token, destination, *path[row, max(0, length - 4) : length].tolist()]
            torch.testing.assert_close(vectors[row], teacher.hidden(torch.tensor([tokens]))[0, -1])


def test_the_chi_square_detects_a_wrong_distribution():
    """The test of the probabilities can fail: the sample at another temperature does not pass it."""
    teacher = teacher_with(scale=3.0)
    sampled = sampler(teacher, temperature=2.0, seed=5, max_steps=400).sample(0, 40_000)
    values = []
    for path, followers in sorted(grouped(sampled, 2).items(), key=lambda item: -len(item[1]))[:6]:
        successors, expected = expected_next(teacher, list(path))
        counts = [followers.count(road) for road in [*successors.tolist(), -1]]
        values.append(chisquare(counts, expected * len(followers)).pvalue)
    assert min(values) < 1e-4


def test_trips_stay_on_the_road_graph():
    sampled = sampler(seed=2).sample(0, 3000)
    trips = sampled.trajectories()
    at, _ = trips.step_positions()
    assert len(trips) > 100
    assert (NETWORK.candidate_index(trips.road_ids[at], trips.road_ids[at + 1]) >= 0).all()
    assert trips.lengths.min() >= 2
    assert len(trips) + sampled.too_long + sampled.too_short == 3000
    assert (trips.times == 0).all()
    assert trips.ids[0] == f"synthetic-{sampled.attempt[0]}"


def test_a_seed_repeats_whatever_the_batch_size():
    whole = sampler(seed=4).sample(0, 600)
    for size in (600, 64, 7):
        parts = [sampler(seed=4).sample(first, min(size, 600 - first)) for first in range(0, 600, size)]
        np.testing.assert_array_equal(np.concatenate([part.road_ids for part in parts]), whole.road_ids)
        np.testing.assert_array_equal(np.concatenate([part.attempt for part in parts]), whole.attempt)
        assert sum(part.too_long for part in parts) == whole.too_long
    other = sampler(seed=5).sample(0, 600)
    assert not np.array_equal(other.road_ids, whole.road_ids)


@pytest.mark.parametrize("share", [0.0, 1.1])
def test_compacting_the_cache_changes_no_trip(monkeypatch, share):
    expected = sampler(seed=4).sample(0, 300)
    monkeypatch.setattr(trip_sampling, "_COMPACT_BELOW", share)
    np.testing.assert_array_equal(sampler(seed=4).sample(0, 300).road_ids, expected.road_ids)


def test_trips_without_an_end_are_dropped_and_counted():
    endless = sampler(max_steps=12)
    endless._tables.log_sharing[:, -1] = np.inf
    sampled = endless.sample(0, 50)
    assert (len(sampled.lengths), sampled.too_long, sampled.too_short) == (0, 50, 0)
    assert len(sampled.trajectories()) == 0
    longest = sampler(seed=3, max_steps=4).sample(0, 2000)
    assert longest.lengths.max() == 4
    assert longest.too_long > 0


def test_a_road_without_successors_ends_a_trip_and_starts_none():
    """A line of three roads: the last one has no successor."""
    line = NETWORK.__class__(
        coord_offsets=np.arange(4) * 2,
        coords=NETWORK.coords[:6],
        length_m=NETWORK.length_m[:3],
        highway=NETWORK.highway[:3],
        successors=Csr(offsets_of(np.array([1, 1, 0])), np.array([1, 2])),
    )
    trips = sampler(network=line, tokens=CELLS[:3], seed=0).sample(0, 500)
    assert {tuple(trips.road_ids[a:b]) for a, b in zip(trips.offsets[:-1], trips.offsets[1:], strict=True)} == {
        (0, 1),
        (0, 1, 2),
        (1, 2),
    }


def test_histories_beyond_the_context_are_its_window():
    """The context holds fewer tokens than the trips have; the sample equals that with the window of that size."""
    short = teacher_with(block_size=6)
    full, window = (sampler(short, window=window, max_steps=30, seed=1).sample(0, 200) for window in ("full", 6))
    np.testing.assert_array_equal(full.road_ids, window.road_ids)
    assert full.lengths.max() > 6


@pytest.mark.parametrize(
    ("options", "message"),
    [({"temperature": 0}, "temperature is 0"), ({"max_steps": 1}, "max_steps is 1"), ({"window": 0}, "window is 0")],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sampler(**options)


def test_random_numbers_are_uniform_and_depend_on_all_their_parts():
    numbers = uniform(0, np.arange(100_000), 3)
    assert ((numbers >= 0) & (numbers < 1)).all()
    assert chisquare(np.histogram(numbers, 50, (0, 1))[0]).pvalue > 1e-4
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.02
    for seed, step in ((1, 3), (0, 4)):
        other = uniform(seed, np.arange(100_000), step)
        assert abs(np.corrcoef(numbers, other)[0, 1]) < 0.02
