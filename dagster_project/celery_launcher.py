"""The run launcher that sends whole runs to Celery workers on other machines, and resumes runs whose worker is gone.

`dagster_celery.launcher.CeleryRunLauncher` runs a run inside the worker's own process and asks Celery how it is. Celery
reports the task of a killed worker as started for ever, and a busy worker does not hear that its run is to be canceled.
Here a run is a separate process beside the worker (`dagster_project.celery_worker`). The worker writes a heartbeat to
Dagster's database every second, and reads there whether the run is to end; Celery and its broker only hand runs out.
"""

from __future__ import annotations

import json
import time
import uuid
from typing import Any, cast

import dagster as dg
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, ResumeRunContext, WorkerStatus
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import DAGSTER_CELERY_QUEUE_TAG, DAGSTER_CELERY_TASK_ID_TAG

TASK = "hoser_kd.run"
WORKER_TAG = "hoser_kd/worker"
"""Run tag: the worker that runs it; empty while it waits for one."""
_HEARTBEAT = "hoser_kd/worker/"
"""Prefix of the keys of heartbeats in Dagster's database."""
_LOST_QUEUE = 30
"""A run that no worker has taken is sent again after this multiple of `lost_after_seconds`."""


class ResumingCeleryRunLauncher(CeleryRunLauncher):
    """Launches runs on Celery workers, and tells Dagster's run monitoring which of them are gone."""

    def __init__(self, lost_after_seconds: int = 60, **config: Any) -> None:
        """`lost_after_seconds`: time without a heartbeat after which a worker counts as gone."""
        super().__init__(**config)
        self.lost_after_seconds = lost_after_seconds
        self._seen: dict[str, tuple[str, float]] = {}

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Return the configuration in dagster.yaml: that of `CeleryRunLauncher`, and `lost_after_seconds`."""
        seconds = dg.Field(int, is_required=False, default_value=60)
        return {**cast("dict[str, Any]", super().config_type()), "lost_after_seconds": seconds}

    def launch_run(self, context: LaunchRunContext) -> None:
        """Send a run to the queue."""
        self._send(context.dagster_run, resume=False)

    def resume_run(self, context: ResumeRunContext) -> None:
        """Send a run to the queue again; its steps find what they have finished in the store."""
        self._send(context.dagster_run, resume=True)

    def _send(self, run: dg.DagsterRun, *, resume: bool) -> None:
        task, queue = str(uuid.uuid4()), run.tags.get(DAGSTER_CELERY_QUEUE_TAG, self.default_queue)
        # first, because the worker reads whether the run is still that of its task
        self._instance.add_run_tags(run.run_id, {DAGSTER_CELERY_TASK_ID_TAG: task, WORKER_TAG: ""})
        self.celery.send_task(TASK, [run.run_id, resume], task_id=task, queue=queue, ignore_result=True)
        self._instance.report_engine_event(f"Waits for a worker of the queue {queue}.", run, cls=type(self))

    def terminate(self, run_id: str) -> bool:
        """Mark a run as canceling, which its worker reads within a second, or as canceled if no worker has it."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished or not _is_launched(run):
            return False
        self._instance.report_run_canceling(run)
        if not run.tags.get(WORKER_TAG):
            self._instance.report_run_canceled(run, "Canceled before a worker has taken it.")
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Return whether the worker of a run still reports it. No clock of another machine is read."""
        if not _is_launched(run):
            return CheckRunHealthResult(WorkerStatus.RUNNING, "It runs in another process, without a worker.")
        worker = run.tags.get(WORKER_TAG)
        if not worker:
            self._send_again_if_lost(run)
            return CheckRunHealthResult(WorkerStatus.RUNNING, "It waits for a worker.")
        beat = read_heartbeat(self._instance, worker)
        if beat.get("run") != run.run_id or beat.get("task") != run.tags.get(DAGSTER_CELERY_TASK_ID_TAG):
            return CheckRunHealthResult(WorkerStatus.FAILED, f"The process of the run on {worker} has ended.")
        silent_s = self._seconds_since(run.run_id, beat["number"])
        if silent_s > self.lost_after_seconds:
            return CheckRunHealthResult(WorkerStatus.FAILED, f"No heartbeat of {worker} for {silent_s:.0f} s.")
        return CheckRunHealthResult(WorkerStatus.RUNNING)

    def _send_again_if_lost(self, run: dg.DagsterRun) -> None:
        """Send a run that waits to be resumed again, after a time in which a broker may have lost its queue.

        If the queue still has the first task, the worker that takes it finds that it is not that of the run any more.
        """
        task = run.tags.get(DAGSTER_CELERY_TASK_ID_TAG, "")
        if self._seconds_since(run.run_id, task) > _LOST_QUEUE * self.lost_after_seconds:
            self._send(run, resume=True)

    def _seconds_since(self, run_id: str, state: str) -> float:
        """Return the seconds since this process has first seen a run in a state."""
        last, since = self._seen.get(run_id, ("", 0.0))
        now = time.monotonic()
        if state != last:
            self._seen[run_id] = state, now
            return 0.0
        return now - since

    def get_run_worker_debug_info(self, run: dg.DagsterRun, include_container_logs: bool | None = True) -> str:  # noqa: ARG002
        """Return where a run is, for the message of a run that could not start."""
        return f"Worker: {run.tags.get(WORKER_TAG) or 'none has taken it. Start a worker'}"


def _is_launched(run: dg.DagsterRun) -> bool:
    """Return whether a run was sent to a worker; one of `make demo`, for example, was not."""
    return DAGSTER_CELERY_TASK_ID_TAG in run.tags


def read_heartbeat(instance: dg.DagsterInstance, worker: str) -> dict[str, str]:
    """Return the last heartbeat of a worker: `run`, `task` and `number`; empty if there is none."""
    key = _HEARTBEAT + worker
    beat: dict[str, str] = json.loads(instance.run_storage.get_cursor_values({key}).get(key, "{}"))
    return beat


def write_heartbeat(instance: dg.DagsterInstance, worker: str, run_id: str = "", task: str = "") -> None:
    """Write a heartbeat of a worker: the run that it runs, and a number that no other heartbeat has."""
    beat = {"run": run_id, "task": task, "number": uuid.uuid4().hex}
    instance.run_storage.set_cursor_values({_HEARTBEAT + worker: json.dumps(beat)})
