"""Roads from OpenStreetMap: which ways become roads, where they are split, and what follows what."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from raw_town import town_elements, write_osm_xml, write_overpass

from hoser_kd.common.errors import ConfigError, DataError
from hoser_kd.config.bounds import Bounds
from hoser_kd.config.raw_data import MapConfig
from hoser_kd.network.osm.extract import OsmWays, direction_of, read_osm
from hoser_kd.network.osm.roads import build_roads


def nodes(*ids, step=0.002):
    """Nodes in a row to the east, ids in that order."""
    return [{"type": "node", "id": i, "lon": -8.6 + k * step, "lat": 41.1 + 0.0001 * k} for k, i in enumerate(ids)]


def way(number, *refs, **tags):
    return {"type": "way", "id": number, "nodes": list(refs), "tags": {"highway": "residential", **tags}}


def roads_of(tmp_path, *elements, **settings):
    path = write_overpass(
        tmp_path / "map.json", [part for each in elements for part in ([each] if isinstance(each, dict) else each)]
    )
    return build_roads(read_osm(MapConfig(path=str(path), **settings)))


def ends(roads):
    return sorted(zip(roads.start_node.tolist(), roads.end_node.tolist(), strict=True))


def followers(roads, start, end):
    """The (start, end) nodes of the roads that follow the road between two nodes."""
    pairs = list(zip(roads.start_node.tolist(), roads.end_node.tolist(), strict=True))
    return sorted(pairs[i] for i in roads.network.successors.row(pairs.index((start, end))).tolist())


def test_ways_are_split_at_shared_nodes_and_u_turns_are_left_to_dead_ends(tmp_path):
    cross = [{"type": "node", "id": 9, "lon": -8.596, "lat": 41.11}]
    roads = roads_of(tmp_path, nodes(1, 2, 3, 4), cross, way(10, 1, 2, 3, 4), way(11, 3, 9))
    assert ends(roads) == [(1, 3), (3, 1), (3, 4), (3, 9), (4, 3), (9, 3)]
    assert followers(roads, 1, 3) == [(3, 4), (3, 9)]
    assert followers(roads, 3, 4) == [(4, 3)]
    assert set(roads.way_id.tolist()) == {10, 11}
    at = ends(roads).index((1, 3))
    assert at == 0
    first = roads.network.coord_offsets
    lengths = {
        pair: np.diff(first)[i]
        for i, pair in enumerate(zip(roads.start_node.tolist(), roads.end_node.tolist(), strict=True))
    }
    assert lengths[1, 3] == 3
    assert (roads.network.length_m > 150).all()


@pytest.mark.parametrize(
    ("tags", "direction"),
    [
        ({}, 0),
        ({"oneway": "yes"}, 1),
        ({"oneway": "1"}, 1),
        ({"oneway": "-1"}, -1),
        ({"oneway": "reverse"}, -1),
        ({"oneway": "no"}, 0),
        ({"junction": "roundabout"}, 1),
        ({"junction": "circular"}, 1),
        ({"junction": "roundabout", "oneway": "no"}, 0),
        ({"highway": "motorway"}, 1),
        ({"highway": "motorway", "oneway": "no"}, 0),
        ({"highway": "motorway_link"}, 0),
    ],
)
def test_directions(tags, direction):
    assert direction_of(tags) == direction


def test_one_way_streets_have_one_road_in_the_direction_of_travel(tmp_path):
    square = [{"type": "node", "id": 9, "lon": -8.599, "lat": 41.105}]
    roads = roads_of(
        tmp_path,
        nodes(1, 2),
        square,
        way(10, 2, 1, oneway="-1"),
        way(11, 2, 9, oneway="yes"),
        way(12, 9, 1, oneway="yes"),
    )
    assert ends(roads) == [(1, 2), (2, 9), (9, 1)]
    assert roads.is_reversed[
        ends(roads).index((1, 2)) if roads.start_node[0] == 1 else roads.start_node.tolist().index(1)
    ]


@pytest.mark.parametrize(
    ("tags", "kept"),
    [
        ({"access": "private"}, False),
        ({"access": "no", "motor_vehicle": "yes"}, True),
        ({"motor_vehicle": "no", "motorcar": "yes"}, True),
        ({"vehicle": "no"}, False),
        ({"access": "destination"}, True),
        ({"highway": "footway"}, False),
        ({"highway": "service"}, False),
        ({"area": "yes"}, False),
    ],
)
def test_ways_that_cars_may_not_use_are_left_out(tmp_path, tags, kept):
    roads = roads_of(tmp_path, nodes(1, 2, 3), way(10, 1, 2), way(11, 2, 3, **tags))
    assert ((2, 3) in ends(roads)) == kept


def test_classes_are_a_setting(tmp_path):
    town = (nodes(1, 2, 3), way(10, 1, 2), way(11, 2, 3, highway="service"))
    assert (2, 3) in ends(roads_of(tmp_path, *town, highways=("residential", "service")))


def test_closed_ways_are_split_so_that_no_road_follows_itself(tmp_path):
    loop = [
        {"type": "node", "id": i, "lon": -8.59 + dx, "lat": 41.1 + dy}
        for i, dx, dy in ((7, 0.001, 0), (8, 0.001, 0.001), (9, 0, 0.001))
    ]
    roads = roads_of(tmp_path, nodes(1, 2), loop, way(10, 1, 2), way(11, 2, 7, 8, 9, 2))
    assert (roads.start_node != roads.end_node).all()
    assert {(2, 8), (8, 2)} <= set(ends(roads))
    assert ends(roads).count((2, 8)) == 2  # once in each direction around the loop


def test_parallel_streets_stay_different_roads(tmp_path):
    detour = [{"type": "node", "id": 9, "lon": -8.599, "lat": 41.105}]
    roads = roads_of(tmp_path, nodes(1, 2, 3), detour, way(10, 1, 2), way(11, 1, 9, 2), way(12, 2, 3))
    assert ends(roads).count((1, 2)) == 2
    # the way back from node 1 is the other street, not a u-turn
    [back] = [i for i in range(6) if (roads.way_id[i], roads.end_node[i]) == (10, 1)]
    assert roads.way_id[roads.network.successors.row(back)].tolist() == [11]


def test_the_largest_strongly_connected_component_is_kept(tmp_path):
    island = [{"type": "node", "id": i, "lon": -8.5 + i * 0.001, "lat": 41.2} for i in (50, 51)]
    roads = roads_of(
        tmp_path,
        nodes(1, 2, 3, 4),
        island,
        way(10, 1, 2, 3),
        way(11, 2, 4),
        way(12, 50, 51),
        way(13, 3, 51, oneway="yes"),
    )
    assert 50 not in roads.start_node
    assert roads.removed == 3
    assert (roads.network.successors.degrees > 0).all()


def test_ways_are_clipped_to_the_area_and_at_missing_nodes(tmp_path):
    town = (nodes(1, 2, 3, 4, 5), way(10, 1, 2, 3, 4, 5, 99), way(11, 4, 98))
    inside = Bounds(min_lat=41.0, max_lat=41.2, min_lng=-8.6001, max_lng=-8.5959)
    roads = roads_of(tmp_path, *town, bounds=inside)
    assert ends(roads) == [(1, 3), (3, 1)]
    polygon = tmp_path / "area.geojson"
    ring = [[-8.601, 41.0], [-8.5959, 41.0], [-8.5959, 41.2], [-8.601, 41.2], [-8.601, 41.0]]
    feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    polygon.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    assert ends(roads_of(tmp_path, *town, polygon=str(polygon))) == [(1, 3), (3, 1)]
    ways = read_osm(MapConfig(path=str(tmp_path / "map.json"), bounds=inside))
    assert ways.counts["nodes_missing"] == 2
    assert ways.counts["nodes_outside"] == 3


def test_pyosmium_and_overpass_give_the_same_roads_and_files_keep_them(tmp_path):
    import osmium

    elements = town_elements()
    overpass = write_overpass(tmp_path / "map.json", elements)
    with gzip.open(tmp_path / "map.json.gz", "wb") as file:
        file.write(overpass.read_bytes())
    xml = write_osm_xml(tmp_path / "map.osm", elements)
    with osmium.SimpleWriter(str(tmp_path / "map.osm.pbf")) as writer:
        for each in osmium.FileProcessor(str(xml)):
            writer.add(each)
    first = build_roads(read_osm(MapConfig(path=str(overpass))))
    assert first.network.num_roads == 2 * 6 * 5 * 2 - 5
    for name in ("map.json.gz", "map.osm", "map.osm.pbf"):
        ways = read_osm(MapConfig(path=str(tmp_path / name)))
        ways.save(tmp_path)
        roads = build_roads(OsmWays.load(tmp_path))
        np.testing.assert_array_equal(roads.network.coords, first.network.coords)
        np.testing.assert_array_equal(roads.network.successors.indices, first.network.successors.indices)
        np.testing.assert_array_equal(roads.way_id, first.way_id)


def test_files_that_hold_no_roads_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.pbf: no such file.*source\.map\.path"):
        read_osm(MapConfig(path=str(tmp_path / "nowhere.pbf")))
    for name, content in (("map.json", "{]"), ("map.osm", "<osm"), ("map.txt", "x")):
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=f"{name}: cannot be read as OpenStreetMap data.*osm.pbf"):
            read_osm(MapConfig(path=str(tmp_path / name)))
    town = write_overpass(tmp_path / "town.json", [*nodes(1, 2), way(10, 1, 2)])
    with pytest.raises(DataError, match=r"no way has one of the classes track.*source\.map\.highways"):
        read_osm(MapConfig(path=str(town), highways=("track",)))
    with pytest.raises(DataError, match=r"no road lies inside the area.*source\.map\.bounds"):
        read_osm(MapConfig(path=str(town), bounds=Bounds(min_lat=1, max_lat=2, min_lng=1, max_lng=2)))
    with pytest.raises(ConfigError, match="either bounds or polygon"):
        MapConfig(path=str(town), polygon="x", bounds=Bounds(min_lat=1, max_lat=2, min_lng=1, max_lng=2))
