"""The templates of the report and its map."""

from __future__ import annotations

from pathlib import Path

import jinja2


def template_environment() -> jinja2.Environment:
    """Return the environment of the templates: texts are escaped, and an undefined name is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
