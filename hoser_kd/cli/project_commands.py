"""The command `init`: write a project that uses the installed package, without a checkout of the repository."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from hoser_kd.cli.command import AddCommand
from hoser_kd.common.errors import ConfigError
from hoser_kd.common.files import atomic_path

SKELETON = Path(__file__).with_name("skeleton")
"""Files of a new project. `examples` and `dagster.yaml` are links to the repository's own; a wheel holds copies."""
_FILES = {
    "README.md": "README.md",
    "workspace.yaml": "workspace.yaml",
    "pyproject.toml": "pyproject.toml",
    "Makefile": "Makefile",
    "gitignore.txt": ".gitignore",
    "dagster.yaml": ".dagster/dagster.yaml",
    "definitions.py.txt": "distillation/definitions.py",
    "examples/demo.yaml": "config/demo.yaml",
}
_PACKAGE = "distillation/__init__.py"
_PACKAGE_TEXT = '"""Code of this project: what it adds to hoser-kd."""\n'


def add_project_commands(command: AddCommand) -> None:
    """Add the commands for projects."""
    init = command(
        "init", "Write a project: settings of a synthetic city, Dagster's workspace, a Makefile, a README.", _init
    )
    init.add_argument("folder", type=Path, help="folder to write; existing files are never replaced")


def init_project(folder: Path) -> list[Path]:
    """Write the files of a project into a folder, created if needed, and return their paths.

    Raises:
        ConfigError: one of the files exists, or the folder cannot be written. Then nothing is replaced.
    """
    texts = dict(_texts())
    existing = [name for name in texts if (folder / name).exists()]
    if existing:
        raise ConfigError(
            f"{folder / existing[0]}: exists already, and init replaces no file. Give a new folder, or remove it."
        )
    try:
        for name, text in texts.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(folder / name) as beside:
                Path(beside).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror}: {error.filename}).") from None
    return [folder / name for name in texts]


def _texts() -> Iterator[tuple[str, str]]:
    """Yield the files of a new project, by their path in it."""
    for source, target in _FILES.items():
        yield target, (SKELETON / source).read_text(encoding="utf-8")
    yield _PACKAGE, _PACKAGE_TEXT
    for example in sorted((SKELETON / "examples").glob("*.yaml")):
        if example.name != "demo.yaml":
            yield f"examples/{example.name}", example.read_text(encoding="utf-8")


def _init(options: argparse.Namespace) -> int:
    written = init_project(options.folder)
    lines = [f"written: {path}" for path in written]
    lines += [
        "next:",
        f"  cd {options.folder}",
        "  hoser-kd make distillation_report --dataset demo",
        '  DAGSTER_HOME="$PWD/.dagster" dagster dev',
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
