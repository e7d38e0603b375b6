"""Runs TensorBoard over the whole artifact store, so that a training's curves open from its asset at a click.

`make dev` starts it beside Dagster. Only this machine can reach it. Trainings under way are in it too, below `.work`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

from assets.showing import tensorboard_address
from dagster_project.definitions import DEFAULT_STORE

HOST = "127.0.0.1"


def main() -> None:
    """Become TensorBoard, until interrupted."""
    parser = argparse.ArgumentParser(description="Run TensorBoard over the artifact store.")
    parser.add_argument("--port", type=int, default=urlsplit(tensorboard_address()).port or 6006)
    options = parser.parse_args()
    store = os.environ.get("HOSER_KD_STORE") or str(DEFAULT_STORE)
    if "://" in store:
        raise SystemExit(f"{store} is no folder of this machine; its curves are read from a copy of the artifact.")
    Path(store).mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "tensorboard.main",
        "--logdir",
        store,
        "--host",
        HOST,
        "--port",
        str(options.port),
    ]
    os.execv(sys.executable, command)  # noqa: S606  the same process, so that whoever ends this one ends TensorBoard


if __name__ == "__main__":
    main()
