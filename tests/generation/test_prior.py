"""Generation with a prior: costs, guidance, arrival, and the choice of its weights."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import dijkstra
from small_city import grid_network, random_trips
from small_graphs import network_of

from hoser_kd.common.arrays import Csr, offsets_of
from hoser_kd.common.errors import ConfigError
from hoser_kd.config.generation import GenerationConfig, PriorConfig
from hoser_kd.config.schema import CityConfig
from hoser_kd.config.student import StudentConfig
from hoser_kd.generation import prior as prior_module
from hoser_kd.generation.baselines import BaselineSettings, fit_baselines
from hoser_kd.generation.decoding import Decoding
from hoser_kd.generation.generator import generate, generate_to
from hoser_kd.generation.od_pairs import OdPairs
from hoser_kd.generation.prior import CostsToGo, Prior
from hoser_kd.generation.prior_tuning import PRIOR_GRID, PriorWeights, choose_prior, tune_prior
from hoser_kd.generation.trajectories import GeneratedTrajectories
from hoser_kd.hoser import HOSER, IncrementalHOSER
from hoser_kd.network.markov import MarkovChain
from hoser_kd.pipeline.settings import SETTINGS, changed_settings

SMALL = StudentConfig(hidden_dim=16, road_id_dim=8, attribute_dim=2)
PARTS = ("offsets", "road_ids", "times", "reached", "expansions")


def make_model(network, seed=0) -> HOSER:
    torch.manual_seed(seed)
    zones = np.arange(network.num_roads) % 3
    rng = np.random.default_rng(seed)
    return HOSER.build(SMALL, network, zones, rng.integers(0, 4, (3, 3)), log1p_mean=3.0, log1p_std=0.5).eval()


@pytest.fixture(scope="module")
def city():
    """A network, a model with random weights, training trips, and requests (origins, start times, destinations)."""
    network = grid_network(4)
    rng = np.random.default_rng(3)
    origins, destinations = rng.integers(0, network.num_roads, (2, 6))
    requests = (origins, np.arange(6) * 7000, destinations)
    return network, make_model(network), random_trips(network, 60), requests


def assert_equal(trips, expected):
    for name in PARTS:
        np.testing.assert_array_equal(getattr(trips, name), getattr(expected, name), err_msg=name)


def path_cost(network, costs, roads):
    indptr = network.successors.indptr
    places = network.candidate_index(roads[:-1], roads[1:])
    return float(costs[indptr[roads[:-1]] + places].sum())


@pytest.mark.parametrize("decoding", [Decoding(), Decoding("beam"), Decoding("sampling", temperature=0.7)])
def test_a_neutral_prior_changes_no_bit(city, decoding):
    network, model, train, requests = city
    neutral = Prior.fit(train, network, markov_weight=0.0)
    assert neutral.is_neutral
    assert_equal(
        generate(model, *requests, decoding=decoding, prior=neutral), generate(model, *requests, decoding=decoding)
    )


def test_the_costs_are_the_weighted_sum(city):
    network, _, train, _ = city
    prior = Prior.fit(train, network, smoothing=0.5, markov_weight=0.25, temperature=2.0, cost_per_km=3.0)
    roads = np.array([5, 0, 17])
    counts = [network.successors.degrees[road] for road in roads]
    width = max(counts) + 1
    candidates, logits = torch.full((3, width), -1), torch.full((3, width), -torch.inf)
    for row, (road, count) in enumerate(zip(roads, counts, strict=True)):
        candidates[row, :count] = torch.from_numpy(network.successors.row(road))
        logits[row, :count] = torch.randn(count)
    costs = prior.step_costs(roads, candidates, logits)
    at, _ = train.step_positions()
    for row, road in enumerate(roads):
        successors = network.successors.row(road)
        taken = np.array([((train.road_ids[at] == road) & (train.road_ids[at + 1] == to)).sum() for to in successors])
        markov = -np.log((taken + 0.5) / (taken + 0.5).sum())
        weight = torch.exp(logits[row, : len(successors)].double() / 2)
        student = -torch.log(weight / weight.sum()).numpy()
        expected = 0.75 * student + 0.25 * markov + 3.0 * network.length_m[successors] / 1000
        np.testing.assert_allclose(costs[row, : len(successors)], expected, rtol=1e-9)
        assert np.isinf(costs[row, len(successors) :]).all()


def test_markov_weight_one_gives_the_likeliest_path(city):
    network, model, train, requests = city
    prior = Prior.fit(train, network, markov_weight=1.0)
    trips = generate(model, *requests, prior=prior)
    baseline = fit_baselines(train, train, network, BaselineSettings(smoothings=(3.0,)), ["markov"])["markov"]
    likeliest = baseline.generate(OdPairs(*requests, None))
    for i in range(len(requests[0])):
        costs = [path_cost(network, prior.chain.costs, part.roads(i)) for part in (trips, likeliest)]
        assert costs[0] == pytest.approx(costs[1], abs=1e-9)
    # the bound is the cost itself, so the search expands the roads of the path and those of equally likely paths
    assert trips.reached.all()
    assert (trips.expansions <= 3 * trips.lengths).all()


def test_costs_to_go_without_a_bound_are_those_of_the_chain(city):
    network, _, train, _ = city
    unbounded, chain = (
        CostsToGo(Prior.fit(train, network, markov_weight=weight, temperature=2.0))(5) for weight in (0, 1)
    )
    assert unbounded[5] == 0
    assert (np.delete(unbounded, 5) > 0).all()
    np.testing.assert_array_equal(unbounded, chain)


def test_costs_to_go_of_the_last_destinations_are_kept(city, monkeypatch):
    network, _, train, _ = city
    searched = []

    def counted(graph, indices):
        searched.append(indices)
        return dijkstra(graph, indices=indices)

    monkeypatch.setattr(prior_module, "dijkstra", counted)
    costs = CostsToGo(Prior.fit(train, network))
    for destination in [*range(16), 0, 16, 0, 15, 1]:  # 16 displaces 1, because 0 was used after it
        costs(destination)
    assert searched == [*range(17), 1]


@pytest.mark.parametrize("change", ["connections", "offsets"])
def test_a_prior_of_a_network_with_other_connections_is_refused(change):
    network = network_of([[1, 2], [2], [0], [0]])
    successors = {
        "connections": Csr(network.successors.indptr, np.array([1, 3, 2, 0, 0])),
        "offsets": Csr(np.array([0, 1, 3, 4, 5]), network.successors.indices),
    }
    other = replace(network, successors=successors[change])
    assert len(other.successors.indices) == len(network.successors.indices)
    prior = Prior(MarkovChain.fit(random_trips(network, 5), network, 1.0))
    prior.check(make_model(network))
    with pytest.raises(ValueError, match="or the connections differ"):
        prior.check(make_model(other))


def simple_paths(network, road, destination, path=()):
    """All paths without a repeated road."""
    path = (*path, road)
    if road == destination:
        yield path
        return
    for following in network.successors.row(road).tolist():
        if following not in path:
            yield from simple_paths(network, following, destination, path)


@pytest.fixture
def logits_of_connections(monkeypatch):
    """Replace the student's logits by random ones that depend on the connection, not on the path."""

    def patch(network, seed):
        logits = torch.from_numpy(2 * np.random.default_rng(seed).standard_normal(len(network.successors.indices)))
        step = IncrementalHOSER.step

        def patched(self, tree, parents, roads, *rest):
            decoded = step(self, tree, parents, roads, *rest)
            valid = decoded.candidates >= 0
            first = torch.from_numpy(network.successors.indptr[roads])[:, None]
            at = torch.where(valid, first + torch.arange(valid.shape[1]), 0)
            return replace(decoded, logits=torch.where(valid, logits[at], -torch.inf))

        monkeypatch.setattr(IncrementalHOSER, "step", patched)
        return logits.numpy()

    return patch


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("weights", [(0.5, 1.0, 0.0), (0.25, 2.0, 1.0), (0.0, 0.5, 0.0), (0.0, 1.0, 4.0)])
def test_the_path_is_the_cheapest_of_all(logits_of_connections, seed, weights):
    """Brute force over all simple paths, with costs that do not depend on the path."""
    rng = np.random.default_rng(seed)
    network = network_of([rng.choice(8, rng.integers(1, 4), replace=False).tolist() for _ in range(8)], seed)
    prior = Prior(MarkovChain.fit(random_trips(network, 20, seed), network, 0.3), *weights)
    logits = logits_of_connections(network, seed)
    pairs = np.array([(a, b) for a in range(8) for b in range(8) if a != b])
    trips = generate(make_model(network), pairs[:, 0], np.zeros(len(pairs), np.int64), pairs[:, 1], prior=prior)
    weight = np.exp(logits / prior.temperature)
    origin = np.repeat(np.arange(8), network.successors.degrees)
    student = -np.log(weight / np.bincount(origin, weight, 8)[origin])
    costs = (1 - prior.markov_weight) * student + prior.connection_costs
    for i, (a, b) in enumerate(pairs.tolist()):
        all_costs = [path_cost(network, costs, np.array(path)) for path in simple_paths(network, a, b)]
        assert trips.reached[i] == bool(all_costs)
        if all_costs:
            assert path_cost(network, costs, trips.roads(i)) == pytest.approx(min(all_costs), abs=1e-6)


