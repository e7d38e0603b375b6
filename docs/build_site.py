"""Build the documentation as a site that opens from the disk: `python docs/build_site.py [FOLDER]`, by default `site/`.

README.md becomes the first page. The menu follows the links of its table; all other pages come after them. A link to a
file of the repository that is no page becomes its path. A broken link, or one to a missing heading, is an error.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
ROOT_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""Pages at the root of the repository, and their names on the site."""
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?\)")


def main() -> int:
    """Build the site into the folder of the command line, and return Sphinx's exit status."""
    from sphinx.cmd.build import main as sphinx

    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "site"
    with tempfile.TemporaryDirectory() as folder:
        sources = Path(folder) / "sources"
        write_sources(sources)
        cache = str(Path(folder) / "cache")
        return sphinx(
            ["-q", "-b", "html", "-W", "--keep-going", "-c", str(DOCS), "-d", cache, str(sources), str(target)]
        )


def write_sources(folder: Path) -> None:
    """Write the pages of the site, with the links that they have there, and the figures."""
    shutil.copytree(DOCS, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__", "results"))
    for page in folder.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        page.write_text(site_links(text, DOCS / page.relative_to(folder).parent), encoding="utf-8")
    for source, name in ROOT_PAGES.items():
        text = site_links((ROOT / source).read_text(encoding="utf-8"), ROOT)
        (folder / name).write_text(text + (menu() if name == "index.md" else ""), encoding="utf-8")


def menu() -> str:
    """Return the hidden table of contents: the pages that README links, in its order, then all others."""
    listed = re.findall(r"\]\(docs/(\w+)\.md\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    pages = [*listed, *sorted(page.stem for page in DOCS.glob("*.md"))]
    pages += [name.removesuffix(".md") for name in ROOT_PAGES.values() if name != "index.md"]
    return "\n".join(["", "```{toctree}", ":hidden:", "", *dict.fromkeys(pages), "```", ""])


def site_links(text: str, folder: Path) -> str:
    """Return the text of a page in a folder of the repository with links that lead to the pages of the site."""
    here = folder if folder.is_relative_to(DOCS) else DOCS

    def replaced(match: re.Match[str]) -> str:
        mark, label, target, anchor = match.groups()
        file = (folder / target).resolve()
        if file.is_relative_to(DOCS):
            place = file
        elif file.parent == ROOT and file.name in ROOT_PAGES:
            place = DOCS / ROOT_PAGES[file.name]
        elif file.exists() and not mark:
            return f"{label} (`{file.relative_to(ROOT).as_posix()}`)"
        else:
            return match[0]
        return f"{mark}[{label}]({Path(os.path.relpath(place, here)).as_posix()}{anchor or ''})"

    return _LINK.sub(replaced, text)


if __name__ == "__main__":
    sys.exit(main())
