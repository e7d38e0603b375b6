"""Faulty inputs of kinds that users have reported in public (tests/cases): refused with the place and the fix."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hoser_kd.cli import main
from hoser_kd.common.errors import DataError
from hoser_kd.network.road_network import read_hoser
from hoser_kd.network.trajectories import read_hoser as read_trips

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
