"""The batched generator gives the published trips, and those of plain decoders that handle one trip at a time."""

from __future__ import annotations

import heapq
import json
import re
from dataclasses import replace

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from flipped_bit import flip_bit
from geopandas.testing import assert_geodataframe_equal
from small_city import grid_network, random_trips

from hoser_kd.cli import main
from hoser_kd.common.arrays import Csr, offsets_of
from hoser_kd.common.errors import ConfigError, DataError
from hoser_kd.config.generation import GenerationConfig
from hoser_kd.config.student import StudentConfig
from hoser_kd.config.variants import DECODERS
from hoser_kd.generation.decoding import DecoderSpec, Decoding
from hoser_kd.generation.generator import generate, generate_to
from hoser_kd.generation.od_pairs import read_ods, select_od_pairs
from hoser_kd.generation.output_files import read_chunks, trip_lines, write_lines, write_published_csv
from hoser_kd.generation.trajectories import GeneratedTrajectories
from hoser_kd.generation.trip_state import Node, TripState
from hoser_kd.hoser import HOSER, IncrementalHOSER, collate, load_checkpoint
from hoser_kd.network.road_network import read_hoser
from hoser_kd.network.times import LAST_SECOND
from hoser_kd.network.trajectories import Trajectories

SMALL = StudentConfig(hidden_dim=16, road_id_dim=8, attribute_dim=2)


def make_model(network, seed=0) -> HOSER:
    torch.manual_seed(seed)
    zones = np.arange(network.num_roads) % 5
    rng = np.random.default_rng(seed)
    return HOSER.build(SMALL, network, zones, rng.integers(0, 4, (5, 5)), log1p_mean=3.0, log1p_std=0.5).eval()


def seconds_of(text):
    return int(np.datetime64(text.rstrip("Z"), "s").astype(np.int64))


def search_one(model, network, origin, start, destination, max_steps):
    """The search of the paper: one trip, one node, the whole path through the whole model each time."""
    frontier, order, best, done = [(0.0, 0, [origin], [start])], 1, {origin: 0.0}, set()
    nearest = (float("inf"), [], [])
    while frontier and len(done) < max_steps:
        cost, _, roads, times = heapq.heappop(frontier)
        if roads[-1] == destination:
            return roads, times, True, len(done)
        if roads[-1] in done:
            continue
        done.add(roads[-1])
        meters = model.tables.distances_m(torch.tensor([roads[-1]]), torch.tensor([destination])).item()
        if meters < nearest[0]:
            nearest = (meters, roads, times)
        candidates = network.successors.row(roads[-1]).tolist()
        if not candidates:
            continue
        candidates, logits, waits = ask(model, network, roads, times, destination)
        log_p = logits.log_softmax(0)
        for place, road in enumerate(candidates):
            total = cost - log_p[place].item()
            if total < best.get(road, float("inf")):
                best[road] = total
                heapq.heappush(frontier, (total, order, [*roads, road], [*times, times[-1] + waits[place]]))
                order += 1
    return nearest[1], nearest[2], False, len(done)


def ask(model, network, roads, times, destination):
    """Candidates behind the last road of a path with their logits and seconds, by the full forward pass."""
    candidates = network.successors.row(roads[-1]).tolist()
    # the output of a step does not depend on its label: any candidate completes the path, the destination is set below
    path = Trajectories(
        np.array([0, len(roads) + 1]), np.array([*roads, candidates[0]]), np.array([*times, times[-1] + 1])
    )
    with torch.no_grad():
        output = forward_to(model, collate(path, np.array([0])), destination)
    seconds = model.time_scale.seconds(output.all_times[0, -1]).round().long().tolist()
    return candidates, output.logits[0, -1, : len(candidates)], seconds


def forward_to(model, batch, destination):
    """The full forward pass toward a destination that is not the end of the path."""

    class Towards(type(batch)):
        destinations = torch.tensor([destination])

    return model(Towards(batch.road_ids, batch.times, batch.lengths, batch.rows), all_times=True)


