"""Trip baselines: least-cost paths of a chain, of lengths and of times, and the nearest training trip."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from small_city import grid_network, random_trips
from small_graphs import edges, least_costs, network_of, networks, path_cost, walks

from hoser_kd.common.errors import ConfigError
from hoser_kd.evaluation.baseline_settings import baseline_settings
from hoser_kd.evaluation.metrics import evaluate
from hoser_kd.generation import retrieval
from hoser_kd.generation.baselines import BASELINES, BaselineSettings, fit_baselines
from hoser_kd.generation.od_pairs import OdPairs
from hoser_kd.generation.retrieval import match_requests
from hoser_kd.network.class_speeds import ClassSpeeds
from hoser_kd.network.markov import MarkovChain
from hoser_kd.network.trajectories import Trajectories

ONE = BaselineSettings(smoothings=(1.0,))


def requests(origins, destinations, start_times=None):
    starts = np.zeros(len(origins)) if start_times is None else start_times
    return OdPairs(*(np.array(column, np.int64) for column in (origins, starts, destinations)), None)


@st.composite
def cities(draw):
    network = draw(networks())
    road = st.integers(0, network.num_roads - 1)
    rows = draw(st.lists(st.tuples(road, road, st.integers(0, 2**31)), max_size=10))
    return network, draw(walks(network)), requests(*np.array(rows, np.int64).reshape(-1, 3).T)


def costs_of(name, network, train, start):
    """Cost of every connection for a request, from the definition of the baseline."""
    if name == "markov":
        return MarkovChain.fit(train, network, 1.0).costs
    if name == "shortest":
        return [network.length_m[a] for a, _ in edges(network)]
    seconds = ClassSpeeds.fit(train, network).road_seconds(network, start // 3600 % 24)
    return [seconds[a] for a, _ in edges(network)]


@pytest.mark.parametrize("name", ["markov", "shortest", "fastest"])
@given(city=cities())
def test_paths_are_optimal(name, city):
    network, train, od = city
    generated = fit_baselines(train, train, network, ONE, [name])[name].generate(od)
    assert len(generated) == len(od)
    for i, (origin, start, goal) in enumerate(zip(od.origins, od.start_times, od.destinations, strict=True)):
        costs = costs_of(name, network, train, int(start))
        best = least_costs(network, costs)[int(origin)]
        roads = generated.roads(i).tolist()
        assert roads[0] == origin
        assert generated.reached[i] == math.isfinite(best[int(goal)]) == (roads[-1] == goal)
        # raises where the path leaves the network; an unreachable destination leads to a road near it
        assert path_cost(network, costs, roads) == pytest.approx(best[roads[-1]], abs=1e-9)


@pytest.mark.parametrize("name", BASELINES.names())
@hypothesis_settings(max_examples=40)
@given(city=cities(), memory_bytes=st.integers(1, 300))
def test_trips_are_well_formed_and_the_memory_limit_changes_nothing(name, city, memory_bytes):
    network, train, od = city
    generated = fit_baselines(train, train, network, ONE, [name])[name].generate(od)
    if len(od):
        np.testing.assert_array_equal(generated.start_times, od.start_times)
        np.testing.assert_array_equal(generated.reached, generated.destinations == od.destinations)
    at, _ = generated.step_positions()
    assert (generated.times[at + 1] >= generated.times[at]).all()
    assert (network.candidate_index(generated.road_ids[at], generated.road_ids[at + 1]) >= 0).all()
    assert generated.expansions.tolist() == [0] * len(od)
    for array in (generated.offsets, generated.road_ids, generated.times):
        assert array.dtype == np.int64
    limited = replace(ONE, memory_bytes=memory_bytes)
    again = fit_baselines(train, train, network, limited, [name])[name].generate(od)
    assert again.to_table().equals(generated.to_table())


def test_times_follow_from_class_speeds():
    network = network_of([[1], [2], []], lengths=[100.0, 30.0, 60.0])
    roads = np.tile([0, 1, 2], 40)
    train = Trajectories(np.arange(0, 123, 3), roads, np.tile([0, 20, 30], 40))
    generated = fit_baselines(train, train, network, ONE, ["markov"])["markov"].generate(requests([0], [2], [1000]))
    assert generated.roads(0).tolist() == [0, 1, 2]
    assert generated.times.tolist() == [1000, 1020, 1030]


def test_the_fastest_path_depends_on_the_hour():
    # 0 leads to 3 by the residential road 1 (100 m) or by the primary road 2 (200 m), slow at 18 h
    network = network_of([[1, 2], [3], [3], []], lengths=[100.0, 100.0, 200.0, 100.0])
    seconds = {7: {0: 10, 1: 40, 2: 20}, 18: {0: 50, 1: 15, 2: 100}}
    times = [
        hour * 3600 + np.cumsum([0, along[0], along[via]]) for hour, along in seconds.items() for via in [1, 2] * 40
    ]
    train = Trajectories(np.arange(0, 481, 3), np.tile([0, 1, 3, 0, 2, 3], 80), np.concatenate(times))
    fastest = fit_baselines(train, train, network, ONE, ["fastest"])["fastest"]
    starts = [18 * 3600, 7 * 3600, 86_400 + 18 * 3600]
    generated = fastest.generate(requests([0, 0, 0], [3, 3, 3], starts))
    assert [generated.roads(i).tolist() for i in range(3)] == [[0, 1, 3], [0, 2, 3], [0, 1, 3]]
    elapsed = generated.times.reshape(3, 3) - np.array(starts)[:, None]
    assert elapsed.tolist() == [[0, 50, 65], [0, 10, 30], [0, 50, 65]]


def test_an_unreachable_destination_gives_the_nearest_reachable_road():
    network = grid_network(3)
    island = replace(
        network,
        coord_offsets=np.append(network.coord_offsets, network.coord_offsets[-1] + 2),
        coords=np.concatenate([network.coords, network.coords[2 * 7 : 2 * 7 + 2] + 1e-5]),
        length_m=np.append(network.length_m, 1.0),
        highway=np.append(network.highway, "primary"),
        successors=network.successors._replace(
            indptr=np.append(network.successors.indptr, network.successors.indptr[-1])
        ),
    )
    trips = random_trips(network, 30)
    markov = fit_baselines(trips, trips, island, ONE, ["markov"])["markov"]
    generated = markov.generate(requests([0, 3], [island.num_roads - 1, 5]))
    assert generated.reached.tolist() == [False, True]
    np.testing.assert_allclose(island.centroids[generated.destinations[0]], island.centroids[7], atol=1e-9)
    assert generated.destinations[1] == 5


# smoothing


def test_the_smoothing_with_the_best_score_is_chosen():
    network = grid_network(5)
    train, val = random_trips(network, 40, 0), random_trips(network, 12, 1)
    settings = baseline_settings(network)
    fitted = fit_baselines(train, val, network, settings, ["markov", "retrieval"])
    od = OdPairs(val.origins, val.start_times, val.destinations, None)
    scores = {}
    for smoothing in settings.smoothings:
        single = fit_baselines(train, val, network, replace(settings, smoothings=(smoothing,)), ["markov"])["markov"]
        scores[smoothing] = evaluate(val, single.generate(od), network, paired=True)["paired"]["edr"]
    assert len(set(scores.values())) > 1
    assert fitted["markov"].summary(od) == {"smoothing": min(scores, key=scores.get)}
    assert fitted["retrieval"].summary(od)["smoothing"] == min(scores, key=scores.get)


def test_the_choice_uses_evenly_spaced_validation_trips():
    network = grid_network(4)
    val = random_trips(network, 9)
    counts = []

    def score(real, generated):
        counts.append((real.origins.tolist(), len(generated)))
        return 0.0

    settings = BaselineSettings(smoothings=(0.5, 2.0), score=score, num_validation_trips=3)
    fitted = BASELINES["markov"].fit(val, val, network, settings)
    assert counts == [(val.origins[[0, 4, 8]].tolist(), 3)] * 2
    assert fitted.summary(requests([], [])) == {"smoothing": 0.5}


@pytest.mark.parametrize("lacking", ["score", "trips"])
def test_a_choice_needs_a_score_and_validation_trips(lacking):
    network = grid_network(4)
    train = random_trips(network, 5)
    settings = BaselineSettings(score=None if lacking == "score" else lambda *_: 0.0)
    val = train.take(np.arange(0)) if lacking == "trips" else train
    with pytest.raises(ValueError, match="a score and validation trips"):
        fit_baselines(train, val, network, settings, ["markov"])


def test_unknown_names_are_refused():
    network = grid_network(4)
    trips = random_trips(network, 5)
    with pytest.raises(ConfigError, match=r"unknown baseline 'markow'.*Did you mean 'markov'"):
        fit_baselines(trips, trips, network, ONE, ["markow"])


# retrieval


def plain_match(od, train, network, cell):
    """The nearest training trip of each request, one pair at a time."""
    lat, lon = np.radians(network.centroids).T

    def meters(a, b):
        h = math.sin((lat[a] - lat[b]) / 2) ** 2
        h += math.cos(lat[a]) * math.cos(lat[b]) * math.sin((lon[a] - lon[b]) / 2) ** 2
        return 2 * 6371008.8 * math.asin(math.sqrt(h))

    rows = []
    for o, s, d in zip(od.origins, od.start_times, od.destinations, strict=True):
        ranked = []
        for row, (a, t, b) in enumerate(zip(train.origins, train.start_times, train.destinations, strict=True)):
            if (cell[o], cell[d]) == (cell[a], cell[b]):
                apart = abs(int(s) - int(t)) % 86_400
                exact = o == a and d == b
                ranked.append((not exact, round(meters(o, a) + meters(d, b), 6), min(apart, 86_400 - apart), row))
        rows.append(min(ranked)[-1] if ranked else -1)
    return rows


@given(city=cities(), num_cells=st.integers(1, 4), chunk=st.sampled_from([1, 3, 1000]))
def test_retrieval_matches_the_nearest_trip(city, num_cells, chunk):
    network, train, od = city
    cell = np.arange(network.num_roads) % num_cells
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "_MOST_CANDIDATES", chunk)
        row, same_od = match_requests(od, train, network, cell)
    assert row.tolist() == plain_match(od, train, network, cell)
    found = row >= 0
    exact = (train.origins[row] == od.origins) & (train.destinations[row] == od.destinations)
    assert same_od.tolist() == (exact & found).astype(int).tolist()


@given(city=cities(), num_cells=st.integers(1, 4))
def test_retrieval_answers_with_real_trips_at_the_requested_time(city, num_cells):
    network, train, od = city
    settings = replace(ONE, od_cell=np.arange(network.num_roads) % num_cells)
    fitted = fit_baselines(train, train, network, settings)
    generated, fallback = (fitted[name].generate(od) for name in ("retrieval", "markov"))
    rows = fitted["retrieval"].match(od).row
    for i, row in enumerate(rows.tolist()):
        times = generated.times[generated.offsets[i] : generated.offsets[i + 1]]
        assert times[0] == od.start_times[i]
        if row >= 0:
            np.testing.assert_array_equal(generated.roads(i), train.roads(row))
            np.testing.assert_array_equal(
                np.diff(times), np.diff(train.times[train.offsets[row] : train.offsets[row + 1]])
            )
        else:
            assert generated.roads(i)[0] == od.origins[i]
            assert generated.reached[i] == fallback.reached[i]
    summary = fitted["retrieval"].summary(od)
    assert summary["fallback_share"] * len(od) == pytest.approx((rows < 0).sum())
    shares = [summary[name] for name in ("same_od_share", "same_cells_share", "fallback_share")]
    assert sum(shares) == pytest.approx(1 if len(od) else 0)


def test_retrieval_prefers_the_same_od_to_an_opposite_road_with_the_same_center():
    network = grid_network(3)
    half = network.num_roads // 2  # road r + half is the opposite direction of road r
    train = Trajectories(np.array([0, 1, 2]), np.array([half, 0]), np.array([0, 40_000]))
    row, same_od = match_requests(requests([0], [0], [0]), train, network, np.zeros(network.num_roads, np.int64))
    assert row.tolist() == [1]
    assert same_od.tolist() == [1]


# a real city


def test_porto_metrics(porto):
    from hoser_kd.network.road_network import read_hoser
    from hoser_kd.network.trajectories import read_hoser as read_trips

    network = read_hoser(porto)
    train, test = (read_trips(porto / f"{split}.csv", network) for split in ("train", "test"))
    settings = BaselineSettings(smoothings=(3.0,))
    markov = fit_baselines(train, test, network, settings, ["markov"])["markov"]
    generated = markov.generate(OdPairs(test.origins, test.start_times, test.destinations, None))
    metrics = evaluate(test, generated, network, paired=True)
    assert metrics["paired"]["edr"] == pytest.approx(0.222, abs=0.002)
    assert metrics["paired"]["hausdorff"] == pytest.approx(0.277, abs=0.002)
    assert metrics["requests"]["reached_share"] == 1.0
