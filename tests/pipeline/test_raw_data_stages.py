"""Stages of raw data: a made map and made GPS points become roads and trips, and other cities stay as they are."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from raw_town import drives, town_elements, write_ecml, write_osm_xml, write_overpass

from hoser_kd.cli import main
from hoser_kd.common.errors import CheckError, ConfigError, DataError
from hoser_kd.config.loading import load_config
from hoser_kd.config.raw_data import MapConfig
from hoser_kd.config.schema import CityConfig
from hoser_kd.network.matched_quality import Distances, measure_pieces, piece_of_point
from hoser_kd.network.osm.extract import read_osm
from hoser_kd.network.osm.roads import OSM_FILE, build_roads
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.trajectories import SPLITS, Trajectories
from hoser_kd.pipeline.checks import run_checks
from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.run import make_with_inputs, settings_of, version_of
from hoser_kd.pipeline.settings import SETTINGS, changed_settings
from hoser_kd.pipeline.store import Artifact, Store, read_artifact

NAMES = ("osm_extract", "gps_points", "matched_trips", "road_network", "trajectories", "road_zones")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A folder with town.osm, trips.csv and town.yaml."""
    folder = tmp_path_factory.mktemp("raw")
    network = build_roads(read_osm(MapConfig(path=str(write_overpass(folder / "town.json", town_elements()))))).network
    write_osm_xml(folder / "town.osm", town_elements())
    write_ecml(folder / "trips.csv", drives(network, 60))
    (folder / "town.yaml").write_text(
        "source:\n  kind: raw\n  map: {path: town.osm}\n  points: {path: trips.csv, format: ecml_pkdd, time_zone: "
        "Europe/Lisbon}\nzones: {count: 6}\n"
    )
    return folder


