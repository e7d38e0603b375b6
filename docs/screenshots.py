"""Take the screenshots of docs/walkthrough.md: `python docs/screenshots.py`.

By default, runs the pipeline for a small synthetic town in its own folder (visible in the screenshots),
with the servers of `make dev` on their usual ports. `--url` uses a running UI instead. Needs Debian's chromium and
Playwright (in the extra `test`). Look at each screenshot before you commit it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "orchestration")]

from chromium import CITIES_QUERY, FLAGS, find_chromium  # noqa: E402
from homes import Server, wait_until  # noqa: E402

FOLDER = ROOT / "docs" / "screenshots"
URL = "http://localhost:3000"
TOWN = """\
description: A small synthetic town.
source:
  kind: synthetic
  synthetic: {blocks: [8, 8], num_trips: 200}
zones: {count: 12}
grid: {bounds: roads, cell_size_m: 80}
teacher: {preset: tiny, n_embd: 32, max_epochs: 2}
student: {hidden_dim: 16, road_id_dim: 8, attribute_dim: 2, max_epochs: 4, batch_size: 32, learning_rate: 0.01}
distill: {lambda_kl: 0.1, temperature: 2.0}
generation: {num_trips: 8, max_steps: 300}
"""
SERVERS = (("dagster_project.files",), ("dagster_project.tensorboard",), ("dagster", "dev", "-w", "workspace.yaml"))
REPORTS = """{assetNodeOrError(assetKey: {path: ["distillation_report"]}) {
  ... on AssetNode {assetMaterializations {runId}}}}"""
TIMEOUT_S = 3600


@contextlib.contextmanager
def served(folder: Path) -> Iterator[None]:
    """Start the servers of `make dev` over a folder with a town, and run the pipeline of the town if needed."""
    (folder / "config").mkdir(parents=True, exist_ok=True)
    (folder / ".dagster").mkdir(exist_ok=True)
    (folder / "config" / "town.yaml").write_text(TOWN)
    shutil.copy(ROOT / "dagster.yaml-template", folder / ".dagster" / "dagster.yaml")
    environment = {
        **os.environ,
        "HOSER_KD_CONFIG": str(folder / "config"),
        "HOSER_KD_STORE": str(folder / "data"),
        "DAGSTER_HOME": str(folder / ".dagster"),
        "HOSER_KD_SEEDS": "3",
    }
    servers = [
        subprocess.Popen([sys.executable, "-W", "ignore", "-m", *words], cwd=ROOT, env=environment)  # noqa: S603
        for words in SERVERS
    ]
    try:
        run_pipeline(Server(URL))
        yield
    finally:
        for server in servers:
            server.send_signal(signal.SIGINT if server is servers[-1] else signal.SIGTERM)
        for server in servers:
            server.wait(60)


def run_pipeline(server: Server) -> None:
    """Launch full_pipeline once the sensor has added the town, and wait for the report."""

    def answer(text: str, field: str) -> Any:
        with contextlib.suppress(OSError):  # the server does not answer yet
            return server.query(text)["assetNodeOrError"].get(field)

    def reports() -> Any:
        return answer(REPORTS, "assetMaterializations")

    wait_until(lambda: answer(CITIES_QUERY, "partitionKeys"), TIMEOUT_S, "the sensor to add the town")
    if not reports():
        server.launch("full_pipeline", partition="town", run_config={"ops": {"begin": {"config": {"seeds": [0, 1]}}}})
        wait_until(reports, TIMEOUT_S, "the report of the town; inspect its runs in the UI")


def lineage(page: Page, url: str, _: str) -> None:
    """The groups of the graph."""
    page.goto(f"{url}/asset-groups")
    page.get_by_text("evaluation", exact=True).first.wait_for()


def network(page: Page, url: str, _: str) -> None:
    """The assets of a group."""
    page.goto(f"{url}/locations/hoser_kd/asset-groups/network/lineage")
    page.get_by_text("road_network").first.wait_for()


def launchpad(page: Page, url: str, city: str) -> None:
    """The launchpad of full_pipeline with a city chosen."""
    page.goto(f"{url}/locations/hoser_kd/jobs/full_pipeline/playground")
    page.get_by_placeholder("Partition").wait_for()
    page.wait_for_timeout(5000)  # the list opens empty while the partitions are loading
    page.get_by_placeholder("Partition").click()
    page.get_by_text(city, exact=True).last.click()


def run_config(page: Page, url: str, city: str) -> None:
    """The launchpad of distill, filled in from the city's YAML."""
    page.goto(f"{url}/locations/hoser_kd/jobs/distill/playground")
    page.get_by_placeholder("Partition").wait_for()
    page.wait_for_timeout(5000)
    page.get_by_placeholder("Partition").click()
    page.get_by_text(f"{city}|0", exact=True).last.click()
    page.get_by_text("lambda_kl").first.wait_for()


