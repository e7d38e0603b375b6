"""The road network: reading, validation with error messages, and the round trip through files."""

from __future__ import annotations

from itertools import pairwise

import geopandas as gpd
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hoser_kd.common.arrays import Csr, offsets_of, ranges, row_of_value, take_rows
from hoser_kd.common.errors import DataError
from hoser_kd.network import csv_files, road_network
from hoser_kd.network.road_network import RoadNetwork

LINE = "[[-8.6, 41.1], [-8.5, 41.2]]"
GOOD = [
    f'0,LineString,"{LINE}",primary,100.5',
    '1,LineString,"[[-8.5, 41.2], [-8.4, 41.2], [-8.4, 41.3]]",residential,7',
    f'2,LineString,"{LINE}",residential,0',
]
LINKS = ["0,geo,0,2", "1,geo,1,0", "2,geo,0,1"]


def _write(
    folder,
    roads=GOOD,
    links=LINKS,
    geo_header="geo_id,type,coordinates,highway,length",
    rel_header="rel_id,type,origin_id,destination_id",
):
    (folder / "roadmap.geo").write_text("\n".join([geo_header, *roads]) + "\n")
    (folder / "roadmap.rel").write_text("\n".join([rel_header, *links]) + "\n")
    return folder


@pytest.fixture
def network(tmp_path):
    return road_network.read_hoser(_write(tmp_path))


def _road(coordinates=LINE, highway="primary", length="1", road_id=0):
    return f'{road_id},LineString,"{coordinates}",{highway},{length}'


# what is read


def test_arrays(network):
    assert network.num_roads == 3
    np.testing.assert_array_equal(network.coord_offsets, [0, 2, 5, 7])
    np.testing.assert_array_equal(network.coords[2:5], [[-8.5, 41.2], [-8.4, 41.2], [-8.4, 41.3]])
    np.testing.assert_array_equal(network.length_m, [100.5, 7, 0])
    assert network.highway.tolist() == ["primary", "residential", "residential"]
    assert network.road_type.tolist() == [0, 1, 1]


def test_roads_of_several_blocks_are_those_of_one(tmp_path, monkeypatch):
    roads = [_road(f"[[{number}, 1], [2, {number}]]", road_id=number) for number in range(60)]
    whole = road_network.read_hoser(_write(tmp_path, roads))
    monkeypatch.setattr(csv_files, "_BLOCK_SIZE", 512)
    parts = road_network.read_hoser(_write(tmp_path, roads))
    np.testing.assert_array_equal(parts.coords, whole.coords)
    np.testing.assert_array_equal(parts.coord_offsets, whole.coord_offsets)
    roads[47] = _road("[[0, 1], [x, 2]]", road_id=47)
    with pytest.raises(DataError, match="row 47: coordinates contains 'x', not a number"):
        road_network.read_hoser(_write(tmp_path, roads))


def test_candidates_keep_the_order_of_the_file(network):
    assert network.successors.row(0).tolist() == [2, 1]
    assert network.successors.row(1).tolist() == [0]
    assert network.successors.degrees.tolist() == [2, 1, 0]


def test_candidate_index(network):
    road, following = np.meshgrid([0, 1, 2], [0, 1, 2], indexing="ij")
    result = network.candidate_index(road.ravel(), following.ravel()).reshape(3, 3)
    np.testing.assert_array_equal(result, [[-1, 1, 0], [0, -1, -1], [-1, -1, -1]])


def test_ends_and_centers_are_latitude_first(network):
    np.testing.assert_array_equal(network.start[1], [41.2, -8.5])
    np.testing.assert_array_equal(network.end[1], [41.3, -8.4])
    np.testing.assert_allclose(network.centroids, [[41.15, -8.55], [41.225, -8.425], [41.15, -8.55]])


def test_the_center_weighs_segments_by_their_planar_length_in_degrees(tmp_path):
    network = road_network.read_hoser(_write(tmp_path, [_road("[[0, 60], [0.3, 60], [0.3, 60.1]]")], ["0,g,0,0"]))
    np.testing.assert_allclose(network.centroids, [[60 + 0.05 * 0.25, 0.15 * 0.75 + 0.3 * 0.25]])


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("primary", "primary"),
        ("7", "7"),
        ("\"['motorway', 'primary']\"", "motorway"),
        ("\"['unclassified', 'tertiary']\"", "tertiary"),
        ("\"['unclassified']\"", "unclassified"),
    ],
)
def test_highway_is_a_word_a_number_or_a_list(tmp_path, written, read):
    assert road_network.read_hoser(_write(tmp_path, [_road(highway=written)], ["0,g,0,0"])).highway.tolist() == [read]


def test_numbered_classes_are_sorted_as_numbers(tmp_path):
    roads = [_road(highway=name, road_id=i) for i, name in enumerate(["10", "9", "2"])]
    network = road_network.read_hoser(_write(tmp_path, roads, ["0,g,0,1"]))
    assert network.highway_names == ["2", "9", "10"]
    assert network.road_type.tolist() == [2, 1, 0]