@pytest.mark.parametrize("weights", [(0.5, 1.0, 0.0), (0.0, 2.0, 0.0), (0.0, 1.0, 1.0)])
@pytest.mark.parametrize("max_steps", [1, 4])
def test_a_trip_that_reaches_the_limit_is_finished(city, weights, max_steps):
    """The finish is the least-cost path from an expanded road, and costs as many expansions as it has roads."""
    network, model, train, requests = city
    prior = Prior(MarkovChain.fit(train, network, 3.0), *weights)
    trips = generate(model, *requests, decoding=Decoding(max_steps=max_steps), prior=prior)
    assert trips.reached.all()
    np.testing.assert_array_equal(trips.destinations, requests[2])
    assert (trips.expansions <= max_steps + trips.lengths).all()
    assert not generate(model, *requests, decoding=Decoding(max_steps=max_steps)).reached.all()
    for i in range(len(trips)):
        assert len(set(trips.roads(i))) == trips.lengths[i]


def test_guidance_saves_expansions(city, monkeypatch):
    network, model, train, requests = city
    prior = Prior.fit(train, network, markov_weight=0.5)
    guided = generate(model, *requests, prior=prior)
    monkeypatch.setattr(CostsToGo, "__call__", lambda _, __: np.full(network.num_roads, np.inf))
    unguided = generate(model, *requests, prior=prior)
    assert unguided.reached.all()
    assert guided.expansions.sum() < 0.7 * unguided.expansions.sum()


