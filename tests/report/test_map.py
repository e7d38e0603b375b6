"""The map beside the report: complete without a network, no data as markup or code."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_city import grid_network, random_trips

from hoser_kd.network.trajectories import Trajectories
from hoser_kd.report import ReportData, StudentResult
from hoser_kd.report.trip_map import map_name, render_map, trip_sets, write_map

NETWORK = grid_network()
EVIL = "</script><script>alert('x')</script>"


def trips(seed: int, *ids: str) -> Trajectories:
    found = random_trips(NETWORK, 6, seed=seed, lengths=(4, 12))
    return replace(found, ids=np.array([*ids, *(f"t{i}" for i in range(len(ids), 6))], object))


def map_data(*ids: str, city: str = "town") -> ReportData:
    """Return six requests whose trips are those of the real ones, and others of the distilled student."""
    real = trips(0, *ids)
    vanilla = StudentResult([], {}, generated=real, reached=np.ones(6, bool), real_rows=np.arange(6))
    other = StudentResult([], {}, generated=trips(1), reached=np.arange(6) % 2 == 0, real_rows=np.arange(6))
    return ReportData(city, NETWORK, real, {"vanilla": {0: vanilla}, "distilled": {0: other}})


@pytest.fixture(scope="module")
def page() -> str:
    data = map_data("first", EVIL, city=EVIL)
    return render_map(data, trip_sets(data))


def content_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="content">(.*?)</script>', page, re.DOTALL)[1])


def test_it_needs_no_network(page):
    assert re.findall(r"<script[^>]*\bsrc=|<link\b|@import", page) == []
    assert "default-src 'none'; script-src 'unsafe-inline'" in page
    assert "'unsafe-eval'" not in page


def test_no_text_from_the_data_is_markup_or_code(page):
    assert EVIL not in page
    assert content_of(page)["ids"][:3] == ["first", EVIL, "t2"]


def test_it_holds_the_roads_of_every_trip(page):
    content = content_of(page)
    data = map_data()

    def unpack(text: str) -> np.ndarray:
        return np.frombuffer(base64.b64decode(text), "<i4")

    road_ids = unpack(content["road_ids"])
    assert [each["name"] for each in content["sets"]] == ["real", "vanilla", "distilled"]
    for each, real in zip(content["sets"], (data.real, data.real, trips(1)), strict=True):
        np.testing.assert_array_equal(unpack(each["offsets"]), real.offsets)
        np.testing.assert_array_equal(road_ids[unpack(each["roads"])], real.road_ids)
    assert content["sets"][2]["reached"] == [1, 0, 1, 0, 1, 0]


def test_the_same_data_give_the_same_map(page):
    data = map_data("first", EVIL, city=EVIL)
    assert render_map(data, trip_sets(data)) == page


def test_without_generated_trips_there_is_no_map(tmp_path):
    data = replace(map_data(), students={"vanilla": {0: StudentResult([], {})}})
    assert not write_map(tmp_path / "map.html", data)
    assert list(tmp_path.iterdir()) == []


def test_its_name_follows_that_of_the_report():
    assert map_name("report.html") == "map.html"
    assert map_name("page.html") == "page_map.html"


def test_bokeh_is_imported_only_to_draw():
    code = "import sys, hoser_kd.report; sys.exit('bokeh' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0
