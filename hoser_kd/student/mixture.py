"""Upper bound of distillation: mixtures of the student's and the teacher's probabilities of the candidates.

If no mixture is better than the student alone, the teacher adds no information and distillation cannot help.
Shapes: S steps, K candidates of all steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from hoser_kd.common.arrays import BoolArray, Float64Array, Int64Array
from hoser_kd.hoser import collate
from hoser_kd.student.losses import RaggedLabels, StoredLabels

if TYPE_CHECKING:
    from hoser_kd.hoser import HOSER
    from hoser_kd.network.trajectories import Trajectories

WEIGHTS = np.linspace(0, 1, 21)
"""Shares of the teacher that `best_share` compares."""


@dataclass(frozen=True)
class StepProbabilities:
    """Probabilities of the candidates of S steps, by student and teacher."""

    student: Float64Array
    """(K,) float64: the student's probabilities; they sum to 1 per step."""
    teacher: Float64Array
    """(K,) float64: the teacher's, renormalized over the candidates at temperature 1."""
    step: Int64Array
    """(K,) int64: step of each candidate."""
    is_label: BoolArray
    """(K,) bool: the true next road; one per step."""
    num_candidates: Int64Array
    """(S,) int64: candidates of each step."""

    def metrics(self, teacher_share: float) -> dict[str, float]:
        """Return accuracy, decision_accuracy and nll (nats) of (1 - share) · student + share · teacher.

        A tie among k candidates counts 1 / k.
        """
        mixed = (1 - teacher_share) * self.student + teacher_share * self.teacher
        best = np.zeros(len(self.num_candidates))
        np.maximum.at(best, self.step, mixed)
        is_best = mixed >= best[self.step] * (1 - 1e-9)
        chance = is_best / np.bincount(self.step, is_best)[self.step]
        right = chance[self.is_label]
        decision = self.num_candidates[self.step[self.is_label]] > 1
        return {
            "accuracy": float(right.mean()),
            "decision_accuracy": float(right[decision].mean()),
            "nll": float(-np.log(np.maximum(mixed[self.is_label], 1e-30)).mean()),
        }

    def best_share(self) -> float:
        """Return the share of the teacher with the lowest NLL on these steps."""
        return float(WEIGHTS[int(np.argmin([self.metrics(weight)["nll"] for weight in WEIGHTS]))])


@torch.no_grad()
def predict_probabilities(
    model: HOSER, trips: Trajectories, labels: RaggedLabels, batch_size: int = 256
) -> StepProbabilities:
    """Return the probabilities of the student and of the teacher's stored `labels` for every step of the trips."""
    source = StoredLabels(labels, trips)
    parts: list[tuple[torch.Tensor, ...]] = []
    order = np.argsort(trips.lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        batch = collate(trips, order[start : start + batch_size]).to(model.device)
        output = model(batch)
        mask = output.candidate_mask[output.step_mask]
        scores = source(batch, output.candidates)[output.step_mask]
        place = torch.arange(mask.shape[1], device=mask.device)
        taken = place == output.label[output.step_mask][:, None]
        student, teacher = output.logits[output.step_mask].softmax(1), scores.softmax(1)
        parts.append((student[mask], teacher[mask], taken[mask], mask.sum(1)))
    ours, theirs, is_label, count = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
    return StepProbabilities(
        ours.astype(np.float64), theirs.astype(np.float64), np.repeat(np.arange(len(count)), count), is_label, count
    )
