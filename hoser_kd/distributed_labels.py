"""One of several processes that label a city's trips together.

    torchrun --nproc-per-node 2 -m hoser_kd.distributed_labels FOLDER

FOLDER holds `job.json`, as `hoser_kd.stages.labels` writes it for `hoser_kd.launcher`, which starts this. Each process
writes every n-th shard, whole or not at all, and waits for none of the others; who started them joins the shards.
Every process reports how many steps it has done.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from hoser_kd.stages.labels import write_shards
from hoser_kd.team import Team
from hoser_kd.worker import device_of, run_worker, stage_run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hoser_kd.worker import Send


def main(arguments: list[str] | None = None) -> int:
    """Label this process's share; returns the exit status."""
    return run_worker(_label, "One of several processes that label trips together.", arguments)


def _label(job: Mapping[str, Any], send: Send) -> None:
    team = Team.of_torchrun()
    write_shards(stage_run(job, device_of(job)), job["splits"], team,
                 lambda steps: send({"rank": team.rank, "steps": steps}))


if __name__ == "__main__":
    sys.exit(main())
