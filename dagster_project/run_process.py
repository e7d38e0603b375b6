"""The process of a run on a Celery worker: Dagster's command, which ends when the worker ends.

Standard input is a pipe from the worker. The kernel closes it when the worker ends, also after SIGKILL.
"""

from __future__ import annotations

import os
import runpy
import signal
import threading
import time

_GRACE_S = 5
"""Time for cleanup. A run counts as lost later."""


def main() -> None:
    """Run `dagster` with the arguments of this process."""
    threading.Thread(target=_end_with_input, daemon=True).start()
    runpy.run_module("dagster", run_name="__main__", alter_sys=True)


def _end_with_input() -> None:
    """Wait until standard input closes; then end this process and its steps, which are in its process group."""
    while os.read(0, 1024):
        pass
    # a process that is exiting runs no thread any more; the alarm ends it all the same, and its steps follow it
    signal.alarm(_GRACE_S + 1)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(_GRACE_S)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    assert os.getpgid(0) == os.getpid(), "it ends its process group, which must be its own"
    main()
