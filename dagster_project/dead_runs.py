"""Runs of the in-process runner whose process was killed: nothing else ends them where no daemon is running.

Such a run stays `STARTED` and keeps its place in the pool `gpu`, for which the next run would wait forever.
"""

from __future__ import annotations

import os
import socket

import dagster as dg

PROCESS_TAG = "hoser_kd/process"


def process_tag() -> dict[str, str]:
    """Return the tag by which a run of this process is known."""
    return {PROCESS_TAG: f"{socket.gethostname()}:{os.getpid()}"}


def end_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs of this machine whose process is gone as failed and free their places; returns their ids."""
    unfinished = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    dead = []
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=unfinished)):
        host, _, process = run.tags.get(PROCESS_TAG, "").rpartition(":")
        if host == socket.gethostname() and not _is_alive(int(process)):
            instance.report_run_failed(run, message=f"Its process {process} was killed.")
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
