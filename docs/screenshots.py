"""Take the pictures of docs/walkthrough.md: `python docs/screenshots.py`, while `make dev` runs and the demo is made.

Needs Debian's chromium and Playwright (in the extra `test`). Look at each picture before you commit it.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import BrowserContext, Page, sync_playwright

FOLDER = Path(__file__).resolve().parent / "screenshots"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
SETTLED_MS = 4000


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
    page.get_by_placeholder("Partition").click()
    page.get_by_text(city, exact=True).last.click()


def runs(page: Page, url: str, _: str) -> None:
    """The runs of a chain."""
    page.goto(f"{url}/runs")


def asset(name: str, query: str) -> Callable[[Page, str, str], None]:
    """The page of an asset."""
    def shot(page: Page, url: str, city: str) -> None:
        page.goto(f"{url}/assets/{name}?{query.format(city=city)}")
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
    "runs": runs,
    "student": asset("distilled_student", "view=overview"),
    "plots": plots,
    "report": asset("distillation_report", "partition={city}"),
    "settings": asset("settings/distillation", "view=overview"),
    "automation": automation,
}


def take(window: BrowserContext, url: str, city: str, names: list[str]) -> None:
    """Take the pictures named."""
    page = window.pages[0]
    for name in names:
        SHOTS[name](page, url, city)
        page.wait_for_timeout(SETTLED_MS)
        page.screenshot(path=FOLDER / f"{name}.png")


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description="Take the pictures of the walk through the UI.")
    parser.add_argument("--url", default="http://localhost:3000")
    parser.add_argument("--city", default="demo")
    parser.add_argument("--only", nargs="+", choices=SHOTS, default=list(SHOTS))
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("no chromium here: apt-get install chromium")
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as driver:
        window = driver.chromium.launch_persistent_context(
            "", executable_path=chromium, headless=True, args=FLAGS, viewport={"width": 1400, "height": 850})
        window.set_default_timeout(60_000)
        take(window, options.url, options.city, options.only)
        window.close()


if __name__ == "__main__":
    main()
