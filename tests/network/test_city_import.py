"""Roads and trips of other tools become a city in HOSER's format, and the map of ids is kept."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import geopandas as gpd
import networkx as nx
import numpy as np
import pandas as pd
import pytest
import shapely
from small_city import grid_network, random_trips

from hoser_kd.cli import main
from hoser_kd.common.errors import ConfigError, DataError
from hoser_kd.network.city import read_city
from hoser_kd.network.importing.city_files import find_city_files
from hoser_kd.network.importing.city_folder import split_by_start
from hoser_kd.network.importing.city_import import import_city
from hoser_kd.network.importing.roads import read_roads
from hoser_kd.network.importing.trips import read_imported_trips
from hoser_kd.network.importing.valhalla import decode_polyline
from hoser_kd.network.road_network import read_network
from hoser_kd.network.trajectories import SPLITS, read_trips

CASES = Path(__file__).parents[1] / "cases"
TOWN = CASES / "20-libcity-edge-geo-numeric-highway" / "city"
"""The town of all cases; its trips are those of the other cases."""
GRID = grid_network(4)
TRIPS = random_trips(GRID, 12, seed=1)


def links(network):
    return [sorted(network.successors.row(road).tolist()) for road in range(network.num_roads)]


def assert_same_trips(trips, expected):
    assert np.array_equal(trips.offsets, expected.offsets)
    assert np.array_equal(trips.road_ids, expected.road_ids)
    assert np.array_equal(trips.times, expected.times)


@pytest.mark.parametrize("case", ["02c-unix-seconds", "09-times-fraction", "19-libcity-dyna-long-format"])
def test_a_case_is_read_as_its_readme_says(case, tmp_path):
    roads, connections, trips = find_city_files(CASES / case / "city")
    import_city(tmp_path / "city", roads, trips, connections=connections)
    city = read_city(tmp_path / "city")
    for split in SPLITS:
        trips, expected = getattr(city, split), read_trips(TOWN / f"{split}.csv", city.network)
        assert_same_trips(trips, expected.take(np.arange(len(trips))))  # 09 has the first trips of each split
    assert links(city.network) == links(read_network(TOWN))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("05-matcher-repeats-and-uturns", "5 of 12 rows are invalid"),
        ("08b-duplicate-trips-across-splits", "10 of 18 test trips are training trips"),
        ("14-no-times-constant", "no time information"),
    ],
)
def test_what_an_imported_city_lacks_is_reported(case, message, tmp_path, capsys):
    assert main(["import-city", str(tmp_path / "city"), "--folder", str(CASES / case / "city")]) == 1
    out = capsys.readouterr().out
    assert "written:" in out
    assert message in out


def test_numeric_classes_are_numbers_with_or_without_a_blank(tmp_path):
    text = (TOWN / "roadmap.geo").read_text()
    assert ", 0" in text
    roads = read_roads(TOWN / "roadmap.geo", TOWN / "roadmap.rel").network
    assert roads.highway_names == sorted(set(roads.highway), key=int)
    assert {"0", "10"} <= set(roads.highway)


def test_fmm_output_without_times_is_refused_with_the_missing_column():
    folder = CASES / "04-fmm-output" / "city"
    roads = read_roads(folder / "roadmap.geo", folder / "roadmap.rel")
    with pytest.raises(DataError, match=r"train\.csv: no column with times\. .*Columns of the file: id, opath, cpath"):
        read_imported_trips(folder / "train.csv", roads)


def test_fmm_output_with_times_of_points_gives_entry_times(tmp_path):
    folder = CASES / "04-fmm-output" / "city"
    roads = read_roads(folder / "roadmap.geo", folder / "roadmap.rel")
    frame = pd.read_csv(folder / "test.csv", sep=";", dtype=str)
    frame["opath"] = [",".join([path.split(",")[0], *path.split(",")]) for path in frame["cpath"]]
    frame["timestamp"] = [",".join(str(1000 + 10 * k) for k in range(len(o.split(",")))) for o in frame["opath"]]
    frame["offset"] = [",".join(["0", *["1"] * (len(o.split(",")) - 1)]) for o in frame["opath"]]
    frame.to_csv(tmp_path / "fmm.csv", sep=";", index=False)
    trips = read_imported_trips(tmp_path / "fmm.csv", roads)
    expected = read_trips(TOWN / "test.csv", roads.network)
    assert np.array_equal(trips.road_ids, expected.road_ids)
    for first, end in zip(trips.offsets[:-1], trips.offsets[1:], strict=True):
        assert trips.times[first] == 1000
        # a point lies 1 m behind each road's start, at 1010, 1020, …
        assert (1010 + 10 * np.arange(end - first)[1:] - trips.times[first + 1 : end] <= 1).all()
    frame["opath"] = [",".join(reversed(path.split(","))) for path in frame["cpath"]]
    frame["timestamp"] = frame["opath"].str.replace(r"\d+", "1000", regex=True)
    frame.loc[:, "timestamp"] = [",".join(["1000"] * len(o.split(","))) for o in frame["opath"]]
    frame.drop(columns="offset").to_csv(tmp_path / "wrong.csv", sep=";", index=False)
    read_imported_trips(tmp_path / "wrong.csv", roads)  # as many times as roads: taken as entry times
    frame["opath"] += ",16"
    frame["timestamp"] += ",1000"
    frame.to_csv(tmp_path / "wrong.csv", sep=";", index=False)
    with pytest.raises(DataError, match=r"row 0: point \d+ of opath is not on cpath"):
        read_imported_trips(tmp_path / "wrong.csv", roads)


IDS = {
    "way/0": [f"way/{k}" for k in range(GRID.num_roads)],
    "gaps": [7 * k + 100 for k in range(GRID.num_roads)],
    "floats": [float(3 * k) for k in range(GRID.num_roads)],
    "blanks": [f" road {k} " for k in range(GRID.num_roads)],
}


def edges_frame(ids, order):
    table = {"edge_id": ids, "highway": GRID.highway, "length": GRID.length_m}
    return gpd.GeoDataFrame(table, geometry=GRID.geometry, crs="EPSG:4326").iloc[order].reset_index(drop=True)


def write_edges(frame, kind, folder):
    path = folder / f"edges.{kind}"
    if kind == "parquet":
        frame.to_parquet(path)
    elif kind == "gpkg":
        frame.to_crs("EPSG:3857").to_file(path, layer="edges")
    elif kind == "multi.geojson":
        frame.set_geometry([shapely.MultiLineString([line]) for line in frame.geometry], crs="EPSG:4326").to_file(path)
    else:
        plain = pd.DataFrame(frame.drop(columns="geometry")).assign(geometry=frame.geometry.to_wkt())
        plain.to_csv(path, index=False, sep=";" if "semicolon" in kind else ",")
    return path


@pytest.mark.parametrize(
    ("ids", "kind"),
    [
        ("way/0", "semicolon.csv.gz"),
        ("gaps", "parquet"),
        ("floats", "csv"),
        ("blanks", "gpkg"),
        ("gaps", "multi.geojson"),
    ],
)
def test_edges_with_any_ids_become_roads_and_the_trips_follow(ids, kind, tmp_path):
    order = np.random.default_rng(0).permutation(GRID.num_roads)
    names = IDS[ids]
    roads_file = write_edges(edges_frame(names, order), kind, tmp_path)
    of_trip = ["[" + ", ".join(str(names[road]).strip() for road in TRIPS.roads(k)) + "]" for k in range(len(TRIPS))]
    seconds = [str(TRIPS.times[a:b].tolist()) for a, b in zip(TRIPS.offsets[:-1], TRIPS.offsets[1:], strict=True)]
    # START's columns
    start = pd.DataFrame({"id": range(len(TRIPS)), "path": of_trip, "tlist": seconds, "usr_id": 0, "traj_id": "t"})
    start.to_csv(tmp_path / "trips.csv", sep=";", index=False)
    city = import_city(tmp_path / "city", roads_file, tmp_path / "trips.csv")
    assert sum(city.num_trips.values()) == len(TRIPS)
    table = pd.read_csv(tmp_path / "city" / "road_ids.csv", dtype=str)
    assert table["geo_id"].tolist() == [str(k) for k in range(GRID.num_roads)]
    expected = [str(names[k]).strip().removesuffix(".0") for k in order]
    assert table["old_id"].tolist() == expected
    result = read_city(tmp_path / "city")
    new = np.argsort(order)
    assert links(result.network) == [sorted(new[GRID.successors.row(road)].tolist()) for road in order]
    assert (result.network.highway == GRID.highway[order]).all()
    assert np.allclose(result.network.coords.reshape(-1, 4), GRID.coords.reshape(-1, 4)[order], atol=1e-7)
    for split, trips in split_by_start(TRIPS).items():
        part = getattr(result, split)
        assert np.array_equal(part.road_ids, new[trips.road_ids])
        assert np.array_equal(part.times, trips.times)


def test_the_pieces_of_one_trip_stay_in_one_split():
    of_trip = np.arange(len(TRIPS)) // 4
    splits = split_by_start(TRIPS, of_trip)
    assert [len(part) for part in splits.values()] == [4, 4, 4]
    number = {tuple(TRIPS.roads(k)): k // 4 for k in range(len(TRIPS))}
    assert all(len({number[tuple(part.roads(k))] for k in range(4)}) == 1 for part in splits.values())


def test_an_osmnx_graph_is_read_with_its_nodes(tmp_path):
    graph = nx.MultiDiGraph(crs="epsg:4326")
    for node, (x, y) in {10: (-8.6, 41.1), 20: (-8.59, 41.1), 30: (-8.59, 41.11)}.items():
        graph.add_node(node, x=str(x), y=str(y))
    bent = "LINESTRING (-8.6 41.1, -8.595 41.101, -8.59 41.1)"
    graph.add_edge(10, 20, 0, osmid="5", highway="['residential', 'service']", length="850.0", geometry=bent)
    graph.add_edge(20, 30, 0, osmid="6", highway="primary", length="1112.0")
    graph.add_edge(20, 30, 1, osmid="7", highway="primary", length="1112.0")
    nx.write_graphml(graph, tmp_path / "graph.graphml")
    roads = read_roads(tmp_path / "graph.graphml")
    assert roads.source_ids.to_pylist() == ["10-20-0", "20-30-0", "20-30-1"]
    assert links(roads.network) == [[1, 2], [], []]
    assert np.diff(roads.network.coord_offsets).tolist() == [3, 2, 2]
    assert roads.network.length_m.tolist() == [850, 1112, 1112]
    assert roads.network.highway.tolist() == ["['residential', 'service']", "primary", "primary"]


def encode(degrees):
    """Google's polyline with 6 decimals, as Valhalla writes it."""
    text = ""
    previous = np.zeros(2, np.int64)
    for point in np.round(np.asarray(degrees)[:, ::-1] * 1e6).astype(np.int64):
        for step in (point - previous).tolist():
            value = ~(step << 1) if step < 0 else step << 1
            while value >= 32:
                text += chr((32 | (value & 31)) + 63)
                value >>= 5
            text += chr(value + 63)
        previous = point
    return text