@pytest.mark.parametrize(
    ("name", "checkpoint"), [("hoser_ckpt", "hoser_ckpt.pth"), ("trained", "hoser_ckpt_trained.pth")]
)
def test_trips_equal_the_published_ones(golden, name, checkpoint):
    network = read_hoser(golden / "hoser_city")
    expected = json.loads((golden / "gene_golden.json").read_text())
    cases = next(value for key, value in expected.items() if isinstance(value, list) and name in key)
    model = load_checkpoint(
        golden / checkpoint, network, log1p_mean=expected["log1p_mean"], log1p_std=expected["log1p_std"]
    )
    trips = generate(
        model,
        [case["origin"] for case in cases],
        [seconds_of(case["origin_datetime"]) for case in cases],
        [case["destination"] for case in cases],
    )
    for i, case in enumerate(cases):
        assert trips.roads(i).tolist() == case["roads"]
        times = trips.times[trips.offsets[i] : trips.offsets[i + 1]].tolist()
        assert times == [seconds_of(text) for text in case["datetimes"]]
        assert trips.reached[i] == case["reached"]
        assert trips.expansions[i] == case["model_calls"]


@pytest.mark.parametrize("max_steps", [5000, 12])
def test_trips_equal_those_of_a_plain_search(max_steps):
    network = grid_network(4)
    model = make_model(network)
    rng = np.random.default_rng(1)
    origins, destinations = rng.integers(0, network.num_roads, (2, 8))
    # some trips pass midnight, and one starts on a Saturday morning
    starts = np.resize([1_372_636_800, 1_372_377_590, 1_372_463_990], 8)
    expected = [
        search_one(model, network, int(origins[i]), int(starts[i]), int(destinations[i]), max_steps) for i in range(8)
    ]
    for concurrent in (1, 3, 64):
        trips = generate(model, origins, starts, destinations, max_steps, concurrent=concurrent)
        for i, (roads, times, reached, expansions) in enumerate(expected):
            assert trips.roads(i).tolist() == roads
            assert trips.times[trips.offsets[i] : trips.offsets[i + 1]].tolist() == times
            assert (trips.reached[i], trips.expansions[i]) == (reached, expansions)
        assert trips.reached.all() == (max_steps == 5000)


def greedy(model, network, origin, start, destination):
    """The most probable road each time, each road once."""
    roads, times = [origin], [start]
    while roads[-1] != destination:
        candidates, logits, waits = ask(model, network, roads, times, destination)
        places = [place for place in logits.argsort(descending=True).tolist() if candidates[place] not in roads]
        if not places:
            return roads, times, False
        roads.append(candidates[places[0]])
        times.append(times[-1] + waits[places[0]])
    return roads, times, True


@pytest.fixture(scope="module")
def requests():
    network = grid_network(4)
    rng = np.random.default_rng(3)
    origins, destinations = rng.integers(0, network.num_roads, (2, 6))
    return network, make_model(network), origins, np.arange(6) * 7000, destinations


@pytest.mark.parametrize("decoding", [Decoding("beam", beam_width=1), Decoding("sampling", temperature=1e-4)])
def test_width_one_or_low_temperature_is_greedy(requests, decoding):
    network, model, origins, starts, destinations = requests
    trips = generate(model, origins, starts, destinations, decoding=decoding)
    for i in range(len(origins)):
        roads, times, reached = greedy(model, network, int(origins[i]), int(starts[i]), int(destinations[i]))
        assert trips.reached[i] == reached
        roads_found = trips.roads(i).tolist()
        # if it does not arrive, the result is the prefix that ends closest to the destination
        assert roads_found == roads[: len(roads_found)]
        assert trips.times[trips.offsets[i] : trips.offsets[i + 1]].tolist() == times[: len(roads_found)]
        assert not reached or roads_found == roads
    assert trips.reached.any()


def cost_of(model, network, trips, i, destination):
    roads, times = trips.roads(i).tolist(), trips.times[trips.offsets[i] : trips.offsets[i + 1]].tolist()
    total = 0.0
    for t in range(len(roads) - 1):
        candidates, logits, _ = ask(model, network, roads[: t + 1], times[: t + 1], destination)
        total -= logits.log_softmax(0)[candidates.index(roads[t + 1])].item()
    return total


def test_a_wide_beam_finds_trips_at_least_as_likely(requests):
    network, model, origins, starts, destinations = requests
    costs = {}
    for width in (1, 64):
        trips = generate(model, origins, starts, destinations, decoding=Decoding("beam", beam_width=width))
        assert (trips.expansions <= 5000).all()
        costs[width] = [
            cost_of(model, network, trips, i, destinations[i]) if trips.reached[i] else np.inf
            for i in range(len(origins))
        ]
    assert (np.array(costs[64]) <= np.array(costs[1]) + 1e-4).all()
    assert np.isfinite(costs[64]).all()


