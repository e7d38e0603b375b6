"""The server that forks the runs of `make dev` from a process that has imported what steps need.

Without it, Dagster's code server starts a Python process per run, which imports Dagster, and that process starts
another for its steps, which imports torch and the stages. Here both are imported once.

Belongs here: the process that forks, watches and interrupts runs. Does not belong here: which runs it gets, which
`dagster_project.run_launcher` decides.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from types import ModuleType

from dagster_project.paths import ROOT
from hoser_kd.common.forked_imports import imports_before_fork

VARIABLE = "HOSER_KD_RUN_SERVER"
"""Environment variable: path of the socket of the server. `make dev` sets it for Dagster's other servers."""
FORKED, STALE, INTERRUPTED, UNKNOWN = "forked", "stale", "interrupted", "unknown"
"""Answers: a run was forked; the code has changed, nothing was forked; a run was interrupted; there is no such run."""

_PRELOADED = (
    "dagster._core.executor.multiprocess",
    "dagster_project.preload_stages",
)
_ANSWER_S = 300.0
"""Time for an answer. A busy server must not be taken for one that is gone: its run would be started twice."""
_REQUEST_S = 10.0
_POLL_S = 2.0
_GRACE_S = 15.0
"""Time in which interrupted runs end, when the server ends."""

_is_forked_run = False


def is_forked_run() -> bool:
    """Return whether this process is a run that the server has forked."""
    return _is_forked_run


def ask(address: str, request: Mapping[str, object]) -> str:
    """Send a request to the server and return its answer.

    Raises ConnectionRefusedError or FileNotFoundError if no server listens, and another OSError if it does not answer,
    which leaves open what it has done.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_ANSWER_S)
        connection.connect(address)
        connection.sendall(json.dumps(request).encode() + b"\n")
        connection.shutdown(socket.SHUT_WR)
        answer = _read(connection)
    if not answer:
        raise ConnectionError(f"{address} has closed the connection without an answer.")
    return answer


def _read(connection: socket.socket) -> str:
    with connection.makefile(encoding="utf-8") as lines:
        return lines.readline().strip()


def serve(address: str, execute: Callable[[], object]) -> None:
    """Fork runs until this process is interrupted (SIGINT) or terminated; end when all its runs have ended.

    An interrupt has reached the runs too, as they are in the same process group. SIGTERM is passed on as an interrupt.

    `address`: path of a socket to create. `execute`: the console command of Dagster, which reads `sys.argv`.
    """
    with imports_before_fork():
        for name in _PRELOADED:
            importlib.import_module(name)
    server = _RunServer(execute)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        try:
            while True:
                server.serve_once(listener)
        except KeyboardInterrupt:
            server.end(interrupted=True)
        except SystemExit:
            server.end(interrupted=False)


class _RunServer:
    """The runs that were forked from this process, which must have a single thread."""

    def __init__(self, execute: Callable[[], object]) -> None:
        self._execute = execute
        self._runs: dict[str, ForkProcess] = {}
        self._code = _states_of(sys.modules)

    def serve_once(self, listener: socket.socket) -> None:
        """Wait for a request or the end of a run, and handle it."""
        ready = wait([listener, *(process.sentinel for process in self._runs.values())], _POLL_S)
        if listener in ready:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # gone, or no request
                connection.settimeout(_REQUEST_S)
                request = json.loads(_read(connection))
                connection.sendall(self._answer(request, listener, connection).encode() + b"\n")
        for run_id, process in list(self._runs.items()):
            if not process.is_alive():
                del self._runs[run_id]
                self._fork(f"end of run {run_id}", report_end, run_id, process.exitcode or 0)

    def _answer(self, request: Mapping[str, str], *inherited: socket.socket) -> str:
        run_id = request["run"]
        if "execute" in request:
            if self._code != _states_of(sys.modules):
                return STALE
            self._runs[run_id] = self._fork(f"run {run_id}", self._run, request["execute"], *inherited)
            return FORKED
        process = self._runs.get(run_id)
        if process is None or not process.is_alive():
            return UNKNOWN
        os.kill(process.pid or 0, signal.SIGINT)
        return INTERRUPTED

    def _fork(self, name: str, function: Callable[..., None], *arguments: object) -> ForkProcess:
        process = get_context("fork").Process(target=function, args=arguments, name=name)
        process.start()
        return process

    def _run(self, arguments: str, *inherited: socket.socket) -> None:
        """Execute a run in its own process."""
        global _is_forked_run  # noqa: PLW0603 - a fact of the process
        _is_forked_run = True
        for connection in inherited:
            connection.close()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.argv = ["dagster", "api", "execute_run", arguments]
        self._execute()

    def end(self, *, interrupted: bool) -> None:
        """End all runs; those that do not end by an interrupt are killed."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if not interrupted:
            for process in self._runs.values():
                os.kill(process.pid or 0, signal.SIGINT)
        deadline = time.monotonic() + _GRACE_S
        for process in self._runs.values():
            process.join(max(0.0, deadline - time.monotonic()))
            process.kill()
            process.join()


def _states_of(modules: Mapping[str, ModuleType]) -> dict[str, tuple[int, int]]:
    """Return time and size of the files of the project's modules, by which a change of the code is seen."""
    states = {}
    for module in list(modules.values()):
        file = getattr(module, "__file__", None)
        if file and Path(file).is_relative_to(ROOT) and "site-packages" not in file:
            with contextlib.suppress(OSError):
                state = Path(file).stat()
                states[file] = state.st_mtime_ns, state.st_size
    return states


def report_end(run_id: str, exit_code: int) -> None:
    """Report a run as failed, or as canceled, whose process has ended without doing so."""
    import dagster as dg
    from dagster._utils import get_run_crash_explanation

    with dg.DagsterInstance.get() as instance:
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return
        message = get_run_crash_explanation(prefix=f"The process of run {run_id}", exit_code=exit_code)
        if run.status == dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, message)
        else:
            instance.report_engine_event(f"{message} Its output is that of `make dev`.", run)
            instance.report_run_failed(run)