def without_ways_to(network, road):
    """The network without the connections to `road`."""
    keep = network.successors.indices != road
    origin = np.repeat(np.arange(network.num_roads), network.successors.degrees)
    degrees = np.bincount(origin[keep], minlength=network.num_roads)
    return replace(network, successors=Csr(offsets_of(degrees), network.successors.indices[keep]))


@pytest.mark.parametrize("max_steps", [5000, 6])
@pytest.mark.parametrize("weights", [(0.5, 1.0, 0.0), (0.0, 2.0, 0.0)])
def test_an_unreachable_destination_gives_the_path_that_ends_closest(weights, max_steps):
    network = without_ways_to(grid_network(4), 10)
    prior = Prior(MarkovChain.fit(random_trips(network, 40), network, 3.0), *weights)
    model = make_model(network)
    trips = generate(model, [0, 3], [0, 0], [10, 10], decoding=Decoding(max_steps=max_steps), prior=prior)
    assert not trips.reached.any()
    assert (trips.expansions <= max_steps).all()
    if max_steps == 5000:
        meters = model.tables.distances_m(torch.arange(network.num_roads), torch.tensor(10))
        meters[10] = torch.inf
        assert meters[torch.from_numpy(trips.destinations)].tolist() == [meters.min().item()] * 2


def test_results_do_not_depend_on_the_other_active_trips(city):
    network, model, train, requests = city
    prior = Prior.fit(train, network, markov_weight=0.5)
    repeated = [np.tile(part, 4) for part in requests]
    assert_equal(
        generate(model, *repeated, prior=prior, concurrent=1), generate(model, *repeated, prior=prior, concurrent=24)
    )


def test_sampling_draws_by_the_costs(city):
    """With Markov weight 1, the first roads have the frequencies of the chain, at the decoder's temperature."""
    network, model, train, _ = city
    prior = Prior.fit(train, network, smoothing=0.5, markov_weight=1.0)
    road, count = int(np.argmax(network.successors.degrees)), 800
    far = [network.num_roads - 1] * count
    trips = generate(
        model,
        [road] * count,
        [0] * count,
        far,
        decoding=Decoding("sampling", max_steps=2, temperature=0.5),
        prior=prior,
    )
    # where the second road is no closer to the destination, the trip is the origin alone: count those as the remainder
    successors = network.successors.row(road)
    p = np.exp(prior.chain.log_probabilities[network.successors.indptr[road] :][: len(successors)] / 0.5)
    second = np.array([trips.roads(i)[1] if trips.lengths[i] > 1 else -1 for i in range(count)])
    shown = [to for to in successors if (second == to).any()]
    assert len(shown) >= 1
    for to, share in zip(successors, p / p.sum(), strict=True):
        if to in shown:
            assert (second == to).mean() == pytest.approx(share, abs=0.06)


