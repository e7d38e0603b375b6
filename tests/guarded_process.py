"""Processes that end with the tests that started them, however those end.

A guard stands between a test and its process: this file, run as a script in its own session. It holds a pipe from
the test process. The kernel closes that pipe when the test process ends, also after SIGKILL; the guard then kills every
descendant it has. It is their "subreaper", so processes that were started in the background or in another session
remain its descendants. As long as the pipe is open, the guard kills nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

PR_SET_CHILD_SUBREAPER = 36


class GuardedProcess:
    """A process in its own session; it and all its descendants end with this object or with this process.

    `log` receives standard output, and `errors` standard error; without `errors` both go to `log`.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        environment: Mapping[str, str],
        log: Path,
        errors: Path | None = None,
    ) -> None:
        # the guard's own command and environment name no folder of the test, so that it never counts as left behind
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # `select` must see every line that has not been read
            cwd="/",
            env={},
            start_new_session=True,
        )
        job = {
            "command": list(command),
            "cwd": str(cwd),
            "environment": dict(environment),
            "log": str(log),
            "errors": str(errors or log),
        }
        self._guard.stdin.write(json.dumps(job).encode() + b"\n")
        self._guard.stdin.flush()
        self.pid = int(self._guard.stdout.readline())
        self._status: int | None = None

    def poll(self) -> int | None:
        """Return the exit status as `subprocess` does, None while the process runs."""
        return self.wait(0)

    def wait(self, seconds: float) -> int | None:
        """Wait for the process; returns its exit status, None if it still runs after that time."""
        if self._status is None and select.select([self._guard.stdout], [], [], seconds)[0]:
            self._status = int(self._guard.stdout.readline())
        return self._status

    def close(self) -> None:
        """Kill the process and its descendants, and wait until they are gone."""
        self._guard.stdin.close()
        self._guard.wait(30)
        self._guard.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def run(
    command: Sequence[str], *, cwd: Path, environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end under a guard; fails the test after `timeout` seconds."""
    with tempfile.TemporaryDirectory() as folder:
        log, errors = Path(folder, "stdout"), Path(folder, "stderr")
        with GuardedProcess(command, cwd=cwd, environment=environment, log=log, errors=errors) as process:
            status = process.wait(timeout)
        assert status is not None, f"{command} still runs after {timeout} s: {errors.read_text()[-4000:]}"
        return subprocess.CompletedProcess(list(command), status, log.read_text(), errors.read_text())


def _guard() -> None:
    """Start the command that standard input names, and kill its descendants when standard input closes."""
    job = json.loads(sys.stdin.buffer.readline())
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with Path(job["log"]).open("ab") as log, Path(job["errors"]).open("ab") as errors:
        process = subprocess.Popen(
            job["command"],
            cwd=job["cwd"],
            env=job["environment"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=errors,
            start_new_session=True,
        )
    print(process.pid, flush=True)
    threading.Thread(target=_reap, args=(process.pid,), daemon=True).start()
    sys.stdin.buffer.read()
    while left := _descendants():
        for number in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        threading.Event().wait(0.01)
    os._exit(0)


def _reap(pid: int) -> None:
    """Collect every descendant that ends; print the status of the process itself."""
    while True:
        try:
            ended, status = os.waitpid(-1, 0)
        except ChildProcessError:
            threading.Event().wait(0.05)
            continue
        if ended == pid:
            with contextlib.suppress(BrokenPipeError):
                print(os.waitstatus_to_exitcode(status), flush=True)


def _descendants() -> set[int]:
    """Return all descendants, zombies included: other threads of a zombie may live, and may be starting processes."""
    parents = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    below = {os.getpid()}
    while more := {number for number, parent in parents.items() if parent in below} - below:
        below |= more
    return below - {os.getpid()}


if __name__ == "__main__":
    _guard()
