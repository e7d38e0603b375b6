"""Predictions of HOSER for the steps of a batch.

Shapes: B trips, T steps, S valid steps, C maximum number of candidates per step.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hoser_kd.hoser.batches import PADDING, padded_rows


@dataclass(frozen=True)
class StudentOutput:
    """Predictions of HOSER and labels, for all steps of a batch."""

    logits: Tensor
    """(B, T, C) float32: scores of the candidates, in the order of the successors; -inf where there is none."""
    candidates: Tensor
    """(B, T, C) int64: road ids of the candidates; -1 where there is none."""
    label: Tensor
    """(B, T) int64: position of the true next road among the candidates; -1 in padding."""
    step_mask: Tensor
    """(B, T) bool: steps that have a next road."""
    time_pred: Tensor
    """(B, T) float32: standardized log1p of the seconds to the true next road; 0 in padding."""
    seconds: Tensor
    """(B, T) float32: true seconds to the next road; 0 in padding."""
    all_times: Tensor | None = None
    """(B, T, C) float32: predicted times of all candidates, if requested."""
    valid: Tensor | None = None
    """(S,) int64: places of the valid steps in a flattened (B, T) array; None: they are read from `step_mask`."""

    def of_steps(self, name: str) -> Tensor:
        """Return (S, …): the rows of the valid steps, in order, of a field (B, T, …)."""
        return self.steps_of(getattr(self, name))

    def steps_of(self, values: Tensor) -> Tensor:
        """Return (S, …): the rows of the valid steps, in order, of an array (B, T, …)."""
        if self.valid is None:
            return values[self.step_mask]
        return values.flatten(0, 1).index_select(0, self.valid)

    @property
    def candidate_mask(self) -> Tensor:
        """(B, T, C) bool: true where there is a candidate."""
        return self.candidates >= 0


def _padded(field: str, fill: float) -> cached_property[Tensor]:
    """Return a field that is padded when it is read first."""

    def build(output: StepOutput) -> Tensor:
        return padded_rows(output.rows[field], output.places, output.step_mask, fill)

    return cached_property(build)


class StepOutput(StudentOutput):
    """Predictions as rows of the valid steps; the arrays with padding are built when they are read.

    The losses read rows. Padding them and selecting the rows again costs two copies, and two in the backward pass.
    """

    logits = _padded("logits", -torch.inf)
    candidates = _padded("candidates", PADDING)
    label = _padded("label", -1)
    time_pred = _padded("time_pred", 0.0)
    seconds = _padded("seconds", 0.0)

    def __init__(self, step_mask: Tensor, places: Tensor, rows: dict[str, Tensor]) -> None:
        """`places` (S,) int64 in a flattened (B, T) array; `rows` (S, …) of each field that has padding."""
        all_times = padded_rows(rows["all_times"], places, step_mask, 0.0) if "all_times" in rows else None
        # the fields of the base class are frozen
        vars(self).update(step_mask=step_mask, valid=places, places=places, rows=rows, all_times=all_times)

    rows: dict[str, Tensor]
    places: Tensor

    def of_steps(self, name: str) -> Tensor:
        """Return (S, …): the rows of a field."""
        return self.rows[name]