def test_samples_are_diverse_and_depend_on_the_seed_but_not_on_other_trips(requests):
    _, model, origins, starts, destinations = requests
    repeated = [np.repeat(part[:2], 12) for part in (origins, starts, destinations)]
    drawn = [
        generate(model, *repeated, decoding=Decoding("sampling", seed=seed), concurrent=concurrent)
        for seed, concurrent in ((0, 1), (0, 24), (1, 24))
    ]
    np.testing.assert_array_equal(drawn[0].road_ids, drawn[1].road_ids)
    assert drawn[0].road_ids.tolist() != drawn[2].road_ids.tolist()
    for first in (0, 12):
        assert len({tuple(drawn[0].roads(i)) for i in range(first, first + 12)}) > 1
    for i in range(24):
        assert len(set(drawn[0].roads(i))) == len(drawn[0].roads(i))


@pytest.mark.parametrize("decoding", [Decoding("beam", max_steps=9), Decoding("sampling", max_steps=9)])
def test_the_step_limit_holds(requests, decoding):
    _, model, origins, starts, destinations = requests
    trips = generate(model, origins, starts, destinations, decoding=decoding)
    assert trips.expansions.max() == 9
    assert (trips.lengths > 0).all()


class Killed(Exception):
    pass


def test_a_part_with_a_flipped_bit_is_generated_again(requests, tmp_path):
    _, model, *ods = requests

    def kill(_stage, done, *_):
        if done == 4:
            raise Killed

    with pytest.raises(Killed):
        generate_to(tmp_path / "trips.parquet", tmp_path / "parts", model, *ods, part_trips=1, progress=kill)
    flip_bit(min((tmp_path / "parts").rglob("part-*.parquet")))
    generate_to(tmp_path / "trips.parquet", tmp_path / "parts", model, *ods, part_trips=1)
    generate_to(tmp_path / "expected.parquet", tmp_path / "other", model, *ods, part_trips=1)
    assert (tmp_path / "trips.parquet").read_bytes() == (tmp_path / "expected.parquet").read_bytes()


@pytest.mark.parametrize("decoding", [Decoding(), Decoding("beam", beam_width=2), Decoding("sampling", seed=4)])
def test_a_killed_run_resumes_after_its_finished_parts(requests, tmp_path, decoding):
    _, model, origins, starts, destinations = requests
    repeated = [np.tile(part, 4) for part in (origins, starts, destinations)]
    expected = generate(model, *repeated, decoding=decoding)
    reports = []

    def watch(stage, done, total, metrics=None):
        reports.append((done, total, metrics["trips/s"]))
        if kill and done == 17:
            raise Killed

    kill = True
    with pytest.raises(Killed):
        generate_to(
            tmp_path / "trips.parquet",
            tmp_path / "parts",
            model,
            *repeated,
            decoding,
            concurrent=2,
            part_trips=5,
            progress=watch,
        )
    assert not (tmp_path / "trips.parquet").exists()
    parts = sorted((tmp_path / "parts").rglob("part-*.parquet"))
    assert parts
    kill, reports = False, []
    generate_to(
        tmp_path / "trips.parquet", tmp_path / "parts", model, *repeated, decoding, part_trips=5, progress=watch
    )
    assert 5 < reports[0][0] <= 18
    assert reports[-1][:2] == (24, 24)
    assert reports[-1][2] > 0
    assert not any((tmp_path / "parts").iterdir())
    trips = GeneratedTrajectories.read_parquet(tmp_path / "trips.parquet")
    for name in ("offsets", "road_ids", "times", "reached", "expansions"):
        np.testing.assert_array_equal(getattr(trips, name), getattr(expected, name))


def with_dead_end(network, road):
    """The network with `road` as a dead end."""
    degrees = network.successors.degrees.copy()
    keep = np.repeat(np.arange(network.num_roads), degrees) != road
    degrees[road] = 0
    return replace(network, successors=Csr(offsets_of(degrees), network.successors.indices[keep]))


def test_a_dead_end_ends_its_branch_only():
    network = with_dead_end(grid_network(4), 3)
    model = make_model(network)
    trips = generate(model, np.array([3, 0]), np.array([0, 0]), np.array([10, 10]))
    assert trips.roads(0).tolist() == [3]
    assert not trips.reached[0]
    assert trips.reached[1]


