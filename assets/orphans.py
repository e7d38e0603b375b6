"""Stop a step when the process of its run dies, for example when it is killed or the machine is out of memory.

Dagster then marks the run as failed and gives its slot in the pool to another run. Without this module the orphaned
step would continue to train beside that run on the same GPU.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

_GRACE_S = 5
"""Time that a canceled step has for its cleanup."""
_THREAD_NAME = "end-with-run"


def end_with_run() -> None:
    """Make this process, if it is a step's, exit within seconds after the process of its run has ended.

    Does nothing in a step that runs inside the process of its run.
    """
    run = multiprocessing.parent_process()
    if run is not None and not any(thread.name == _THREAD_NAME for thread in threading.enumerate()):
        threading.Thread(target=_watch, args=(run,), name=_THREAD_NAME, daemon=True).start()


def _watch(run: multiprocessing.process.BaseProcess) -> None:
    run.join()
    # an interrupt first, as for a canceled step, so that the processes it has started end too
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(_GRACE_S)
    # then unconditionally: Dagster would wait forever to report the step's result to the run
    os._exit(1)