@pytest.fixture(scope="module")
def store(raw, tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


def config_of(raw, folder=None, **source):
    """The town's settings, with the raw files of another folder or other settings of the source."""
    place = folder or raw
    values = {
        "kind": "raw",
        "map": {"path": str(place / "town.osm")},
        "points": {"path": str(place / "trips.csv"), "format": "ecml_pkdd", "time_zone": "Europe/Lisbon"},
    }
    for key, changes in source.items():
        values[key] = {**values.get(key, {}), **changes}
    return CityConfig.model_validate({"city": "town", "source": values, "zones": {"count": 6}})


@pytest.fixture(scope="module")
def made(raw, store):
    """The artifacts of the town's network group, by stage."""
    config = config_of(raw)
    return {name: make_with_inputs(name, config, store) for name in NAMES}


def test_raw_files_become_trips_on_roads(made, raw):
    network = RoadNetwork.load(made["road_network"].path)
    assert network.num_roads == made["road_network"].summary["num_roads"] == 2 * 6 * 5 * 2 - 5
    summary = made["trajectories"].summary
    trips = {split: Trajectories.load(made["trajectories"].path / f"{split}.arrow") for split in SPLITS}
    assert sum(map(len, trips.values())) == summary["num_trips"] >= 55
    last = 0
    for split in SPLITS:
        each = trips[split]
        at, _ = each.step_positions()
        assert (network.candidate_index(each.road_ids[at], each.road_ids[at + 1]) >= 0).all()
        assert (np.diff(each.times)[at] >= 0).all()
        # whole local days, in order
        assert each.start_times.min() // 86_400 >= last // 86_400
        last = each.start_times.max() + 1
    assert made["matched_trips"].summary["matched_trips_share"] >= 0.95
    assert made["matched_trips"].summary["unconnected_steps"] == 0
    assert made["matched_trips"].summary["distance_m_median"] < 6
    assert {file.name for file in made["matched_trips"].path.glob("*.png")} == {"quality.png", "worst.png"}


def test_times_become_local_once(made):
    pieces = pq.read_table(made["matched_trips"].path / "pieces.parquet").to_pandas()
    trips = Trajectories.load(made["matched_trips"].path / "trips.arrow")
    points = pq.read_table(made["gps_points"].path / "points.parquet").to_pandas()
    assert (pieces["utc_offset_s"] == 3600).all()
    first = points[points["trip_id"] == pieces["trip_id"][0]]["t"].iloc[0].timestamp()
    assert abs(trips.start_times[0] - 3600 - first) <= 15
    assert trips.ids[0] == f"{pieces['trip_id'][0]}-0"
    assert pieces["vehicle_id"][0].startswith("taxi")


def test_roads_keep_their_ids_of_openstreetmap(made):
    roads = pq.read_table(made["road_network"].path / OSM_FILE).to_pandas()
    assert roads["road_id"].tolist() == list(range(len(roads)))
    assert set(roads["way_id"]) == {1000 + k for k in range(6)} | {2000 + k for k in range(6)}


def test_the_lineage_shows_the_chain(made, capsys):
    assert main(["lineage", str(made["trajectories"].path)]) == 0
    lines = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    chain = ["trajectories", "matched_trips", "gps_points", "osm_extract", "road_network", "osm_extract"]
    assert lines == [*chain, "road_network"]
    assert set(made["road_zones"].inputs) == {"road_network"}


def test_checks_pass_and_their_evidence_exists(made):
    failed = [
        each.name for name in ("gps_points", "matched_trips") for each in run_checks(made[name], {}) if not each.passed
    ]
    assert failed == ["paths_plausible"]  # the drives are random walks, so they are not direct
    bad = {"matched_points_share": 0.1, "matched_trips_share": 0.1, "distance_m_median": 99.0, "speed_m_s_p99": 99.0}
    matched = made["matched_trips"]
    failing = Artifact(**{**vars(matched), "summary": {**matched.summary, **bad}})
    results = run_checks(failing, {})
    assert [result.passed for result in results] == [False] * 4
    assert all(result.evidence.rows and result.evidence.figure for result in results)
    few = Artifact(**{**vars(made["gps_points"]), "summary": {**made["gps_points"].summary, "points_kept_share": 0.1}})
    [result] = run_checks(few, {})
    assert not result.passed
    assert {"reason": "standing_points", "number": 0}.keys() == result.evidence.rows[0].keys()


def test_each_setting_changes_only_what_reads_it(raw, tmp_path):
    def versions(config):
        return {name: changed_settings(settings_of(STAGES[name], config)) for name in NAMES}

    def changed(config):
        before, after = versions(config_of(raw)), versions(config)
        return {name for name in NAMES if before[name] != after[name]}

    assert changed(config_of(raw, map={"highways": ["primary"]})) == {"osm_extract"}
    assert changed(config_of(raw, points={"max_gap_s": 60})) == {"gps_points"}
    assert changed(config_of(raw, points={"time_zone": "UTC"})) == {"gps_points", "matched_trips"}
    assert changed(config_of(raw, matching={"sigma_m": 9})) == {"matched_trips"}
    assert changed(config_of(raw, matching={"processes": 2})) == set()
    assert changed(config_of(raw, split={"seed": 1})) == {"trajectories"}
    copy = shutil.copytree(raw, tmp_path / "copy")
    assert changed(config_of(raw, copy)) == set()
    (copy / "trips.csv").write_text((copy / "trips.csv").read_text() + "\n")
    assert changed(config_of(raw, copy)) == {"gps_points"}
    (copy / "town.osm").unlink()
    assert changed(config_of(raw, copy)) == {"gps_points", "osm_extract"}


def test_cities_of_other_kinds_depend_on_none_of_it(tmp_path):
    plain = CityConfig.model_validate({"city": "town", "source": {"kind": "synthetic"}})
    given = CityConfig.model_validate(
        {"city": "town", "source": {"kind": "synthetic", "split": {"seed": 5}, "map": {"path": "x"}}}
    )
    for name in ("map", "points", "matching", "split", "source"):
        assert SETTINGS[name].changed(SETTINGS[name](given)) == SETTINGS[name].changed(SETTINGS[name](plain))
    # the versions of this project before raw data existed
    source = Artifact("source_files", "town", None, "0123456789abcdef", tmp_path)
    roads = Artifact("road_network", "town", None, "fedcba9876543210", tmp_path)
    inputs = {"source_files": source, "road_network": roads}
    known = {"road_network": "72011f1f79a7200e", "trajectories": "eb8492d994055d73", "road_zones": "5c3dd5d5318160f8"}
    empty = {name: Artifact(name, "town", None, "x", tmp_path) for name in ("osm_extract", "matched_trips")}
    for name, version in known.items():
        read = {key: inputs[key] for key in STAGES[name].inputs if key in inputs}
        assert version_of(STAGES[name], plain, read) == version
        assert version_of(STAGES[name], plain, {**read, **empty}) == version


def test_unused_stages_are_empty(tmp_path):
    store = Store(tmp_path)
    config = CityConfig.model_validate(
        {"city": "town", "source": {"kind": "synthetic", "synthetic": {"blocks": [5, 5], "num_trips": 30}}}
    )
    artifact = make_with_inputs("matched_trips", config, store)
    assert artifact.summary["enabled"] is False
    assert artifact.inputs == {}
    assert all(result.passed for result in run_checks(artifact, {}))


def test_a_missing_file_is_named_before_anything_is_computed(raw, tmp_path):
    copy = shutil.copytree(raw, tmp_path / "copy")
    (copy / "trips.csv").unlink()
    with pytest.raises(DataError, match=r"trips\.csv: no such file or folder.*source\.points\.path"):
        make_with_inputs("trajectories", config_of(raw, copy), Store(tmp_path / "store"))
    assert not list((tmp_path / "store").glob("town/*"))


def test_swapped_coordinates_stop_at_the_matching(raw, tmp_path):
    copy = shutil.copytree(raw, tmp_path / "copy")
    header, *lines = (copy / "trips.csv").read_text().splitlines()
    swapped = []
    for line in lines[:5]:
        start, _, polyline = line.partition(',"')
        places = [[lat, lon] for lon, lat in json.loads(polyline.rstrip('"'))]
        swapped.append(f'{start},"{json.dumps(places)}"')
    (copy / "trips.csv").write_text("\n".join([header, *swapped]) + "\n")
    with pytest.raises((DataError, CheckError), match=r"no trip runs along the roads.*latitude and longitude"):
        make_with_inputs("matched_trips", config_of(raw, copy), Store(tmp_path / "store"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"kind": "raw"}, "kind raw needs `map: {path: …}`"),
        ({"kind": "raw", "map": {"path": "x"}}, "kind raw needs `points: {path: …}`"),
        ({"kind": "raw", "map": {"path": "x"}, "points": {"path": "y"}}, "time_zone"),
    ],
)
def test_settings_that_are_missing_are_named_with_the_line(tmp_path, source, message):
    file = tmp_path / "town.yaml"
    file.write_text(f"# a town\nsource: {json.dumps(source)}\n")
    with pytest.raises(ConfigError, match=r"town\.yaml, line 2: `source`") as caught:
        load_config(file)
    assert message in str(caught.value)


