"""Where the artifact store is, and the host name of the servers over it. Does not import Dagster."""

from __future__ import annotations

import os
from pathlib import Path

from hoser_kd.common.project import project_folder

ROOT = project_folder()
"""The checkout, or the working folder where the package is installed from a wheel."""

HOST = "127.0.0.1"
"""Address of the servers over the store; only this machine reaches it."""

FILES_PREFIX = "/files"
"""Path of the store's files at the address of `make dev`."""
TENSORBOARD_PREFIX = "/tensorboard"
"""Path of TensorBoard at the address of `make dev`."""


def store_root() -> str:
    """Return the folder or fsspec address of the artifact store: HOSER_KD_STORE, or `data/` in the project."""
    return os.environ.get("HOSER_KD_STORE") or str(ROOT / "data")


def local_store() -> Path:
    """Return the folder of the artifact store, or that of the local copies of a bucket."""
    from hoser_kd.pipeline.store import Store

    return Store(store_root()).local_root