def runs(page: Page, url: str, _: str) -> None:
    """The runs of a chain."""
    page.goto(f"{url}/runs")


def backfill(page: Page, url: str, _: str) -> None:
    """The dialog of a backfill over seeds."""
    page.goto(f"{url}/locations/hoser_kd/asset-groups/student/lineage")
    page.get_by_text("vanilla_student").first.wait_for()
    page.get_by_role("button", name="Materialize all").first.click()
    page.get_by_text("Partition selection").wait_for()
    for dimension in range(2):
        page.get_by_role("button", name="All", exact=True).nth(dimension).click()
    page.get_by_text("Backfill only failed and missing").click()


def asset(name: str, view: str) -> Callable[[Page, str, str], None]:
    """The page of an asset."""

    def shot(page: Page, url: str, city: str) -> None:
        page.goto(f"{url}/assets/{name}?{view.format(city=city)}")
        page.get_by_text(name.rsplit("/", 1)[-1]).first.wait_for()

    return shot


def plots(page: Page, url: str, city: str) -> None:
    """The curves of a training."""
    asset("distilled_student", "view=overview")(page, url, city)
    page.get_by_text("Plots", exact=True).first.click()
    page.get_by_text("Events", exact=True).last.click()


def automation(page: Page, url: str, _: str) -> None:
    """Sensors and schedule."""
    page.goto(f"{url}/automation")
    page.get_by_text("city_watch").first.wait_for()


SHOTS: dict[str, Callable[[Page, str, str], None]] = {
    "lineage": lineage,
    "network": network,
    "launchpad": launchpad,
    "run_config": run_config,
    "runs": runs,
    "backfill": backfill,
    "student": asset("distilled_student", "view=overview"),
    "plots": plots,
    "report": asset("distillation_report", "partition={city}"),
    "settings": asset("settings/distillation", "view=overview"),
    "automation": automation,
}


def take(window: BrowserContext, url: str, city: str, names: list[str], settle_s: float) -> None:
    """Take the named screenshots."""
    page = window.pages[0]
    for name in names:
        SHOTS[name](page, url, city)
        page.mouse.move(700, 600)  # away from elements with tooltips
        page.wait_for_timeout(settle_s * 1000)
        page.screenshot(path=FOLDER / f"{name}.png")


def main() -> None:
    """Parse the options, start the servers and take the screenshots."""
    parser = argparse.ArgumentParser(description="Take the screenshots of docs/walkthrough.md.")
    parser.add_argument("--url", help="address of a running UI")
    parser.add_argument("--city", default="town", help="a city that is materialized in it")
    parser.add_argument("--folder", type=Path, default=Path("/srv/hoser-kd"), help="folder of the town without --url")
    parser.add_argument("--only", nargs="+", choices=SHOTS, default=list(SHOTS))
    parser.add_argument("--settle", type=float, default=4, help="seconds to wait for a page to load")
    options = parser.parse_args()
    chromium = find_chromium()
    if chromium is None:
        raise SystemExit("chromium is not installed: apt-get install chromium")
    FOLDER.mkdir(exist_ok=True)
    with contextlib.ExitStack() as running:
        if options.url is None:
            running.enter_context(served(options.folder))
        driver = running.enter_context(sync_playwright())
        window = driver.chromium.launch_persistent_context(
            "", executable_path=chromium, headless=True, args=FLAGS, viewport={"width": 1400, "height": 850}
        )
        window.set_default_timeout(120_000)
        take(window, options.url or URL, options.city, options.only, options.settle)
        window.close()


if __name__ == "__main__":
    main()
