"""The documentation site is built without a warning (broken links are warnings), and loads nothing from the network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LOADED = re.compile(
    r"<(?:script|img|iframe)[^>]+src=\"?(https?://[^\">\s]+)|<link[^>]+stylesheet[^>]+href=\"?(https?:[^\">\s]+)"
)


@pytest.fixture
def builder(monkeypatch):
    """Import docs/build_site.py, which is no package."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import build_site

    return build_site


def test_the_site_is_complete_and_self_contained(tmp_path, builder):
    pytest.importorskip("furo", reason="the documentation site needs pip install -e '.[docs]'")
    command = [sys.executable, "-W", "ignore", builder.__file__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    names = {path.stem for path in (ROOT / "docs").glob("*.md")}
    names |= {name.removesuffix(".md") for name in builder.ROOT_PAGES.values()}
    pages = {path.stem: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.html")}
    assert names <= pages.keys()
    loaded = {name: urls for name, text in pages.items() if (urls := LOADED.findall(text))}
    assert not loaded
    assert 'href="results.html"' in pages["index"]


def test_every_page_is_in_the_menu(builder):
    entries = builder.menu().splitlines()
    assert entries.index("results") < entries.index("api")  # the order of the table in README
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} | {"changelog", "contributing"} <= set(entries)
    assert len(entries) == len(set(entries)) + 1  # two empty lines


def test_links_of_the_pages_are_rewritten(builder):
    text = "[a](docs/api.md#x) [b](CHANGELOG.md) [c](tests/golden/README.md) [d](https://e.org/f) [g](none.md)"
    expected = "[a](api.md#x) [b](changelog.md) c (`tests/golden/README.md`) [d](https://e.org/f) [g](none.md)"
    assert builder.site_links(text, ROOT) == expected
    assert builder.site_links("[h](../README.md)", ROOT / "docs") == "[h](index.md)"
