"""The generated page of settings in the docs is current."""

from __future__ import annotations

import importlib.util
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_docs_settings_page_is_current():
    spec = importlib.util.spec_from_file_location("docs_build", DOCS / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    assert (DOCS / "settings.md").read_text(encoding="utf-8") == build.settings_page(), "run `python docs/build.py`"
