"""Markov chains over roads against counting in plain Python."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_graphs import edges, least_costs, network_of, networks, walks

from hoser_kd.network.markov import MarkovChain, destination_aware_log_probabilities, step_connections
from hoser_kd.network.trajectories import Trajectories

SMOOTHINGS = st.sampled_from([0.1, 1.0, 3.0])


@st.composite
def cities(draw):
    network = draw(networks())
    return network, draw(walks(network)), draw(walks(network))


def lists(trips):
    return [trips.roads(i).tolist() for i in range(len(trips))]


def first_order(network, train, smoothing):
    """Probability of b after a, by (a, b)."""
    count = Counter(step for trip in lists(train) for step in pairwise(trip))
    probability = {}
    for a in range(network.num_roads):
        row = network.successors.row(a).tolist()
        total = sum(count[a, b] + smoothing for b in row)
        probability |= {(a, b): (count[a, b] + smoothing) / total for b in row}
    return probability


def second_order(network, train, smoothing, backoff):
    """Probability of c after a and b, by a function of (a, b, c); a is None at the start of a trip."""
    first = first_order(network, train, smoothing)
    triples = Counter(t for trip in lists(train) for t in zip(trip, trip[1:], trip[2:], strict=False))
    context = Counter()
    for (a, b, _), count in triples.items():
        context[a, b] += count

    def probability(a, b, c):
        seen = context[a, b]
        if a is None or seen == 0:
            return first[b, c]
        weight = seen / (seen + backoff)
        return weight * triples[a, b, c] / seen + (1 - weight) * first[b, c]

    return probability


@given(cities(), SMOOTHINGS)
def test_order_1(city, smoothing):
    network, train, _ = city
    chain = MarkovChain.fit(train, network, smoothing)
    expected = first_order(network, train, smoothing)
    assert chain.order == 1
    np.testing.assert_allclose(np.exp(chain.log_probabilities), [expected[edge] for edge in edges(network)])
    assert (chain.costs >= 0).all()


@given(cities(), SMOOTHINGS, st.sampled_from([0.3, 10.0]))
def test_order_2(city, smoothing, backoff):
    network, train, trips = city
    chain = MarkovChain.fit(train, network, smoothing, order=2, backoff=backoff)
    probability = second_order(network, train, smoothing, backoff)
    expected, nll = [], []
    for trip in lists(trips):
        for a, b, c in zip([None, *trip], trip, trip[1:], strict=False):
            expected.append([probability(a, b, r) for r in network.successors.row(b).tolist()])
            nll.append(-math.log(probability(a, b, c)))
    offsets, log_p = chain.step_log_probabilities(trips)
    assert chain.order == 2
    np.testing.assert_array_equal(np.diff(offsets), [len(row) for row in expected])
    np.testing.assert_allclose(np.exp(log_p), [p for row in expected for p in row])
    if nll:
        assert chain.nll(trips) == pytest.approx(np.mean(nll), abs=1e-12)


@given(cities(), st.sampled_from([1, 2]))
def test_tuning_takes_the_least_nll_on_validation(city, order):
    network, train, val = city
    if val.num_steps == 0:
        with pytest.raises(ValueError, match="no step"):
            MarkovChain.tune(train, val, network, order)
        return
    grid, backoffs = (0.1, 1.0, 10.0), (0.3, 3.0)
    chain = MarkovChain.tune(train, val, network, order, grid, backoffs)
    best = min(MarkovChain.fit(train, network, a, order, b).nll(val) for a in grid for b in backoffs)
    assert chain.order == order
    assert chain.nll(val) == best


def test_order_2_sees_the_previous_road():
    # whoever comes from 0 turns to 3, whoever comes from 1 to 4
    network = network_of([[2], [2], [3, 4], [], []])
    train = Trajectories(np.arange(0, 63, 3), np.tile([0, 2, 3, 1, 2, 4], 10), np.zeros(60, np.int64))
    chain = MarkovChain.fit(train, network, order=2, backoff=1.0)
    offsets, log_p = chain.step_log_probabilities(train)
    at_fork = np.exp(log_p).reshape(20, 3)[:, 1:]
    np.testing.assert_allclose(at_fork[::2], [[10.5 / 11, 0.5 / 11]] * 10)
    np.testing.assert_allclose(at_fork[1::2], [[0.5 / 11, 10.5 / 11]] * 10)
    assert offsets[-1] == 60


def test_steps_of_different_trips_are_not_consecutive():
    network = network_of([[0, 1], [0, 1]])
    trips = Trajectories(np.array([0, 3, 4, 6]), np.array([0, 1, 1, 0, 1, 0]), np.zeros(6, np.int64))
    steps = step_connections(trips, network)
    assert steps.taken.tolist() == [1, 3, 2]
    assert steps.previous.tolist() == [-1, 1, -1]


@pytest.mark.parametrize(("name", "value"), [("smoothing", 0.0), ("backoff", -1.0), ("smoothing", math.nan)])
def test_weights_must_be_positive(name, value):
    network = network_of([[1], [0]])
    with pytest.raises(ValueError, match=f"{name} must be positive"):
        MarkovChain.fit(Trajectories(np.array([0, 1]), np.array([0]), np.array([0])), network, **{name: value})


def test_other_orders_are_refused():
    network = network_of([[1], [0]])
    with pytest.raises(ValueError, match="order is 1 or 2, not 3"):
        MarkovChain.fit(Trajectories(np.array([0, 1]), np.array([0]), np.array([0])), network, order=3)


@given(cities(), SMOOTHINGS, st.data())
def test_destination_aware_probabilities(city, smoothing, data):
    network, train, _ = city
    chain = MarkovChain.fit(train, network, smoothing)
    road = st.integers(0, network.num_roads - 1)
    pairs = np.array(data.draw(st.lists(st.tuples(road, road), max_size=10)), np.int64).reshape(-1, 2)
    probability = first_order(network, train, smoothing)
    best = least_costs(network, [-math.log(probability[edge]) for edge in edges(network)])
    expected = []
    for here, goal in pairs.tolist():
        row = network.successors.row(here).tolist()
        weight = [probability[here, r] * math.exp(-best[r][goal]) for r in row]
        if sum(weight) == 0:
            weight = [probability[here, r] for r in row]
        expected += [w / sum(weight) for w in weight]
    offsets, log_p = destination_aware_log_probabilities(chain, pairs[:, 0], pairs[:, 1], memory_bytes=1)
    np.testing.assert_array_equal(np.diff(offsets), network.successors.degrees[pairs[:, 0]])
    np.testing.assert_allclose(np.exp(log_p), expected, atol=1e-12)


def test_destination_aware_probabilities_lead_to_the_destination():
    # 0 leads to 1 or to the dead end 2; only 1 reaches 3, however often training trips end in 2
    network = network_of([[1, 2], [3], [], []])
    train = Trajectories(np.arange(0, 22, 2), np.tile([0, 2], 10), np.zeros(20, np.int64))
    chain = MarkovChain.fit(train, network)
    _, log_p = destination_aware_log_probabilities(chain, np.array([0, 0]), np.array([3, 0]))
    assert log_p[:2].tolist() == [0.0, -math.inf]
    np.testing.assert_allclose(np.exp(log_p[2:]), [1 / 12, 11 / 12])  # 0 cannot be reached again: the chain's own
