"""Division of matched trips: by whole days or at random, pieces of a trip together, copies across splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hoser_kd.common.errors import ConfigError, DataError
from hoser_kd.config.raw_data import SplitConfig
from hoser_kd.network.splits import copies_of_earlier_splits, split_pieces
from hoser_kd.network.trajectories import Trajectories

DAY = 86_400
PLACE = Path("matched_trips")


def test_whole_days_are_divided_in_order():
    trip = np.arange(100)
    start = np.repeat(np.arange(10), 10) * DAY + 70_000
    split = split_pieces(trip, start, SplitConfig(shares=(0.6, 0.2, 0.2)), PLACE)
    assert split.tolist() == [0] * 60 + [1] * 20 + [2] * 20


@pytest.mark.parametrize("shares", [(0.7, 0.1, 0.2), (0.9, 0.05, 0.05), (0.1, 0.1, 0.8)])
@pytest.mark.parametrize("counts", [(1, 1, 1), (50, 1, 1, 50), (5, 9, 2, 30, 1, 1)])
def test_every_split_has_a_day_and_no_day_two_splits(shares, counts):
    day = np.repeat(np.arange(len(counts)), counts)
    split = split_pieces(np.arange(len(day)), day * DAY, SplitConfig(shares=shares), PLACE)
    assert np.unique(split).tolist() == [0, 1, 2]
    assert (np.diff(split) >= 0).all()
    assert all(len(np.unique(split[day == each])) == 1 for each in range(len(counts)))


@pytest.mark.parametrize("by", ["date", "trip"])
def test_the_pieces_of_a_trip_stay_together(by):
    trip = np.repeat(np.arange(40), 3)
    start = np.repeat(np.arange(40) * DAY // 4, 3)
    split = split_pieces(trip, start, SplitConfig(by=by), PLACE).reshape(-1, 3)
    assert (split == split[:, :1]).all()


def test_at_random_the_shares_are_met_and_the_seed_decides():
    trip = np.arange(1000)

    def split(seed):
        return split_pieces(trip, np.zeros(1000, np.int64), SplitConfig(by="trip", seed=seed), PLACE)

    assert np.bincount(split(0)).tolist() == [700, 100, 200]
    assert (split(0) == split(0)).all()
    assert (split(0) != split(1)).any()


def test_an_empty_split_is_refused_with_the_fix():
    with pytest.raises(DataError, match=r"no trips for val, test: 9 trips, split by date.*source\.split\.by: trip"):
        split_pieces(np.arange(9), np.repeat([0, DAY], [5, 4]), SplitConfig(), PLACE)
    with pytest.raises(ConfigError, match="three positive numbers with sum 1"):
        SplitConfig(shares=(0.5, 0.1, 0.2))


def test_copies_equal_in_roads_and_times_and_are_those_of_the_later_split():
    roads = [[1, 2, 3], [1, 2, 3], [2, 1, 3], [1, 2, 3], [4, 5], [1, 2, 3]]
    times = [[10, 20, 30], [10, 20, 30], [10, 20, 30], [10, 20, 31], [10, 20], [10, 20, 30]]
    offsets = np.cumsum([0, *map(len, roads)])
    trips = Trajectories(offsets, np.concatenate(roads), np.concatenate(times))
    copies = copies_of_earlier_splits(trips, np.array([0, 2, 1, 1, 0, 0]))
    assert copies.tolist() == [False, True, False, False, False, False]
