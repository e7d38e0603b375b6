"""Roads and matched trips of other tools as kinds of `source` in a city's YAML."""

from __future__ import annotations

import json
import shutil
from typing import get_args

import geopandas as gpd
import networkx as nx
import numpy as np
import pandas as pd
import pytest
from small_city import grid_network, random_trips

from hoser_kd.common.errors import ConfigError, DataError
from hoser_kd.config.imported import ColumnRole
from hoser_kd.config.loading import load_config
from hoser_kd.config.schema import CityConfig
from hoser_kd.network.importing import roads as road_tables
from hoser_kd.network.importing import trips as trip_tables
from hoser_kd.network.importing.city_folder import split_by_start, write_libcity
from hoser_kd.network.road_network import RoadNetwork, read_network
from hoser_kd.network.sources import SOURCE_KINDS, fetch, kind_of, raw_files_of, raw_signature, raw_version
from hoser_kd.network.trajectories import SPLITS, Trajectories, read_trips
from hoser_kd.pipeline.run import make_with_inputs
from hoser_kd.pipeline.store import Store

GRID = grid_network(4)
TRIPS = random_trips(GRID, 12, seed=1)
KINDS = ("import", "fmm", "valhalla", "libcity", "start", "osmnx", "geopandas")
IDS = [f"way/{3 * k}" for k in range(GRID.num_roads)]


def texts(values):
    return [",".join(map(str, values[a:b])) for a, b in zip(TRIPS.offsets[:-1], TRIPS.offsets[1:], strict=True)]


def names(roads):
    return [IDS[road] for road in roads]


def write_edges(folder):
    edges = gpd.GeoDataFrame({"edge_id": IDS, "highway": GRID.highway}, geometry=GRID.geometry, crs="EPSG:4326")
    edges.to_parquet(folder / "edges.parquet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The grid's roads and trips as files of each tool."""
    place = tmp_path_factory.mktemp("tools")
    write_edges(place)
    roads, times = texts(names(TRIPS.road_ids)), texts(TRIPS.times)
    pd.DataFrame({"id": range(12), "cpath": roads, "opath": roads, "timestamp": times}).to_csv(
        place / "fmm.csv", sep=";", index=False
    )
    pd.DataFrame({"path": [f"[{row}]" for row in roads], "tlist": [f"[{row}]" for row in times]}).to_csv(
        place / "start.csv", sep=";", index=False
    )
    write_libcity(place / "libcity", "grid", GRID, split_by_start(TRIPS))
    graph = nx.MultiDiGraph(crs="epsg:4326")
    ends = np.concatenate([GRID.start, GRID.end])
    _, node = np.unique(ends.round(6), axis=0, return_inverse=True)
    for number, (lat, lon) in zip(node.tolist(), ends.tolist(), strict=True):
        graph.add_node(number, x=str(lon), y=str(lat))
    for road in range(GRID.num_roads):
        u, v = node[road], node[GRID.num_roads + road]
        graph.add_edge(int(u), int(v), 0, osmid=IDS[road], highway=str(GRID.highway[road]))
    nx.write_graphml(graph, place / "graph.graphml")
    by_edge = [f"{node[road]}-{node[GRID.num_roads + road]}-0" for road in TRIPS.road_ids]
    pd.DataFrame({"rid_list": texts(by_edge), "time_list": times}).to_csv(place / "trips.csv", index=False)
    return place


def source_of(folder, kind, **changes):
    """The settings of one kind, with the files of its tool."""
    files = {
        "import": {"roads": "edges.parquet", "trips": "start.csv"},
        "fmm": {"roads": "edges.parquet", "trips": "fmm.csv"},
        "start": {"roads": "edges.parquet", "trips": "start.csv"},
        "libcity": {"folder": "libcity"},
        "osmnx": {"roads": "graph.graphml", "trips": "trips.csv"},
        "geopandas": {"roads": "edges.parquet", "trips": "start.csv"},
    }[kind]
    files = {key: str(folder / name) for key, name in files.items()} | changes
    source = {"kind": kind, "files": files, "split": {"by": "trip", "shares": [0.5, 0.25, 0.25]}}
    return CityConfig.model_validate({"city": "grid", "source": source}).source


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "valhalla"])
def test_each_kind_writes_a_city_with_the_map_of_ids(kind, folder, tmp_path):
    source = source_of(folder, kind)
    city = fetch(source, tmp_path / "city")
    network = read_network(city)
    assert network.num_roads == GRID.num_roads
    ids = pd.read_csv(city / "road_ids.csv", dtype=str)
    assert len(set(ids["old_id"])) == GRID.num_roads
    if kind in ("import", "fmm", "start", "geopandas"):
        assert ids["old_id"].tolist() == IDS
    trips = [read_trips(city / f"{split}.csv", network) for split in SPLITS]
    assert sum(map(len, trips)) == len(TRIPS)
    assert sum(part.num_steps for part in trips) == TRIPS.num_steps
    if kind != "libcity":
        assert [len(part) for part in trips] == [6, 3, 3]
    kinds = kind_of(source)
    assert (kinds.is_external, kinds.versioned_by_content, kinds.files_in_settings) == (False, False, True)
    fetch(source, tmp_path / "city")  # what an interrupted run left is replaced


