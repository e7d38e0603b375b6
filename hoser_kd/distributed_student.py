"""One of several processes that train a student together.

    torchrun --nproc-per-node 2 -m hoser_kd.distributed_student FOLDER

FOLDER holds `job.json`, as `hoser_kd.stages.student` writes it for `hoser_kd.launcher`, which starts this. Each process
runs the loop of `hoser_kd.training` on its share of every batch. The first one reports: each line of standard output
is a message in JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from pathlib import Path
from traceback import format_exception
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

from hoser_kd.atomic import atomic_path
from hoser_kd.config import CityConfig
from hoser_kd.device import pick_device
from hoser_kd.errors import HoserKdError
from hoser_kd.launcher import ERROR_FILE, JOB_FILE
from hoser_kd.pipeline import STAGES, StageRun
from hoser_kd.progress import Progress, silent
from hoser_kd.stages.student import train_here
from hoser_kd.store import read_artifact
from hoser_kd.team import Team

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

def main(arguments: list[str] | None = None) -> int:
    """Train with the others; returns the exit status."""
    parser = argparse.ArgumentParser(description="One of several processes that train a student together.")
    parser.add_argument("folder", type=Path, help="folder that holds job.json")
    parser.add_argument("--end-with-input", action="store_true", help="end when standard input closes")
    options = parser.parse_args(arguments)
    send = _messages()
    if options.end_with_input:
        threading.Thread(target=_end_with_input, daemon=True).start()
    send({"started": os.getpid()})
    try:
        job = json.loads((options.folder / JOB_FILE).read_text(encoding="utf-8"))
        device = _device(job["device"])
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        train_here(_stage_run(job, device, send))
        distributed.destroy_process_group()
    except Exception as error:  # noqa: BLE001
        _tell(error, options.folder / ERROR_FILE)
        # the others wait for this process in vain, and so would the end of the process group
        os._exit(1)
    return 0


def _tell(error: Exception, file: Path) -> None:
    """Write an error for whoever started this: a user's as it reads, any other with its traceback."""
    known = isinstance(error, HoserKdError)
    text = str(error) if known else f"a process of the training failed:\n{''.join(format_exception(error))}"
    with atomic_path(file) as beside:
        beside.write_text(json.dumps({"kind": type(error).__name__, "text": text}), encoding="utf-8")


def _stage_run(job: Mapping[str, Any], device: torch.device, send: Callable[[dict[str, Any]], None]) -> StageRun:
    run = StageRun(
        STAGES[job["stage"]], CityConfig.model_validate(job["config"]), job["seed"],
        {name: read_artifact(folder) for name, folder in job["inputs"].items()}, Path(job["folder"]),
        device=str(device),
    )
    if Team.current().is_first:
        run.progress = _progress(send)
        run.on_epoch = lambda figures: send({"epoch": figures})
    else:
        run.progress = silent
    return run


def _progress(send: Callable[[dict[str, Any]], None]) -> Progress:
    def report(stage: str, done: int, total: int, figures: Mapping[str, float] | None = None) -> None:
        send({"progress": [stage, done, total, None if figures is None else dict(figures)]})

    return report


def _device(name: str) -> torch.device:
    """Return the device of this process: the GPU of its place on this machine, or the CPU."""
    device = pick_device(name)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return device


def _messages() -> Callable[[dict[str, Any]], None]:
    """Return what writes a message; anything else that is printed goes to standard error from now on."""
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
