"""Mean speeds by class and hour, with their fallbacks, and entry times."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_graphs import network_of, networks, walks

from hoser_kd.common.arrays import offsets_of
from hoser_kd.network.class_speeds import FALLBACK_M_PER_S, LEAST_STEPS, ClassSpeeds, entry_times, hour_of_day
from hoser_kd.network.trajectories import Trajectories

NETWORK = network_of([[1], [0]], lengths=[100.0, 30.0])  # road 0 is primary, road 1 residential


def shuttle(num_steps: int, seconds: tuple[int, int], start: int = 0) -> Trajectories:
    """A trip that alternates between roads 0 and 1 and takes `seconds` along them."""
    roads = np.arange(num_steps + 1) % 2
    times = start + np.concatenate([[0], np.cumsum([seconds[road] for road in roads[:-1]])])
    return Trajectories(np.array([0, num_steps + 1]), roads.astype(np.int64), times.astype(np.int64))


def join(*trips: Trajectories) -> Trajectories:
    offsets = offsets_of(np.concatenate([trip.lengths for trip in trips]))
    return Trajectories(
        offsets, np.concatenate([trip.road_ids for trip in trips]), np.concatenate([trip.times for trip in trips])
    )


def test_speeds_by_class_and_hour():
    steps = 2 * LEAST_STEPS
    morning = shuttle(steps, (10, 10), start=7 * 3600)
    evening = shuttle(steps, (20, 10), start=18 * 3600 + 86_400)
    speeds = ClassSpeeds.fit(join(morning, evening), NETWORK)
    np.testing.assert_allclose(speeds.by_hour[7], [10.0, 3.0])
    np.testing.assert_allclose(speeds.by_hour[18], [5.0, 3.0])
    np.testing.assert_allclose(speeds.by_class, [200 / 30, 3.0])
    np.testing.assert_allclose(speeds.by_hour[3], speeds.by_class)  # no step in this hour
    np.testing.assert_allclose(speeds.road_seconds(NETWORK, 18), [20.0, 10.0])
    np.testing.assert_allclose(speeds.road_seconds(NETWORK), [15.0, 10.0])


def test_few_steps_use_the_coarser_mean():
    steps = 2 * LEAST_STEPS - 1  # 30 steps leave road 0, 29 road 1
    speeds = ClassSpeeds.fit(shuttle(steps, (10, 10)), NETWORK)
    overall = (LEAST_STEPS * 100 + (LEAST_STEPS - 1) * 30) / (10 * steps)
    np.testing.assert_allclose(speeds.by_class, [10.0, overall])


@pytest.mark.parametrize("trips", [shuttle(0, (1, 1)), shuttle(200, (0, 0))])
def test_trips_without_any_duration_use_the_fixed_speed(trips):
    speeds = ClassSpeeds.fit(trips, NETWORK)
    np.testing.assert_allclose(speeds.by_class, FALLBACK_M_PER_S)
    np.testing.assert_allclose(speeds.by_hour, FALLBACK_M_PER_S)


@given(st.data())
def test_speeds_are_positive_and_finite(data):
    network = data.draw(networks())
    speeds = ClassSpeeds.fit(data.draw(walks(network)), network)
    for values in (speeds.by_class, speeds.by_hour):
        assert np.isfinite(values).all()
        assert (values > 0).all()


def test_hour_of_day():
    assert hour_of_day(np.array([0, 3599, 3600, 86_399, 86_400, 10 * 86_400 + 7 * 3600])).tolist() == [
        0,
        0,
        1,
        23,
        0,
        7,
    ]


def test_a_road_is_entered_when_the_one_before_is_left():
    times = entry_times(np.array([0, 3, 4]), np.array([1.4, 1.4, 99.0, 5.0]), np.array([100, 50]))
    assert times.tolist() == [100, 101, 103, 50]


@given(st.lists(st.lists(st.floats(0, 1000), min_size=1, max_size=5), min_size=1, max_size=5), st.integers(0, 2**40))
def test_entry_times_do_not_depend_on_other_trips(trips, start):
    offsets = offsets_of(np.array([len(trip) for trip in trips]))
    times = entry_times(offsets, np.concatenate(trips), np.full(len(trips), start))
    for i, trip in enumerate(trips):
        own = entry_times(np.array([0, len(trip)]), np.array(trip), np.array([start]))
        np.testing.assert_array_equal(times[offsets[i] : offsets[i + 1]], own)
        assert own[0] == start
        assert (np.diff(own) >= 0).all()
        expected = start + np.concatenate([[0], np.cumsum(trip)[:-1]])
        assert np.abs(own - expected).max() <= 0.5 + 0.001 * len(trip)
