"""The distillation term: how far the student's choice among the candidates is from the teacher's.

The teacher's scores are its logits of the candidates' cells at temperature 1, up to a constant a step; its
normalizer over the vocabulary cancels on the candidates. Everything is in log space and in float32.

Shapes: B trips, T steps, C candidates of the step with most, S labeled steps of a split, K candidates of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from hoser_kd.common.arrays import Float32Array, Int64Array, offsets_of, ranges
from hoser_kd.common.errors import StoreError

if TYPE_CHECKING:
    from hoser_kd.config.schema import DistillConfig
    from hoser_kd.hoser import Batch, StudentOutput
    from hoser_kd.network.trajectories import Trajectories

SharedCells = Literal["replicate", "split", "aggregate"]

# stands for log 0: its exponential is 0, and no product with 0 is NaN
_LOG_ZERO = -1e30


def kl_loss(
    student_logits: Tensor,
    teacher_scores: Tensor,
    mask: Tensor,
    temperature: float,
    tokens: Tensor | None = None,
    shared_cells: SharedCells = "replicate",
    *,
    scale_by_temperature_squared: bool = False,
    reduction: Literal["mean", "none"] = "mean",
) -> Tensor:
    """Return KL(teacher || student) over the candidates, mean over the rows that have one.

    `student_logits`, `teacher_scores` (…, C) of any floating type, `mask` (…, C) bool: True at candidates. With
    q_k ∝ exp(score_k / temperature) and p = softmax(logits / temperature), a row is sum_k q_k (log q_k - log p_k).
    The teacher gets no gradient. A row with one candidate is 0. A score of -inf is a candidate the teacher rules
    out; a row of nothing else says nothing and is 0.

    `shared_cells` with `tokens` (…, C) int64, the cell of each candidate: `replicate` gives every candidate of a
    cell the cell's q; `split` divides it among them; `aggregate` compares cell by cell, the student's
    probabilities summed. `scale_by_temperature_squared`: Hinton et al. 2015, section 2.1. `reduction` "none"
    returns the rows (…).
    """
    if shared_cells != "replicate" and tokens is None:
        raise ValueError(f"shared_cells {shared_cells!r} needs the cell of each candidate in `tokens`")
    with torch.autocast(student_logits.device.type, enabled=False):
        known = mask & (teacher_scores != -torch.inf)
        score = torch.where(known, teacher_scores.detach().float(), _LOG_ZERO)
        log_p = torch.where(mask, student_logits.float() / temperature, _LOG_ZERO).log_softmax(-1)
        if shared_cells != "replicate" and tokens is not None:
            together = (tokens[..., :, None] == tokens[..., None, :]) & mask[..., :, None] & mask[..., None, :]
            if shared_cells == "split":
                score = score - together.sum(-1).clamp(min=1).log()
            else:
                log_p = torch.where(together, log_p[..., None, :], _LOG_ZERO).logsumexp(-1)
                earlier = together.tril(-1).any(-1)
                score = torch.where(earlier, _LOG_ZERO, score)
        log_q = (score / temperature).log_softmax(-1)
        rows = (log_q.exp() * (log_q - log_p)).sum(-1)
        rows = torch.where(known.any(-1), rows, 0.0)
        if scale_by_temperature_squared:
            rows = rows * temperature**2
    return rows if reduction == "none" else rows.sum() / mask.any(-1).sum().clamp(min=1)


def sample_steps(step_mask: Tensor, trips: Tensor, count: Literal["all"] | int, *, seed: int, epoch: int) -> Tensor:
    """Choose the steps of each trip that are distilled in an epoch.

    `step_mask` (B, T) bool; `trips` (B,) int64, the trips' rows in their split. Returns (B, T) bool: all steps, or
    `count` of each trip (all where it has fewer). A choice depends on seed, epoch, trip and nothing else, so it is
    the same in any batch, on any device and after a restart.
    """
    if count == "all" or count >= step_mask.shape[1]:
        return step_mask
    steps = torch.arange(step_mask.shape[1], device=step_mask.device)
    key = _mixed(torch.tensor(seed, device=step_mask.device))
    for part in (torch.tensor(epoch, device=step_mask.device), trips[:, None], steps):
        key = _mixed(key ^ part)
    lot = torch.where(step_mask, key >> 1, torch.iinfo(torch.int64).max)
    chosen = lot.topk(count, dim=1, largest=False).indices
    return torch.zeros_like(step_mask).scatter(1, chosen, value=True) & step_mask


class LabelSource(Protocol):
    """Where the teacher's scores come from: a store made beforehand, or a teacher asked during training."""

    def __call__(self, batch: Batch, candidates: Tensor) -> Tensor:
        """Return (B, T, C) float scores of `candidates` (B, T, C) int64 road ids, -1 where there is none."""


