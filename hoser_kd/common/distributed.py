"""Data-parallel training: rank and world size, the share of the work of each process, and sums over all processes.

Training in one process uses the same code with a world size of 1. `torchrun` and
`hoser_kd.pipeline.workers.launcher` start several processes.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from collections.abc import Sequence

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

    def replica(self, model: nn.Module, apart: Sequence[nn.Parameter] = ()) -> nn.Module:
        """Return the module to call in training; it averages gradients over the processes during backward.

        Those of the parameters `apart` are not averaged (see `mean_rows`).
        """
        if self.size == 1:
            return model
        # DistributedDataParallel leaves out parameters without gradient at its construction
        for parameter in apart:
            parameter.requires_grad = False
        # buffers are constant and equal in all processes; published checkpoints contain unused parameters
        replica = DistributedDataParallel(model, broadcast_buffers=False, find_unused_parameters=True)
        for parameter in apart:
            parameter.requires_grad = True
        return replica

    def mean_rows(self, rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean over all processes of a sparse gradient: rows (R,) int64, ascending, and values (R, d).

        Each process gives its own distinct rows; a row that a process does not give is zero there. Only these rows
        are exchanged.
        """
        if self.size == 1:
            return rows, values
        counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(self.size)]
        distributed.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
        sizes = [int(count) for count in counts]
        all_rows, all_values = self._gathered(rows, sizes), self._gathered(values, sizes)
        distinct, place = torch.unique(all_rows, return_inverse=True)
        summed = values.new_zeros(len(distinct), values.shape[1]).index_add_(0, place, all_values)
        return distinct, summed / self.size

    def _gathered(self, part: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return the parts of all processes, one after the other; `sizes` are their lengths."""
        padded = part.new_zeros(max(sizes), *part.shape[1:])
        padded[: len(part)] = part
        parts = [torch.empty_like(padded) for _ in sizes]
        distributed.all_gather(parts, padded)
        return torch.cat([each[:size] for each, size in zip(parts, sizes, strict=True)])

    def same_json(self, value: Any, device: torch.device) -> Any:
        """Return the JSON value of the main process in every process; `device` is that of the process group."""
        content = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(device)
        length = torch.tensor([len(content)], device=device)
        distributed.broadcast(length, 0)
        if not self.is_main_process:
            content = torch.empty(int(length), dtype=torch.uint8, device=device)
        distributed.broadcast(content, 0)
        return json.loads(bytes(content.cpu().numpy()))

    def wait(self) -> None:
        """Wait until all processes reach this call."""
        if self.size > 1:
            distributed.barrier()


def no_sync(replica: nn.Module, *, until_later: bool) -> contextlib.AbstractContextManager[Any]:
    """Return a context that, with `until_later`, defers the averaging of gradients to a later backward pass."""
    if until_later and isinstance(replica, DistributedDataParallel):
        return replica.no_sync()
    return contextlib.nullcontext()
