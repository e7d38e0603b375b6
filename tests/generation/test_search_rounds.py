"""The compiled search of many trips gives the trips of the search objects, plain, guided and finishing."""

from __future__ import annotations

import numpy as np
import pytest
from small_city import grid_network, random_trips
from test_prior import assert_equal, make_model

from hoser_kd.generation import generator
from hoser_kd.generation.generator import generate
from hoser_kd.generation.prior import Prior
from hoser_kd.generation.search_rounds import SearchTrips
from hoser_kd.hoser.incremental import PathTree

NETWORK = grid_network(5)
WEIGHTS = {
    "published": None,
    "guided": {"markov_weight": 0.5},
    "finish only": {"markov_weight": 0.0, "temperature": 2.0},
}


@pytest.fixture(scope="module")
def model():
    return make_model(NETWORK)


@pytest.mark.parametrize("max_steps", [7, 5000])
@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_trips_equal_those_of_the_search_objects(model, monkeypatch, weights, max_steps):
    rng = np.random.default_rng(5)
    origins, destinations = rng.integers(0, NETWORK.num_roads, (2, 12))
    requests = origins, np.arange(12) * 7000, destinations
    prior = None if weights is None else Prior.fit(random_trips(NETWORK, 60), NETWORK, **weights)
    trees = []
    tree = PathTree.__init__
    monkeypatch.setattr(PathTree, "__init__", lambda self, *rest: trees.append(self) or tree(self, *rest))
    trips = generate(model, *requests, max_steps, prior=prior, concurrent=5)
    monkeypatch.setattr(generator, "Search", None)
    expected = generate(model, *requests, max_steps, prior=prior, concurrent=5)
    assert_equal(trips, expected)
    assert [tree.num_nodes for tree in trees] == [0, 0]  # all slots are released


def test_the_published_search_runs_compiled(model, monkeypatch):
    rounds = []
    update = SearchTrips.update

    def watched(self, result):
        rounds.append((len(self), len(self._row)))
        update(self, result)

    monkeypatch.setattr(SearchTrips, "update", watched)
    generate(model, np.arange(4), np.arange(4), np.arange(4) + 9, 6, concurrent=10**9)
    assert rounds[0] == (4, 4)  # no more places than trips
