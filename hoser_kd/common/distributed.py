"""The processes that train together: who this one is, its share of the work, and sums over all of them.

A training in one process is a team of one, so that there is one loop and no second code path. `torchrun` and
`hoser_kd.pipeline.workers.launcher` start larger ones.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from hoser_kd.common.arrays import Float64Array, Int64Array


@dataclass(frozen=True)
class DistributedContext:
    """This process among those that train together."""

    rank: int = 0
    """Place of this process, counted from 0; the first one writes and reports."""
    size: int = 1
    """Number of processes."""

    @classmethod
    def current(cls) -> DistributedContext:
        """Return the team of the default process group, a team of one where there is none."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        return cls()

    @classmethod
    def from_torchrun_env(cls) -> DistributedContext:
        """Return the place that `torchrun` gave this process, for work in which nobody waits for anybody."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def share(self, rows: Int64Array) -> Int64Array:
        """Return this process's part of something that all of them hold, in the same order; it may be empty."""
        return rows[self.rank :: self.size]

    def sum(self, values: Float64Array, device: torch.device) -> Float64Array:
        """Return the sum of float64 arrays over the processes; `device` is where their models lie."""
        if self.size == 1:
            return values
        total = torch.from_numpy(np.array(values, np.float64)).to(device)
        distributed.all_reduce(total)
        summed: Float64Array = total.cpu().numpy()
        return summed

    def replica(self, model: nn.Module) -> nn.Module:
        """Return the module to call in training: it averages the gradients of all processes as they are made."""
        if self.size == 1:
            return model
        # the graphs are the same everywhere and never change; published checkpoints carry weights that nothing uses
        return DistributedDataParallel(model, broadcast_buffers=False, find_unused_parameters=True)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            distributed.barrier()


def no_sync(replica: nn.Module, *, until_later: bool) -> contextlib.AbstractContextManager[Any]:
    """Return a context for a forward and backward pass whose gradients are averaged with those of a later one."""
    if until_later and isinstance(replica, DistributedDataParallel):
        return replica.no_sync()
    return contextlib.nullcontext()
