"""The batched search gives the published answers, and those of a plain search of one trip at a time."""

from __future__ import annotations

import heapq
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_city import grid_network, random_trips

from hoser_kd.config import GenerationConfig, StudentConfig
from hoser_kd.errors import DataError
from hoser_kd.hoser import HOSER, collate, load_checkpoint
from hoser_kd.od import choose
from hoser_kd.ragged import Csr, offsets_of
from hoser_kd.road_network import read_hoser
from hoser_kd.search import GeneratedTrajectories, generate
from hoser_kd.trajectories import Trajectories

SMALL = StudentConfig(hidden_dim=16, road_id_dim=8, attribute_dim=2)


def make_model(network, seed=0) -> HOSER:
    torch.manual_seed(seed)
    zones = np.arange(network.num_roads) % 5
    rng = np.random.default_rng(seed)
    return HOSER.build(SMALL, network, zones, rng.integers(0, 4, (5, 5)), log1p_mean=3.0, log1p_std=0.5).eval()


def seconds_of(text):
    return int(np.datetime64(text.rstrip("Z"), "s").astype(np.int64))


def search_one(model, network, origin, start, destination, max_steps):
    """The search as the paper tells it: one trip, one node, the whole path through the whole model each time."""
    frontier, order, best, done = [(0.0, 0, [origin], [start])], 1, {origin: 0.0}, set()
    nearest = (float("inf"), [], [])
    while frontier and len(done) < max_steps:
        cost, _, roads, times = heapq.heappop(frontier)
        if roads[-1] == destination:
            return roads, times, True, len(done)
        if roads[-1] in done:
            continue
        done.add(roads[-1])
        metres = model.tables.distances_m(torch.tensor([roads[-1]]), torch.tensor([destination])).item()
        if metres < nearest[0]:
            nearest = (metres, roads, times)
        candidates = network.successors.row(roads[-1]).tolist()
        if not candidates:
            continue
        # a step's answer does not depend on its label: any candidate closes the path, the destination is set below
        path = Trajectories(np.array([0, len(roads) + 1]), np.array([*roads, candidates[0]]),
                            np.array([*times, times[-1] + 1]))
        batch = collate(path, np.array([0]))
        with torch.no_grad():
            output = forward_to(model, batch, destination)
        log_p = output.logits[0, -1].log_softmax(0)
        waits = model.time_scale.seconds(output.all_times[0, -1]).round().long()
        for place, road in enumerate(candidates):
            total = cost - log_p[place].item()
            if total < best.get(road, float("inf")):
                best[road] = total
                heapq.heappush(frontier, (total, order, [*roads, road], [*times, times[-1] + int(waits[place])]))
                order += 1
    return nearest[1], nearest[2], False, len(done)


def forward_to(model, batch, destination):
    """The full forward pass towards a destination that is not the end of the path."""

    class Towards(type(batch)):
        destinations = torch.tensor([destination])

    return model(Towards(batch.road_ids, batch.times, batch.lengths, batch.rows), all_times=True)


@pytest.mark.parametrize(("name", "checkpoint"),
                         [("hoser_ckpt", "hoser_ckpt.pth"), ("trained", "hoser_ckpt_trained.pth")])
def test_answers_are_the_published_ones(golden, name, checkpoint):
    network = read_hoser(golden / "hoser_city")
    expected = json.loads((golden / "gene_golden.json").read_text())
    cases = next(value for key, value in expected.items() if isinstance(value, list) and name in key)
    model = load_checkpoint(golden / checkpoint, network, log1p_mean=expected["log1p_mean"],
                            log1p_std=expected["log1p_std"])
    trips = generate(model, [case["origin"] for case in cases], [seconds_of(case["origin_datetime"]) for case in cases],
                     [case["destination"] for case in cases])
    for i, case in enumerate(cases):
        assert trips.roads(i).tolist() == case["roads"]
        times = trips.times[trips.offsets[i] : trips.offsets[i + 1]].tolist()
        assert times == [seconds_of(text) for text in case["datetimes"]]
        assert trips.reached[i] == case["reached"]
        assert trips.expansions[i] == case["model_calls"]