@pytest.mark.parametrize("text", [" [ [ -8.6 ,41.1 ],[-8.5,41.2] ] ", "[[-86e-1, +41.1], [-8.5, 4.12E1]]"])
def test_coordinates_may_be_spaced_and_exponential(tmp_path, text):
    network = road_network.read_hoser(_write(tmp_path, [_road(text)], ["0,g,0,0"]))
    np.testing.assert_allclose(network.coords, [[-8.6, 41.1], [-8.5, 41.2]])


def test_extra_columns_crlf_and_a_byte_order_mark_are_accepted(tmp_path):
    header = "\ufeffgeo_id,type,coordinates,highway,length,name"
    folder = _write(tmp_path, [road + ",x" for road in GOOD], geo_header=header)
    geo = folder / "roadmap.geo"
    geo.write_bytes(geo.read_bytes().replace(b"\n", b"\r\n"))
    assert road_network.read_hoser(folder).num_roads == 3


def test_porto_is_read(porto):
    network = road_network.read_hoser(porto)
    assert network.num_roads == 22_843
    assert len(network.successors.indices) == 38_625


# what is refused


@pytest.mark.parametrize(
    ("road", "message"),
    [
        (_road(road_id=1), r"row 0: geo_id is not the row number.*0, 1, 2"),
        (_road(road_id=""), r"row 0: geo_id is not the row number"),
        (_road(road_id="x"), r"row 0: geo_id is 'x', not a whole number"),
        (_road("[[1, 2]]"), r"row 0: the line has fewer than two points"),
        (_road("nope"), r"row 0: coordinates is not a list"),
        (_road(""), r"row 0: coordinates is not a list"),
        (_road("[[1, 2, 3], [4, 5, 6]]"), r"row 0: coordinates is not a list"),
        (_road("[[1, 2][3, 4]]"), r"row 0: coordinates is not a list"),
        (_road("[[1 2, 3], [3, 4]]"), r"row 0: coordinates is not a list"),
        (_road("[[1, 2], [3, 4"), r"row 0: coordinates is not a list"),
        (_road("[[1, 2], [b, 4]]"), r"row 0: coordinates contains 'b', not a number"),
        (_road("[[nan, 2], [3, 4]]"), r"row 0: a coordinate is out of range"),
        (_road("[[1, 2], [2, 91]]"), r"row 0: a coordinate is out of range.*EPSG:4326"),
        (_road("[[1, 2], [181, 9]]"), r"row 0: a coordinate is out of range"),
        (_road(length=""), r"row 0: length is missing or negative"),
        (_road(length="-1"), r"row 0: length is missing or negative"),
        (_road(length="inf"), r"row 0: length is missing or negative"),
        (_road(length="long"), r"row 0: length is 'long', not a number"),
        (_road(highway=""), r"row 0: highway is empty"),
        (_road(highway="[]"), r"row 0: highway '\[\]' is not a list of classes"),
        (_road(highway="[__import__('os')]"), r"row 0: highway .* is not a list of classes"),
        ("0,LineString", r"row 0: it has 2 values, but the header has 5 columns"),
    ],
)
def test_invalid_roads_are_rejected(tmp_path, road, message):
    with pytest.raises(DataError, match=rf"roadmap\.geo.*{message}"):
        road_network.read_hoser(_write(tmp_path, [road], ["0,g,0,0"]))


@pytest.mark.parametrize(("bad", "row"), [("[[1, 2], [b, 4]]", 1), ("[[1, 2], [3, 95]]", 1), ("[[1, 2]]", 1)])
def test_the_error_has_the_row_of_the_invalid_road(tmp_path, bad, row):
    with pytest.raises(DataError) as error:
        road_network.read_hoser(_write(tmp_path, [GOOD[0], _road(bad, road_id=1)]))
    assert error.value.row == row
    assert error.value.path.endswith("roadmap.geo")


def test_further_invalid_rows_are_counted(tmp_path):
    roads = [_road(length="-1", road_id=i) for i in range(4)]
    with pytest.raises(DataError, match=r"row 0: length.*\(3 more rows have the same problem\.\)"):
        road_network.read_hoser(_write(tmp_path, roads))


@pytest.mark.parametrize(
    ("link", "message"),
    [
        ("2,geo,0,3", r"row 2: a road id is not in roadmap\.geo.*0 to 2"),
        ("2,geo,-1,0", r"row 2: a road id is not in roadmap\.geo"),
        ("2,geo,0,", r"row 2: a road id is not in roadmap\.geo"),
        ("2,geo,0,b", r"row 2: destination_id is 'b', not a whole number"),
        ("2,geo,0,2", r"row 2: the connection is a duplicate"),
    ],
)
def test_invalid_connections_are_rejected(tmp_path, link, message):
    with pytest.raises(DataError, match=rf"roadmap\.rel, {message}"):
        road_network.read_hoser(_write(tmp_path, links=[*LINKS[:2], link]))


