"""The trees that searches expand: the nodes of a plain search of one trip, and random paths of them."""

from __future__ import annotations

import numpy as np
import pytest
from small_city import grid_network, random_trips
from test_generator import make_model, search_one

from hoser_kd.generation import search_trees as module
from hoser_kd.generation.generator import generate
from hoser_kd.generation.search_trees import SearchTrees, random_paths, search_trees
from hoser_kd.generation.student_trips import sample_trips
from hoser_kd.network.trajectories import Trajectories


@pytest.fixture(scope="module")
def city():
    network = grid_network(5, 5)
    trips = random_trips(network, 6, seed=1)
    return network, make_model(network), trips


def nodes_of(trees, row):
    return np.flatnonzero(trees.request == row)


def test_nodes_are_those_that_the_search_expands(city):
    """Their number is that of the published search, in its order; parents come before their children."""
    network, model, trips = city
    trees = search_trees(model, trips, max_steps=7)
    for row in range(4):
        request = trips.origins[row], trips.start_times[row], trips.destinations[row]
        expanded = search_one(model, network, *map(int, request), 7)[3]
        nodes = nodes_of(trees, row)
        assert len(nodes) == expanded
        assert len(set(trees.road[nodes].tolist())) == len(nodes)
        for node in nodes.tolist():
            parent = int(trees.parent[node])
            if parent < 0:
                assert (trees.road[node], trees.time[node]) == request[:2]
                continue
            assert nodes[0] <= parent < node
            assert trees.road[node] in network.successors.row(int(trees.road[parent]))
            assert trees.time[node] >= trees.time[parent]
        assert all(
            successor in network.successors.row(road)
            for road, successor in zip(trees.road[nodes], trees.successor[nodes], strict=True)
        )


def test_the_result_does_not_depend_on_the_number_of_active_trips(city, monkeypatch):
    """With fewer places, slots of finished trips are used again."""
    _, model, trips = city
    whole = search_trees(model, trips)
    monkeypatch.setattr(module, "generate", lambda *args, **more: generate(*args, **more, concurrent=2))
    for one, other in zip(whole, search_trees(model, trips), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_higher_temperature_expands_other_nodes(city):
    _, model, trips = city
    cold, hot = (search_trees(model, trips, temperature=value, max_steps=8) for value in (0.05, 20.0))
    assert set(zip(cold.request, cold.road, strict=True)) != set(zip(hot.request, hot.road, strict=True))


def test_paths_lead_from_the_origin_to_a_leaf_and_one_road_further(city):
    network, model, trips = city
    trees = search_trees(model, trips, max_steps=30)
    paths = random_paths(trees, trips, seed=0)
    np.testing.assert_array_equal(paths.origins, trips.origins)
    np.testing.assert_array_equal(paths.start_times, trips.start_times)
    at, _ = paths.step_positions()
    assert (network.candidate_index(paths.road_ids[at], paths.road_ids[at + 1]) >= 0).all()
    assert (np.diff(paths.times)[at] >= 0).all()
    inner = set(trees.parent[trees.parent >= 0].tolist())
    for row in range(len(trips)):
        nodes = nodes_of(trees, row)
        roads = paths.roads(row)[:-1].tolist()
        if trips.origins[row] == trips.destinations[row]:
            assert not len(nodes)
            assert roads == []
            continue
        node = nodes[trees.road[nodes] == roads[-1]][0]
        assert node not in inner
        walked = []
        while node >= 0:
            walked.append(int(trees.road[node]))
            node = trees.parent[node]
        assert walked[::-1] == roads


def test_every_leaf_is_equally_probable():
    """An origin 0 with the leaves 1, 2 and, by 3, 4; a request without a node; one with a leaf without a successor."""
    trees = SearchTrees(
        request=np.array([0, 0, 0, 0, 0, 2]),
        road=np.array([0, 1, 2, 3, 4, 7]),
        time=np.array([0, 10, 20, 30, 40, 5]),
        parent=np.array([-1, 0, 0, 0, 3, -1]),
        successor=np.array([1, 9, 9, 4, 9, -1]),
    )
    requests = Trajectories(np.arange(4), np.array([0, 6, 7]), np.array([0, 3, 5]))
    drawn = [random_paths(trees, requests, seed) for seed in range(300)]
    found = [tuple(path.roads(0).tolist()) for path in drawn]
    shares = {path: found.count(path) / 300 for path in set(found)}
    assert set(shares) == {(0, 1, 9), (0, 2, 9), (0, 3, 4, 9)}
    assert all(share == pytest.approx(1 / 3, abs=0.1) for share in shares.values())
    assert all(path.roads(1).tolist() == [6] and path.roads(2).tolist() == [7] for path in drawn)
    longest = drawn[found.index((0, 3, 4, 9))]
    assert longest.times.tolist() == [0, 30, 40, 40, 3, 5]


def test_the_sampler_of_off_path_distillation_returns_these_paths(city):
    _, model, trips = city
    stages = []
    paths = sample_trips(
        model,
        trips,
        states="expanded",
        temperature=2.0,
        seed=4,
        max_steps=30,
        progress=lambda name, *_: stages.append(name),
    )
    expected = random_paths(search_trees(model, trips, temperature=2.0, max_steps=30), trips, 4)
    np.testing.assert_array_equal(paths.road_ids, expected.road_ids)
    assert set(stages) == {"sampling off-path trips"}