def test_versions_follow_files_and_settings_and_nothing_else(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")

    def settings(*arguments, **changes):
        source = source_of(*arguments, **changes)
        return json.dumps(kind_of(source).settings(source))

    for kind in ("fmm", "libcity"):
        assert settings(copy, kind) == settings(folder, kind) != settings(folder, kind, time_zone="Europe/Lisbon")
    source = source_of(copy, "fmm")
    assert [path.name for path in raw_files_of(source)] == ["edges.parquet", "fmm.csv"]
    roads, trips, signature = (
        raw_version(source, ["roadmap.geo"]),
        raw_version(source, ["train.csv"]),
        raw_signature(source),
    )
    (copy / "fmm.csv").write_text((copy / "fmm.csv").read_text() + "\n")
    (copy / "libcity" / "grid.geo").write_text((copy / "libcity" / "grid.geo").read_text() + "\n")
    assert raw_version(source, ["roadmap.geo"]) == roads
    assert raw_version(source, ["train.csv"]) != trips
    assert raw_signature(source) != signature
    for kind in ("fmm", "libcity"):
        assert settings(copy, kind) != settings(folder, kind)
    shutil.rmtree(copy / "libcity")
    assert raw_signature(source_of(copy, "libcity")) is None
    assert settings(copy, "libcity") != settings(folder, "libcity")
    (copy / "fmm.csv").unlink()
    with pytest.raises(DataError, match=r"fmm\.csv: no such file.*source\.files\.trips"):
        fetch(source, tmp_path / "city")


def test_a_kind_expects_the_files_of_its_tool(folder, tmp_path):
    with pytest.raises(DataError, match=r"start\.csv: no column with the location of trips, as libcity has it"):
        fetch(source_of(folder, "start").model_copy(update={"kind": "libcity"}), tmp_path / "city")
    with pytest.raises(DataError, match="row 0: is not such an answer"):
        fetch(source_of(folder, "start").model_copy(update={"kind": "valhalla"}), tmp_path / "city")
    with pytest.raises(ValueError, match=r"kind osmnx reads roads of \.graphml, \.gpkg"):
        source_of(folder, "osmnx", roads="edges.csv")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ("{}", "kind fmm needs `files: {roads: …, trips: …}`"),
        ("{roads: a, trips: b, val: c}", "set either trips, or train, val and test"),
        ("{roads: a, train: b}", "val, test is missing"),
        ("{folder: a, roads: b}", "set either folder, or roads and trips"),
        ("{roads: a, trips: b, time_zone: Porto}", "not a time zone"),
        ("{roads: a, trips: b, columns: {road: x}}", "`source.files.columns"),
    ],
)
def test_settings_that_do_not_fit_are_named_with_their_line(files, message, tmp_path):
    (tmp_path / "town.yaml").write_text(f"source:\n  kind: fmm\n  files: {files}\n")
    with pytest.raises(ConfigError, match=r"town\.yaml, line \d") as caught:
        load_config(tmp_path / "town.yaml")
    assert message in str(caught.value)


def test_every_role_of_columns_is_a_setting_and_every_kind_is_tested():
    assert set(get_args(ColumnRole)) == {*road_tables.ROLES, *trip_tables.ROLES}
    assert {name for name in SOURCE_KINDS if type(SOURCE_KINDS[name]).__name__ == "ImportedFiles"} == set(KINDS)


def test_trips_of_fmm_go_through_the_stages(folder, tmp_path):
    source = source_of(folder, "fmm").model_dump(mode="json")
    config = CityConfig.model_validate({"city": "grid", "source": source})
    store = Store(tmp_path)
    made = {name: make_with_inputs(name, config, store) for name in ("source_files", "road_network", "trajectories")}
    assert RoadNetwork.load(made["road_network"].path).num_roads == GRID.num_roads
    assert made["trajectories"].summary["num_steps"] == TRIPS.num_steps
    assert (made["source_files"].path / "city" / "road_ids.csv").is_file()
    assert {row["file"] for row in made["source_files"].summary["files"]} >= {"roadmap.geo", "road_ids.csv"}
    # nothing is imported again, and another split is another version
    assert make_with_inputs("source_files", config, store).created_at == made["source_files"].created_at
    other = CityConfig.model_validate({"city": "grid", "source": {**source, "split": {"by": "trip", "seed": 7}}})
    again = make_with_inputs("trajectories", other, store)
    assert again.version != made["trajectories"].version
    first, second = (Trajectories.load(each.path / "train.arrow") for each in (made["trajectories"], again))
    assert first.ids.tolist() != second.ids.tolist()
