"""The generated pages of docs/ are those that the code generates now."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from hoser_kd.evaluation.metric_registry import METRICS, Metric, register

DOCS = Path(__file__).resolve().parents[1] / "docs"
PLACEHOLDER = re.compile(r"^[A-Z]+_[A-Z]+$", re.MULTILINE)
"""A line for a table that is to be filled in later."""


def build_module():
    """Import docs/build.py, which is no package."""
    spec = importlib.util.spec_from_file_location("docs_build", DOCS / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BUILD = build_module()


@pytest.mark.parametrize("name", BUILD.PAGES)
def test_generated_pages_are_current(name):
    stored = (DOCS / name).read_text(encoding="utf-8")
    assert stored == BUILD.PAGES[name](), f"docs/{name} is stale; run: python docs/build.py"


def test_pages_that_say_they_are_generated_are_the_generated_ones():
    generated = {
        page.name
        for page in DOCS.glob("*.md")
        if "by\n`python docs/build.py`" in (text := page.read_text()) or "by `python docs/build.py`" in text
    }
    assert generated == set(BUILD.PAGES)


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.relative_to(DOCS).as_posix())
def test_no_page_has_a_placeholder(page):
    assert PLACEHOLDER.findall(page.read_text(encoding="utf-8")) == []


def test_a_placeholder_is_a_line_by_itself():
    assert PLACEHOLDER.findall("a\n\nTEST_TABLE\n\n`HOSER_KD` X_Y\n") == ["TEST_TABLE"]


def test_a_registered_metric_reaches_the_page_of_metrics():
    row = "| `counts.wiggle` | rad | → 2 | How much trips wiggle. | Worm et al. |"
    assert row not in BUILD.evaluation_page()
    register(Metric("counts.wiggle", "wiggle", "How much trips wiggle.", unit="rad", target=2.0, source="Worm et al."))
    try:
        assert row in BUILD.evaluation_page().splitlines()
    finally:
        METRICS.unregister("counts.wiggle")
