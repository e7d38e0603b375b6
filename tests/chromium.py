"""The system's chromium, for the browser tests and the screenshots of the docs."""

from __future__ import annotations

import shutil

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
