"""Steps whose run has died: whoever kills a run's process, or a machine short of memory, leaves them behind.

The run is marked as failed and its place in the pool is given to another one, while its step would go on training
beside that one on the same GPU.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

_PATIENCE_S = 5
"""Given to whatever a canceled step does at its end."""


def end_with_run() -> None:
    """From now on this process, if it is a step's, ends within seconds of the process of its run.

    A step that runs in the process of its run needs nothing of the kind.
    """
    run = multiprocessing.parent_process()
    if run is not None and not any(thread.name == _NAME for thread in threading.enumerate()):
        threading.Thread(target=_watch, args=(run,), name=_NAME, daemon=True).start()


_NAME = "end-with-run"


def _watch(run: multiprocessing.process.BaseProcess) -> None:
    run.join()
    # first as if it were canceled, so that the processes it has started end too
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(_PATIENCE_S)
    # then in any case: Dagster would wait for ever to tell the run how it ended
    os._exit(1)