def test_copies_are_removed_on_request(raw, tmp_path):
    """Two days hold the same trips with the same times of day; a data set that repeats trips has the same dates."""
    copy = shutil.copytree(raw, tmp_path / "copy")
    header, *lines = (copy / "trips.csv").read_text().splitlines()
    doubled = [line.replace("T", "U", 1) for line in lines]
    (copy / "trips.csv").write_text("\n".join([header, *lines, *doubled]) + "\n")
    store, by_trip = Store(tmp_path / "store"), {"by": "trip"}
    counted = make_with_inputs("trajectories", config_of(raw, copy, split=by_trip), store).summary
    removed = make_with_inputs("trajectories", config_of(raw, copy, split={**by_trip, "remove_copies": True}), store)
    assert counted["copies_across_splits"] > 10
    assert counted["copies_removed"] == 0
    assert removed.summary["copies_removed"] == counted["copies_across_splits"]
    assert removed.summary["num_trips"] == counted["num_trips"] - counted["copies_across_splits"]
    assert read_artifact(removed.path).inputs.keys() == {"matched_trips", "road_network"}


def test_points_are_measured_against_their_own_piece(made):
    from hoser_kd.network.gps_points import PointsFile
    from hoser_kd.network.matching import match_trips

    network = RoadNetwork.load(made["road_network"].path)
    points = PointsFile(made["gps_points"].path / "points.parquet").all()
    settings = CityConfig.model_validate({"city": "a", "source": {"path": "x"}}).source.matching
    matched = match_trips(points.offsets, points.t, points.lon, points.lat, network, settings)
    piece = piece_of_point(points, matched)
    for row in range(len(matched.trips)):
        own = np.flatnonzero(piece == row)
        assert set(matched.point_road[own]) <= set(matched.trips.roads(row))
    measures = measure_pieces(points, matched, network, piece)
    row = 0
    own = np.flatnonzero(piece == row)
    assert measures.distance_m[row] == pytest.approx(matched.point_distance_m[own].mean())
    assert measures.longest_gap_s[row] == np.diff(points.t[own]).max()
    assert 3 < np.nanmedian(measures.speed_m_s) < 12
    assert (measures.detour[np.isfinite(measures.detour)] > 0.99).all()


def test_batches_of_points_give_the_same_trips_and_measures(made, raw, tmp_path, monkeypatch):
    monkeypatch.setattr("hoser_kd.network.gps_readers.BATCH_POINTS", 100)
    monkeypatch.setattr("hoser_kd.network.gps_readers.BLOCK_BYTES", 2000)
    store = Store(tmp_path)
    batched = {name: make_with_inputs(name, config_of(raw), store) for name in ("gps_points", "matched_trips")}
    assert pq.ParquetFile(batched["gps_points"].path / "points.parquet").num_row_groups > 5
    whole = made["matched_trips"]
    assert (batched["matched_trips"].path / "trips.arrow").read_bytes() == (whole.path / "trips.arrow").read_bytes()
    tables = [pq.read_table(each.path / "pieces.parquet") for each in (batched["matched_trips"], whole)]
    assert tables[0].equals(tables[1])
    unequal = {"peak_memory_mib"}
    for each in ("gps_points", "matched_trips"):
        one, other = batched[each].summary, made[each].summary
        assert {key for key in other if one[key] != other[key]} <= unequal


def test_quantiles_of_counted_distances_are_those_of_all():
    values = np.random.default_rng(0).exponential(5, 4001)
    distances = Distances()
    for part in np.array_split(values, 7):
        distances.add(part)
    levels = np.array([0, 0.5, 0.95, 1])
    np.testing.assert_allclose(distances.quantiles(levels), np.quantile(values, levels), atol=1.1e-3)
    assert len(distances.sample(100)) == 100
    np.testing.assert_allclose(np.median(distances.sample()), np.median(values), atol=2e-3)
    assert len(Distances().sample()) == 0