def test_beam_search_uses_the_costs(city):
    """With width 1 and Markov weight 1, each road is the chain's most probable one that is not visited yet."""
    network, model, train, requests = city
    prior = Prior.fit(train, network, smoothing=0.37, markov_weight=1.0)
    trips = generate(model, *requests, decoding=Decoding("beam", beam_width=1), prior=prior)
    for i in range(len(trips)):
        roads = trips.roads(i).tolist()
        for place, road in enumerate(roads[:-1]):
            first, after = network.successors.indptr[road], network.successors.row(road)
            log_p = prior.chain.log_probabilities[first : first + len(after)]
            allowed = ~np.isin(after, roads[: place + 1])
            taken = log_p[after.tolist().index(roads[place + 1])]
            assert taken == log_p[allowed].max()
    assert trips.lengths.max() > 3


class Killed(Exception):
    pass


def test_a_killed_run_resumes_and_parts_of_another_prior_are_not_read(city, tmp_path):
    network, model, train, requests = city
    repeated = [np.tile(part, 4) for part in requests]
    priors = [Prior.fit(train, network, markov_weight=weight) for weight in (0.5, 0.75)]
    priors += [Prior.fit(train, network, smoothing=0.1, markov_weight=0.5), None]
    reports = []

    def watch(stage, done, total, metrics=None):
        reports.append(done)
        if kill and done == 17:
            raise Killed

    def write(prior):
        reports.clear()
        generate_to(
            tmp_path / "trips.parquet",
            tmp_path / "parts",
            model,
            *repeated,
            prior=prior,
            concurrent=2,
            part_trips=5,
            progress=watch,
        )
        return GeneratedTrajectories.read_parquet(tmp_path / "trips.parquet")

    kill = True
    with pytest.raises(Killed):
        write(priors[0])
    kill = False
    for other in priors[1:]:
        assert_equal(write(other), generate(model, *repeated, prior=other))
        assert reports[0] == 1
    assert_equal(write(priors[0]), generate(model, *repeated, prior=priors[0]))
    assert reports[0] > 5


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda train, network: PriorConfig(markov_weight=0.5),
            TypeError,
            r"prior is of type PriorConfig.*from_config\(",
        ),
        (lambda train, network: 0.5, TypeError, r"prior is of type float, not a Prior. Call Prior.fit\("),
        (
            lambda train, network: Prior.fit(network, train),
            TypeError,
            r"^train is of type RoadNetwork.*Call Prior.fit\(train",
        ),
        (
            lambda train, network: Prior.fit(train, None),
            TypeError,
            r"^network is of type NoneType.*Call Prior.fit\(train",
        ),
        (lambda train, network: Prior.fit(train, network, smoothing="a"), ConfigError, "smoothing of a prior is 'a'"),
        (lambda train, network: Prior.fit(train, network, smoothing=0), ConfigError, "smoothing of a prior is 0"),
        (lambda train, network: Prior(0.5), TypeError, r"chain of a prior is of type float, not a MarkovChain"),
        (lambda train, network: Prior(MarkovChain.fit(train, network, order=2)), ConfigError, "has order 2"),
        (lambda train, network: Prior.fit(train, network, markov_weight=1.5), ConfigError, "1.5. Use a number from 0"),
        (lambda train, network: Prior.fit(train, network, markov_weight=True), ConfigError, "markov_weight"),
        (lambda train, network: Prior.fit(train, network, temperature=0), ConfigError, "temperature of a prior is 0"),
        (lambda train, network: Prior.fit(train, network, temperature=float("nan")), ConfigError, "temperature"),
        (lambda train, network: Prior.fit(train, network, cost_per_km=-1), ConfigError, "cost_per_km of a prior is -1"),
        (
            lambda train, network: Prior.fit(random_trips(grid_network(3), 5), grid_network(3)),
            ValueError,
            "prior is of a network of 24 roads .* the model of 48",
        ),
    ],
)
def test_wrong_priors_are_refused(city, make, error, message):
    network, model, train, requests = city
    with pytest.raises(error, match=message):
        generate(model, *requests, prior=make(train, network))


def test_the_description_names_the_prior(city):
    network, _, train, _ = city
    prior = Prior.fit(train, network, markov_weight=0.25, temperature=2.0)
    assert Decoding().describe(prior) == (
        "uniform-cost search, at most 5,000 expansions per trip; prior: Markov weight 0.25, smoothing 3, "
        "temperature 2, 0 per km, guided by its costs to go"
    )
    assert Decoding("beam").describe(prior).endswith("temperature 2, 0 per km")
    assert Decoding().describe(Prior.fit(train, network, markov_weight=0.0)) == Decoding().describe()


