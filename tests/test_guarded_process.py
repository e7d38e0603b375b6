"""A test run that is killed leaves no server behind."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from guarded_process import GuardedProcess, run
from ports import free_ports
from stage_process import left_after, running

TESTS = Path(__file__).parent
SERVER = [
    "sh",
    "-c",
    # beside the server: a process that has left the session, as the daemons of Dagster do
    'setsid sleep 600 & exec "$0" -m http.server "$1" --bind 127.0.0.1',
    sys.executable,
]
TEST_RUN = """
import os, sys, time
from pathlib import Path
from guarded_process import GuardedProcess
folder = Path(sys.argv[1])
server = GuardedProcess(sys.argv[2:], cwd=folder, environment={**os.environ, "MARK": str(folder)}, log=folder / "log")
print(server.pid, flush=True)
time.sleep(600)
"""


def accepts(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(5)
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def port() -> int:
    return free_ports(1)[0]


def wait_until(condition, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextlib.contextmanager
def _ended(process: subprocess.Popen) -> Iterator[None]:
    """Kill a process at the end, so that a failed test does not wait for it."""
    try:
        yield
    finally:
        process.kill()


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_test_run_takes_its_servers_along(tmp_path, port, sent):
    with (
        subprocess.Popen(
            [sys.executable, "-c", TEST_RUN, str(tmp_path), *SERVER, str(port)],
            env={**os.environ, "PYTHONPATH": str(TESTS)},
            stdout=subprocess.PIPE,
            start_new_session=True,
        ) as test_run,
        _ended(test_run),
    ):
        server = int(test_run.stdout.readline())
        wait_until(lambda: accepts(port))
        # the test run, the server and the process beside it; one that starts a program names no folder for a moment
        wait_until(lambda: len(running(tmp_path)) == 3)
        assert server in running(tmp_path)
        os.killpg(test_run.pid, sent)
        test_run.wait(10)
        assert not left_after(tmp_path, 10)
        # a process that ends loses its name before its sockets
        wait_until(lambda: not accepts(port), 10)


def test_closing_ends_the_server_and_what_it_started(tmp_path, port):
    mark = {**os.environ, "MARK": str(tmp_path)}
    with GuardedProcess([*SERVER, str(port)], cwd=tmp_path, environment=mark, log=tmp_path / "log") as server:
        wait_until(lambda: accepts(port))
        assert server.poll() is None
        wait_until(lambda: len(running(tmp_path)) == 2)
    assert not running(tmp_path)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the number of the system call is that of x86_64")
def test_a_process_whose_first_thread_has_ended_takes_its_children_along(tmp_path):
    """The kernel shows such a process as a zombie, though its other threads live, as happens while one is killed."""
    first_thread_ends = (
        "import ctypes, subprocess, threading, time\n"
        "started = threading.Event()\n"
        "child = lambda: (subprocess.Popen(['setsid', 'sleep', '600']), started.set(), time.sleep(600))\n"
        "threading.Thread(target=child).start()\n"
        "started.wait()\n"
        "ctypes.CDLL(None).syscall(60, 0)"  # exit of this thread
    )
    mark = {**os.environ, "MARK": str(tmp_path)}
    command = [sys.executable, "-c", first_thread_ends]
    with GuardedProcess(command, cwd=tmp_path, environment=mark, log=tmp_path / "log") as process:
        state = Path(f"/proc/{process.pid}/stat")
        wait_until(lambda: state.read_text().rpartition(")")[2].split()[0] == "Z")
        assert process.poll() is None
        wait_until(lambda: len(running(tmp_path)) == 1)
    assert not running(tmp_path)


def test_a_guard_kills_nothing_while_the_test_runs(tmp_path):
    command = ["sh", "-c", "setsid sleep 600 & exit 3"]
    mark = {**os.environ, "MARK": str(tmp_path)}
    with GuardedProcess(command, cwd=tmp_path, environment=mark, log=tmp_path / "log") as process:
        assert process.wait(10) == 3
        assert len(running(tmp_path)) == 1  # a test that looks for what was left behind sees it
    assert not running(tmp_path)


def test_a_command_is_run_to_its_end(tmp_path):
    done = run(["sh", "-c", "echo out; echo err >&2; exit 4"], cwd=tmp_path, environment=os.environ, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (4, "out\n", "err\n")
    with pytest.raises(AssertionError, match="still runs"):
        run(["sleep", "60"], cwd=tmp_path, environment=os.environ, timeout=0.1)