@pytest.mark.parametrize("decoding", [Decoding(), Decoding("beam"), Decoding("sampling")])
def test_an_origin_without_successors_is_the_whole_trip(decoding):
    network = with_dead_end(grid_network(4), 3)
    trips = generate(make_model(network), np.array([3]), np.array([0]), np.array([10]), decoding=decoding)
    assert (trips.roads(0).tolist(), trips.reached.tolist(), trips.expansions.tolist()) == ([3], [False], [1])


@pytest.mark.parametrize(
    ("decoding", "most"), [(Decoding(), 5), (Decoding("beam", beam_width=3), 15), (Decoding("sampling"), 5)]
)
def test_no_more_trips_are_active_than_requested(requests, monkeypatch, decoding, most):
    _, model, origins, starts, destinations = requests
    repeated = [np.tile(part, 8) for part in (origins, starts, destinations)]
    expanded = []
    step = IncrementalHOSER.step

    def watched(self, tree, parents, *rest):
        expanded.append(len(parents))
        return step(self, tree, parents, *rest)

    monkeypatch.setattr(IncrementalHOSER, "step", watched)
    generate(model, *repeated, decoding=decoding, concurrent=5)
    assert 3 < max(expanded) <= most


def test_origin_may_be_the_destination():
    model = make_model(grid_network(4))
    trips = generate(model, np.array([7]), np.array([5]), np.array([7]))
    assert (trips.roads(0).tolist(), trips.times.tolist(), trips.reached.tolist()) == ([7], [5], [True])


def test_a_road_that_does_not_exist_is_named_with_its_row():
    model = make_model(grid_network(4))
    with pytest.raises(DataError, match=r"destinations, row 1: road 999 does not exist"):
        generate(model, np.array([0, 0]), np.array([0, 0]), np.array([1, 999]))


def test_generated_trips_survive_parquet_and_the_published_csv(tmp_path):
    from hoser_kd.network.trajectories import read_published_csv

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
    od_pairs = select_od_pairs(GenerationConfig(num_trips=7), train, test)
    assert len(od_pairs.origins) == 7
    np.testing.assert_array_equal(od_pairs.destinations, test.destinations[od_pairs.real_rows])
    drawn = select_od_pairs(GenerationConfig(od_source="train", num_trips=400), train, test)
    pairs = set(zip(train.origins.tolist(), train.destinations.tolist(), strict=True))
    assert set(zip(drawn.origins.tolist(), drawn.destinations.tolist(), strict=True)) <= pairs
    assert drawn.real_rows is None


def test_samples_of_an_od_pair_are_consecutive():
    network = grid_network(5)
    train, test = random_trips(network, 50, 0), random_trips(network, 20, 1)
    od_pairs = select_od_pairs(GenerationConfig(decoder="sampling", samples_per_od=3, num_trips=2), train, test)
    assert od_pairs.real_rows[0] == od_pairs.real_rows[2] != od_pairs.real_rows[3]
    assert len(od_pairs) == 6


def test_wrong_arguments_of_the_selection_are_refused():
    trips = random_trips(grid_network(4), 5)
    file = GenerationConfig(od_source="file", od_file="ods.csv")
    for arguments, error, message in [
        (("test", trips, trips), TypeError, r"config is of type str, not a GenerationConfig. Call select_od_pairs\("),
        ((GenerationConfig(), trips, "test.csv"), TypeError, "test is of type str, not a Trajectories"),
        ((GenerationConfig(od_source="train"), trips.take(np.arange(0)), trips), ValueError, "train has no trips"),
        ((file, trips, trips), ValueError, r"num_roads=network.num_roads"),
    ]:
        with pytest.raises(error, match=message):
            select_od_pairs(*arguments)


OD_TEXTS = {
    "instants": "2013-07-01T08:30:00Z",
    "spaces": "2013-07-01 08:30:00Z",
    "seconds": "1372667400",
}


