"""Mark in-process runs as failed whose process was killed. Without a daemon, nothing else does.

Such a run would stay `STARTED` and keep its slot in the pool `gpu`, so that the next run would wait forever.
"""

from __future__ import annotations

import os
import socket

import dagster as dg

PROCESS_TAG = "hoser_kd/process"
"""Run tag: host and process id of an in-process run."""


def process_tag() -> dict[str, str]:
    """Return the tag that identifies runs of this process."""
    return {PROCESS_TAG: f"{socket.gethostname()}:{os.getpid()}"}


def end_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark this machine's runs whose process is gone as failed and free their pool slots; return their ids."""
    unfinished = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    dead = []
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=unfinished)):
        host, _, process = run.tags.get(PROCESS_TAG, "").rpartition(":")
        if host == socket.gethostname() and not _is_alive(int(process)):
            instance.report_run_failed(run, message=f"Process {process} of this run was killed.")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            dead.append(run.run_id)
    return dead


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
