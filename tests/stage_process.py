"""Run a stage in a separate process, which a test may cancel or kill, and list the processes that remain."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from hoser_kd.config.schema import CityConfig
from hoser_kd.pipeline.store import Artifact

ROOT = Path(__file__).resolve().parents[1]
PARENT = """
import ctypes, json, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with the tests, also if they are killed
if os.getppid() != int(sys.argv[1]):
    sys.exit("the tests have ended")
from pathlib import Path
from hoser_kd.config.schema import CityConfig
from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.stage import StageRun
from hoser_kd.pipeline.store import read_artifact

job = json.loads(sys.stdin.read())
if job["raises"]:
    def interrupt(*_):
        raise InterruptedError
    signal.signal(signal.SIGTERM, interrupt)
stage = STAGES[job["stage"]]
run = StageRun(stage, CityConfig.model_validate(job["config"]), job["seed"],
               {name: read_artifact(folder) for name, folder in job["inputs"].items()}, Path(job["folder"]),
               device="cpu", on_epoch=lambda figures: print("epoch", int(figures["epoch"]), flush=True),
               progress=lambda task, done, total, figures=None: print(task, done, total, flush=True))
stage.function()(run)
"""


@contextlib.contextmanager
def stage_process(
    stage: str,
    config: CityConfig,
    inputs: Mapping[str, Artifact],
    folder: Path,
    *,
    seed: int | None = None,
    raises: bool,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a stage in a new process, which prints `<task> <done> <total>` and `epoch <number>`.

    `raises`: SIGTERM raises an exception there, as under Dagster and after Ctrl-C; otherwise it ends the process.
    """
    job = {
        "stage": stage,
        "config": config.model_dump(mode="json"),
        "folder": str(folder),
        "seed": seed,
        "raises": raises,
        "inputs": {name: str(artifact.path) for name, artifact in inputs.items()},
    }
    marked = {**os.environ, "HOSER_KD_TEST": str(folder), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", PARENT, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=marked,
        cwd=ROOT,
    ) as parent:
        parent.stdin.write(json.dumps(job).encode())
        parent.stdin.close()
        yield parent


def running(folder: Path) -> list[int]:
    """Return the processes that name a folder in their command or environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            except OSError:
                continue
            if str(folder).encode() in text:
                found.append(int(entry.name))
    return found


def left_after(folder: Path, seconds: float) -> list[int]:
    """Return the processes that name a folder and still run after `seconds`; returns early when there is none."""
    deadline = time.monotonic() + seconds
    while (left := running(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left