@pytest.mark.parametrize("text", OD_TEXTS.values(), ids=OD_TEXTS)
def test_od_files_are_read_from_csv_and_parquet(tmp_path, text):
    csv, parquet = tmp_path / "ods.csv", tmp_path / "ods.parquet"
    csv.write_text(f"note,origin,destination,start_time\na,3,5,{text}\nb,0,7,{text}\n")
    pd.DataFrame(
        {"origin": [3, 0], "destination": [5, 7], "start_time": pd.to_datetime(["2013-07-01T08:30:00Z"] * 2)}
    ).to_parquet(parquet)
    settings = GenerationConfig(od_source="file", od_file=str(csv))
    none = random_trips(grid_network(4), 2)
    for od_pairs in (read_ods(csv, 8), read_ods(parquet, 8), select_od_pairs(settings, none, none, 8)):
        assert od_pairs.origins.tolist() == [3, 0]
        assert od_pairs.destinations.tolist() == [5, 7]
        assert od_pairs.start_times.tolist() == [1_372_667_400] * 2
        assert od_pairs.real_rows is None


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["origin,destination,start_time", "1,2,0", "1,8,0"],
            r"ods.csv, row 1: destination 8 is not a road. .* 0 to 7",
        ),
        (["origin,destination,start_time", "1.5,2,0"], "row 0: origin 1.5 is not a road"),
        (["origin,destination,start_time", "1,2,0", "1,2,yesterday"], "row 1: start_time yesterday is not a time"),
        (["origin,destination,start_time", "1,2,0", "1,2,"], "row 1: start_time .empty. is not a time"),
        (["origin,start_time", "1,0"], "column destination is missing; there are: origin, start_time"),
        (["origin,destination,start_time"], "no row"),
        (["origin;destination;start_time", "1;2;0"], "there are: origin;destination;start_time.*semicolons"),
        (
            ["origin,destination,start_time", "1,2,0,7", "1,2,0,7"],
            "row 0: it has 4 values, but the header has 3 columns",
        ),
        (["origin,destination,start_time", "1,2,0", "1,2"], "row 1: it has 2 values, but the header has 3 columns"),
        (["origin,origin,destination,start_time", "1,1,2,0"], "column origin is there twice"),
        (["origin,destination,start_time", "1,2,0", "inf,2,0"], "row 1: origin inf is not a road"),
        (["origin,destination,start_time", "1,2,1e30"], "row 0: start_time 1e30 is not a time"),
        (
            ["origin,destination,start_time", "1,2,1372667400000"],
            "row 0: start_time 1372667400000 is not a time. It is a number of",
        ),
        (["origin,destination,start_time", "1,2,2013-02-30T00:00:00Z"], "row 0: start_time 2013-02-30"),
        (["origin,destination,start_time", "1,2,0", "1,2,-1"], r"ods.csv, row 1: start_time -1 is before 1970"),
        (
            ["origin,destination,start_time", "1,2,1969-12-31T23:59:59Z"],
            "ods.csv, row 0: start_time 1969-12-31T23:59:59Z",
        ),
        (["origin,destination,start_time", '"1,2,0'], "ods.csv"),
        (["origin,destination,start_time\x00", "1,2,0"], "ods.csv"),
        ([], "missing; there are: none"),
        # one rule with the trips: offsets would shift local times
        (["origin,destination,start_time", "1,2,2013-07-01T08:00:00+08:00"], "row 0: start_time .* has a UTC offset"),
        (["origin,destination,start_time", "1,2,2013-07-01T08:00:00+00:00"], "row 0: start_time .* has a UTC offset"),
        (["origin,destination,start_time", "1,2,2013-07-01T08:00:00"], "row 0: start_time .* It has no Z at its end"),
        (["origin,destination,start_time", "1,2,2013-07-01T08:00:00.5Z"], "row 0: start_time .* fraction of a second"),
        (["origin,destination,start_time", "1,2,2013-07-01"], "row 0: start_time .* date without a time of day"),
        (["origin,destination,start_time", "1,2,1372667400.5"], "row 0: start_time 1372667400.5 is not a time"),
        (["origin,destination,start_time", "0x2,2,0"], "row 0: origin 0x2 is not a road. It is a hexadecimal"),
        (["origin,destination,start_time", "1e0,2,0"], "row 0: origin 1e0 is not a road. It is a decimal"),
        (["origin,destination,start_time", "np.int64(3),2,0"], r"row 0: origin np.int64\(3\) is not a road. .*write 3"),
    ],
)
def test_a_bad_od_file_is_refused_with_its_row(tmp_path, lines, message):
    file = tmp_path / "ods.csv"
    file.write_text("\n".join(lines))
    with pytest.raises(DataError, match=message):
        read_ods(file, 8)


