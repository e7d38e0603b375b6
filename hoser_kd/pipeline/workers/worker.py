"""Worker process: trains a model or labels trips together with other processes.

    torchrun --nproc-per-node 2 -m hoser_kd.pipeline.workers.worker training FOLDER
    torchrun --nproc-per-node 2 -m hoser_kd.pipeline.workers.worker labels FOLDER

FOLDER contains `job.json`, written by `hoser_kd.pipeline.workers.launcher`. Each line of standard output is a JSON
message: process id, progress, or metrics. An error is written to a file in FOLDER. The worker exits when its launcher
does; the launcher's docstring explains the role of standard input.

With `training`, each process runs the loop of `hoser_kd.student.training` or `hoser_kd.teacher.training` on its share
of every batch, and the main process reports. `joined` is the same on another machine than the first one, from which it
gets the job. With `labels`, each process writes every n-th shard and reports its number of finished steps; the
launching process joins the shards.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from traceback import format_exception
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

from hoser_kd.common.device import pick_device
from hoser_kd.common.distributed import DistributedContext
from hoser_kd.common.errors import HoserKdError, ProcessError, StoreError
from hoser_kd.common.files import atomic_path
from hoser_kd.config.schema import CityConfig
from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.stage import StageRun
from hoser_kd.pipeline.stages.labels import write_shards
from hoser_kd.pipeline.stages.student import train_here
from hoser_kd.pipeline.stages.teacher_training import train_teacher
from hoser_kd.pipeline.store import read_artifact
from hoser_kd.pipeline.workers.launcher import ERROR_FILE, JOB_FILE, JOINED, LABELS, TRAINING

if TYPE_CHECKING:
    from hoser_kd.common.progress import Progress

Send = Callable[[dict[str, Any]], None]


def main(arguments: list[str] | None = None) -> int:
    """Run this process's share of the job and return the exit status."""
    parser = argparse.ArgumentParser(description="Worker process of a stage that runs in several processes.")
    parser.add_argument("task", choices=TASKS, help="task to run")
    parser.add_argument("folder", type=Path, help="folder of job.json")
    parser.add_argument("--end-with-input", action="store_true", help="exit when standard input closes")
    options = parser.parse_args(arguments)
    send = _messages()
    if options.end_with_input:
        threading.Thread(target=_end_with_input, daemon=True).start()
    send({"started": os.getpid()})
    try:
        TASKS[options.task](json.loads((options.folder / JOB_FILE).read_text(encoding="utf-8")), send)
    except Exception as error:  # noqa: BLE001
        _write_error(error, options.folder / ERROR_FILE)
        # the other processes may be waiting for this one, so do not wait for the process group to shut down
        os._exit(1)
    return 0


def train_model(job: Mapping[str, Any], send: Send) -> None:
    """Train a teacher or student together with the other processes."""
    device = device_of(job)
    silence = timedelta(seconds=job["silence_timeout_s"])
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=silence)
    if _num_machines() > 1:
        job = DistributedContext.current().same_json(job, device)
        _require_shared_folder(job)
    run = stage_run(job, device)
    if DistributedContext.current().is_main_process:
        run.progress = _progress(send)
        run.on_epoch = lambda metrics: send({"epoch": metrics})
    (train_teacher if run.stage.name == "teacher" else train_here)(run)
    distributed.destroy_process_group()


def _num_machines() -> int:
    """Return the number of machines, as torchrun sets it."""
    return int(os.environ.get("GROUP_WORLD_SIZE", "1"))


def _require_shared_folder(job: Mapping[str, Any]) -> None:
    """Raise StoreError if this machine does not see the files of the first one."""
    for folder in (job["folder"], *job["inputs"].values()):
        if not Path(folder).is_dir():
            raise StoreError(
                f"{folder} of the first machine does not exist on {socket.gethostname()}. Machines that train together "
                "need the artifact store on a shared file system, at the same path."
            )


def write_labels(job: Mapping[str, Any], send: Send) -> None:
    """Label this process's share of the trips."""
    context = DistributedContext.from_torchrun_env()
    write_shards(
        stage_run(job, device_of(job)),
        job["splits"],
        context,
        lambda steps: send({"rank": context.rank, "steps": steps}),
    )


TASKS: dict[str, Callable[[Mapping[str, Any], Send], None]] = {
    TRAINING: train_model,
    JOINED: train_model,
    LABELS: write_labels,
}
"""Tasks by name."""


def _progress(send: Send) -> Progress:
    def report(stage: str, done: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
        send({"progress": [stage, done, total, None if metrics is None else dict(metrics)]})

    return report


def stage_run(job: Mapping[str, Any], device: torch.device) -> StageRun:
    """Return the run of a stage from the JSON of `hoser_kd.pipeline.workers.launcher.job_of`."""
    return StageRun(
        STAGES[job["stage"]],
        CityConfig.model_validate(job["config"]),
        job["seed"],
        {name: read_artifact(folder) for name, folder in job["inputs"].items()},
        Path(job["folder"]),
        device=str(device),
    )


def device_of(job: Mapping[str, Any]) -> torch.device:
    """Return the device of this process: the GPU of its local rank, or the CPU."""
    device = pick_device(job["device"])
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return device


def _write_error(error: Exception, file: Path) -> None:
    """Write an error for the launcher: the message of a user's error, the traceback of any other."""
    kind = type(error).__name__
    if isinstance(error, HoserKdError):
        text = str(error)
    elif _num_machines() > 1 and isinstance(error, RuntimeError) and distributed.is_initialized():
        kind = ProcessError.__name__
        text = (
            f"the training lost another process or machine, or its network ({str(error).splitlines()[0]}). The same "
            "command resumes after the last complete epoch."
        )
    else:
        text = f"one of the processes failed:\n{''.join(format_exception(error))}"
    with atomic_path(file) as temporary:
        temporary.write_text(json.dumps({"kind": kind, "text": text}), encoding="utf-8")


def _messages() -> Send:
    """Return the function that writes a message; redirect all other printed output to standard error."""
    sys.stdout.flush()
    channel = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def send(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message).encode() + b"\n")

    return send


def _end_with_input() -> None:
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
