"""The page of runs in a real browser: filters hide rows, and the figures follow, with no request to a network."""

from __future__ import annotations

import pytest
from chromium import new_window
from test_runs import distilled, run

from hoser_kd.report.runs import compare_runs
from hoser_kd.report.runs_page import write_runs_page

# on the worker of the browser tests, which start the one browser of the suite
pytestmark = pytest.mark.xdist_group("dev")


def test_a_filter_hides_rows_points_and_curves(chromium, tmp_path):
    runs = [run(0, 0.40), run(1, 0.44), distilled(0, 0.3), distilled(0, 0.2, weight="</script><b>"), distilled(1, 0.3)]
    write_runs_page(tmp_path / "runs.html", compare_runs(runs))
    asked = []
    with new_window(chromium, offline=True) as (window, errors):
        window.on("request", lambda request: asked.append(request.url))
        page = window.new_page()
        page.goto((tmp_path / "runs.html").as_uri())
        rows = page.locator("#groups tbody tr:visible")
        assert rows.count() == 3
        assert page.locator("#curves polyline").count() == 5
        assert page.locator("#intervals > svg > line[stroke-width]").count() == 2  # groups with an interval
        page.uncheck("fieldset[data-facet='student'] input[value='vanilla']")
        assert page.inner_text("#count") == "2 of 3 groups"
        assert rows.count() == 2
        assert page.locator("#curves polyline").count() == 3
        page.click("#reset")
        assert rows.count() == 3
        page.select_option("#metric", "paired.edr")
        assert page.locator("#intervals svg").get_attribute("aria-label") == "EDR"
        assert asked == [page.url]
        assert errors == []
