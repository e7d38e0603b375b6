"""The folder of the project: its settings are in `config/`, the artifact store in `data/`, unless variables differ."""

from __future__ import annotations

from pathlib import Path

WORKSPACE = "workspace.yaml"
"""File that a project has at its root: a checkout of this repository, or a folder written by `hoser-kd init`."""


def project_folder() -> Path:
    """Return the checkout that this package is imported from; the working folder where it is installed from a wheel."""
    checkout = Path(__file__).resolve().parents[2]
    return checkout if (checkout / WORKSPACE).is_file() else Path.cwd()
