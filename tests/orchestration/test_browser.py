"""The first steps of a new user in a real browser over `dagster dev`: launch the pipeline, open the report."""

from __future__ import annotations

import re

import pytest
from chromium import CITIES_QUERY, FLAGS, find_chromium
from homes import wait_until

pytestmark = pytest.mark.xdist_group("dev")
RUNS = "{runsOrError(limit: 50) {... on Runs {results {jobName status tags {key value}}}}}"


@pytest.fixture(scope="module")
def chromium():
    """The system's chromium, started once."""
    path = find_chromium()
    if path is None:
        pytest.skip("no chromium here: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=path, headless=True, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def browser(chromium):
    """A window with its own profile, and the errors of its pages."""
    errors: list[str] = []
    window = chromium.new_context(viewport={"width": 1400, "height": 900})
    window.set_default_timeout(90_000)
    window.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    window.on("weberror", lambda error: errors.append(str(error.error)))
    yield window, errors
    window.close()


def chain(server):
    """Return the status of the runs that a launch of `full_pipeline` led to, by job."""
    runs = server.query(RUNS)["runsOrError"]["results"]
    return {
        run["jobName"]: run["status"]
        for run in runs
        if run["jobName"] == "full_pipeline" or any(tag["key"] == "hoser_kd/full_pipeline" for tag in run["tags"])
    }


def test_one_launch_makes_the_city_and_a_click_opens_its_report(fresh_home, dev, browser):
    window, errors = browser
    ui = dev(fresh_home)
    page = window.new_page()
    page.goto(f"{ui.url}/asset-groups")
    for group in ("settings", "network", "grid", "teacher", "student", "evaluation"):
        page.get_by_text(group, exact=True).first.wait_for()

    wait_until(lambda: ui.query(CITIES_QUERY)["assetNodeOrError"]["partitionKeys"], 90, "the sensor to add the city")

    page.goto(f"{ui.url}/jobs")
    page.get_by_role("link", name="full_pipeline").first.click()
    page.get_by_text("Launchpad", exact=True).first.click()
    page.get_by_placeholder("Partition").click()
    page.get_by_text("town", exact=True).last.click()
    page.get_by_text("partition: town").first.wait_for()
    page.get_by_role("button", name="Launch Run").click()
    page.wait_for_url(re.compile(r"/runs/[0-9a-f-]{36}"))
    page.get_by_text("Success", exact=True).first.wait_for()

    def reported():
        runs = chain(ui)
        assert not {"FAILURE", "CANCELED"} & set(runs.values()), runs
        return runs if runs.get("report") == "SUCCESS" else None

    runs = wait_until(reported, 600, lambda: chain(ui))
    assert set(runs) == {"full_pipeline", "prepare_city", "train_teacher", "distill", "evaluate", "report"}
    assert set(runs.values()) == {"SUCCESS"}

    page.goto(f"{ui.url}/assets/distillation_report?partition=town")
    with window.expect_page() as opened:
        page.locator("a[href$='/report.html']").first.click()
    report = opened.value
    report.get_by_role("heading").first.wait_for()
    assert "town" in report.locator("body").inner_text()
    assert report.evaluate("document.images.length > 0 && [...document.images].every(image => image.naturalWidth > 0)")
    assert not errors, errors


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
    for character in ("Backspace", "7"):
        page.keyboard.press(character)
    line.filter(has_text="0.7").wait_for()
    known = len(ui.query(RUNS)["runsOrError"]["results"])
    page.get_by_text("Materialize", exact=True).last.click()

    def succeeded():
        runs = ui.query(RUNS)["runsOrError"]["results"]
        assert runs[0]["status"] != "FAILURE", runs[0]
        return len(runs) > known and runs[0]["status"] == "SUCCESS"

    wait_until(succeeded, 120, "the run to succeed")
    assert len({path.name for path in versions.iterdir()} - before) == 1
    page.goto(f"{ui.url}/assets/distilled_student?partition=town%7C1")
    page.get_by_text("changed_for_this_run").first.wait_for()
    page.get_by_text('"distill.lambda_kl"').first.wait_for()
    assert not errors, errors