def test_missing_columns_and_files_are_named(tmp_path):
    with pytest.raises(
        DataError,
        match=r"roadmap\.geo: no such file\. Give the path of an existing file \(in YAML, `source\.path` is the folder",
    ):
        road_network.read_hoser(tmp_path)
    _write(tmp_path, geo_header="geo_id,type,coordinates,highway,meters")
    with pytest.raises(DataError, match=r"roadmap\.geo: column length is missing.*geo_id, coordinates"):
        road_network.read_hoser(tmp_path)
    _write(tmp_path).joinpath("roadmap.rel").unlink()
    with pytest.raises(DataError, match=r"roadmap\.rel: no such file"):
        road_network.read_hoser(tmp_path)


def test_empty_files_are_rejected(tmp_path):
    with pytest.raises(DataError, match=r"roadmap\.geo: no roads"):
        road_network.read_hoser(_write(tmp_path, roads=[]))
    with pytest.raises(DataError, match=r"roadmap\.rel: no connections"):
        road_network.read_hoser(_write(tmp_path, links=[]))


# to disk and back


def test_parquet_round_trip(network, tmp_path):
    network.save(tmp_path)
    back = RoadNetwork.load(tmp_path)
    for name in ("coord_offsets", "coords", "length_m", "highway"):
        np.testing.assert_array_equal(getattr(back, name), getattr(network, name))
    np.testing.assert_array_equal(back.successors.indptr, network.successors.indptr)
    np.testing.assert_array_equal(back.successors.indices, network.successors.indices)
    assert gpd.read_parquet(tmp_path / "roads.parquet").crs.to_epsg() == 4326


def test_frames(network):
    roads, centers = network.roads_frame(), network.centroids_frame()
    assert list(roads.columns) == ["road_id", "highway", "length_m", "geometry"]
    assert list(centers.columns) == ["road_id", "lon_deg", "lat_deg", "geometry"]
    np.testing.assert_array_equal(np.column_stack([centers.geometry.y, centers.geometry.x]), network.centroids)
    assert roads.crs.to_epsg() == centers.crs.to_epsg() == 4326


# ragged arrays

rows = st.lists(st.lists(st.integers(-99, 99), max_size=6), max_size=12)


def _ragged(lists):
    values = [value for entry in lists for value in entry]
    return offsets_of(np.array([len(entry) for entry in lists], np.int64)), np.array(values, np.int64)


@given(rows)
def test_offsets_and_rows_of_values(lists):
    offsets, values = _ragged(lists)
    assert [values[a:b].tolist() for a, b in pairwise(offsets)] == lists
    assert row_of_value(offsets).tolist() == [i for i, entry in enumerate(lists) for _ in entry]
    assert Csr(offsets, values).degrees.tolist() == [len(entry) for entry in lists]


@given(rows, st.data())
def test_take_rows_is_indexing(lists, data):
    offsets, values = _ragged(lists)
    chosen = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=9)) if lists else []
    new_offsets, at = take_rows(offsets, np.array(chosen, np.int64))
    assert [values[at][a:b].tolist() for a, b in pairwise(new_offsets)] == [lists[i] for i in chosen]


@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(0, 7)), max_size=10))
def test_ranges_are_joined_aranges(pairs):
    starts, lengths = np.array(pairs, np.int64).reshape(-1, 2).T
    assert ranges(starts, lengths).tolist() == [start + k for start, length in pairs for k in range(length)]


@given(st.data())
def test_candidate_index_agrees_with_the_lists(data):
    count = data.draw(st.integers(1, 8))
    some_roads = st.lists(st.integers(0, count - 1), unique=True)
    lists = [data.draw(some_roads) for _ in range(count)]
    offsets, values = _ragged(lists)
    coords = np.zeros((2 * count, 2))
    network = RoadNetwork(
        np.arange(0, 2 * count + 1, 2), coords, np.ones(count), np.full(count, "x", object), Csr(offsets, values)
    )
    road, following = (axis.ravel() for axis in np.mgrid[:count, :count])
    expected = [lists[a].index(b) if b in lists[a] else -1 for a, b in zip(road, following, strict=True)]
    assert network.candidate_index(road, following).tolist() == expected


def test_repeated_connections_are_dropped_and_counted_on_request(tmp_path):
    folder = _write(tmp_path, links=[*LINKS, "3,geo,0,2", "4,geo,1,0"])
    with pytest.raises(DataError, match=r"row 3: the connection is a duplicate.*on_duplicate_connection: drop"):
        road_network.read_network(folder)
    network = road_network.read_network(folder, "drop")
    assert network.dropped_connections == 2
    assert network.successors.row(0).tolist() == [2, 1]
    with pytest.raises(ValueError, match="on_duplicate_connection must be 'refuse' or 'drop'"):
        road_network.read_network(folder, "skip")