def test_valhallas_matched_lines_become_roads_with_its_times(tmp_path):
    lines = []
    for trip in range(len(TRIPS)):
        roads = TRIPS.roads(trip)
        times = TRIPS.times[TRIPS.offsets[trip] : TRIPS.offsets[trip + 1]]
        points = np.concatenate([GRID.coords[[2 * roads[0]]], GRID.coords[2 * roads + 1]])
        elapsed = [*(times[1:] - times[0]).tolist(), int(times[-1] - times[0]) + 30]
        edges = [
            {"way_id": 1, "begin_shape_index": k, "end_shape_index": k + 1, "end_node": {"elapsed_time": elapsed[k]}}
            for k in range(len(roads))
        ]
        answer = {"id": f"trip {trip}", "start_time": int(times[0]), "shape": encode(points), "edges": edges}
        assert np.allclose(decode_polyline(answer["shape"]), points, atol=1e-6)
        lines.append(json.dumps(answer))
    (tmp_path / "trips.jsonl").write_text("\n".join(lines))
    frame = edges_frame(IDS["way/0"], np.arange(GRID.num_roads))
    trips = read_imported_trips(tmp_path / "trips.jsonl", read_roads(write_edges(frame, "parquet", tmp_path)))
    assert trips.ids.tolist() == [f"trip {trip}-0" for trip in range(len(TRIPS))]
    assert np.array_equal(trips.road_ids, TRIPS.road_ids)
    assert np.abs(trips.times - TRIPS.times).max() <= 1
    (tmp_path / "bad.jsonl").write_text('{"shape": "", "edges": []}\n')
    with pytest.raises(DataError, match=r"bad\.jsonl, row 0: start_time is missing"):
        read_imported_trips(tmp_path / "bad.jsonl", read_roads(tmp_path / "edges.parquet"))


