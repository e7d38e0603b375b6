"""`make dev`: Dagster's UI and daemon, a file server over the store, and TensorBoard, at one address.

The gateway listens on the port of `--port`; the servers behind it listen on free ports of this machine.

They start and end together. A shell script would leave its background processes running after Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from urllib.parse import urlsplit

from assets.showing import files_address, tensorboard_address
from dagster_project.paths import HOST, ROOT, store_root
from dagster_project.storage import require_database
from hoser_kd.common.errors import HoserKdError
from hoser_kd.pipeline.store import Store

_REQUEST_S = 300
"""Time in which Dagster's code server answers. By default 60 s, and a run that it starts later than that has failed."""
_GRACE_S = 30
"""Time in which Dagster ends its runs and servers itself; remaining processes are then killed."""


def main() -> None:
    """Run until interrupted, terminated, the terminal closes, or Dagster exits; then end all started processes.

    If Dagster exits itself, its status becomes the status of this process.
    """
    parser = argparse.ArgumentParser(
        description="Run Dagster's UI, a file server over the artifact store, and TensorBoard."
    )
    parser.add_argument("--port", type=int, default=3000, help="port of the UI")
    options = parser.parse_args()
    try:
        require_database()
        Store(store_root())
    except HoserKdError as error:
        sys.exit(f"make dev: {error}")
    ends = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # `nohup make dev` outlives its terminal
        ends.append(signal.SIGHUP)
    for number in ends:
        # a shell's background job ignores interrupts, which child processes would inherit
        signal.signal(number, signal.default_int_handler)
    dagster, *helpers = _start_all(options.port)
    status = 0
    with contextlib.suppress(KeyboardInterrupt):
        status = dagster.wait()
    for number in ends:
        signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not interrupt the cleanup
    _signal(dagster, signal.SIGINT)
    for process in helpers:
        _signal(process, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_S
    for process in (dagster, *helpers):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        _signal(process, signal.SIGKILL)  # TensorBoard leaves a separate process in the group
        process.wait()
    sys.exit(status)


def _start_all(port: int) -> list[subprocess.Popen[bytes]]:
    """Start all servers and return their processes, Dagster first. An address in the environment sets its port."""
    free = _free_ports(3)
    ports = {
        "dagster": free[0],
        "files": urlsplit(files_address()).port or free[1],
        "tensorboard": urlsplit(tensorboard_address()).port or free[2],
    }
    behind = [word for name, number in ports.items() for word in (f"--{name}", str(number))]
    return [
        _start("dagster", "dev", "-w", str(ROOT / "workspace.yaml"), "-p", str(ports["dagster"])),
        _start("dagster_project.gateway", "--port", str(port), *behind),
        *(_start(f"dagster_project.{name}", "--port", str(ports[name])) for name in ("files", "tensorboard")),
    ]


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((HOST, 0))
        return [probe.getsockname()[1] for probe in probes]


def _start(*words: str) -> subprocess.Popen[bytes]:
    """Start a module with this Python in its own process group, so that it gets signals only from this process."""
    environment = {"DAGSTER_GRPC_TIMEOUT_SECONDS": str(_REQUEST_S)} | os.environ
    command = [sys.executable, "-m", *words]
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)  # noqa: S603


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


if __name__ == "__main__":
    main()
