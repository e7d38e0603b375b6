"""Data-parallel training: rank and world size, the share of the work of each process, and sums over all processes.

Training in one process uses the same code with a world size of 1. `torchrun` and
`hoser_kd.pipeline.workers.launcher` start several processes.
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
    """Rank of this process and number of processes."""

    rank: int = 0
    """Rank of this process, from 0; rank 0 writes files and reports progress."""
    size: int = 1
    """Number of processes."""

    @classmethod
    def current(cls) -> DistributedContext:
        """Return the context of the default process group, or of a single process if there is none."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        return cls()

    @classmethod
    def from_torchrun_env(cls) -> DistributedContext:
        """Return the rank and size set by `torchrun`, for processes that work without a process group."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes files and reports progress."""
        return self.rank == 0

    def share(self, rows: Int64Array) -> Int64Array:
        """Return every `size`-th row, starting at `rank`; it may be empty. All processes must hold equal `rows`."""
        return rows[self.rank :: self.size]

    def sum(self, values: Float64Array, device: torch.device) -> Float64Array:
        """Return the sum of float64 arrays over all processes; `device` is that of the model."""
        if self.size == 1:
            return values
        total = torch.from_numpy(np.array(values, np.float64)).to(device)
        distributed.all_reduce(total)
        summed: Float64Array = total.cpu().numpy()
        return summed

    def replica(self, model: nn.Module) -> nn.Module:
        """Return the module to call in training; it averages gradients over the processes during backward."""
        if self.size == 1:
            return model
        # buffers are constant and equal in all processes; published checkpoints contain unused parameters
        return DistributedDataParallel(model, broadcast_buffers=False, find_unused_parameters=True)

    def wait(self) -> None:
        """Wait until all processes reach this call."""
        if self.size > 1:
            distributed.barrier()


def no_sync(replica: nn.Module, *, until_later: bool) -> contextlib.AbstractContextManager[Any]:
    """Return a context that, with `until_later`, defers the averaging of gradients to a later backward pass."""
    if until_later and isinstance(replica, DistributedDataParallel):
        return replica.no_sync()
    return contextlib.nullcontext()
