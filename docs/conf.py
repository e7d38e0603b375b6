"""Settings of Sphinx for the documentation site, which `docs/build_site.py` builds."""

import tomllib
from pathlib import Path

_PROJECT = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]

project = _PROJECT["name"]
version = release = _PROJECT["version"]
html_title = f"{project} {version}"
extensions = ["myst_parser"]
myst_heading_anchors = 6
html_theme = "furo"
html_show_copyright = False
html_copy_source = False
suppress_warnings = ["misc.highlighting_failure"]