def test_a_city_exported_to_libcity_is_the_same_when_imported(tmp_path, capsys):
    assert main(["export-libcity", str(TOWN), str(tmp_path / "libcity"), "--name", "town"]) == 0
    names = {"town.geo", "town.rel", "config.json", *(f"town_{split}.dyna" for split in SPLITS)}
    assert {path.name for path in (tmp_path / "libcity").iterdir()} == names
    header = (tmp_path / "libcity" / "town_test.dyna").read_text().splitlines()[0].replace('"', "")
    assert header == "dyna_id,type,time,entity_id,location,traj_id"
    assert main(["import-city", str(tmp_path / "city"), "--folder", str(tmp_path / "libcity")]) == 0
    assert "no problems" in capsys.readouterr().out
    result, network = read_city(tmp_path / "city"), read_network(TOWN)
    assert links(result.network) == links(network)
    assert np.array_equal(result.network.length_m, network.length_m)
    for split in SPLITS:
        expected = read_trips(TOWN / f"{split}.csv", network)
        assert_same_trips(getattr(result, split), expected)
        assert getattr(result, split).ids.tolist() == expected.ids.tolist()


@pytest.mark.parametrize(
    ("text", "zone", "expected"),
    [
        ("2013-07-01T00:01:15Z", None, "2013-07-01T00:01:15"),
        ("2013-07-01 00:01:15.9", None, "2013-07-01T00:01:15"),
        ("2013-07-01T00:01:15", "Europe/Lisbon", "2013-07-01T00:01:15"),  # local already
        ("2013-07-01T00:01:15Z", "Europe/Lisbon", "2013-07-01T01:01:15"),
        ("2013-07-01T00:01:15+08:00", "Asia/Shanghai", "2013-07-01T00:01:15"),
        ("1372636875", None, "2013-07-01T00:01:15"),
        ("1372636875.0", "Europe/Lisbon", "2013-07-01T01:01:15"),
        ("1372636875500", "Asia/Shanghai", "2013-07-01T08:01:15"),
    ],
)
def test_times_in_their_usual_spellings_become_local_times(text, zone, expected, tmp_path):
    path = tmp_path / "trips.csv.gz"
    path.write_bytes(gzip.compress(f'rid_list,time_list\n"0,2","{text},{text}"\n'.encode()))
    roads = read_roads(TOWN / "roadmap.geo", TOWN / "roadmap.rel")
    trips = read_imported_trips(path, roads, zone)
    assert trips.times.tolist() == [np.datetime64(expected).astype(int)] * 2


