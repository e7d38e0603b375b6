"""Tasks side by side: each in a separate process, forked from a server that has imported what the tasks need.

A separate process, not a thread, because torch's random generator is one per process: tasks that share it would
depend on each other's progress.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from traceback import format_exc
from typing import Any, Self

from hoser_kd.common.errors import HoserKdError, ProcessError, error_named

GRACE_S = 5.0
"""Time that a task has to end after an interrupt, and after SIGTERM."""
_LOW_PRIORITY = 10
"""Niceness of what runs aside: a tenth of a core where tasks need all cores."""

Send = Callable[[Any], None]
Function = Callable[..., Any]
"""Function of a task, at the top level of a module; called with a function that sends messages, and its arguments."""


@dataclass(frozen=True)
class Message:
    """A message that a task has sent."""

    key: Hashable
    """Key of the task."""
    content: Any
    """What it has sent, or its result."""
    is_result: bool
    """Whether the task has ended and this is its result."""


@dataclass(frozen=True)
class _Error:
    kind: str
    text: str


@dataclass(frozen=True)
class _Result:
    value: Any


def begin_preload(preload: Sequence[str]) -> None:
    """Start the server of a later `SideBySide(preload)` now, so that it imports while the caller does other work."""
    from multiprocessing.forkserver import ensure_running, set_forkserver_preload

    set_forkserver_preload(list(preload))
    ensure_running()


class SideBySide:
    """Runs tasks in processes and receives their messages; used in a `with` statement, which ends all of them."""

    def __init__(self, preload: Sequence[str]) -> None:
        """`preload`: modules that the server imports before it forks; none may start a thread or use a GPU."""
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(preload))
        self._running: dict[Connection, tuple[Hashable, ForkServerProcess]] = {}
        self._aside: list[ForkServerProcess] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Ctrl-C reaches the tasks too: they end themselves
        self._end(interrupted=kind is not None and issubclass(kind, KeyboardInterrupt))

    @property
    def num_running(self) -> int:
        """Number of tasks that have not ended."""
        return len(self._running)

    @property
    def running(self) -> list[Hashable]:
        """Keys of the tasks that have not ended."""
        return [key for key, _ in self._running.values()]

    def start(self, key: Hashable, function: Function, *arguments: Any) -> None:
        """Start a task."""
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_run, args=(sender, function, arguments), name=str(key))
        process.start()
        sender.close()
        self._running[receiver] = key, process

    def start_aside(self, function: Callable[[], object]) -> None:
        """Start a function at low priority; its output and errors are ignored. It ends with the `with` statement."""
        process = self._context.Process(target=_run_aside, args=(function,))
        process.start()
        self._aside.append(process)

    def receive(self) -> Message:
        """Wait for the next message of any task.

        Raises:
            HoserKdError: the error of a task, if it is one of `hoser_kd.common.errors`.
            ProcessError: a task failed otherwise, or its process was killed.
        """
        receiver = wait(list(self._running))[0]
        assert isinstance(receiver, Connection)
        key, process = self._running[receiver]
        try:
            content = receiver.recv()
        except EOFError:
            content = None
            process.join()
        if isinstance(content, _Error):
            raise error_named(content.kind, content.text)
        if content is None:
            raise ProcessError(f"the process of {process.name} ended with status {process.exitcode}.")
        if not isinstance(content, _Result):
            return Message(key, content, is_result=False)
        process.join()
        receiver.close()
        del self._running[receiver]
        return Message(key, content.value, is_result=True)

    def _end(self, *, interrupted: bool) -> None:
        """End all tasks; none runs when this returns."""
        processes = [process for _, process in self._running.values()] + self._aside
        if interrupted:
            _join(processes)
        for process in processes:
            process.terminate()
        _join(processes)
        for process in processes:
            process.kill()
            process.join()
        for receiver in self._running:
            receiver.close()
        self._running.clear()
        self._aside.clear()


def _join(processes: Sequence[ForkServerProcess]) -> None:
    deadline = time.monotonic() + GRACE_S
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))


def _run(sender: Connection, function: Function, arguments: tuple[Any, ...]) -> None:
    """Run a task in its process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        sender.send(_Result(function(sender.send, *arguments)))
    except HoserKdError as error:
        sender.send(_Error(type(error).__name__, str(error)))
    except Exception:  # noqa: BLE001
        sender.send(_Error(ProcessError.__name__, format_exc()))
    except BaseException:  # noqa: BLE001  an interrupt, which the caller has got too
        os._exit(130)


def _run_aside(function: Callable[[], object]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(_LOW_PRIORITY)
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nothing, stream)
    with suppress(Exception):
        function()


def _end_with_parent() -> None:
    """Exit when the process that has started this one ends, however it ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
