"""Addresses of the servers beside the UI, to which the pages of Dagster link. Does not import Dagster."""

from __future__ import annotations

import os


def files_address() -> str:
    """Return the address of the file server over the store (`dagster_project.files`, started by `make dev`).

    By default it is a path at the address of the UI, so that stored links work with any port.
    """
    return os.environ.get("HOSER_KD_FILES", "/files").rstrip("/")


def tensorboard_address() -> str:
    """Return the address of TensorBoard over the store (`dagster_project.tensorboard`, started by `make dev`).

    By default it is a path at the address of the UI.
    """
    return os.environ.get("HOSER_KD_TENSORBOARD", "/tensorboard").rstrip("/")
