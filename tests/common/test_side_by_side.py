"""Tasks side by side: messages, results and errors of processes, none of which outlives its caller."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from hoser_kd.common.errors import DataError, ProcessError
from hoser_kd.common.side_by_side import SideBySide

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys
sys.path[:0] = ["tests/common", "."]
import test_side_by_side as tasks
if __name__ == "__main__":
    with tasks.SideBySide([]) as processes:
        processes.start("task", tasks.sleep)
        print(processes.receive().content, flush=True)
        processes.receive()
"""
EARLY = """
import sys
from multiprocessing import forkserver
sys.path[:0] = ["tests/common", "."]
import test_side_by_side as tasks
from hoser_kd.common.side_by_side import begin_preload
if __name__ == "__main__":
    begin_preload(["wave"])
    server = forkserver._forkserver._forkserver_pid
    with tasks.SideBySide(["wave"]) as processes:
        processes.start("task", tasks.parent_and_modules)
        parent, modules = processes.receive().content
    assert "wave" not in sys.modules
    assert server is not None
    assert parent == server
    assert "wave" in modules
"""


def parent_and_modules(_send) -> tuple[int, list[str]]:
    return os.getppid(), list(sys.modules)


def meet(send, own: Path, other: Path) -> str:
    """Finish only if the other task runs at the same time."""
    own.touch()
    deadline = time.monotonic() + 60
    while not other.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    send(("met", os.getpid()))
    return own.name


def fail(_send, error: str) -> None:
    if error == "data":
        raise DataError("roads.csv", "no such column.", row=3, hint="Add it.")
    if error == "bug":
        raise ZeroDivisionError("a bug")
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(send) -> None:
    send(os.getpid())
    time.sleep(600)


def is_alive(process: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_tasks_run_at_the_same_time_in_separate_processes(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    with SideBySide([]) as processes:
        processes.start(1, meet, one, other)
        processes.start(2, meet, other, one)
        assert set(processes.running) == {1, 2}
        messages = []
        while processes.num_running:
            messages.append(processes.receive())
    results = {message.key: message.content for message in messages if message.is_result}
    assert results == {1: "one", 2: "other"}
    places = {message.content[1] for message in messages if not message.is_result}
    assert len(places | {os.getpid()}) == 3


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        ("data", DataError, r"^roads.csv, row 3: no such column. Add it.$"),
        ("bug", ProcessError, "ZeroDivisionError: a bug"),
        ("kill", ProcessError, "ended with status -9"),
    ],
)
def test_an_error_of_a_task_is_raised_and_ends_the_others(error, kind, text):
    with SideBySide([]) as processes:
        processes.start("sleeper", sleep)
        sleeper = processes.receive().content
        assert is_alive(sleeper)
        processes.start("failing", fail, error)
        with pytest.raises(kind, match=text):
            processes.receive()
    assert not is_alive(sleeper)


def test_an_interrupt_ends_all_tasks_even_those_that_it_has_not_reached(monkeypatch):
    monkeypatch.setattr("hoser_kd.common.side_by_side.GRACE_S", 0.5)
    both = []

    def interrupted():
        with SideBySide([]) as processes:
            processes.start("reached", sleep)
            processes.start("not reached", sleep)
            both.extend(processes.receive().content for _ in range(2))
            os.kill(both[0], signal.SIGINT)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not any(map(is_alive, both))


def test_a_task_ends_with_a_caller_that_is_killed():
    with subprocess.Popen([sys.executable, "-c", SCRIPT], cwd=ROOT, stdout=subprocess.PIPE, text=True) as caller:
        task = int(caller.stdout.readline())
        assert is_alive(task)
        caller.kill()
    deadline = time.monotonic() + 30
    while is_alive(task):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def note_and_fail(file: Path) -> None:
    print("output")
    file.write_text(f"{os.getpid()} {os.nice(0)}")
    raise ZeroDivisionError("an error")


def test_what_runs_aside_has_low_priority_and_its_errors_are_ignored(tmp_path, capfd):
    file = tmp_path / "note"
    with SideBySide([]) as processes:
        processes.start_aside(partial(note_and_fail, file))
        assert processes.num_running == 0
        processes.start("task", wait_for, file)
        assert processes.receive().is_result
    process, niceness = map(int, file.read_text().split())
    assert niceness > os.nice(0)
    assert not is_alive(process)
    assert capfd.readouterr() == ("", "")


def test_what_runs_aside_ends_with_the_others(tmp_path):
    file = tmp_path / "note"
    with SideBySide([]) as processes:
        processes.start_aside(partial(note_and_sleep, file))
        processes.start("task", wait_for, file)
        processes.receive()
    assert not is_alive(int(file.read_text()))


def note_and_sleep(file: Path) -> None:
    file.write_text(str(os.getpid()))
    time.sleep(600)


def wait_for(_send, file: Path) -> None:
    deadline = time.monotonic() + 60
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_tasks_are_forked_from_the_server_that_began_early():
    done = subprocess.run([sys.executable, "-c", EARLY], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