class RaggedLabels(Protocol):
    """What is read of `hoser_kd.teacher.soft_labels.SoftLabels`."""

    @property
    def offsets(self) -> Int64Array:
        """(S + 1,) int64: a row a step that has a next road, in the order of the trips."""

    @property
    def scores(self) -> Float32Array:
        """Ragged over the candidates of each step, in the order of the network's successors."""


class StoredLabels:
    """Labels of a split, gathered from their (memory-mapped) ragged store a batch at a time."""

    def __init__(self, labels: RaggedLabels, trajectories: Trajectories) -> None:
        """`trajectories`: the split the labels were made for. Raises StoreError where they do not belong together."""
        self._first_step = offsets_of(np.maximum(trajectories.lengths - 1, 0))
        self._offsets, self._scores = labels.offsets, labels.scores
        if len(labels.offsets) - 1 != self._first_step[-1]:
            raise StoreError(
                f"the labels have {len(labels.offsets) - 1} steps, the trips {self._first_step[-1]}: they "
                "were made for other trips. Label these trips."
            )

    def __call__(self, batch: Batch, candidates: Tensor) -> Tensor:
        """Gather the scores of a batch."""
        rows = batch.rows.cpu().numpy()
        start = self._offsets[self._first_step[rows]]
        scores = self._scores[ranges(start, self._offsets[self._first_step[rows + 1]] - start)]
        mask = candidates >= 0
        if len(scores) != int(mask.sum()):
            raise StoreError(
                f"the labels of trips {rows[:3].tolist()} … have {len(scores)} scores, their steps "
                f"{int(mask.sum())} candidates: the labels were made for another network. Label again."
            )
        flat = torch.from_numpy(scores.astype(np.float32)).to(candidates.device)
        return flat.new_full(mask.shape, -torch.inf).masked_scatter(mask, flat)


@dataclass(frozen=True)
class Distillation:
    """The term as the training loop adds it."""

    config: DistillConfig
    """Temperature, sampling, sharing."""
    labels: LabelSource
    """The teacher."""
    grid_tokens: Tensor | None = None
    """(N,) int64: cell of each road; needed to split or aggregate."""
    seed: int = 0
    """Seed of the sampled steps."""

    def steps_of(self, lengths: Tensor) -> Tensor:
        """Return how many steps of trips with (B,) roads are distilled, (B,) int64."""
        count = self.config.sample_steps_per_trace
        return lengths - 1 if count == "all" else (lengths - 1).clamp(max=count)

    def loss(self, batch: Batch, output: StudentOutput, epoch: int) -> Tensor:
        """Return the mean KL over the distilled steps of a batch, without its weight lambda."""
        config = self.config
        chosen = sample_steps(output.step_mask, batch.rows, config.sample_steps_per_trace, seed=self.seed, epoch=epoch)
        candidates = output.candidates[chosen]
        tokens = None if self.grid_tokens is None else self.grid_tokens[candidates.clamp(min=0)]
        return kl_loss(
            output.logits[chosen],
            self.labels(batch, output.candidates)[chosen],
            candidates >= 0,
            config.temperature,
            tokens,
            config.shared_cells,
            scale_by_temperature_squared=config.scale_by_temperature_squared,
        )


def _mixed(value: Tensor) -> Tensor:
    """Scatter the bits of int64 values (the finalizer of MurmurHash3, on wrapping arithmetic)."""
    for factor in (-0xAE502812AA7333, -0x3B314601E57A13AD):
        value = (value ^ ((value >> 33) & 0x7FFFFFFF)) * factor
    return value ^ ((value >> 33) & 0x7FFFFFFF)
