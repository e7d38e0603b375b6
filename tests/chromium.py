"""The system's chromium, for the browser tests and the screenshots of the docs."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
CITIES_QUERY = '{assetNodeOrError(assetKey: {path: ["source_files"]}) {... on AssetNode {partitionKeys}}}'
"""GraphQL query of the cities that the sensor has added."""


def find_chromium() -> str | None:
    """Return the path of the browser; None if it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextlib.contextmanager
def new_window(browser: Browser, *, offline: bool = False) -> Iterator[tuple[BrowserContext, list[str]]]:
    """Open a window with its own profile; yields it and a list that receives the errors of its pages."""
    errors: list[str] = []
    window = browser.new_context(viewport={"width": 1400, "height": 900}, offline=offline)
    window.set_default_timeout(90_000)
    window.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    window.on("weberror", lambda error: errors.append(str(error.error)))
    yield window, errors
    window.close()
