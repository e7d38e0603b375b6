"""A map that ends on a motorway: points are matched to it, although the network leaves it out, and trips are cut."""

from __future__ import annotations

import numpy as np
import pytest
from raw_town import place, town_elements, write_overpass

from hoser_kd.config.matching import MatchingSettings
from hoser_kd.config.raw_data import MapConfig
from hoser_kd.network.matching import match_trips
from hoser_kd.network.matching.known_truth import drive
from hoser_kd.network.matching.left_out import without_left_out_roads
from hoser_kd.network.matching.matcher import REASONS
from hoser_kd.network.osm.extract import read_osm
from hoser_kd.network.osm.roads import build_all_roads, build_roads
from hoser_kd.network.trajectories import Trajectories

BESIDE = 0.18
"""36 m east or west of a street, in blocks."""
NORTH = np.arange(1, 8)
SETTINGS = MatchingSettings()


@pytest.fixture(scope="module")
def ways(tmp_path_factory):
    """A town with a motorway that leaves it beside the street of column 2, and one that enters it beside column 3."""
    nodes, roads = [], []
    for first, column, crossing in ((900, 2 + BESIDE, 102), (950, 3 - BESIDE, 103)):
        places = [place(row, column) for row in NORTH]
        nodes += [{"type": "node", "id": first + k, "lon": x, "lat": y} for k, (x, y) in enumerate(places)]
        ids = [crossing, *range(first, first + len(places))]
        roads.append({"type": "way", "id": first, "nodes": ids if first == 900 else ids[::-1]})
    roads = [{**way, "tags": {"highway": "motorway"}} for way in roads]
    path = write_overpass(tmp_path_factory.mktemp("map") / "map.json", town_elements() + nodes + roads)
    return read_osm(MapConfig(path=str(path)))


@pytest.fixture(scope="module")
def networks(ways):
    """The network, and the one with the roads that it leaves out."""
    return build_roads(ways), build_all_roads(ways)


def test_all_roads_are_the_network_and_behind_it_what_it_leaves_out(networks):
    roads, every = networks
    kept = roads.network
    assert every.num_roads == kept.num_roads + roads.removed == kept.num_roads + 2
    assert set(every.highway[kept.num_roads :]) == {"motorway"}
    assert "motorway" not in kept.highway
    size = kept.coord_offsets[-1]
    np.testing.assert_array_equal(every.coords[:size], kept.coords)
    for road in range(kept.num_roads):
        following = every.successors.row(road)
        assert set(following[following < kept.num_roads]) <= set(kept.successors.row(road))


def trips_of(roads, every):
    """Two trips at 20 m/s: east along row 0 and out on the motorway; in on the other one and east along row 0."""
    ends = list(zip(roads.start_node.tolist(), roads.end_node.tolist(), strict=True))
    leaving, entering = np.flatnonzero(every.highway == "motorway")
    rows = [[ends.index((100, 101)), ends.index((101, 102)), leaving]]
    rows += [[entering, ends.index((103, 104)), ends.index((104, 105))]]
    times = [np.concatenate([[0.0], np.cumsum(every.length_m[row][:-1])]) / 20 for row in rows]
    return Trajectories(np.array([0, 3, 6]), np.concatenate(rows), np.rint(np.concatenate(times)).astype(np.int64))


def test_trips_are_cut_where_they_leave_the_network(networks):
    roads, every = networks
    kept, driven = roads.network.num_roads, trips_of(*networks)
    points = drive(driven, every, every_s=5, noise_m=3)
    matched = match_trips(*points, every, SETTINGS)
    cut = without_left_out_roads(matched, kept, points.offsets, points.t, SETTINGS.min_roads)
    inside = driven.road_ids[driven.road_ids < kept]
    assert cut.trips.road_ids.tolist() == inside.tolist()
    assert cut.trips.lengths.tolist() == [2, 2]
    assert cut.input_trip.tolist() == [0, 1]
    assert np.abs(cut.trips.start_times - driven.times[[0, 4]]).max() <= 5
    assert (points.t[cut.first_point] >= cut.trips.start_times - 1).all()
    assert (cut.point_road < kept).all()
    assert (np.isnan(cut.point_distance_m) == (cut.point_road < 0)).all()
    assert cut.counts["cuts_at_left_out_roads"] == 2
    assert cut.counts["points_on_left_out_roads"] == (matched.point_road >= kept).sum() > 10
    # the network alone would put the trips onto the streets beside the motorway
    beside = match_trips(*points, roads.network, SETTINGS).trips
    assert set(beside.road_ids) - set(inside)


def test_short_parts_are_left_out_and_trips_inside_stay_as_they_are(networks):
    roads, every = networks
    points = drive(trips_of(*networks), every, every_s=5, noise_m=3)
    matched = match_trips(*points, every, SETTINGS)
    none = without_left_out_roads(matched, roads.network.num_roads, points.offsets, points.t, min_roads=3)
    assert len(none.trips) == 0
    assert none.counts["short_pieces"] == none.counts["unmatched_trips"] == 2
    same = without_left_out_roads(matched, every.num_roads, points.offsets, points.t, SETTINGS.min_roads)
    assert same.trips is matched.trips
    assert same.counts.keys() == none.counts.keys() == {*REASONS, "points_on_left_out_roads", "cuts_at_left_out_roads"}
