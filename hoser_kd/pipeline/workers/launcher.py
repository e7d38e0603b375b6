"""Launcher of worker processes: starts them, relays their messages, and ends all of them in every case.

A training can also run on several machines: `run_together` starts the processes of the first one, `join` those of each
other one, which get the job from the first.

The workers run `hoser_kd.pipeline.workers.worker` under `torchrun`. Messages are JSON lines on their standard output,
an error is a file, and any other output is shown only after a failure.

torchrun starts each worker in its own session, so a signal to torchrun's process group does not reach the workers.
Each worker therefore reads a pipe from the launcher as standard input and exits when it closes, which happens however
the launcher ends.
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
from hoser_kd.common.errors import HoserKdError, ProcessError, RendezvousError, error_named
from hoser_kd.common.threads import thread_settings
from hoser_kd.pipeline.store import Artifact
from hoser_kd.pipeline.workers.nodes import Nodes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hoser_kd.pipeline.stage import StageRun

WORKER = "hoser_kd.pipeline.workers.worker"
TRAINING, LABELS, JOINED = "training", "labels", "joined"
"""Tasks of the worker. The last one is a training whose job another machine has."""
JOB_FILE = "job.json"
ERROR_FILE = "error.json"

_NO_RENDEZVOUS = ("DistNetworkError", "DistStoreError")
"""Errors of torchrun when machines do not find each other."""
_TIMEOUT_S = 5.0
_TAIL_LINES = 30


def job_of(run: StageRun) -> dict[str, Any]:
    """Return a run of a stage as JSON for its workers, which read the inputs from their files."""
    inputs = {name: str(artifact.path) for name, artifact in run.inputs.items() if isinstance(artifact, Artifact)}
    return {
        "stage": run.stage.name,
        "config": run.config.model_dump(mode="json"),
        "seed": run.seed,
        "inputs": inputs,
        "folder": str(run.folder),
        "device": run.device,
        "silence_timeout_s": run.config.torchrun.silence_timeout_s,
    }


def run_together(
    job: Mapping[str, Any],
    num_processes: int,
    on_message: Callable[[dict[str, Any]], None],
    task: str = TRAINING,
    nodes: Nodes | None = None,
) -> None:
    """Run `task` of `job` in `num_processes` processes of this machine; pass their messages to `on_message`.

    `nodes`: the machines that train together, None for this one alone. Returns after all processes have exited.
    Whatever ends this call, including an interrupt, ends all processes.

    Raises:
        HoserKdError: the error of a worker, if it is one of `hoser_kd.common.errors`.
        RendezvousError: not all machines have come.
        ProcessError: another failure, with the end of the workers' output.
    """
    nodes = nodes or Nodes()
    with nodes.one_training(), tempfile.TemporaryDirectory(prefix="hoser-kd-") as name:
        folder = Path(name)
        (folder / JOB_FILE).write_text(json.dumps(job), encoding="utf-8")
        with (folder / "output.txt").open("wb") as output:
            process = subprocess.Popen(  # noqa: S603
                _command(task, num_processes, folder, nodes),
                env=_environment(num_processes),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
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
            raise _failure(folder, status, nodes)


def join(nodes: Nodes, num_processes: int, device: str) -> None:
    """Take part in one training of the first machine, with `num_processes` processes here.

    Raises as `run_together`.
    """
    job = {"device": device, "silence_timeout_s": nodes.silence_timeout_s}
    run_together(job, num_processes, lambda _message: None, JOINED, nodes)


def _command(task: str, num_processes: int, folder: Path, nodes: Nodes) -> list[str]:
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        *nodes.torchrun_options(),
        "--nproc-per-node",
        str(num_processes),
        "-m",
        WORKER,
        task,
        "--end-with-input",
        str(folder),
    ]


def _environment(num_processes: int) -> dict[str, str]:
    here = str(Path(hoser_kd.__file__).parents[1])
    path = os.pathsep.join(part for part in (here, os.environ.get("PYTHONPATH")) if part)
    return {**os.environ, **thread_settings(os.environ, num_processes), "PYTHONPATH": path}


def _end(process: subprocess.Popen[bytes], workers: set[int]) -> None:
    """End torchrun, its group and the workers, with SIGTERM first; all have exited when this returns."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    for number in (signal.SIGTERM, signal.SIGKILL):
        # after a successful wait, the process id can belong to another process
        if process.poll() is not None:
            break
        os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_TIMEOUT_S)
    # every running worker keeps the pipe open
    if not _at_end(process.stdout):
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker, signal.SIGKILL)
        _at_end(process.stdout)
    process.stdout.close()


def _at_end(pipe: IO[bytes]) -> bool:
    """Drain a pipe; returns whether all its writers have closed it before the timeout."""
    deadline = time.monotonic() + _TIMEOUT_S
    while (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([pipe], [], [], left)
        if ready and not os.read(pipe.fileno(), 1 << 16):
            return True
    return False


def _failure(folder: Path, status: int, nodes: Nodes) -> HoserKdError:
    file = folder / ERROR_FILE
    if file.is_file():
        record = json.loads(file.read_text(encoding="utf-8"))
        return error_named(record["kind"], record["text"])
    with (folder / "output.txt").open(encoding="utf-8", errors="replace") as output:
        tail = "".join(deque(output, _TAIL_LINES))
    if nodes.count > 1 and any(sign in tail for sign in _NO_RENDEZVOUS):
        return RendezvousError(
            f"not all of the {nodes.count} machines have met at {nodes.rendezvous} within {nodes.join_timeout_s} s. "
            "Run `hoser-kd join` on each further machine and check that it reaches this address."
        )
    return ProcessError(f"the worker processes exited with status {status}. The end of their output:\n{tail}")
