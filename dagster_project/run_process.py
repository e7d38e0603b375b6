"""The process of a run on a Celery worker: Dagster's command, which ends when the worker ends.

Standard input is a pipe from the worker. The kernel closes it when the worker ends, also after SIGKILL. A separate
process waits for that: threads of a process that is exiting do not run any more, and steps may outlive it.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import signal
import time

_GRACE_S = 5
"""Time for cleanup. A run counts as lost later."""


def main() -> None:
    """Run `dagster` with the arguments of this process."""
    run = os.getpid()
    # before anything is imported, so that the copy is small and has one thread
    if os.fork() == 0:
        _end_with_input(run)
    runpy.run_module("dagster", run_name="__main__", alter_sys=True)


def _end_with_input(run: int) -> None:
    """Wait until standard input closes; then end the process of the run and its steps, which are in its group."""
    os.setsid()  # out of that group
    while os.read(0, 1024):
        pass
    with contextlib.suppress(ProcessLookupError):
        os.kill(run, signal.SIGINT)
        time.sleep(_GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(run, signal.SIGKILL)
    os._exit(0)


if __name__ == "__main__":
    assert os.getpgid(0) == os.getpid(), "it ends its process group, which must be its own"
    main()
