"""The page "Your own data": its YAML and its commands work on a small synthetic town, up to the trips.

The training commands of the page are those of every city, which other tests run.
"""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path

import pytest
import yaml
from raw_town import drives, town_elements, write_osm_xml, write_overpass

from hoser_kd.cli import main
from hoser_kd.config.loading import load_config
from hoser_kd.config.raw_data import POINT_FORMATS, MapConfig
from hoser_kd.config.source import SyntheticConfig
from hoser_kd.network.osm.extract import read_osm
from hoser_kd.network.osm.roads import build_roads
from hoser_kd.network.synthetic.city import make_city
from hoser_kd.pipeline.checks import CHECKS

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "your_data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
TRAINS = ("train", "evaluate", "report")


def commands() -> list[list[str]]:
    """Return the commands `hoser-kd` of the page in order, without those that train."""
    lines = [line.partition("#")[0] for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]
    words = [shlex.split(line) for line in lines if line.startswith("hoser-kd ")]
    return [each[1:] for each in words if each[1] not in TRAINS]


def write_table(path: Path, trips) -> None:
    """Write drives as a table with one row per point and local times, in the columns that the page names."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["ride", "cab", "ts", "lon", "lat"])
        for number, (taxi, start, points) in enumerate(trips):
            rows.writerows([number, taxi, start + 15 * k, lon, lat] for k, (lon, lat) in enumerate(points.tolist()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with what the page assumes: config/town.yaml, town.osm, points.csv, my_city."""
    place = tmp_path_factory.mktemp("page")
    network = build_roads(read_osm(MapConfig(path=str(write_overpass(place / "town.json", town_elements()))))).network
    write_osm_xml(place / "town.osm", town_elements())
    write_table(place / "points.csv", drives(network, 40))
    make_city(place / "my_city", SyntheticConfig(blocks=(5, 5), num_trips=30))
    [text] = [block for kind, block in BLOCKS if kind == "yaml" and "kind: raw" in block]
    (place / "config").mkdir()
    (place / "config" / "town.yaml").write_text(text)
    return place


def test_the_commands_of_the_page_work(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    for name in ("HOSER_KD_STORE", "HOSER_KD_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    ran = commands()
    assert [words[:2] for words in ran if words[0] == "make"] == [
        ["make", name] for name in ("road_network", "gps_points", "matched_trips", "trajectories")
    ]
    assert {words[0] for words in ran} == {"make", "check-data", "import-city"}
    for words in ran:
        assert main(words) == 0, words
    out = capsys.readouterr().out
    assert "trajectories of town" in out
    assert (folder / "imported" / "train.csv").is_file()
    [matched] = (folder / "data" / "town" / "matched_trips").iterdir()
    assert {"quality.png", "worst.png", "pieces.parquet"} <= {file.name for file in matched.iterdir()}


def test_every_yaml_of_the_page_is_valid(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for number, text in enumerate(block for kind, block in BLOCKS if kind == "yaml"):
        assert yaml.safe_load(text)
        (folder / "config" / f"block{number}.yaml").write_text(text)
        load_config(folder / "config" / f"block{number}.yaml")


def test_the_page_has_every_format_and_every_check():
    assert [name for name in POINT_FORMATS if f"| `{name}` |" not in PAGE] == []
    names = {check.name for stage in ("gps_points", "matched_trips") for check in CHECKS[stage]}
    assert set(re.findall(r"^\| `(\w+)` \((?:warning|blocks)\)", PAGE, re.MULTILINE)) == names


def test_the_shipped_city_of_raw_data_is_valid(monkeypatch):
    monkeypatch.setenv("PORTO_RAW_DATA", "/data/porto_raw")
    config = load_config(ROOT / "config" / "porto_raw.yaml")
    assert config.is_raw
    assert config.source.points.path == "/data/porto_raw/trips.csv.gz"
