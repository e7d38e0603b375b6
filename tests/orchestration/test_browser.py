"""A new user's first quarter of an hour, in a real browser over `dagster dev`: launch one thing, open the report."""

from __future__ import annotations

import re
import shutil
import time

import pytest

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PARTITIONS = '{assetNodeOrError(assetKey: {path: ["source_files"]}) {... on AssetNode {partitionKeys}}}'
RUNS = "{runsOrError(limit: 50) {... on Runs {results {jobName status tags {key value}}}}}"


@pytest.fixture
def browser(tmp_path):
    """A window of the system's chromium with a profile of its own, and the list of what its pages complained of."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium here: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    errors: list[str] = []
    with playwright.sync_playwright() as driver:
        window = driver.chromium.launch_persistent_context(
            tmp_path / "profile",
            executable_path=chromium,
            headless=True,
            args=FLAGS,
            viewport={"width": 1400, "height": 900},
        )
        window.set_default_timeout(90_000)
        window.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        window.on("weberror", lambda error: errors.append(str(error.error)))
        yield window, errors
        window.close()


def chain(server):
    """Status of the runs that a launch of `full_pipeline` brought about, by job."""
    runs = server.query(RUNS)["runsOrError"]["results"]
    return {
        run["jobName"]: run["status"]
        for run in runs
        if run["jobName"] == "full_pipeline" or any(tag["key"] == "hoser_kd/full_pipeline" for tag in run["tags"])
    }


def test_one_launch_makes_the_city_and_its_report_opens_at_a_click(fresh_home, dev, browser):
    window, errors = browser
    ui = dev(fresh_home)
    page = window.pages[0]
    page.goto(f"{ui.url}/asset-groups")
    for group in ("settings", "network", "grid", "teacher", "student", "evaluation"):
        page.get_by_text(group, exact=True).first.wait_for()

    deadline = time.monotonic() + 90  # the sensor has seen the new city
    while not ui.query(PARTITIONS)["assetNodeOrError"]["partitionKeys"]:
        assert time.monotonic() < deadline
        time.sleep(1)

    page.goto(f"{ui.url}/jobs")
    page.get_by_role("link", name="full_pipeline").first.click()
    page.get_by_text("Launchpad", exact=True).first.click()
    page.get_by_placeholder("Partition").click()
    page.get_by_text("town", exact=True).last.click()
    page.get_by_text("partition: town").first.wait_for()
    page.get_by_role("button", name="Launch Run").click()
    page.wait_for_url(re.compile(r"/runs/[0-9a-f-]{36}"))
    page.get_by_text("Success", exact=True).first.wait_for()

    deadline = time.monotonic() + 600
    while (runs := chain(ui)).get("report") != "SUCCESS":
        assert not {"FAILURE", "CANCELED"} & set(runs.values()), runs
        assert time.monotonic() < deadline, runs
        time.sleep(2)
    assert set(runs) == {"full_pipeline", "prepare_city", "train_teacher", "distill", "evaluate", "report"}
    assert set(runs.values()) == {"SUCCESS"}

    page.goto(f"{ui.url}/assets/distillation_report?partition=town")
    with window.expect_page() as opened:
        page.locator("a[href$='/report.html']").first.click()
    report = opened.value
    report.get_by_role("heading").first.wait_for()
    assert "town" in report.locator("body").inner_text()
    assert report.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    assert not errors, errors


def test_a_knob_is_changed_in_a_launchpad_that_the_city_has_filled_in(copy_of_town, dev, browser):
    window, errors = browser
    versions = copy_of_town.store / "town" / "distilled_student" / "seed-1"
    before = {path.name for path in versions.iterdir()}
    ui = dev(copy_of_town)
    page = window.pages[0]
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
    deadline = time.monotonic() + 120
    while len(runs := ui.query(RUNS)["runsOrError"]["results"]) == known or runs[0]["status"] != "SUCCESS":
        assert time.monotonic() < deadline, runs[0]
        assert runs[0]["status"] != "FAILURE", runs[0]
        time.sleep(1)
    assert len({path.name for path in versions.iterdir()} - before) == 1
    page.goto(f"{ui.url}/assets/distilled_student?partition=town%7C1")
    page.get_by_text("changed_for_this_run").first.wait_for()
    page.get_by_text('"distill.lambda_kl"').first.wait_for()
    assert not errors, errors
