"""Names of cities, and the YAML files that define them.

The name of a city is that of its file. It is also the name of a folder in the store and of a partition in Dagster.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_MOST_LETTERS = 100
_LETTERS = "letters without accents, digits, _ and -"


def require_city_name(name: str) -> str:
    """Return the name of a city. Raises ValueError with the reason if a city cannot have it."""
    if reason := why_no_city(name):
        raise ValueError(f"{name[:_MOST_LETTERS]!r} cannot name a city: {reason}. Use {_LETTERS}")
    return name


def why_no_city(name: str) -> str | None:
    """Return why a city cannot have this name; None if it can."""
    if not name:
        return "it is empty"
    if len(name) > _MOST_LETTERS:
        return f"it has {len(name)} characters, more than {_MOST_LETTERS}"
    if name[0] in "-.":
        return f"it begins with {name[0]!r}"
    other = re.search(r"[^A-Za-z0-9_-]", name)
    if other is None:
        return None
    return "it contains a space" if other[0] == " " else f"it contains {other[0]!r}"


def city_files(folder: Path) -> list[Path]:
    """Return the YAML files of a folder that define cities, sorted by name."""
    files = sorted(folder.glob("*.yaml"))
    return [file for file in files if why_no_city(file.stem) is None and file.is_file()]


def other_files(folder: Path) -> list[str]:
    """Return a sentence for each other `.yaml` of a folder, except hidden ones: why it is no city and how to fix it."""
    sentences = []
    for path in sorted(folder.glob("*.yaml")):
        if path.name.startswith("."):
            continue
        reason = why_no_city(path.stem)
        if reason is not None:
            sentences.append(f"{path.name} is not a city: its name cannot be one, as {reason}. Use {_LETTERS}.")
        elif not path.is_file():
            sentences.append(f"{path.name} is not a city: it is not a file.")
    return sentences
