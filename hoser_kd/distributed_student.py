"""One of several processes that train a student together.

    torchrun --nproc-per-node 2 -m hoser_kd.distributed_student FOLDER

FOLDER holds `job.json`, as `hoser_kd.stages.student` writes it for `hoser_kd.launcher`, which starts this. Each process
runs the loop of `hoser_kd.training` on its share of every batch. The first one reports.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from torch import distributed

from hoser_kd.stages.student import train_here
from hoser_kd.team import Team
from hoser_kd.worker import device_of, run_worker, stage_run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hoser_kd.progress import Progress
    from hoser_kd.worker import Send


def main(arguments: list[str] | None = None) -> int:
    """Train with the others; returns the exit status."""
    return run_worker(_train, "One of several processes that train a student together.", arguments)


def _train(job: Mapping[str, Any], send: Send) -> None:
    device = device_of(job)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    run = stage_run(job, device)
    if Team.current().is_first:
        run.progress = _progress(send)
        run.on_epoch = lambda figures: send({"epoch": figures})
    train_here(run)
    distributed.destroy_process_group()


def _progress(send: Send) -> Progress:
    def report(stage: str, done: int, total: int, figures: Mapping[str, float] | None = None) -> None:
        send({"progress": [stage, done, total, None if figures is None else dict(figures)]})

    return report


if __name__ == "__main__":
    sys.exit(main())
