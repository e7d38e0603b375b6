"""Which test trip a generated trip answers: by row, by requested OD, by its ends, or none."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hoser_kd.evaluation.trip_matching import match_test_trips
from hoser_kd.network.trajectories import Trajectories


def trips(*ods, start=0):
    """Trips of two roads; trip i starts at `start + i`."""
    offsets = np.arange(len(ods) + 1) * 2
    roads = np.array(ods, np.int64).reshape(-1)
    return Trajectories(offsets, roads, start + np.repeat(np.arange(len(ods)), 2))


TEST = trips((0, 5), (1, 6), (0, 5), (2, 7))


def test_the_kth_trip_of_an_od_answers_the_kth_test_trip():
    match = match_test_trips(trips((2, 7), (0, 5), (0, 5), start=50), TEST)
    assert match.test_rows.tolist() == [3, 0, 2]
    assert "All 3 trips are paired with test trips by the first and the last road" in match.message
    assert "they cover 3 of 4 test trips" in match.message


def test_more_trips_than_test_trips_of_an_od_start_again():
    match = match_test_trips(trips(*[(0, 5)] * 5, start=50), TEST)
    assert match.test_rows.tolist() == [0, 2, 0, 2, 0]
    assert "they cover 2 of 4" in match.message


def test_one_other_od_leaves_all_trips_unpaired():
    match = match_test_trips(trips((0, 5), (0, 6), (1, 6), start=50), TEST)
    assert match.test_rows is None
    assert (match.num_matched, match.num_trips) == (2, 3)
    assert match.message.startswith("2 of 3 trips match")
    assert "not paired" in match.message


def test_a_swapped_od_is_another_od():
    assert match_test_trips(trips((5, 0), start=50), TEST).num_matched == 0


def test_trips_that_miss_their_destination_are_paired_by_row():
    match = match_test_trips(trips((0, 5), (1, 9), (0, 4), (2, 7)), TEST)
    assert match.test_rows.tolist() == [0, 1, 2, 3]
    assert "paired by row" in match.message
    later = match_test_trips(trips((0, 5), (1, 9), (0, 4), (2, 7), start=1), TEST)
    assert later.test_rows is None


def test_the_requested_od_counts_where_the_file_has_it():
    missed = trips((0, 9), (2, 8), start=50)
    assert match_test_trips(missed, TEST).num_matched == 0
    match = match_test_trips(missed, TEST, np.array([0, 2]), np.array([5, 7]))
    assert match.test_rows.tolist() == [0, 3]
    assert "the requested origin and destination" in match.message


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=12), st.randoms())
def test_matched_trips_have_the_od_of_their_test_trip_and_none_is_used_twice_without_need(ods, random):
    test = trips(*ods)
    shuffled = random.sample(ods, len(ods))
    match = match_test_trips(trips(*shuffled, start=1000), test)
    assert sorted(match.test_rows.tolist()) == list(range(len(ods)))
    taken = test.take(match.test_rows)
    assert list(zip(taken.origins.tolist(), taken.destinations.tolist(), strict=True)) == shuffled
