"""Starts processes that work together, relays what they report, and leaves none of them behind.

They run under `torchrun` as `hoser_kd.pipeline.workers.worker`. Messages are JSON lines on
their standard output, an error is a file, anything else they say is shown only if they fail.

torchrun gives each worker a session of its own, so that ending torchrun's process group does not reach them. They
therefore hold a pipe from here as standard input and end when it closes, which it does however this process ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import hoser_kd
from hoser_kd.common import errors
from hoser_kd.common.errors import ProcessError
from hoser_kd.pipeline.store import Artifact

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hoser_kd.pipeline.graph import StageRun

WORKER = "hoser_kd.pipeline.workers.worker"
STUDENT, LABELS = "student", "labels"
"""What the processes can be asked to do; tasks of the worker."""
JOB_FILE = "job.json"
ERROR_FILE = "error.json"

_PATIENCE_S = 5.0
_SHOWN_LINES = 30


def job_of(run: StageRun) -> dict[str, Any]:
    """Write down a run of a stage for the processes that share its work; they read its inputs from their files."""
    inputs = {name: str(artifact.path) for name, artifact in run.inputs.items() if isinstance(artifact, Artifact)}
    return {
        "stage": run.stage.name,
        "config": run.config.model_dump(mode="json"),
        "seed": run.seed,
        "inputs": inputs,
        "folder": str(run.folder),
        "device": run.device,
    }


def run_together(
    job: Mapping[str, Any], num_processes: int, on_message: Callable[[dict[str, Any]], None], task: str = STUDENT
) -> None:
    """Run `job` in this many processes of this machine, and hand over their messages until all have ended.

    `task` is what they do. Raises what a worker raised, if it is an error of `hoser_kd.common.errors`, and
    ProcessError with the end of the workers' output otherwise. Whatever ends this call, an interrupt included, ends
    all processes.
    """
    with tempfile.TemporaryDirectory(prefix="hoser-kd-") as name:
        folder = Path(name)
        (folder / JOB_FILE).write_text(json.dumps(job), encoding="utf-8")
        with (folder / "output.txt").open("wb") as said:
            process = subprocess.Popen(  # noqa: S603
                _command(task, num_processes, folder),
                env=_environment(num_processes),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                start_new_session=True,
            )
        workers: set[int] = set()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                message = json.loads(line)
                if "started" in message:
                    workers.add(message["started"])
                else:
                    on_message(message)
            status = process.wait()
        finally:
            _end(process, workers)
        if status != 0:
            raise _failure(folder, status)


def _command(task: str, num_processes: int, folder: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(num_processes),
        "-m",
        WORKER,
        task,
        "--end-with-input",
        str(folder),
    ]


def _environment(num_processes: int) -> dict[str, str]:
    threads = max(1, (os.cpu_count() or 1) // num_processes)
    here = str(Path(hoser_kd.__file__).parents[1])
    path = os.pathsep.join(part for part in (here, os.environ.get("PYTHONPATH")) if part)
    return {"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONPATH": path}


def _end(process: subprocess.Popen[bytes], workers: set[int]) -> None:
    """End torchrun, its group and the workers, politely first; nothing of them runs when this returns."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    for wish in (signal.SIGTERM, signal.SIGKILL):
        # once it has been waited for, its number may be another's
        if process.poll() is not None:
            break
        os.killpg(process.pid, wish)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE_S)
    # a worker holds the pipe as long as it lives
    if not _at_end(process.stdout):
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker, signal.SIGKILL)
        _at_end(process.stdout)
    process.stdout.close()


def _at_end(pipe: IO[bytes]) -> bool:
    """Read what is left of a pipe; returns whether all its writers have gone in the time there is."""
    deadline = time.monotonic() + _PATIENCE_S
    while (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([pipe], [], [], left)
        if ready and not os.read(pipe.fileno(), 1 << 16):
            return True
    return False


def _failure(folder: Path, status: int) -> errors.HoserKdError:
    file = folder / ERROR_FILE
    if file.is_file():
        told = json.loads(file.read_text(encoding="utf-8"))
        kind = getattr(errors, told["kind"], ProcessError)
        # a DataError is made from a path and more; its text is complete as it is
        error: errors.HoserKdError = kind.__new__(kind, told["text"])
        return error
    with (folder / "output.txt").open(encoding="utf-8", errors="replace") as output:
        tail = "".join(deque(output, _SHOWN_LINES))
    return ProcessError(f"the processes ended with status {status}. The last they said:\n{tail}")
