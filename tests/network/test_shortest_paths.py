"""Batched least-cost paths against relaxation in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_graphs import least_costs, network_of, networks, path_cost

from hoser_kd.network import shortest_paths
from hoser_kd.network.shortest_paths import costs_to_go, least_cost_paths, nearest_reachable

COSTS = st.sampled_from([0.0, 0.25, 1.0, 1.5, 7.0])


@st.composite
def problems(draw):
    network = draw(networks())
    count = len(network.successors.indices)
    costs = np.array(draw(st.lists(COSTS, min_size=count, max_size=count)))
    road = st.integers(0, network.num_roads - 1)
    pairs = np.array(draw(st.lists(st.tuples(road, road), max_size=12)), np.int64).reshape(-1, 2)
    return network, costs, pairs[:, 0], pairs[:, 1]


@given(problems())
def test_paths_have_the_least_cost_and_stay_on_the_network(problem):
    network, costs, origins, destinations = problem
    best = least_costs(network, costs)
    paths = least_cost_paths(network, costs, origins, destinations)
    assert paths.offsets[-1] == len(paths.road_ids)
    for k, (origin, destination) in enumerate(zip(origins.tolist(), destinations.tolist(), strict=True)):
        roads = paths.road_ids[paths.offsets[k] : paths.offsets[k + 1]].tolist()
        assert paths.cost[k] == best[origin][destination]
        assert roads[0] == origin
        if math.isinf(paths.cost[k]):
            assert roads == [origin]
        else:
            assert roads[-1] == destination
            assert path_cost(network, costs, roads) == pytest.approx(best[origin][destination])
            assert len(set(roads)) == len(roads)


@given(problems(), st.integers(1, 500))
def test_the_memory_limit_changes_nothing(problem, memory_bytes):
    for a, b in zip(least_cost_paths(*problem), least_cost_paths(*problem, memory_bytes), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_memory_limit_bounds_the_searches_of_a_chunk(monkeypatch):
    network = network_of([[1], [2], [3], [0]])
    sizes = []
    search = shortest_paths.dijkstra
    monkeypatch.setattr(
        shortest_paths,
        "dijkstra",
        lambda graph, indices, **more: (sizes.append(len(indices)), search(graph, indices=indices, **more))[1],
    )
    least_cost_paths(network, np.ones(4), np.arange(4), np.array([1, 2, 3, 0]), memory_bytes=3 * 12 * 4)
    assert sizes == [3, 1]


@pytest.mark.parametrize("swap", [False, True])
def test_the_side_with_fewer_distinct_roads_is_searched_from(monkeypatch, swap):
    network = network_of([[1, 2], [0, 2], [0, 1]])
    counts = []
    search = shortest_paths.dijkstra
    monkeypatch.setattr(
        shortest_paths,
        "dijkstra",
        lambda graph, indices, **more: (counts.append(len(indices)), search(graph, indices=indices, **more))[1],
    )
    pair = [np.array([0, 0, 0]), np.array([0, 1, 2])]
    least_cost_paths(network, np.ones(6), *(pair[::-1] if swap else pair))
    assert counts == [1]


@given(problems())
def test_costs_to_go(problem):
    network, costs, roads, destinations = problem
    best = least_costs(network, costs)
    expected = [best[a][b] for a, b in zip(roads.tolist(), destinations.tolist(), strict=True)]
    np.testing.assert_array_equal(costs_to_go(network, costs, roads, destinations, memory_bytes=1), expected)


def test_a_connection_that_costs_nothing_exists():
    network = network_of([[1], [2], []])
    paths = least_cost_paths(network, np.zeros(2), np.array([0]), np.array([2]))
    assert paths.road_ids.tolist() == [0, 1, 2]
    assert paths.cost.tolist() == [0.0]


@given(problems())
def test_nearest_reachable_road(problem):
    network, costs, origins, destinations = problem
    best = least_costs(network, costs)
    place = network.centroids
    nearest = nearest_reachable(network, origins, destinations)
    for origin, goal, road in zip(origins.tolist(), destinations.tolist(), nearest.tolist(), strict=True):
        reachable = [b for b in range(network.num_roads) if math.isfinite(best[origin][b])]
        assert road in reachable
        # within a few kilometers, planar distances rank nearly as great circles do
        planar = {
            b: math.hypot(place[b, 0] - place[goal, 0], 0.7536 * (place[b, 1] - place[goal, 1])) for b in reachable
        }
        assert planar[road] <= min(planar.values()) * 1.001
        assert road == goal or goal not in reachable


@pytest.mark.parametrize(
    ("costs", "problem"), [([1.0], "costs for 2 connections"), ([1, -1], "negative"), ([1, math.nan], "NaN")]
)
def test_unusable_costs_are_refused(costs, problem):
    with pytest.raises(ValueError, match=problem):
        least_cost_paths(network_of([[1], [0]]), np.array(costs, float), np.array([0]), np.array([1]))
