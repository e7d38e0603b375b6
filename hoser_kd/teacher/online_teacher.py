"""Online distillation: query the teacher during training, if labels cannot be stored.

It costs a pass of the teacher for every batch of every epoch; the loss equals that of stored labels.

Shapes: B trips, T steps, C maximum number of candidates per step, N roads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hoser_kd.common.arrays import offsets_of
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.teacher.label_scoring import SoftLabelScorer
from hoser_kd.teacher.soft_labels import teacher_fingerprint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hoser_kd.common.arrays import Int64Array
    from hoser_kd.hoser import Batch
    from hoser_kd.lmtad import LMTAD
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.teacher.history_encoding import Window


class OnlineTeacher:
    """A label source (`hoser_kd.student.losses.LabelSource`) that scores each batch with the teacher."""

    fingerprint: Mapping[str, str]
    """Digests of all that the scores depend on besides the trips, as in stored labels; part of a training's key."""

    def __init__(
        self,
        teacher: LMTAD,
        grid_tokens: Int64Array,
        network: RoadNetwork,
        window: Window = "full",
        *,
        device: torch.device | str | None = None,
        half: bool = False,
    ) -> None:
        """`grid_tokens` (N,) int64: the teacher's token of each road; the rest as for `teacher.soft_labels.label`."""
        self._scorer = SoftLabelScorer(teacher, grid_tokens, network, window, device=device, half=half)
        self.fingerprint = teacher_fingerprint(self._scorer.model, self._scorer.tokens, network, window)

    def __call__(self, batch: Batch, candidates: Tensor) -> Tensor:
        """Return (B, T, C) float32 scores of `candidates` (B, T, C) int64 road ids, -inf where there is none (-1).

        The student's autocast does not apply to the teacher.
        """
        lengths = batch.lengths.cpu().numpy()
        inside = np.arange(batch.road_ids.shape[1]) < lengths[:, None]
        trips = Trajectories(
            offsets_of(lengths), batch.road_ids.cpu().numpy()[inside], batch.times.cpu().numpy()[inside]
        )
        with torch.autocast(candidates.device.type, enabled=False):
            labels = self._scorer.score(trips, destinations=batch.destinations.cpu().numpy())
        scores = torch.from_numpy(labels.scores).to(candidates.device)
        mask = candidates >= 0
        return scores.new_full(mask.shape, -torch.inf).masked_scatter(mask, scores)
