"""Run TensorBoard over the artifact store, so that the links on training assets open their curves.

`make dev` starts it beside Dagster. It listens on this machine only. Trainings in progress appear below `.work`. Of a
bucket it shows the local copies, which `dagster_project.files` keeps up to date.
"""

from __future__ import annotations

import argparse
import os
import sys
from urllib.parse import urlsplit

from assets.addresses import tensorboard_address
from dagster_project.paths import HOST, TENSORBOARD_PREFIX, local_store


def main() -> None:
    """Replace this process by TensorBoard."""
    parser = argparse.ArgumentParser(description="Run TensorBoard over the artifact store.")
    parser.add_argument("--port", type=int, default=urlsplit(tensorboard_address()).port or 6006)
    options = parser.parse_args()
    store = local_store()
    store.mkdir(parents=True, exist_ok=True)
    arguments = ["--logdir", str(store), "--host", HOST, "--port", str(options.port)]
    if tensorboard_address() == TENSORBOARD_PREFIX:
        arguments += ["--path_prefix", TENSORBOARD_PREFIX]
    command = [sys.executable, "-W", "ignore", "-m", "tensorboard.main", *arguments]
    os.execv(sys.executable, command)  # noqa: S606  the same process, so that a signal to it ends TensorBoard


if __name__ == "__main__":
    main()
