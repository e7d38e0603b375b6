"""Map matching: the driven roads are found again, paths stay in the network, and times never decrease."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_city import grid_network, random_trips
from small_graphs import network_of, networks

from hoser_kd.common.arrays import row_of_value
from hoser_kd.config.matching import MatchingSettings
from hoser_kd.network.matching import match_trips, matcher, street_graph
from hoser_kd.network.matching._kernels import entry_of, find_list, new_reach
from hoser_kd.network.matching.known_truth import agreement, drive
from hoser_kd.network.road_network import read_network
from hoser_kd.network.shortest_paths import costs_to_go
from hoser_kd.network.trajectories import read_trips

GRID = grid_network()
"""Streets of 222 m and 168 m; u-turns are not connected."""


def check_pieces(matched, network, t, offsets):
    """The promises of `MatchedTrips`."""
    trips = matched.trips
    at, _ = trips.step_positions()
    assert (network.candidate_index(trips.road_ids[at], trips.road_ids[at + 1]) >= 0).all()
    assert (np.diff(trips.times)[at] >= 0).all()
    assert trips.times.dtype == np.int64
    assert (trips.lengths >= 2).all()
    assert (trips.start_times >= np.rint(t[matched.first_point])).all()
    assert (np.diff(matched.first_point) > 0).all()
    assert (row_of_value(offsets)[matched.first_point] == matched.input_trip).all()
    assert (np.isnan(matched.point_distance_m) == (matched.point_road < 0)).all()
    assert matched.counts.keys() == matcher.REASONS.keys()


@given(st.integers(0, 10_000))
@settings(max_examples=25)
def test_without_noise_the_driven_roads_are_found_with_their_times(seed):
    trips = random_trips(GRID, 5, seed)
    points = drive(trips, GRID, every_s=5, noise_m=0)
    matched = match_trips(*points, GRID, MatchingSettings())
    check_pieces(matched, GRID, points.t, points.offsets)
    assert (matched.trips.offsets == trips.offsets).all()
    assert (matched.trips.road_ids == trips.road_ids).all()
    assert np.abs(matched.trips.times - trips.times).max() <= 5
    assert matched.point_distance_m.max() < 0.1
    assert matched.counts == dict.fromkeys(matcher.REASONS, 0)


@given(networks(), st.integers(0, 10_000), st.booleans())
@settings(max_examples=60)
def test_paths_are_connected_and_times_never_decrease_on_any_network(network, seed, as_mapped):
    rng = np.random.default_rng(seed)
    offsets = np.array([0, 0, 12, 13, 30])
    base = network.coords[rng.integers(0, len(network.coords), 30)]
    lon, lat = (base + rng.normal(0, 2e-4, base.shape)).T
    t = np.concatenate([np.sort(rng.integers(0, 400, n)) for n in np.diff(offsets)]) + 1_372_636_800.5
    config = MatchingSettings(max_speed_m_s=500, max_detour_m=9000, u_turns="as_mapped" if as_mapped else "dead_ends")
    check_pieces(match_trips(offsets, t, lon, lat, network, config), network, t, offsets)


@given(st.integers(0, 10_000))
@settings(max_examples=15)
def test_noise_of_15_m_at_15_s_loses_little(seed):
    trips = random_trips(GRID, 20, seed, lengths=(8, 20))
    points = drive(trips, GRID, every_s=15, noise_m=15, seed=seed)
    matched = match_trips(*points, GRID, MatchingSettings())
    check_pieces(matched, GRID, points.t, points.offsets)
    result = agreement(matched.trips, matched.input_trip, trips, GRID)
    assert result.recall > 0.93
    assert result.precision > 0.93


def test_a_real_city_is_matched_as_well_as_promised(porto):

    network = read_network(porto)
    trips = read_trips(porto / "val.csv", network)
    points = drive(trips, network, every_s=15, noise_m=15)
    matched = match_trips(*points, network, MatchingSettings())
    result = agreement(matched.trips, matched.input_trip, trips, network)
    assert result.recall >= 0.96
    assert result.precision >= 0.95


def test_results_do_not_depend_on_processes_and_chunks(monkeypatch):
    points = drive(random_trips(GRID, 12), GRID, every_s=15, noise_m=10)
    whole = match_trips(*points, GRID, MatchingSettings())
    monkeypatch.setattr(matcher, "POINTS_PER_CHUNK", 40)
    calls = []
    report = lambda stage, done, total, metrics=None: calls.append((stage, done, total))  # noqa: E731
    for processes in (1, 2):
        parts = match_trips(*points, GRID, MatchingSettings(), processes=processes, progress=report)
        assert calls[-1] == ("match trips", 12, 12)
        assert len(calls) > 3
        for name in ("offsets", "road_ids", "times"):
            assert np.array_equal(getattr(parts.trips, name), getattr(whole.trips, name))
        for name in ("input_trip", "first_point", "point_road", "point_distance_m"):
            assert np.array_equal(getattr(parts, name), getattr(whole, name), equal_nan=name == "point_distance_m")
        assert parts.counts == whole.counts


def test_a_trip_is_split_at_a_gap_and_where_no_path_leads_on():
    trips = random_trips(GRID, 1, 3, lengths=(20, 20))
    points = drive(trips, GRID, every_s=5, noise_m=0)
    late = points.t.copy()
    late[30:] += 1000
    matched = match_trips(points.offsets, late, points.lon, points.lat, GRID, MatchingSettings())
    assert matched.counts["splits_at_gaps"] == 1
    assert matched.input_trip.tolist() == [0, 0]
    assert matched.first_point.tolist() == [0, 30]
    far = points.lon.copy()
    far[30:] += np.where(far[30:] < -8.655, 0.006, -0.006)  # 500 m in 5 s
    matched = match_trips(points.offsets, points.t, far, points.lat, GRID, MatchingSettings())
    assert matched.counts["splits_without_path"] >= 1


def test_points_away_from_all_roads_or_not_finite_are_left_out_and_counted():
    trips = random_trips(GRID, 1, 3, lengths=(20, 20))
    points = drive(trips, GRID, every_s=5, noise_m=0)
    lon, lat = points.lon.copy(), points.lat.copy()
    lon[7], lat[8], lon[20] = np.nan, np.inf, 8.0
    matched = match_trips(points.offsets, points.t, lon, lat, GRID, MatchingSettings())
    assert np.flatnonzero(matched.point_road < 0).tolist() == [7, 8, 20]
    assert matched.counts["points_off_road"] == 3
    assert (matched.trips.road_ids == trips.road_ids).all()
    nowhere = match_trips(points.offsets, points.t, lon + 1, lat, GRID, MatchingSettings())
    assert len(nowhere.trips) == 0
    assert nowhere.counts["unmatched_trips"] == 1


def street(u_turns_at=()):
    """Three two-way pieces of a straight street, 0→1→2 east and 3→4→5 back, with u-turns after the given roads."""
    network = network_of([[1], [2], [], [4], [5], []])
    back = {0: 5, 1: 4, 2: 3}
    successors = [[1], [2], [], [4], [5], []]
    for road in u_turns_at:
        successors[road].append(back[road])
    network = network_of(successors, lengths=[100.0] * 6)
    x = np.array([[0, 1], [1, 2], [2, 3], [3, 2], [2, 1], [1, 0]]).ravel() * 0.002 - 8.6
    network.coords[:] = np.column_stack([x, np.full(12, 41.1)])
    return network


@pytest.mark.parametrize(
    ("u_turns_at", "u_turns", "roads"),
    [
        ([1], "as_mapped", [0, 1, 4, 5]),
        ([1, 2], "dead_ends", [0, 1, 2, 3, 4, 5]),  # only the dead end permits a turn
        ([2], "dead_ends", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_u_turns_are_driven_where_the_setting_permits_them(u_turns_at, u_turns, roads):
    network = street(u_turns_at)
    x = np.array([0.2, 0.8, 1.5, 1.9, 1.9, 1.5, 0.8, 0.2]) * 0.002 - 8.6
    y = np.full(8, 41.1)
    config = MatchingSettings(u_turns=u_turns, backward_m=10)
    matched = match_trips(np.array([0, 8]), np.arange(8) * 30.0, x, y, network, config)
    assert matched.trips.road_ids.tolist() == roads


def test_times_are_interpolated_along_the_path():
    network = street()
    x = np.array([0.5, 2.5]) * 0.002 - 8.6  # half of road 0, all of road 1, half of road 2
    matched = match_trips(np.array([0, 2]), np.array([100.0, 140.0]), x, np.full(2, 41.1), network, MatchingSettings())
    assert matched.trips.road_ids.tolist() == [0, 1, 2]
    assert matched.trips.times.tolist() == [100, 110, 130]


@given(networks(), st.floats(0, 3000))
@settings(max_examples=60)
def test_kept_paths_are_shortest_also_when_the_pool_is_emptied(network, limit):
    graph = street_graph.build(network, 50.0, u_turns=True)
    reach = new_reach(graph, 1)
    size = network.num_roads
    reach = reach._replace(road=reach.road[:size], away_m=reach.away_m[:size], previous=reach.previous[:size])
    origins = np.repeat(np.arange(size), np.diff(graph.indptr))
    for source in range(size):
        find_list(graph, reach, source, limit)
        target = np.arange(size)
        onward = graph.indices[graph.indptr[source] : graph.indptr[source + 1]]
        best = np.full(size, np.inf)
        for first in onward:
            cost = costs_to_go(network, graph.length_m[origins], np.full(size, first), target)
            best = np.minimum(best, cost)
        for road in range(size):
            entry = entry_of(reach, source, road)
            if best[road] <= limit:
                assert reach.away_m[entry] == pytest.approx(best[road])
            assert entry < 0 or reach.away_m[entry] == pytest.approx(best[road])


def test_wrong_arrays_are_refused():
    points = drive(random_trips(GRID, 2), GRID, every_s=15, noise_m=0)
    with pytest.raises(ValueError, match="offsets must run from 0"):
        match_trips(points.offsets[:-1], *points[1:], GRID, MatchingSettings())
    with pytest.raises(ValueError, match="point 1 is earlier"):
        match_trips(points.offsets, -points.t, points.lon, points.lat, GRID, MatchingSettings())


def test_driven_points_keep_to_their_trip_and_its_times():
    trips = random_trips(GRID, 6, 2)
    points = drive(trips, GRID, every_s=7, noise_m=0)
    for first, end in pairwise(points.offsets):
        steps = np.diff(points.t[first:end])
        assert (steps[:-1] == 7).all()
        assert 0 < steps[-1] <= 7
    assert (points.t[points.offsets[:-1]] == trips.start_times).all()
    assert np.allclose(points.lon[points.offsets[1:] - 1], GRID.end[trips.destinations, 1])