def test_a_file_of_ods_as_spreadsheets_write_them(tmp_path):
    file = tmp_path / "ods.csv"
    file.write_bytes(
        b"\xef\xbb\xbfid, origin, destination, start_time\r\na, 1, 2, 2013-07-01T08:30:00Z\r\n"
        b'b,"3", 4.0,2013-07-01 00:00:00Z\r\n\r\n'
    )
    od_pairs = read_ods(file, 8)
    assert (od_pairs.origins.tolist(), od_pairs.destinations.tolist()) == ([1, 3], [2, 4])
    assert od_pairs.start_times.tolist() == [1_372_667_400, 1_372_636_800]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pd.to_datetime(["2013-07-01T08:30:00+02:00"]), r"start_time has timestamps in the time zone \+02:00"),
        (pd.to_datetime(["2013-07-01T08:30:00.5"]), "fractions of a second"),
        (pd.to_datetime(["1969-07-01T08:30:00"]), "before 1970"),
        ([1372667400.5], "is not a time"),
        ([True], "start_time True is not a time"),
    ],
)
def test_stored_times_of_ods_follow_the_rule_of_texts(tmp_path, column, message):
    file = tmp_path / "ods.parquet"
    pd.DataFrame({"origin": [3], "destination": [5], "start_time": column}).to_parquet(file)
    with pytest.raises(DataError, match=message):
        read_ods(file, 8)


@pytest.mark.parametrize("content", [b"origin,destination,start_time\n1,\xff,0\n", bytes(range(256)), b"PAR1"])
@pytest.mark.parametrize("name", ["ods.csv", "ods.parquet"])
def test_a_file_that_is_no_table_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        read_ods(tmp_path / name, 8)


def test_trips_are_lines_along_their_roads(requests, tmp_path):
    network, model, origins, starts, destinations = requests
    trips = generate(model, origins, starts, destinations)
    lines = trip_lines(trips, network)
    lines.to_parquet(tmp_path / "lines.parquet")
    again = gpd.read_parquet(tmp_path / "lines.parquet")
    assert again.crs.to_epsg() == 4326
    for i, line in enumerate(again.geometry):
        roads = trips.roads(i)
        expected = np.concatenate([network.coords[2 * road : 2 * road + 2] for road in roads])
        corners = expected[np.r_[True, (np.diff(expected, axis=0) != 0).any(1)]]
        np.testing.assert_array_equal(np.array(line.coords), corners)
        assert again.length_m[i] == pytest.approx(network.length_m[roads].sum())
        assert again.end_time[i].timestamp() == trips.times[trips.offsets[i + 1] - 1]


