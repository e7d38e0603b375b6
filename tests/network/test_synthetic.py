"""The synthetic city: valid network and trips, and next roads that are learnable but not trivial."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from hoser_kd.common.errors import ConfigError
from hoser_kd.common.geodesy import great_circle_m
from hoser_kd.config.source import SyntheticConfig
from hoser_kd.network import road_network, trajectories
from hoser_kd.network.synthetic.city import make_city
from hoser_kd.network.synthetic.trips import MIN_ROADS
from hoser_kd.network.trajectories import SPLITS

SMALL = SyntheticConfig(blocks=(8, 8), num_trips=200)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_city(tmp_path_factory.mktemp("city"), SyntheticConfig())


@pytest.fixture(scope="module")
def network(folder):
    return road_network.read_hoser(folder)


@pytest.fixture(scope="module")
def trips(folder, network):
    return {split: trajectories.read_hoser(folder / f"{split}.csv", network) for split in SPLITS}


@pytest.fixture(scope="module")
def everything(trips):
    return trajectories.concatenate(trips.values())


def _digests(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def test_a_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path):
    first, again = (_digests(make_city(tmp_path / name, SMALL)) for name in ("a", "b"))
    assert set(first) == {"roadmap.geo", "roadmap.rel", "train.csv", "val.csv", "test.csv"}
    assert first == again
    other = _digests(make_city(tmp_path / "c", SMALL.model_copy(update={"seed": 1})))
    assert all(other[name] != first[name] for name in first)


def test_the_number_of_trips_does_not_change_the_streets(tmp_path):
    few = make_city(tmp_path / "few", SMALL)
    more = make_city(tmp_path / "more", SMALL.model_copy(update={"num_trips": 300}))
    assert (few / "roadmap.geo").read_bytes() == (more / "roadmap.geo").read_bytes()


def test_a_seed_of_the_trips_gives_other_trips_of_the_same_streets_and_demand(tmp_path):
    """A road is used about as often as by the trips of `seed`, unlike by those of other drivers and another demand."""
    cities = {
        name: make_city(tmp_path / name, SyntheticConfig(blocks=(8, 8), num_trips=3000, trip_seed=seed))
        for name, seed in (("own", None), ("other", 0))
    }
    assert (cities["own"] / "roadmap.geo").read_bytes() == (cities["other"] / "roadmap.geo").read_bytes()
    network = road_network.read_hoser(cities["own"])
    own, other = (trajectories.read_hoser(place / "train.csv", network) for place in cities.values())
    assert not np.array_equal(own.road_ids, other.road_ids)
    used = [np.bincount(each.road_ids, minlength=network.num_roads) for each in (own, other)]
    assert np.corrcoef(used)[0, 1] > 0.98


@pytest.mark.parametrize("blocks", [(5, 5), (8, 8), (6, 20), (20, 6)])
@pytest.mark.parametrize("seed", [0, 7])
def test_all_sizes_are_readable_and_strongly_connected(tmp_path, blocks, seed):
    make_city(tmp_path, SyntheticConfig(seed=seed, blocks=blocks, num_trips=60))
    network = road_network.read_hoser(tmp_path)
    assert _num_components(network) == 1
    for split in SPLITS:
        assert trajectories.read_hoser(tmp_path / f"{split}.csv", network).lengths.min() >= MIN_ROADS


def _num_components(network):
    links = network.successors
    graph = csr_array((np.ones(len(links.indices)), links.indices, links.indptr), (network.num_roads,) * 2)
    return connected_components(graph, directed=True, connection="strong")[0]


def test_too_few_blocks_are_rejected(tmp_path):
    with pytest.raises(ConfigError, match="at least 5"):
        make_city(tmp_path, SyntheticConfig(blocks=(4, 9)))


def test_size_and_street_hierarchy(network):
    assert 1500 <= network.num_roads <= 2500
    assert _num_components(network) == 1
    assert set(network.highway) == {"motorway", "motorway_link", "primary", "secondary", "tertiary", "residential"}
    degrees = network.successors.degrees
    assert degrees.min() >= 1
    assert 0.5 < (degrees >= 2).mean() < 0.9


def test_roads_follow_where_they_touch_and_turn_back_only_at_dead_ends(network):
    links = network.successors
    origin = np.repeat(np.arange(network.num_roads), links.degrees)
    np.testing.assert_array_equal(network.end[origin], network.start[links.indices])
    turns_back = (network.start[origin] == network.end[links.indices]).all(1)
    reverse = turns_back & np.isclose(network.length_m[origin], network.length_m[links.indices], atol=2e-3)
    assert reverse.any()
    assert (links.degrees[origin[reverse]] == 1).all()
    assert (np.diff(links.indices)[origin[1:] == origin[:-1]] > 0).all()


def test_there_are_one_way_streets_and_few_bridges(folder, network):
    columns = pd.read_csv(folder / "roadmap.geo")
    one_way = columns["oneway"].to_numpy()
    pairs = set(zip(columns["u"], columns["v"], strict=True))
    has_reverse = np.array([(v, u) in pairs for u, v in zip(columns["u"], columns["v"], strict=True)])
    assert 0.1 < one_way.mean() < 0.4
    assert has_reverse[~one_way].all()
    assert 4 <= columns["bridge"].to_numpy().sum() <= 12
    assert (network.highway[columns["bridge"].to_numpy()] != "residential").all()


def test_lengths_match_the_lines_and_many_lines_bend(network):
    lat, lng = network.coords[:, 1], network.coords[:, 0]
    pieces = great_circle_m(lat[:-1], lng[:-1], lat[1:], lng[1:])
    starts = network.coord_offsets[:-1]
    inside = np.append(np.isin(np.arange(1, len(network.coords)), starts, invert=True) * pieces, 0.0)
    np.testing.assert_allclose(np.add.reduceat(inside, starts), network.length_m, atol=1e-3)
    crow = great_circle_m(*network.start.T, *network.end.T)
    assert (np.diff(network.coord_offsets) > 2).mean() > 0.5
    assert (network.length_m > crow * 1.002).mean() > 0.3
    assert network.length_m.min() > 15


def test_coordinates_are_written_as_json(folder, network):
    text = (folder / "roadmap.geo").read_text().splitlines()[1].split('"')
    line = next(piece for piece in text if piece.startswith("[["))
    np.testing.assert_array_equal(json.loads(line), network.coords[: network.coord_offsets[1]])


def test_splits_and_lengths(trips, everything):
    assert [len(trips[split]) for split in SPLITS] == [2400, 210, 390]
    assert everything.lengths.min() >= MIN_ROADS
    assert ((everything.lengths >= 8) & (everything.lengths <= 40)).mean() > 0.85
    assert len(set(everything.ids)) == len(everything)


def test_drivers_return(folder):
    drivers = pd.read_csv(folder / "train.csv")["entity_id"]
    assert 20 < len(np.unique(drivers)) < 200


def test_times_imply_plausible_speeds(network, everything):
    position, _ = everything.step_positions()
    seconds = everything.times[position + 1] - everything.times[position]
    assert seconds.min() >= 1
    speed_kmh = network.length_m[everything.road_ids[position]] / seconds * 3.6
    assert 15 < np.median(speed_kmh) < 50
    fast = network.highway[everything.road_ids[position]] == "motorway"
    assert np.median(speed_kmh[fast]) > 1.5 * np.median(speed_kmh[~fast])


def test_two_weeks_with_weekends_and_trips_over_midnight(everything):
    first = everything.start_times // 86400
    last = everything.times[everything.offsets[1:] - 1] // 86400
    assert len(np.unique(first)) == 14
    weekday = (first + 3) % 7  # 1 January 1970 was a Thursday
    assert (np.bincount(weekday, minlength=7) > 0).all()
    crosses = last > first
    assert 10 < crosses.sum() < 150
    assert (weekday[crosses] == 4).any()


def test_traffic_is_slower_at_the_morning_peak_of_working_days(network, everything):
    position, trip = everything.step_positions()
    seconds = everything.times[position + 1] - everything.times[position]
    speed = network.length_m[everything.road_ids[position]] / seconds
    start = everything.start_times[trip]
    hour, is_workday = start % 86400 / 3600, (start // 86400 + 3) % 7 < 5
    primary = network.highway[everything.road_ids[position]] == "primary"
    peak = np.median(speed[primary & is_workday & (hour > 7) & (hour < 9)])
    assert peak < 0.75 * np.median(speed[primary & is_workday & ((hour > 22) | (hour < 5))])


def test_demand_depends_on_the_hour(network, everything):
    middle = network.centroids.mean(0)
    off_center = great_circle_m(network.centroids[:, 0], network.centroids[:, 1], middle[0], middle[1])
    start = everything.start_times
    hour, is_workday = start % 86400 / 3600, (start // 86400 + 3) % 7 < 5
    gain = off_center[everything.destinations] - off_center[everything.origins]
    assert gain[is_workday & (hour > 7) & (hour < 9)].mean() < -100
    assert gain[is_workday & (hour > 16) & (hour < 19)].mean() > 100


def test_the_next_road_is_learnable_but_not_trivial(network, trips):
    """The destination improves on the most frequent next road, and neither rule is close to perfect."""
    train, test = trips["train"], trips["test"]
    at, _ = train.step_positions()
    links = network.successors
    seen = links.indptr[train.road_ids[at]] + network.candidate_index(train.road_ids[at], train.road_ids[at + 1])
    counts = np.bincount(seen, minlength=len(links.indices))
    origin = np.repeat(np.arange(network.num_roads), links.degrees)
    frequent = links.indices[np.lexsort((-counts, origin))[links.indptr[:-1]]]
    at, _ = test.step_positions()
    decision = links.degrees[test.road_ids[at]] >= 2
    hit = (frequent[test.road_ids[at]] == test.road_ids[at + 1])[decision]
    assert decision.mean() > 0.6
    assert 0.6 < hit.mean() < 0.8


def test_progress_reaches_its_end(tmp_path):
    reports = []
    make_city(tmp_path, SMALL, lambda stage, done, total, metrics=None: reports.append((stage, done, total)))
    assert ("streets", 1, 1) in reports
    assert reports[-1] == ("trips", 200, 200)