def test_the_section_becomes_a_prior(city):
    network, _, train, _ = city
    assert Prior.from_config(PriorConfig(smoothing=1.0), train, network) is None
    prior = Prior.from_config(PriorConfig(markov_weight=0.5, smoothing=1.0, cost_per_km=2), train, network)
    assert (prior.markov_weight, prior.temperature, prior.cost_per_km, prior.chain.smoothing) == (0.5, 1.0, 2.0, 1.0)
    with pytest.raises(ConfigError, match="tune chooses markov_weight, temperature and cost_per_km"):
        PriorConfig(tune=True, markov_weight=0.5)
    for wrong in ({"markov_weight": 1.1}, {"temperature": 0}, {"cost_per_km": -1}, {"smoothing": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            PriorConfig(**wrong)


def test_versions_change_only_when_the_prior_is_on():
    def changed(**prior):
        config = CityConfig(
            city="demo", source={"kind": "synthetic"}, generation=GenerationConfig(prior=PriorConfig(**prior))
        )
        return changed_settings({"generation": SETTINGS["generation"](config)})

    assert changed() == changed(smoothing=1.0) == changed(markov_weight=0, temperature=1) == {}
    assert changed(markov_weight=0.5) == {"generation": {"prior": {"markov_weight": 0.5}}}
    assert changed(tune=True, smoothing=1.0) == {"generation": {"prior": {"tune": True, "smoothing": 1.0}}}


GRID = [PriorWeights(0.0, 1.0, 0.0), PriorWeights(0.0, 2.0, 0.0), PriorWeights(1.0, 1.0, 0.0)]


def test_no_setting_to_try_is_a_baseline():
    """At weight 1, the roads are those of the Markov chain, as `test_markov_weight_one_gives_the_likeliest_path`."""
    assert max(weights.markov_weight for weights in PRIOR_GRID) < 1
    assert PRIOR_GRID[0] == PriorWeights(0.0, 1.0, 0.0)


def test_tuning_picks_the_best_row_and_the_first_of_equal_ones(city):
    network, model, train, _ = city
    chain = MarkovChain.fit(train.take(np.arange(10)), network, 0.05)
    val = random_trips(network, 9, 5, (15, 20))

    def markov_cost(real, generated):
        # evenly spaced among all nine
        np.testing.assert_array_equal(real.start_times, val.start_times[[0, 3, 5, 8]])
        np.testing.assert_array_equal(real.origins, val.origins[[0, 3, 5, 8]])
        np.testing.assert_array_equal(generated.origins, real.origins)
        return sum(path_cost(network, chain.costs, generated.roads(i)) for i in range(4))

    tuning = tune_prior(model, chain, val, markov_cost, Decoding(), grid=GRID, num_ods=4)
    scores = [row["score"] for row in tuning.rows]
    assert scores[2] == min(scores) < scores[0]
    assert tuning.prior == Prior(chain, 1.0, 1.0, 0.0)
    assert [row["chosen"] for row in tuning.rows] == [False, False, True]
    assert [(row["markov_weight"], row["temperature"]) for row in tuning.rows] == [(0, 1), (0, 2), (1, 1)]
    assert all(row["reached"] == 1 for row in tuning.rows)
    assert tuning == tune_prior(model, chain, val, markov_cost, Decoding(), grid=GRID, num_ods=4)
    equal = tune_prior(model, chain, val, lambda *_: 1.0, Decoding(), grid=GRID)
    assert equal.prior.is_neutral
    with pytest.raises(ValueError, match="needs validation trips"):
        tune_prior(model, chain, val.take(np.arange(0)), markov_cost, Decoding())


def test_a_choice_is_recorded_and_read_again(city, tmp_path):
    network, model, train, _ = city
    val, record = random_trips(network, 3, 5), tmp_path / "prior.json"

    def choose(score):
        config = PriorConfig(tune=True, smoothing=0.5)
        return choose_prior(config, model, train, val, network, Decoding(), score, record=record)

    falling = iter(range(0, -8, -1))
    prior, rows = choose(lambda *_: float(next(falling)))
    assert len(rows) == 8
    assert rows[-1]["chosen"]
    assert json.loads(record.read_text()) == rows
    [chosen] = [row for row in rows if row["chosen"]]
    assert chosen["score"] == min(row["score"] for row in rows)
    assert (prior.markov_weight, prior.temperature, prior.chain.smoothing) == (
        chosen["markov_weight"],
        chosen["temperature"],
        0.5,
    )

    def unexpected(*_):
        raise AssertionError

    again, same = choose(unexpected)
    assert same == rows
    assert again.key() == prior.key()
    record.unlink()
    assert choose_prior(PriorConfig(), model, train, val, network, Decoding(), None, record=record) == (None, [])
    assert not record.exists()
