"""Every relative link of README, CHANGELOG and docs leads to a file, and every anchor to a heading."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CODE = re.compile(r"^( *)(```|~~~).*?^\1\2 *$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
DEFINITION = re.compile(r"^ {0,3}\[[^\]]+\]: *<?([^\s>]+)>?", re.MULTILINE)
EXTERNAL = re.compile(r"^[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def targets(text: str) -> list[str]:
    """Return the targets of all links and images outside code."""
    prose = CODE.sub("", text)
    return LINK.findall(prose) + DEFINITION.findall(prose)


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page; a repeated heading gets a number."""
    names: set[str] = set()
    fenced = re.compile(r"^( *)(```|~~~).*?^\1\2 *$", re.MULTILINE | re.DOTALL)
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", fenced.sub("", text), re.MULTILINE):
        plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        count = 0
        while (name := slug if count == 0 else f"{slug}-{count}") in names:
            count += 1
        names.add(name)
    return names


def broken(page: Path) -> list[str]:
    """Return the links of a page that lead nowhere."""
    wrong = []
    for target in targets(page.read_text(encoding="utf-8")):
        if EXTERNAL.match(target):
            continue
        name, _, anchor = unquote(target).partition("#")
        file = page.parent / name if name else page
        if not file.exists():
            wrong.append(f"{target}: no such file")
        elif anchor and anchor not in anchors(file.read_text(encoding="utf-8")):
            wrong.append(f"{target}: no such heading")
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page):
    assert not broken(page)


def test_readme_and_docs_are_among_the_pages_and_have_links():
    assert {ROOT / "README.md", ROOT / "docs" / "architecture.md", ROOT / "docs" / "walkthrough.md"} <= set(PAGES)
    assert sum(len(targets(page.read_text(encoding="utf-8"))) for page in PAGES) > 30


def test_wrong_links_are_reported(tmp_path):
    (tmp_path / "other.md").write_text("# Its `grid`\n\n## Twice\n\n## Twice\n\n```sh\n# no heading\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md) [b](other.md#its-grid) [c](other.md#twice-1) [d](https://example.org/none) `[e](none.md)`\n"
        "\n```\n[f](none.md)\n```\n\n[g](none.md) [h](other.md#no-heading) ![i](none.png) [j](#here)\n\n# There\n"
        "\n[k]: none.md\n"
    )
    assert broken(page) == [
        "none.md: no such file",
        "other.md#no-heading: no such heading",
        "none.png: no such file",
        "#here: no such heading",
        "none.md: no such file",
    ]
