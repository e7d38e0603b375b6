"""Measure how the modules of `hoser_kd` are connected: `python benchmarks/structure.py [--imports] [FOLDER]`.

A room is a package at the top of `hoser_kd`, or a module that lies beside the packages. An import is a pair of files of
which one imports the other, anywhere in the file: imports in functions and under TYPE_CHECKING count, and several
names from one module count once. An import of a package counts as one of its `__init__`. The package's own
`hoser_kd/__init__.py` is no room, because it imports lazily from everywhere.
"""

from __future__ import annotations

import argparse
import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def modules(package: Path) -> dict[str, Path]:
    """Return every module below a package by its dotted name."""
    result = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package.parent).with_suffix("").parts
        result[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return result


def imported_names(file: Path) -> Iterator[str]:
    """Yield the dotted names that a file imports; `from a import b` gives `a.b`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def file_imports(package: Path) -> list[tuple[str, str]]:
    """Return the pairs (importing module, imported module) of a package, sorted."""
    known = modules(package)
    pairs = set()
    for name, file in known.items():
        for imported in imported_names(file):
            target = max((module for module in known if f"{imported}.".startswith(f"{module}.")), key=len, default="")
            if target not in ("", name, package.name) and name != package.name:
                pairs.add((name, target))
    return sorted(pairs)


def structure(package: Path) -> dict[str, int]:
    """Return the number of rooms, imports, imports that cross rooms, and pairs of rooms joined by an import."""
    rooms = {name.split(".")[1] for name in modules(package) if "." in name}
    imports = file_imports(package)
    crossing = [pair for pair in imports if _room(pair[0]) != _room(pair[1])]
    return {
        "rooms": len(rooms),
        "imports": len(imports),
        "crossing imports": len(crossing),
        "pairs of rooms": len({(_room(source), _room(target)) for source, target in crossing}),
    }


def _room(module: str) -> str:
    return module.split(".")[1]


def main() -> None:
    """Print the structure, and with --imports the modules that import most from other rooms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "hoser_kd", help="package to measure")
    parser.add_argument("--imports", action="store_true", help="also list the imports that cross rooms, by module")
    options = parser.parse_args()
    for name, value in structure(options.folder).items():
        print(f"{name:18}{value:6}")
    if options.imports:
        crossing = Counter(pair[0] for pair in file_imports(options.folder) if _room(pair[0]) != _room(pair[1]))
        for module, number in crossing.most_common():
            print(f"{number:4}  {module}")


if __name__ == "__main__":
    main()
