"""Data parallel work in several processes: rank of this process, its share of the rows, and sums over all processes.

A single process is a group of size 1, so that training has one code path. `torchrun` and
`hoser_kd.pipeline.workers.launcher` start larger groups.
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
    """Rank and number of the processes that work together."""

    rank: int = 0
    """Rank of this process, from 0; rank 0 is the main process, which writes and reports."""
    size: int = 1
    """Number of processes."""

    @classmethod
    def current(cls) -> DistributedContext:
        """Return the context of the default process group; size 1 if there is none."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        return cls()

    @classmethod
    def from_torchrun_env(cls) -> DistributedContext:
        """Return the context from the environment of `torchrun`, for work without a process group."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def share(self, rows: Int64Array) -> Int64Array:
        """Return this process's part of rows that all processes hold in the same order; it may be empty."""
        return rows[self.rank :: self.size]

    def sum(self, values: Float64Array, device: torch.device) -> Float64Array:
        """Return the sum of float64 arrays over the processes; `device` is the device of their models."""
        if self.size == 1:
            return values
        total = torch.from_numpy(np.array(values, np.float64)).to(device)
        distributed.all_reduce(total)
        summed: Float64Array = total.cpu().numpy()
        return summed

    def replica(self, model: nn.Module) -> nn.Module:
        """Return the module to call in training, which averages gradients over the processes."""
        if self.size == 1:
            return model
        # buffers (the graphs) are constant and equal everywhere; some weights of published checkpoints are unused
        return DistributedDataParallel(model, broadcast_buffers=False, find_unused_parameters=True)

    def wait(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            distributed.barrier()


def no_sync(replica: nn.Module, *, until_later: bool) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which gradients are only accumulated, to be averaged in a later pass."""
    if until_later and isinstance(replica, DistributedDataParallel):
        return replica.no_sync()
    return contextlib.nullcontext()
