"""Indices of the steps and candidates of a batch, computed on the host.

Their sizes depend on values: on the lengths of the trips and on the roads in them. On a GPU, an operation with such a
shape makes the host wait for the device. The batch and the road network are on the host too, so all indices are
computed there and copied in one transfer.

Shapes: B trips, T steps, S valid steps, K candidates of all valid steps, N roads, R distinct roads of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hoser_kd.common.arrays import offsets_of, ranges

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hoser_kd.common.arrays import Int64Array


@dataclass(frozen=True)
class StepIndex:
    """Where the valid steps and their candidates are."""

    num_candidates: int
    """C: the largest number of candidates of a step."""
    host_roads: Int64Array
    """(R,) int64: `roads` on the host."""
    flat: Tensor
    """(S,) int64: place of each valid step in a flattened (B, T) array."""
    trip: Tensor
    """(S,) int64: row of each step's trip in the batch."""
    connection: Tensor
    """(K,) int64: index of each candidate in the network's connections."""
    candidate: Tensor
    """(K,) int64: road id of each candidate."""
    candidate_step: Tensor
    """(K,) int64: step of each candidate, 0 … S-1."""
    candidate_place: Tensor
    """(K,) int64: position among the candidates of the step."""
    candidate_cell: Tensor
    """(K,) int64: place of each candidate in a flattened (S, C) array."""
    label_candidate: Tensor
    """(S,) int64: the candidate that is the next road."""
    roads: Tensor
    """(R,) int64: distinct roads among steps and candidates, ascending."""
    road_at: Tensor
    """(S,) int64: place of each step's road in `roads`."""
    candidate_at: Tensor
    """(K,) int64: place of each candidate in `roads`."""


class HostStepIndex(NamedTuple):
    """A `StepIndex` on the host, before it is copied."""

    num_candidates: int
    """C."""
    arrays: dict[str, Int64Array]
    """The arrays of the index, by the names and in the order of its fields."""

    def to(self, device: torch.device) -> StepIndex:
        """Copy the index to a device, in one transfer."""
        return StepIndex(self.num_candidates, self.arrays["roads"], *to_device([*self.arrays.values()], device))


class HostConnections:
    """The candidates of all roads on the host."""

    def __init__(self, start: Tensor, successor: Tensor) -> None:
        """`start` (N + 1,), `successor` (L,) int64: the tables of the model."""
        self.start, self.successor = start.cpu().numpy(), successor.cpu().numpy()

    @property
    def most_candidates(self) -> int:
        """The largest number of candidates of any road."""
        return int(np.diff(self.start).max(initial=0))

    def index(self, road_ids: Int64Array, lengths: Int64Array) -> HostStepIndex:
        """Return the indices of a batch: `road_ids` (B, T + 1), `lengths` (B,) in roads."""
        num_steps = lengths - 1
        trip = np.repeat(np.arange(len(lengths)), num_steps)
        column = ranges(np.zeros(len(lengths), np.int64), num_steps)
        road, following = road_ids[trip, column], road_ids[trip, column + 1]
        start = self.start[road]
        size = self.start[road + 1] - start
        connection = ranges(start, size)
        step = np.repeat(np.arange(len(road)), size)
        place = np.arange(len(connection)) - offsets_of(size)[step]
        candidate = self.successor[connection]
        num_candidates = int(size.max())
        flat = trip * (road_ids.shape[1] - 1) + column
        roads, at = distinct(np.concatenate([road, candidate]), len(self.start) - 1)
        return HostStepIndex(
            num_candidates,
            {
                "flat": flat,
                "trip": trip,
                "connection": connection,
                "candidate": candidate,
                "candidate_step": step,
                "candidate_place": place,
                "candidate_cell": step * num_candidates + place,
                "label_candidate": np.flatnonzero(candidate == following[step]),
                "roads": roads,
                "road_at": at[: len(road)],
                "candidate_at": at[len(road) :],
            },
        )


def distinct(ids: Int64Array, count: int) -> tuple[Int64Array, Int64Array]:
    """Return the distinct values of `ids`, each in [0, count), ascending, and the place of each id among them."""
    present = np.zeros(count, bool)
    present[ids] = True
    values = np.flatnonzero(present)
    place = np.empty(count, np.int64)
    place[values] = np.arange(len(values))
    return values, place[ids]


def to_device(arrays: Sequence[Int64Array], device: torch.device) -> list[Tensor]:
    """Return int64 arrays as tensors on a device, copied together from pinned memory without waiting."""
    if device.type == "cpu":
        return [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
    together = torch.from_numpy(np.concatenate(arrays))
    if device.type == "cuda":
        together = together.pin_memory()
    return list(torch.split(together.to(device, non_blocking=True), [len(array) for array in arrays]))
