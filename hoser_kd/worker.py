"""What a process that `hoser_kd.launcher` started does beside its work.

It says that it is there, what it has done and why it failed, and it ends when whoever started it does. Each line of
its standard output is a message in JSON; the launcher's docstring tells why standard input is held.
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

from hoser_kd.atomic import atomic_path
from hoser_kd.config import CityConfig
from hoser_kd.device import pick_device
from hoser_kd.errors import HoserKdError
from hoser_kd.launcher import ERROR_FILE, JOB_FILE
from hoser_kd.pipeline import STAGES, StageRun
from hoser_kd.store import read_artifact

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Send = Callable[[dict[str, Any]], None]


def run_worker(work: Callable[[Mapping[str, Any], Send], None], what: str, arguments: list[str] | None = None) -> int:
    """Do `work(job, send)` on the job in the folder that the command line names; returns the exit status."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("folder", type=Path, help="folder that holds job.json")
    parser.add_argument("--end-with-input", action="store_true", help="end when standard input closes")
    options = parser.parse_args(arguments)
    send = _messages()
    if options.end_with_input:
        threading.Thread(target=_end_with_input, daemon=True).start()
    send({"started": os.getpid()})
    try:
        work(json.loads((options.folder / JOB_FILE).read_text(encoding="utf-8")), send)
    except Exception as error:  # noqa: BLE001
        _tell(error, options.folder / ERROR_FILE)
        # others may wait for this process in vain, and so would the end of a process group
        os._exit(1)
    return 0


def stage_run(job: Mapping[str, Any], device: torch.device) -> StageRun:
    """Return the run of a stage that `hoser_kd.launcher.job_of` wrote down."""
    return StageRun(
        STAGES[job["stage"]], CityConfig.model_validate(job["config"]), job["seed"],
        {name: read_artifact(folder) for name, folder in job["inputs"].items()}, Path(job["folder"]),
        device=str(device),
    )


def device_of(job: Mapping[str, Any]) -> torch.device:
    """Return the device of this process: the GPU of its place on this machine, or the CPU."""
    device = pick_device(job["device"])
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return device


def _tell(error: Exception, file: Path) -> None:
    """Write an error for whoever started this: a user's as it reads, any other with its traceback."""
    known = isinstance(error, HoserKdError)
    text = str(error) if known else f"one of the processes failed:\n{''.join(format_exception(error))}"
    with atomic_path(file) as beside:
        beside.write_text(json.dumps({"kind": type(error).__name__, "text": text}), encoding="utf-8")


def _messages() -> Send:
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
