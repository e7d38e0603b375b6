"""The teacher in the loop: scores asked during training, for those who cannot store labels.

It costs a pass of the teacher for every batch of every epoch, which stored labels do not; the loss is the same.

Letters: B trips, T steps, C candidates of the step with most, N roads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hoser_kd.lmtad.histories import Window, ready
from hoser_kd.ragged import Int64Array, offsets_of
from hoser_kd.soft_labels import label
from hoser_kd.trajectories import Trajectories

if TYPE_CHECKING:
    from hoser_kd.hoser import Batch
    from hoser_kd.lmtad import LMTAD
    from hoser_kd.road_network import RoadNetwork


class OnlineTeacher:
    """A label source (`hoser_kd.distillation.LabelSource`) that asks the teacher about each batch as it comes."""

    def __init__(self, teacher: LMTAD, grid_tokens: Int64Array, network: RoadNetwork, window: Window = "full", *,
                 device: torch.device | str | None = None, half: bool = False) -> None:
        """`grid_tokens` (N,) int64: the teacher's token of each road; the rest as for `hoser_kd.soft_labels.label`."""
        self._teacher = ready(teacher, device)
        self._tokens, self._network = grid_tokens, network
        self._window, self._half = window, half

    def __call__(self, batch: Batch, candidates: Tensor) -> Tensor:
        """Return (B, T, C) float32 scores of `candidates` (B, T, C) int64 road ids, -inf where there is none (-1)."""
        lengths = batch.lengths.cpu().numpy()
        inside = np.arange(batch.road_ids.shape[1]) < lengths[:, None]
        trips = Trajectories(offsets_of(lengths), batch.road_ids.cpu().numpy()[inside],
                             batch.times.cpu().numpy()[inside])
        labels = label(self._teacher, self._tokens, trips, self._network, self._window, half=self._half)
        scores = torch.from_numpy(labels.scores).to(candidates.device)
        mask = candidates >= 0
        return scores.new_full(mask.shape, -torch.inf).masked_scatter(mask, scores)
