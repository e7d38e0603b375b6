"""The map in a real browser: look up a trip by its id, pan and zoom, with no request to a network."""

from __future__ import annotations

import pytest
from chromium import new_window
from test_map import map_data

from hoser_kd.report import write_report

PLOT = "Bokeh.documents[0].get_model_by_name('map')"


# on the worker of the browser tests, which start the one browser of the suite
pytestmark = pytest.mark.xdist_group("dev")


def test_a_trip_is_looked_up_by_its_id_and_the_map_pans(chromium, tmp_path):
    evil = "<img src=x onerror=alert(1)>"
    write_report(tmp_path / "report.html", map_data("first", evil))
    asked = []
    with new_window(chromium, offline=True) as (window, errors):
        window.on("request", lambda request: asked.append(request.url))
        page = window.new_page()
        page.goto((tmp_path / "report.html").as_uri())
        page.locator("a[href='map.html']").first.click()
        page.wait_for_selector("body[data-ready=yes]")
        assert page.inner_text("#trip") == "first"

        page.fill("#wanted", evil)
        page.press("#wanted", "Enter")
        assert page.inner_text("#trip") == evil
        assert page.locator("aside img").count() == 0
        drawn = page.evaluate(
            "['real', 'distilled'].map(name => Bokeh.documents[0].get_model_by_name('set ' + name).data.road)"
        )
        data = map_data()
        assert drawn[0] == data.real.roads(1).tolist()
        assert drawn[1] == data.students["distilled"][0].generated.roads(1).tolist()
        assert page.locator("#facts tr").count() == 3
        assert page.inner_text("#facts tr:nth-child(2)").split() == [
            "vanilla",
            *page.inner_text("#facts tr:nth-child(1)").split()[1:3],
            "yes",
            "100",
            "%",
        ]

        page.fill("#wanted", "nobody")
        page.press("#wanted", "Enter")
        assert page.inner_text("#message") == "No trip has the id “nobody”."

        def west_and_width():
            return page.evaluate(f"[{PLOT}.x_range.start, {PLOT}.x_range.end - {PLOT}.x_range.start]")

        before = west_and_width()
        box = page.locator("#map").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 150, y, steps=5)
        page.mouse.up()
        page.wait_for_function(f"{PLOT}.x_range.start < {before[0]} - 0.01")
        panned = west_and_width()
        assert panned[0] < before[0]
        assert panned[1] == pytest.approx(before[1])
        page.mouse.wheel(0, -400)
        page.wait_for_function(f"{PLOT}.x_range.end - {PLOT}.x_range.start < {before[1]} * 0.95")

        page.check("#differ")
        page.click("#next")
        assert page.inner_text("#trip") == "t2"
        assert not errors, errors
        assert all(url.startswith(("file:", "data:")) for url in asked)
