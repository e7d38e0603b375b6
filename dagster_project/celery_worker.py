"""The Celery worker: `celery -A dagster_project.celery_worker worker -P threads -c 1`, one per GPU or machine.

It takes runs that `dagster_project.celery_launcher` has sent, and runs each in a separate process. The process ends
when the worker ends, when the run is canceled or taken over by another worker, and when the database has not been
reached for half of the time after which the run counts as lost, so that no two workers train the same run.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import Any

import dagster as dg
from celery import Task
from dagster._grpc.types import ExecuteRunArgs, ResumeRunArgs
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG

from dagster_project.celery_launcher import TASK, WORKER_TAG, ResumingCeleryRunLauncher, write_heartbeat
from hoser_kd.common.errors import ConfigError
from hoser_kd.common.machine_slots import VARIABLE as SLOTS

_POLL_S = 1.0

_instance = dg.DagsterInstance.get()
if not isinstance(_instance.run_launcher, ResumingCeleryRunLauncher):
    raise ConfigError(
        f"{os.environ.get('DAGSTER_HOME')}/dagster.yaml: run_launcher is {type(_instance.run_launcher).__name__}. Use "
        "the file deploy/celery/dagster.yaml on all machines."
    )
app = _instance.run_launcher.celery
_LOST_S = _instance.run_launcher.lost_after_seconds
_GRACE_S = min(20.0, _LOST_S / 3)
"""Time that a run has for its cleanup. It has ended before it counts as lost."""
# a run that waits stays in the queue, for the first worker that is free
app.conf.worker_disable_prefetch = True


@app.task(name=TASK, bind=True, ignore_result=True)  # type: ignore[untyped-decorator]
def execute(task: Task[Any, Any], run_id: str, resume: bool) -> None:
    """Run or resume a run of Dagster, unless it has ended or been sent to another worker since."""
    worker, number = str(task.request.hostname), str(task.request.id)
    run = _instance.get_run_by_id(run_id)
    if run is None or run.is_finished or run.tags.get(DAGSTER_CELERY_TASK_ID_TAG) != number:
        return
    write_heartbeat(_instance, worker, run_id, number)
    _instance.add_run_tags(run_id, {WORKER_TAG: worker})
    process = start(run, resume=resume)
    try:
        _watch(process, worker, run_id, number)
    finally:
        _end(process)
        with contextlib.suppress(Exception):  # the database may be away; the run then counts as lost
            write_heartbeat(_instance, worker)
            _report_end(run_id, number)


def start(run: dg.DagsterRun, *, resume: bool) -> subprocess.Popen[bytes]:
    """Start the process of a run."""
    assert run.job_code_origin is not None
    args = (ResumeRunArgs if resume else ExecuteRunArgs)(
        job_origin=run.job_code_origin, run_id=run.run_id, instance_ref=None, set_exit_code_on_failure=True
    )
    command = [sys.executable, "-m", "dagster_project.run_process", *args.get_command_args()[-3:]]
    return subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.PIPE, start_new_session=True, env={SLOTS: "auto", **os.environ}
    )


def _watch(process: subprocess.Popen[bytes], worker: str, run_id: str, number: str) -> None:
    """Return when the process of a run has ended, or has to end."""
    heard = time.monotonic()
    while process.poll() is None:
        try:
            write_heartbeat(_instance, worker, run_id, number)
            run = _instance.get_run_by_id(run_id)
            heard = time.monotonic()
        except Exception:  # noqa: BLE001 - each storage has its own errors
            if time.monotonic() - heard > _LOST_S / 2:
                return
        else:
            if run is None or run.tags.get(DAGSTER_CELERY_TASK_ID_TAG) != number:
                return
            if run.status in {dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED}:
                return
            if run.is_finished:  # the process is about to end, unless run monitoring has given it up
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_GRACE_S)
                return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_S)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process of a run and its steps: an interrupt first, so that they clean up and report it."""
    assert process.stdin is not None
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdin.close()


def _report_end(run_id: str, number: str) -> None:
    """Report a canceled run whose process could not do so itself. Others are left to run monitoring, which resumes."""
    run = _instance.get_run_by_id(run_id)
    is_own = run is not None and run.tags.get(DAGSTER_CELERY_TASK_ID_TAG) == number
    if run is not None and is_own and run.status == dg.DagsterRunStatus.CANCELING:
        _instance.report_run_canceled(run, "Its process was ended.")
