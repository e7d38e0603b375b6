"""Faulty inputs of kinds that users have reported in public (tests/cases): refused with the place and the fix."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hoser_kd.cli import main
from hoser_kd.common.errors import DataError, DataWarning
from hoser_kd.network.city import read_city
from hoser_kd.network.road_network import read_hoser
from hoser_kd.network.trajectories import SPLITS
from hoser_kd.network.trajectories import read_hoser as read_trips
from hoser_kd.pipeline.checks import run_checks
from hoser_kd.pipeline.store import Artifact

CASES = Path(__file__).with_name("cases")
REFUSED = {
    # case: file, parts of the message
    "02c-unix-seconds": ("train.csv", ("row 0", "YYYY-MM-DDTHH:MM:SSZ")),
    "04-fmm-output": ("train.csv", ("rid_list, time_list", "missing")),
    "05-matcher-repeats-and-uturns": ("test.csv", ("row 1", "roadmap.rel", "5 of 12", "on_bad_row: drop")),
    "09-times-fraction": ("train.csv", ("row 0", "YYYY-MM-DDTHH:MM:SSZ")),
    "19-libcity-dyna-long-format": ("train.csv", ("rid_list, time_list", "missing")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_faulty_file_is_refused_with_its_place_and_the_expected_format(case):
    name, parts = REFUSED[case]
    file = CASES / case / "city" / name
    with pytest.raises(DataError, match=re.escape(str(file))) as refused:
        read_trips(file, read_hoser(file.parent))
    assert [part for part in parts if part not in str(refused.value)] == []


WARNED = {
    # case: the check that says it, part of its message; a blocking check stops the pipeline
    "03c-hint-followed-literally": ("connections_meet", "481 of 508 connections"),
    "08b-duplicate-trips-across-splits": ("splits_disjoint", "10 of 18 test trips are training trips"),
    "10-lat-lon-swapped": ("lengths_match_lines", "latitude and longitude are exchanged"),
    "10b-length-in-km": ("lengths_match_lines", "kilometers"),
    "14-no-times-constant": ("times_informative", "no time information"),
}


@pytest.mark.parametrize("case", WARNED)
def test_data_that_contradict_themselves_are_reported(case, tmp_path):
    name, words = WARNED[case]
    with pytest.warns(DataWarning, match=words):
        city = read_city(CASES / case / "city")
    city.network.save(tmp_path)
    for split in SPLITS:
        getattr(city, split).save(tmp_path / f"{split}.arrow")
    results = [
        result
        for stage in ("road_network", "trajectories")
        for result in run_checks(Artifact(stage, "town", None, "v", tmp_path), {})
    ]
    assert {result.name for result in results if not result.passed} == {name}
    assert [words in result.message for result in results if result.name == name] == [True]


def test_numeric_classes_of_libcity_are_numbers_whatever_blanks_they_have():
    folder = CASES / "20-libcity-edge-geo-numeric-highway" / "city"
    network = read_city(folder).network
    assert network.highway_names == sorted(network.highway_names, key=int)
    assert {"0", "10"} <= set(network.highway_names)
    assert not [name for name in network.highway_names if name != name.strip()]


def test_bad_rows_are_dropped_and_counted_on_request():
    folder = CASES / "05-matcher-repeats-and-uturns" / "city"
    trips = read_trips(folder / "test.csv", read_hoser(folder), on_bad_row="drop")
    assert len(trips.offsets) - 1 == 12 - 5
    assert sum(trips.dropped.values()) == 5


@pytest.mark.parametrize("name", ["generated.csv", "generated_numpy.csv"])
def test_trips_of_another_generator_are_measured_in_both_spellings(name, tmp_path, capsys):
    """The five trips repeat test trips with the requested roads, so they equal the real trips of their requests."""
    case = CASES / "21-fork-generated-trips"
    config = tmp_path / "town.yaml"
    config.write_text(f"source: {{path: {case / 'city'}}}\n")
    arguments = ["--config", config, "--store", tmp_path / "store", "--out", tmp_path / "out.json", "--name", "fork"]
    assert main(["evaluate", "--trips", str(case / name), *map(str, arguments)]) == 0
    out = capsys.readouterr().out
    assert "All 5 trips are paired with test trips by the requested origin and destination" in out
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["num_matched"] == written["num_trips"] == written["metrics"]["counts"]["generated"] == 5
    assert written["metrics"]["paired"]["edr"] == 0
    assert written["metrics"]["paired"]["identical_share"] == 1
    assert {"requests", "similarity", "distance", "training"} <= set(written["metrics"])
    assert {"Markov chain", "Shortest path"} <= set(written["beside"])
    assert re.search(r"paired\.identical_share .* 1\.0000$", out, re.MULTILINE)


def test_every_case_says_what_is_correct():
    folders = [folder for folder in CASES.iterdir() if folder.is_dir()]
    assert len(folders) == 12
    for folder in folders:
        text = (folder / "README.md").read_text()
        assert "Case: " in text, folder
        assert "Correct behavior: " in text, folder
        assert {"roadmap.geo", "roadmap.rel", "train.csv", "val.csv", "test.csv"} <= {
            file.name for file in (folder / "city").iterdir()
        }
