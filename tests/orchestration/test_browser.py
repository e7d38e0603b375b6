"""The launchpad in a real browser over `make dev`. The pipeline as a whole: test_full_pipeline."""

from __future__ import annotations

import re

import pytest
from chromium import new_window
from homes import wait_until

pytestmark = pytest.mark.xdist_group("dev")
RUNS = "{runsOrError(limit: 50) {... on Runs {results {jobName status}}}}"


@pytest.fixture
def browser(chromium):
    """A window with its own profile, and the errors of its pages."""
    with new_window(chromium) as opened:
        yield opened


def test_a_setting_is_changed_in_a_launchpad_filled_in_from_the_yaml(dev_town, browser):
    window, errors = browser
    home, ui = dev_town
    versions = home.store / "town" / "distilled_student" / "seed-1"
    before = {path.name for path in versions.iterdir()}
    page = window.new_page()
    page.goto(f"{ui.url}/locations/hoser_kd/jobs/distill")
    page.locator("button:right-of(:text('Materialize all'))").first.click()
    page.get_by_text("Open launchpad").click()
    page.get_by_placeholder("Partition").click()
    page.get_by_text("town|1", exact=True).last.click()

    line = page.locator(".CodeMirror-line", has_text="lambda_kl")
    line.filter(has_text="0.1").wait_for()  # the default, as the city's YAML does not say
    line.click()
    page.keyboard.press("End")
    for character in (*["Backspace"] * len("0.1"), "1"):  # a whole number where the setting is a float
        page.keyboard.press(character)
    line.filter(has_text=re.compile(r"lambda_kl: 1$")).wait_for()
    known = len(ui.query(RUNS)["runsOrError"]["results"])
    page.get_by_text("Materialize", exact=True).last.click()
    page.wait_for_url(re.compile(r"/runs"))
    page.goto("about:blank")  # a page of Dagster asks its server all the time

    def succeeded():
        runs = ui.query(RUNS)["runsOrError"]["results"]
        assert runs[0]["status"] != "FAILURE", runs[0]
        return len(runs) > known and runs[0]["status"] == "SUCCESS"

    wait_until(succeeded, 300, "the run to succeed", every=0.5)
    assert len({path.name for path in versions.iterdir()} - before) == 1
    page.goto(f"{ui.url}/assets/distilled_student?partition=town%7C1")
    page.get_by_text("changed_for_this_run").first.wait_for()
    page.get_by_text('"distill.lambda_kl"').first.wait_for()
    assert not errors, errors