@pytest.mark.parametrize(
    ("roads", "trips", "message"),
    [
        ("id,geometry\n1,LINESTRING (0 0;0 1)\n", "", r"row 0: geometry is not a line"),
        (
            'id,geometry\n1,"LINESTRING (0 0,0 1)"\n1,"LINESTRING (0 1,0 0)"\n',
            "",
            r"row 1: the road id '1' occurs twice",
        ),
        ('id,geometry\n1,"MULTILINESTRING ((0 0,0 1),(5 5,6 6))"\n', "", r"row 0: geometry is not a line.*1 of 1 rows"),
        ('id,geometry\n1,"LINESTRING (500 0,500 1)"\n', "", r"row 0: a coordinate is out of range"),
        ('id,geometry,length\n1,"LINESTRING (0 0,0 1)",far\n', "", r"row 0: length is 'far', not a length"),
        ("name,geometry\n", "", r"no rows"),
        ("name,line\nx,y\n", "", r"no column with the ids of roads.*--columns road_id=NAME"),
        ("id,line\nx,y\n", "", r"no column with the lines of roads"),
        (None, 'rid_list,time_list\n"0,999","5,6"\n', r"row 0: '999' is not the id of a road"),
        (None, 'rid_list,time_list\n"0,2","5,6,7"\n', r"row 0: 2 roads but 3 times"),
        (None, 'rid_list,time_list\n"0,2","5,noon"\n', r"row 0: the time 'noon' is not a time"),
        (None, 'rid_list,time_list\n"0,2","2013-07-01T00:01:15+08:00,5"\n', r"has a UTC offset.*--time-zone"),
        (None, "rid_list\n0\n", r"no column with times.*Columns of the file: rid_list"),
        (None, "a,b\n0,1\n", r"no column with the roads of trips.*Columns of the file: a, b"),
        (None, None, r"no such file"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_place_and_the_fix(roads, trips, message, tmp_path):
    if roads is not None:
        (tmp_path / "roads.csv").write_text(roads)
        with pytest.raises(DataError, match=message):
            read_roads(tmp_path / "roads.csv")
        return
    if trips is not None:
        (tmp_path / "trips.csv").write_text(trips)
    with pytest.raises(DataError, match=message):
        read_imported_trips(tmp_path / "trips.csv", read_roads(TOWN / "roadmap.geo", TOWN / "roadmap.rel"))


def test_columns_with_unusual_names_are_named_by_role(tmp_path, capsys):
    frame = pd.DataFrame(edges_frame(IDS["gaps"], np.arange(GRID.num_roads)))
    frame["geometry"] = GRID.geometry.astype(str)
    frame.rename(columns={"edge_id": "strecke", "geometry": "linie"}).to_csv(tmp_path / "roads.csv", index=False)
    out = tmp_path / "city"
    trips = TOWN / "test.csv"
    wrong = ["import-city", str(out), "--roads", str(tmp_path / "roads.csv"), "--trips", str(trips)]
    assert main([*wrong, "--columns", "road=strecke"]) == 2
    assert "expected ROLE=NAME" in capsys.readouterr().err
    columns = {"road_id": "strecke", "geometry": "linie"}
    assert read_roads(tmp_path / "roads.csv", None, columns).network.num_roads == GRID.num_roads
    with pytest.raises(DataError, match=r"column gleis is missing\. Columns of the file: strecke"):
        read_roads(tmp_path / "roads.csv", None, {"road_id": "gleis"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no city given. Use --roads FILE and --trips FILE, or --folder FOLDER."),
        (["--roads", "a", "--trips", "b", "--val", "c"], "contradict each other"),
        (["--roads", "a", "--train", "b"], "--val, --test is missing"),
        (["--roads", "a", "--folder", "b"], "Give either"),
    ],
)
def test_contradicting_options_are_refused(arguments, message, tmp_path, capsys):
    assert main(["import-city", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_an_existing_folder_and_an_unknown_time_zone_are_refused(tmp_path):
    with pytest.raises(DataError, match="is not an empty folder"):
        import_city(TOWN, TOWN / "roadmap.geo", TOWN / "train.csv")
    with pytest.raises(ConfigError, match="Porto is not a time zone"):
        import_city(tmp_path / "out", TOWN / "roadmap.geo", TOWN / "train.csv", time_zone="Porto")
