"""Dagster's code server, web server and daemon, and the run server: forks of one process that has imported Dagster.

`dagster dev` starts the same servers one after the other, in five processes that each import Dagster. Here the code
server loads the code location while this process imports what the web server needs, and the daemon starts when the web
server listens, so that it does not take a core from it.

Belongs here: how Dagster's own commands are started together. Does not belong here: the servers beside Dagster, which
`dagster_project.dev` starts.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import distribution
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from dagster_project.paths import HOST, ROOT
from dagster_project.probe import listens
from dagster_project.run_server import VARIABLE, serve
from dagster_project.sqlite_engines import keep_engines
from hoser_kd.common.forked_imports import imports_before_fork
from hoser_kd.common.project import WORKSPACE

START_S = 300
"""Time in which the code location loads."""
_GRACE_S = 20.0
"""Time in which the servers end themselves."""
_POLL_S = 0.05

Command = Callable[[], object]
"""The function of a console command of Dagster, which reads its arguments from `sys.argv`."""


def main() -> int:
    """Run the servers. Return 0 when they are interrupted, 1 when one of them ends by itself."""
    parser = argparse.ArgumentParser(description="Run Dagster's code server, web server and daemon.")
    parser.add_argument("--port", type=int, required=True, help="port of the web server")
    port = parser.parse_args().port
    location = python_module(ROOT / WORKSPACE)
    if location is None or not os.environ.get("DAGSTER_HOME"):
        _run_dagster_dev(port)
    with tempfile.TemporaryDirectory(prefix="hoser-kd-") as folder, _Servers() as servers:
        _start(servers, location or {}, port, Path(folder))
        sys.stderr.write(f"make dev: {servers.wait()}\n")
        return 1
    return 0  # interrupted


def python_module(workspace: Path) -> dict[str, str] | None:
    """Return the settings of the only code location of a workspace; None if it is not a module with a name."""
    entries = yaml.safe_load(workspace.read_text(encoding="utf-8"))["load_from"]
    module = entries[0].get("python_module") if len(entries) == 1 else None
    known = {"module_name", "location_name", "working_directory"}
    return module if isinstance(module, dict) and {"module_name", "location_name"} <= set(module) <= known else None


def _run_dagster_dev(port: int) -> None:
    """Replace this process by `dagster dev`, which knows all kinds of code locations and temporary instances."""
    words = [sys.executable, "-m", "dagster", "dev", "-w", str(ROOT / WORKSPACE), "-p", str(port)]
    os.execv(sys.executable, words)  # noqa: S606  the same process, so that a signal to it ends Dagster


class _Servers:
    """Forked processes that end together, at the end of a `with` statement; an interrupt is an end without error."""

    def __init__(self) -> None:
        self._processes: list[ForkProcess] = []
        self._ends_with: dict[str, signal.Signals] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        interrupted = isinstance(error, KeyboardInterrupt)
        if not interrupted:  # an interrupt has reached all processes of the group
            for process in self._processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid or 0, self._ends_with[process.name])
        deadline = time.monotonic() + _GRACE_S
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
        for process in self._processes:
            process.kill()
            process.join()
        return interrupted

    def start(self, name: str, command: Command, *words: str, ends_with: signal.Signals = signal.SIGINT) -> None:
        """Fork a process that runs a command of Dagster, and ends with a signal."""
        self._ends_with[name] = ends_with
        process = multiprocessing.get_context("fork").Process(target=_run, args=(command, words), name=name)
        process.start()
        self._processes.append(process)

    def wait(self, timeout: float | None = None) -> str | None:
        """Wait until a server ends, and return which one, or None after `timeout` seconds."""
        ended = wait([process.sentinel for process in self._processes], timeout)
        for process in self._processes:
            if process.sentinel in ended:
                process.join()  # its status is known a moment after its end
                return f"the {process.name} has ended with status {process.exitcode}"
        return None

    def wait_for(self, family: socket.AddressFamily, address: Any) -> None:
        """Wait until a server listens at an address, or one has ended."""
        while not listens(family, address) and self.wait(_POLL_S) is None:
            pass


def _run(command: Command, words: tuple[str, ...]) -> None:
    sys.argv = list(words)
    command()


def _start(servers: _Servers, location: Mapping[str, str], port: int, folder: Path) -> None:
    """Start the servers, each as soon as it is of use."""
    os.environ["DAGSTER_IS_DEV_CLI"] = "1"  # as `dagster dev`: an error of the code location is logged once
    with imports_before_fork():
        dagster = _command("dagster", "dagster")
        importlib.import_module("dagster._grpc.proxy_server")  # which the commands import when they start
        _create_instance()
    at = folder / "code"
    words = ["--socket", str(at), "--log-level", "warning", "--inject-env-vars-from-instance"]
    words += ["--location-name", location["location_name"], "--module-name", location["module_name"]]
    words += ["--working-directory", str(ROOT / location.get("working_directory", "."))]
    servers.start("code server", dagster, "dagster", "code-server", "start", *words, "--startup-timeout", str(START_S))
    with imports_before_fork():
        webserver = _command("dagster-webserver", "dagster-webserver")
        daemon = _command("dagster", "dagster-daemon")
    os.environ[VARIABLE] = str(folder / "runs")
    workspace = folder / WORKSPACE
    server = {"location_name": location["location_name"], "socket": str(at), "additional_metadata": dict(location)}
    workspace.write_text(yaml.safe_dump({"load_from": [{"grpc_server": server}]}), encoding="utf-8")
    servers.wait_for(socket.AF_UNIX, str(at))
    at_port = ["--host", HOST, "--port", str(port)]
    servers.start("web server", webserver, "dagster-webserver", "--workspace", str(workspace), *at_port)
    servers.wait_for(socket.AF_INET, (HOST, port))
    servers.start("daemon", daemon, "dagster-daemon", "run", "--workspace", str(workspace))
    servers.start("run server", partial(serve, os.environ[VARIABLE], dagster), "run server", ends_with=signal.SIGTERM)


def _command(package: str, name: str) -> Command:
    """Import the function of a console command."""
    [entry] = distribution(package).entry_points.select(group="console_scripts", name=name)
    command: Command = entry.load()
    return command


def _create_instance() -> None:
    """Create the databases of a new instance before several processes open them, and import what opens them."""
    keep_engines()
    with importlib.import_module("dagster").DagsterInstance.get():
        pass


if __name__ == "__main__":
    sys.exit(main())