@pytest.mark.parametrize("max_steps", [5000, 12])
def test_answers_are_those_of_a_plain_search(max_steps):
    network = grid_network(4)
    model = make_model(network)
    rng = np.random.default_rng(1)
    origins, destinations = rng.integers(0, network.num_roads, (2, 8))
    # midnight is passed, and a Saturday morning starts a weekend
    starts = np.resize([1_372_636_800, 1_372_377_590, 1_372_463_990], 8)
    expected = [search_one(model, network, int(origins[i]), int(starts[i]), int(destinations[i]), max_steps)
                for i in range(8)]
    for concurrent in (1, 3, 64):
        trips = generate(model, origins, starts, destinations, max_steps, concurrent=concurrent)
        for i, (roads, times, reached, expansions) in enumerate(expected):
            assert trips.roads(i).tolist() == roads
            assert trips.times[trips.offsets[i] : trips.offsets[i + 1]].tolist() == times
            assert (trips.reached[i], trips.expansions[i]) == (reached, expansions)
        assert trips.reached.all() == (max_steps == 5000)


def without_ways_out(network, road):
    """The network with `road` made a dead end."""
    degrees = network.successors.degrees.copy()
    keep = np.repeat(np.arange(network.num_roads), degrees) != road
    degrees[road] = 0
    return replace(network, successors=Csr(offsets_of(degrees), network.successors.indices[keep]))


def test_a_dead_end_ends_its_branch_only():
    network = without_ways_out(grid_network(4), 3)
    model = make_model(network)
    trips = generate(model, np.array([3, 0]), np.array([0, 0]), np.array([10, 10]))
    assert trips.roads(0).tolist() == [3]
    assert not trips.reached[0]
    assert trips.reached[1]


def test_origin_may_be_the_destination():
    model = make_model(grid_network(4))
    trips = generate(model, np.array([7]), np.array([5]), np.array([7]))
    assert (trips.roads(0).tolist(), trips.times.tolist(), trips.reached.tolist()) == ([7], [5], [True])


def test_a_road_that_does_not_exist_is_named_with_its_row():
    model = make_model(grid_network(4))
    with pytest.raises(DataError, match=r"destinations, row 1: road 999 does not exist"):
        generate(model, np.array([0, 0]), np.array([0, 0]), np.array([1, 999]))


def test_generated_trips_survive_parquet_and_the_published_csv(tmp_path):
    import pyarrow.parquet as pq

    from hoser_kd.trajectories import read_published_csv

    network = grid_network(4)
    trips = generate(make_model(network), np.arange(6), np.arange(6) * 1000, np.arange(6)[::-1].copy())
    pq.write_table(trips.to_table(), tmp_path / "trips.parquet")
    again = GeneratedTrajectories.read_parquet(tmp_path / "trips.parquet")
    for name in ("offsets", "road_ids", "times", "reached", "expansions"):
        np.testing.assert_array_equal(getattr(again, name), getattr(trips, name))
    trips.to_published_csv(tmp_path / "trips.csv")
    text = (tmp_path / "trips.csv").read_text()
    assert "np.int64" not in text
    np.testing.assert_array_equal(read_published_csv(tmp_path / "trips.csv", network).times, trips.times)


def test_requests_are_real_ones_or_drawn_from_training():
    network = grid_network(5)
    train, test = random_trips(network, 50, 0), random_trips(network, 20, 1)
    asked = choose(GenerationConfig(num_trips=7), train, test)
    assert len(asked.origins) == 7
    np.testing.assert_array_equal(asked.destinations, test.destinations[asked.real_rows])
    drawn = choose(GenerationConfig(od_source="train", num_trips=400), train, test)
    pairs = set(zip(train.origins.tolist(), train.destinations.tolist(), strict=True))
    assert set(zip(drawn.origins.tolist(), drawn.destinations.tolist(), strict=True)) <= pairs
    assert drawn.real_rows is None
