"""`check-data` reports everything that is wrong with a folder at once, and trains nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from hoser_kd.cli import main
from hoser_kd.common.errors import DataError
from hoser_kd.network.data_check import check_data
from hoser_kd.network.sources import REQUIRED_FILES

CASES = Path(__file__).parents[1] / "cases"
TOWN = CASES / "20-libcity-edge-geo-numeric-highway" / "city"


@pytest.fixture
def town(tmp_path):
    return Path(shutil.copytree(TOWN, tmp_path / "town"))


def test_a_good_folder_has_no_problems(capsys):
    assert main(["check-data", str(TOWN)]) == 0
    out = capsys.readouterr().out
    assert "253 roads, 508 connections, 208 train trips, 18 val trips, 34 test trips" in out
    assert out.endswith("no problems\n")


@pytest.mark.parametrize(
    ("case", "parts"),
    [
        ("02c-unix-seconds", ["train.csv, row 0", "YYYY-MM-DDTHH:MM:SSZ", "val.csv", "test.csv"]),
        ("03c-hint-followed-literally", ["roadmap.rel", "connections"]),
        ("04-fmm-output", ["train.csv: column rid_list, time_list is missing", "val.csv", "test.csv"]),
        ("05-matcher-repeats-and-uturns", ["test.csv, row 1", "5 of 12 rows are invalid", "(5)"]),
        ("08b-duplicate-trips-across-splits", ["10 of", "test trips are training trips"]),
        ("09-times-fraction", ["train.csv, row 0", "YYYY-MM-DDTHH:MM:SSZ"]),
        ("10-lat-lon-swapped", ["latitude and longitude are exchanged"]),
        ("10b-length-in-km", ["kilometers"]),
        ("14-no-times-constant", ["no time information"]),
        ("19-libcity-dyna-long-format", ["train.csv: column rid_list, time_list is missing"]),
    ],
)
def test_a_case_is_reported_as_its_readme_says(case, parts, capsys):
    assert main(["check-data", str(CASES / case / "city")]) == 1
    out = capsys.readouterr().out
    assert [part for part in parts if part not in out] == []


def test_all_problems_of_all_files_are_reported_at_once(town):
    roads = pd.read_csv(town / "roadmap.geo", dtype=str)
    roads.loc[3, "coordinates"] = "nowhere"
    roads.loc[4, "length"] = "-1"
    roads.loc[5, "geo_id"] = "77"
    roads.loc[6, "highway"] = "[]"
    roads.to_csv(town / "roadmap.geo", index=False)
    with (town / "roadmap.rel").open("a") as rows:
        rows.write("508,geo,0,999\n")
    (town / "val.csv").unlink()
    trips = pd.read_csv(town / "test.csv", dtype=str)
    trips.loc[0, "time_list"] = "now"
    trips.loc[2, "rid_list"] = "139,66,138,54,999"
    trips.to_csv(town / "test.csv", index=False)
    result = check_data(town)
    text = "\n".join(result.problems)
    for part in (
        "val.csv: no such file",
        "roadmap.geo, row 3: coordinates is not a list",
        "roadmap.geo, row 4: length is missing or negative",
        "roadmap.geo, row 5: geo_id is not the row number",
        "roadmap.geo, row 6: highway '[]' is not a list of classes",
        "roadmap.rel, row 508: a road id is not in roadmap.geo",
    ):
        assert part in text
    assert str(town) in result.problems[1]
    assert "/tmp" not in text.replace(str(town), "")
    # with the connections fixed, the trips are checked too, although the roads cannot be read
    shutil.copy(TOWN / "roadmap.rel", town)
    text = "\n".join(check_data(town).problems)
    assert "test.csv, row 0: rid_list and time_list differ in length (rid_list: 6, time_list: 1); 2 of 34 rows" in text
    assert "a road id is not in roadmap.geo (1)" in text
    assert "roadmap.rel, row" not in text


def test_missing_files_are_named_and_a_missing_folder_is_refused(tmp_path, capsys):
    result = check_data(tmp_path)
    assert len(result.problems) == len(REQUIRED_FILES)
    assert result.summary == {}
    assert main(["check-data", str(tmp_path)]) == 1
    assert "nothing could be read" in capsys.readouterr().out
    with pytest.raises(DataError, match="no such folder"):
        check_data(tmp_path / "nowhere")
    assert main(["check-data", str(tmp_path / "nowhere")]) == 2