def test_files_written_in_chunks_are_those_of_all_trips_at_once(requests, tmp_path):
    network, model, origins, starts, destinations = requests
    generate_to(tmp_path / "trips.parquet", tmp_path / "parts", model, origins, starts, destinations, part_trips=4)
    chunks = list(read_chunks(tmp_path / "trips.parquet"))
    assert [len(chunk) for chunk in chunks] == [4, 2]
    whole = GeneratedTrajectories.read_parquet(tmp_path / "trips.parquet")
    whole.to_published_csv(tmp_path / "whole.csv")
    write_published_csv(chunks, tmp_path / "chunks.csv")
    assert (tmp_path / "chunks.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    expected = trip_lines(whole, network)
    write_lines(chunks, network, tmp_path / "lines.parquet")
    lines = gpd.read_parquet(tmp_path / "lines.parquet")
    expected.to_parquet(tmp_path / "whole.parquet")
    assert_geodataframe_equal(lines, gpd.read_parquet(tmp_path / "whole.parquet"))
    assert lines.crs.to_epsg() == 4326
    geometry = json.loads(pq.read_metadata(tmp_path / "lines.parquet").metadata[b"geo"])["columns"]["geometry"]
    assert geometry["bbox"] == expected.total_bounds.tolist()
    assert geometry["encoding"] == "WKB"
    assert {path.name for path in tmp_path.iterdir()} == {
        "trips.parquet",
        "parts",
        "whole.csv",
        "chunks.csv",
        "lines.parquet",
        "whole.parquet",
    }


def test_a_failure_in_the_middle_leaves_no_half_file(requests, tmp_path):
    network, model, origins, starts, destinations = requests
    trips = generate(model, origins, starts, destinations)

    def failing():
        yield trips
        raise Killed

    with pytest.raises(Killed):
        write_lines(failing(), network, tmp_path / "lines.parquet")
    with pytest.raises(Killed):
        write_published_csv(failing(), tmp_path / "trips.csv")
    assert not list(tmp_path.iterdir())


def test_memory_follows_the_active_branches(requests, monkeypatch):
    """Nodes without references are released at once, and all nodes at the end."""
    network, model, *_ = requests
    kept, trees = [], []
    step, tree = IncrementalHOSER.step, IncrementalHOSER.tree

    def watched_step(self, tree, *rest):
        decoded = step(self, tree, *rest)
        kept.append(tree.num_nodes)
        return decoded

    monkeypatch.setattr(IncrementalHOSER, "step", watched_step)
    monkeypatch.setattr(
        IncrementalHOSER, "tree", lambda self, capacity=4: trees.append(tree(self, capacity)) or trees[-1]
    )
    far = np.full(3, network.num_roads - 1)
    trips = generate(model, np.arange(3), np.zeros(3, np.int64), far)
    assert trees[0].num_nodes == 0
    assert max(kept) < 0.8 * trips.expansions.sum()


class FirstSuccessor(TripState):
    """A decoder that always takes the first unvisited successor."""

    def __init__(self, trip, destination, start, decoding):
        super().__init__(trip, destination, decoding.max_steps)
        self.next, self.visited = start, {start.road}

    def next_nodes(self):
        if self.next is not None and self.next.road == self.destination:
            self.arrived = self.next
            return []
        return [] if self.next is None or self.expansions >= self.max_steps else [self.next]

    def update(self, expanded):
        node = expanded.node
        self.keep(expanded.slot, node.parent, expanded.away_m)
        self.next = None
        for road, cost, wait in zip(expanded.candidates, expanded.costs, expanded.seconds, strict=True):
            if road >= 0 and road not in self.visited:
                self.visited.add(road)
                self.next = Node(node.cost + cost, node.order + 1, road, node.time + wait, expanded.slot)
                return


@pytest.fixture
def mine():
    DECODERS.register("mine", DecoderSpec(FirstSuccessor, "the first successor", lambda _: "first successor"))
    yield Decoding("mine", max_steps=30)
    DECODERS.unregister("mine")


class NoRoad(FirstSuccessor):
    """A decoder that ends each trip before its first road."""

    def next_nodes(self):
        return []


class NothingKept(FirstSuccessor):
    """A decoder that expands nodes but keeps none."""

    def keep(self, slot, parent, away_m):
        self.expansions += 1


@pytest.mark.parametrize("trip_class", [NoRoad, NothingKept])
def test_a_decoder_without_a_road_is_an_error_that_names_it(requests, trip_class):
    _, model, origins, starts, destinations = requests
    far = np.where(origins == destinations, (destinations + 1) % model.config.num_roads, destinations)
    DECODERS.register("empty", DecoderSpec(trip_class, "no roads", lambda _: "no roads"))
    try:
        with pytest.raises(ValueError, match=r"decoder 'empty' finished trip \d+ without a road.*self\.keep"):
            generate(model, origins, starts, far, decoding=Decoding("empty", max_steps=2))
    finally:
        DECODERS.unregister("empty")


def test_a_registered_decoder_generates_trips(requests, tmp_path, mine):
    """Registration is the only edit that a new decoder needs."""
    network, model, origins, starts, destinations = requests
    trips = generate(model, origins, starts, destinations, decoding=mine)
    for i, origin in enumerate(origins):
        roads = [int(origin)]
        while roads[-1] != destinations[i] and len(roads) <= 30:
            unvisited = [road for road in network.successors.row(roads[-1]).tolist() if road not in roads]
            if not unvisited:
                break
            roads.append(unvisited[0])
        roads_found = trips.roads(i).tolist()
        assert roads_found == roads[: len(roads_found)]
        assert trips.reached[i] == (roads_found[-1] == destinations[i])
    generate_to(tmp_path / "trips.parquet", tmp_path / "parts", model, origins, starts, destinations, "mine")
    assert len(GeneratedTrajectories.read_parquet(tmp_path / "trips.parquet")) == len(origins)
    assert mine.describe() == "first successor, at most 30 expansions per trip"


def test_the_command_line_offers_registered_decoders(mine, capsys):
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    assert "mine: the first successor" in " ".join(capsys.readouterr().out.split())
    assert main(["generate", "--dataset", "demo", "--decoder", "greedy"]) == 2
    error = capsys.readouterr().err
    assert "'greedy'" in error
    assert "mine" in error


def test_settings_become_a_decoder():
    config = GenerationConfig(decoder="beam", beam_width=3, max_steps=70, temperature=0.5, seed=9)
    assert Decoding.from_config(config) == Decoding("beam", 70, 3, 0.5, 9)
    assert Decoding.from_config(config).nodes_per_round == 3
    assert Decoding("sampling", temperature=0.5).logit_scale == 2.0


def test_only_decoders_that_sample_allow_several_trips_per_od():
    with pytest.raises(ConfigError, match="needs decoder sampling: beam gives one trip"):
        GenerationConfig(decoder="beam", samples_per_od=2)


def test_a_decoder_can_be_given_by_name(requests):
    _, model, origins, starts, destinations = requests
    named = generate(model, origins, starts, destinations, 40, decoding="beam")
    given = generate(model, origins, starts, destinations, decoding=Decoding("beam", max_steps=40))
    np.testing.assert_array_equal(named.road_ids, given.road_ids)
    assert named.expansions.max() <= 40


def test_an_unknown_decoder_is_refused():
    with pytest.raises(ConfigError, match=r"unknown decoder 'beem'.*Did you mean 'beam'"):
        Decoding("beem")
    wrong = {
        "name": [None, ["beam"]],
        "max_steps": [0, True, "9"],
        "beam_width": [1.5, True],
        "temperature": [0, "a", float("inf"), float("nan"), True, 1e-320],
        "seed": [1.5, -1, "a", True],
    }
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(ConfigError, match=rf"^{name} of a decoder is {re.escape(repr(value))}\. Use "):
                Decoding(**{name: value})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"max_steps": "greedy"}, TypeError, r"max_steps is a number .*'greedy'.*decoding='beam'"),
        ({"max_steps": Decoding("beam")}, TypeError, r"max_steps is a number"),
        ({"max_steps": 0}, ValueError, r"max_steps is 0, not an integer of 1 or more. Call generate\(model"),
        ({"max_steps": 2.5}, ValueError, r"max_steps is 2.5"),
        ({"decoding": "greedy"}, ConfigError, r"unknown decoder 'greedy'. Known: search, beam, sampling"),
        ({"decoding": 5}, TypeError, r"decoding is of type int.*Decoding\('beam'"),
        ({"decoding": Decoding(max_steps=9), "max_steps": 7}, ValueError, r"max_steps 7 contradicts the 9 of decoding"),
        ({"model": "model.pth"}, TypeError, r"model is of type str, not a HOSER. Call generate\(model"),
        ({"origins": [0.5, 1.0]}, TypeError, r"origins has dtype float64, not an integer"),
        ({"origins": [[0, 1]]}, ValueError, r"origins has shape \(1, 2\), not \(n,\)"),
        (
            {"start_times": np.zeros(2, "datetime64[ns]")},
            TypeError,
            r"start_times has dtype.*astype\('datetime64\[s\]'\)",
        ),
        ({"start_times": [0, -1]}, DataError, r"start_times, row 1: -1 seconds is before 1970. Give seconds"),
        (
            {"start_times": [0, 1_372_667_400_000]},
            DataError,
            r"start_times, row 1: 1372667400000 seconds is after the year 9999.*Milliseconds: divide by 1000",
        ),
        ({"origins": np.array([0, 2**63], np.uint64)}, ValueError, r"origins has 9223372036854775808 in row 1"),
        ({"start_times": np.array([2**64 - 1, 0], np.uint64)}, ValueError, "start_times has 18446744073709551615"),
        ({"concurrent": 0}, ValueError, r"concurrent is 0, not an integer of 1 or more.*Call generate\(model"),
        ({"concurrent": -3}, ValueError, "concurrent is -3"),
        ({"concurrent": 2.5}, ValueError, "concurrent is 2.5"),
        ({"concurrent": True}, ValueError, "concurrent is True"),
        ({"destinations": [1]}, ValueError, r"differ in length \(origins 2, start_times 2, destinations 1\)"),
    ],
)
def test_wrong_arguments_are_refused_with_the_right_call(requests, change, error, message):
    arguments = {"model": requests[1], "origins": [0, 1], "start_times": [0, 0], "destinations": [1, 0], **change}
    with pytest.raises(error, match=message):
        generate(**arguments)


def test_times_up_to_the_year_9999_and_small_integers_are_accepted(requests):
    """The type of the integers does not change the trips."""
    starts = np.array([0, LAST_SECOND - 10**6])
    expected = generate(requests[1], [0, 1], starts, [1, 0], 20)
    origins = np.array([0, 1], np.uint8)
    small = generate(requests[1], origins, starts.astype(np.uint64), [1, 0], 20, concurrent=np.int64(1))
    np.testing.assert_array_equal(small.road_ids, expected.road_ids)
    np.testing.assert_array_equal(small.times, expected.times)
