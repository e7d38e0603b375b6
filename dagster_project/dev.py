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
from collections.abc import Iterator
from urllib.parse import urlsplit

from assets.addresses import files_address, tensorboard_address
from dagster_project.paths import HOST, ROOT, store_root
from dagster_project.probe import listens
from dagster_project.storage import require_database
from hoser_kd.common.errors import HoserKdError

_REQUEST_S = 300
"""Time in which Dagster's code server answers. By default 60 s, and a run that it starts later than that has failed."""
_POLL_S = 0.2
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
        _require_store()
    except HoserKdError as error:
        sys.exit(f"make dev: {error}")
    ends = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # `nohup make dev` outlives its terminal
        ends.append(signal.SIGHUP)
    for number in ends:
        # a shell's background job ignores interrupts, which child processes would inherit
        signal.signal(number, signal.default_int_handler)
    processes: list[subprocess.Popen[bytes]] = []
    status = 0
    with contextlib.suppress(KeyboardInterrupt):
        for process in _start_all(options.port):
            processes.append(process)  # noqa: PERF402  an interrupt comes at any time
        status = processes[0].wait()
    for number in ends:
        signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not interrupt the cleanup
    for process in processes:
        _signal(process, signal.SIGINT if process is processes[0] else signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_S
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        _signal(process, signal.SIGKILL)  # TensorBoard leaves a separate process in the group
        process.wait()
    sys.exit(status)


def _require_store() -> None:
    """Raise StoreError if the address of a store in a bucket is not valid."""
    if "://" in store_root():  # a folder is always valid, and the import takes a second
        from hoser_kd.pipeline.store import Store

        Store(store_root())


def _start_all(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start all servers and yield their processes, Dagster first. An address in the environment sets its port."""
    free = _free_ports(3)
    ports = {
        "dagster": free[0],
        "files": urlsplit(files_address()).port or free[1],
        "tensorboard": urlsplit(tensorboard_address()).port or free[2],
    }
    behind = [word for name, number in ports.items() for word in (f"--{name}", str(number))]
    dagster = _start("dagster_project.dagster_servers", "--port", str(ports["dagster"]))
    yield dagster
    yield _start("dagster_project.gateway", "--port", str(port), *behind)
    # what the first page does not need would compete with it for the cores
    while not listens(socket.AF_INET, (HOST, ports["dagster"])):
        if dagster.poll() is not None:
            return
        time.sleep(_POLL_S)
    for name in ("files", "tensorboard"):
        yield _start(f"dagster_project.{name}", "--port", str(ports[name]))


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
