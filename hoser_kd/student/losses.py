"""Loss terms of the student: next step, time, and the distillation term (KL divergence to the teacher).

The trainer sums the terms that the factories in `hoser_kd.config.variants.LOSS_TERMS` return. The teacher's scores are
its logits of the candidates' cells at temperature 1, up to a constant per step; its normalizer over the vocabulary
cancels on the candidates. The distillation term is computed in log space and in float32.

Shapes: B trips, T steps, C maximum number of candidates per step, S labeled steps of a split, K candidates of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from hoser_kd.common.arrays import Float32Array, Int64Array, offsets_of, ranges
from hoser_kd.common.errors import StoreError
from hoser_kd.config.section import MAX_TEMPERATURE, MIN_TEMPERATURE
from hoser_kd.config.variants import LOSS_TERMS

if TYPE_CHECKING:
    from hoser_kd.config.distill import DistillConfig
    from hoser_kd.config.student import StudentConfig
    from hoser_kd.hoser import Batch, StudentOutput, TimeScale
    from hoser_kd.network.trajectories import Trajectories

SharedCells = Literal["replicate", "split", "aggregate"]
Reduction = Literal["mean", "none"]

# used for log 0: its exponential is 0, and its product with 0 is not NaN
_LOG_ZERO = -1e30
_KL_USAGE = "Call kl_loss(student_logits, teacher_scores, mask, temperature=2.0)."


@dataclass(frozen=True)
class LossTerm:
    """A term of the training loss: `weight` times the mean of `compute` over `count` steps."""

    name: str
    """Name in the history (`train_<name>`), in TensorBoard and in the training curves."""
    weight: float
    """Factor in the sum of the terms."""
    compute: Callable[[Batch, StudentOutput, int], Tensor]
    """Returns the mean over the steps of a batch, a scalar, from (batch, output, epoch counted from 0)."""
    count: Callable[[Tensor], int]
    """Returns the number of steps in that mean from the lengths (B,) int64 of the trips, in roads."""


@dataclass(frozen=True)
class LossContext:
    """What the factories of loss terms can use."""

    time_scale: TimeScale
    """Scale of the model's predicted times."""
    config: StudentConfig
    """Settings of the student."""
    distill: DistillConfig | None = None
    """Settings of distillation; None: no distillation."""
    labels: LabelSource | None = None
    """Teacher scores of the training trips."""
    grid_tokens: Tensor | None = None
    """(N,) int64: cell of each road, on the device."""
    seed: int = 0
    """Seed of the training."""
    device: torch.device | str = "cpu"
    """Device of the model."""
    first_synthetic: int | None = None
    """Row of the first synthetic trip; the rows before it are the student's own trips. None: no synthetic trips."""
    own_step_share: float = 1.0
    """Share of the steps of an epoch that belong to the student's own trips."""
    pooled: LabelSource | None = None
    """Log-targets of the recipe `pooled`."""


LossFactory = Callable[[LossContext], LossTerm | None]
"""Builds a loss term, or returns None if the settings switch it off."""


def loss_terms(context: LossContext) -> list[LossTerm]:
    """Build the terms of `LOSS_TERMS` that the settings switch on, in the order of registration.

    Raises ValueError if two terms have the same name.
    """
    terms = [term for name in LOSS_TERMS if (term := LOSS_TERMS[name](context)) is not None]
    names = [term.name for term in terms]
    if len(set(names)) < len(names):
        raise ValueError(f"loss terms must have different names: {', '.join(names)}")
    return terms


def extra_loss_terms() -> list[str]:
    """Return the names of the registered terms that are not built in."""
    return [name for name in LOSS_TERMS if name not in _BUILT_IN]


def next_step_loss(output: StudentOutput, label_smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
    """Return the cross-entropy over the candidates, mean over the valid steps.

    `label_smoothing`: share of the label that is spread evenly over the candidates (Szegedy et al. 2016, section 7).
    `weights` (S,) float: factor of each valid step; the mean is still over their number.
    """
    rows = log_softmax(output.of_steps("logits"), dim=1)
    losses = -rows.gather(1, output.of_steps("label")[:, None])
    if label_smoothing:
        mask = output.of_steps("candidates") >= 0
        spread = -torch.where(mask, rows, 0.0).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
        losses = (1 - label_smoothing) * losses + label_smoothing * spread
    return losses.mean() if weights is None else (losses[:, 0] * weights).mean()


def time_loss(output: StudentOutput, scale: TimeScale, weights: Tensor | None = None) -> Tensor:
    """Return the published time loss: |pred - label| / max(label, 1) in log1p(seconds), mean over the valid steps.

    It is a relative error of logarithms, not of seconds; kept because published metrics are trained with it. `weights`
    (S,) float: factor of each valid step; the mean is still over their number.
    """
    label = torch.log1p(output.of_steps("seconds"))
    predicted = scale.log1p_seconds(output.of_steps("time_pred"))
    losses = (predicted - label).abs() / label.clamp(min=1)
    return losses.mean() if weights is None else (losses * weights).mean()


def step_weights(
    batch: Batch, first_synthetic: int | None, synthetic: float, output: StudentOutput | None = None
) -> Tensor | None:
    """Return (S,) float32: 1 for valid steps of the student's own trips, `synthetic` for others; None if all are 1.

    With `output`, the number of steps is known without a wait for the device.
    """
    if first_synthetic is None or synthetic == 1:
        return None
    mask = batch.step_mask
    own = (batch.rows < first_synthetic)[:, None].expand_as(mask)
    return torch.where(own[mask] if output is None else output.steps_of(own), 1.0, synthetic)


def num_steps(lengths: Tensor) -> int:
    """Return the number of steps of trips with `lengths` (B,) roads."""
    return int((lengths - 1).sum())


def kl_loss(
    student_logits: Tensor,
    teacher_scores: Tensor,
    mask: Tensor,
    temperature: float,
    tokens: Tensor | None = None,
    shared_cells: SharedCells = "replicate",
    *,
    scale_by_temperature_squared: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return KL(teacher || student) over the candidates, mean over the rows that have one.

    `student_logits`, `teacher_scores` (…, C) of any floating type, `mask` (…, C) bool: True at candidates. With
    q_k ∝ exp(score_k / temperature) and p = softmax(logits / temperature), a row is sum_k q_k (log q_k - log p_k).
    The teacher gets no gradient. A row with one candidate is 0. A score of -inf is a candidate with teacher
    probability 0; a row with no other scores carries no signal and is 0.

    `shared_cells` with `tokens` (…, C) int64, the cell of each candidate: `replicate` gives every candidate of a
    cell the cell's q; `split` divides it among them; `aggregate` compares cell by cell and sums the student's
    probabilities of a cell. `scale_by_temperature_squared`: Hinton et al. 2015, section 2.1. `reduction` "none"
    returns the rows (…).

    Raises TypeError or ValueError for wrong arguments, such as arrays of NumPy, a mask that is not bool, or shapes that
    differ.
    """
    _check_kl_settings(temperature, shared_cells, reduction)
    if shared_cells != "replicate" and tokens is None:
        raise ValueError(f"shared_cells {shared_cells!r} requires the cell of each candidate in `tokens`. {_KL_USAGE}")
    optional = {} if tokens is None else {"tokens": tokens}
    _check_kl_tensors(student_logits=student_logits, teacher_scores=teacher_scores, mask=mask, **optional)
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


def _check_kl_settings(temperature: object, shared_cells: object, reduction: object) -> None:
    """Raise TypeError or ValueError for settings that `kl_loss` does not know."""
    if isinstance(temperature, bool) or not isinstance(temperature, int | float | np.number):
        raise TypeError(f"temperature is of type {type(temperature).__name__}, not a number. {_KL_USAGE}")
    if not MIN_TEMPERATURE <= temperature <= MAX_TEMPERATURE:
        raise ValueError(f"temperature is {temperature}, not a finite number above 0 (0.0001 to 10000). {_KL_USAGE}")
    for name, value, kind in (("shared_cells", shared_cells, SharedCells), ("reduction", reduction, Reduction)):
        if value not in get_args(kind):
            raise ValueError(f"unknown {name} {value!r}. Known: {', '.join(get_args(kind))}. {_KL_USAGE}")


def _check_kl_tensors(**tensors: Tensor) -> None:
    """Raise TypeError or ValueError if these are not tensors of one shape, or the mask is not bool."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            hint = f"pass torch.as_tensor({name})." if isinstance(tensor, np.ndarray | list | tuple) else _KL_USAGE
            raise TypeError(f"{name} is of type {type(tensor).__name__}, not a tensor: {hint}")
    if tensors["mask"].dtype != torch.bool:
        raise TypeError(
            f"mask has dtype {tensors['mask'].dtype}, not torch.bool: pass mask.bool(), True at candidates."
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        named = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"the tensors differ in shape ({named}): give each as (…, C). {_KL_USAGE}")


def sample_steps(step_mask: Tensor, trips: Tensor, count: Literal["all"] | int, *, seed: int, epoch: int) -> Tensor:
    """Return the steps of each trip that are distilled in an epoch.

    `step_mask` (B, T) bool; `trips` (B,) int64, the trips' rows in their split. Returns (B, T) bool: all steps, or
    `count` per trip (all if it has fewer). The sample depends on seed, epoch and trip only, so it is the same in any
    batch, on any device and after a restart.
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
    """Source of the teacher's scores: stored labels, or a teacher that is queried during training."""

    def __call__(self, batch: Batch, candidates: Tensor) -> Tensor:
        """Return (B, T, C) float scores of `candidates` (B, T, C) int64 road ids, -1 where there is none."""


class RaggedLabels(Protocol):
    """The part of `hoser_kd.teacher.soft_labels.SoftLabels` that is read here."""

    @property
    def offsets(self) -> Int64Array:
        """(S + 1,) int64: one row per step that has a next road, in the order of the trips."""

    @property
    def scores(self) -> Float32Array:
        """Ragged over the candidates of each step, in the order of the network's successors."""


class StoredLabels:
    """Labels of a split, gathered batch by batch from their (memory-mapped) ragged array."""

    def __init__(self, labels: RaggedLabels, trajectories: Trajectories) -> None:
        """`trajectories`: the split that was labeled. Raises StoreError if the number of steps differs."""
        self._first_step = offsets_of(np.maximum(trajectories.lengths - 1, 0))
        self._offsets, self._scores, self._compared = labels.offsets, labels.scores, False
        if len(labels.offsets) - 1 != self._first_step[-1]:
            raise StoreError(
                f"the labels have {len(labels.offsets) - 1} steps, the trips {self._first_step[-1]}: the labels belong "
                "to other trips. Label these trips."
            )

    def __call__(self, batch: Batch, candidates: Tensor) -> Tensor:
        """Gather the scores of a batch.

        On a GPU only the first batch is compared with its candidates, because reading them waits for the device.
        """
        rows = batch.on_host.rows.numpy()
        first, last = self._first_step[rows], self._first_step[rows + 1]
        start = self._offsets[first]
        scores = self._scores[ranges(start, self._offsets[last] - start)].astype(np.float32)
        if candidates.device.type == "cpu" or not self._compared:
            self._compare(rows, len(scores), int((candidates >= 0).sum()))
        # padded on the host, where all sizes are known
        steps = ranges(first, last - first)
        counts = self._offsets[steps + 1] - self._offsets[steps]
        column = ranges(np.zeros(len(rows), np.int64), last - first)
        place = np.repeat(np.arange(len(rows)), last - first) * candidates.shape[1] + column
        cell = np.repeat(place, counts) * candidates.shape[2] + ranges(np.zeros_like(counts), counts)
        padded = torch.full(candidates.shape, -torch.inf, pin_memory=candidates.device.type == "cuda")
        padded.numpy().reshape(-1)[cell] = scores
        return padded.to(candidates.device, non_blocking=True)

    def _compare(self, rows: Int64Array, num_scores: int, num_candidates: int) -> None:
        """Raise StoreError if the numbers of scores and of candidates of a batch differ."""
        if num_scores != num_candidates:
            raise StoreError(
                f"the labels of trips {rows[:3].tolist()} … have {num_scores} scores, their steps "
                f"{num_candidates} candidates: the labels belong to another network. Label the trips again."
            )
        self._compared = True


@dataclass(frozen=True)
class Distillation:
    """The KL divergence to the teacher over the distilled steps."""

    config: DistillConfig
    """Temperature, sampling, shared cells."""
    labels: LabelSource
    """Teacher scores."""
    grid_tokens: Tensor | None = None
    """(N,) int64: cell of each road; required to split or aggregate."""
    seed: int = 0
    """Seed of the sampled steps."""

    def steps_of(self, lengths: Tensor) -> Tensor:
        """Return the number of distilled steps, (B,) int64, of trips with `lengths` (B,) roads."""
        count = self.config.sample_steps_per_trace
        return lengths - 1 if count == "all" else (lengths - 1).clamp(max=count)

    def term(self) -> LossTerm:
        """Return the loss term, weighted by `lambda_kl`."""
        return LossTerm("kl", self.config.lambda_kl, self.loss, lambda lengths: int(self.steps_of(lengths).sum()))

    def loss(self, batch: Batch, output: StudentOutput, epoch: int) -> Tensor:
        """Return the mean KL over the distilled steps of a batch, without its weight lambda."""
        config = self.config
        chosen = sample_steps(output.step_mask, batch.rows, config.sample_steps_per_trace, seed=self.seed, epoch=epoch)
        every = chosen is output.step_mask
        places = output.valid if every and output.valid is not None else chosen.flatten().nonzero()[:, 0]

        def distilled(values: Tensor) -> Tensor:
            return values.flatten(0, 1).index_select(0, places)

        candidates = output.of_steps("candidates") if every else distilled(output.candidates)
        tokens = None if self.grid_tokens is None else self.grid_tokens[candidates.clamp(min=0)]
        return kl_loss(
            output.of_steps("logits") if every else distilled(output.logits),
            distilled(self.labels(batch, output.candidates)),
            candidates >= 0,
            config.temperature,
            tokens,
            config.shared_cells,
            scale_by_temperature_squared=config.scale_by_temperature_squared,
        )


def _next_step_term(context: LossContext) -> LossTerm:
    weight = 1.0 if context.distill is None else context.distill.synthetic_weight

    def mean(batch: Batch, output: StudentOutput, _epoch: int) -> Tensor:
        weights = step_weights(batch, context.first_synthetic, weight, output)
        return next_step_loss(output, context.config.label_smoothing, weights)

    return LossTerm("next_step", 1.0, mean, num_steps)


def _time_term(context: LossContext) -> LossTerm:
    """Return the time loss; the times of synthetic trips are no observations, so their steps count as zero.

    With `time_loss_mean: own_steps` the factor is that of the epoch, not of the batch, so that a step counts the same
    in every batch.
    """
    own_alone = context.distill is not None and context.distill.time_loss_mean == "own_steps"
    factor = 1 / context.own_step_share if own_alone else 1.0

    def mean(batch: Batch, output: StudentOutput, _epoch: int) -> Tensor:
        weights = step_weights(batch, context.first_synthetic, 0.0, output)
        loss = time_loss(output, context.time_scale, weights)
        return loss if factor == 1 else factor * loss

    return LossTerm("time", 1.0, mean, num_steps)


def _kl_term(context: LossContext) -> LossTerm | None:
    """Return the distillation term; None if the settings switch it off. Raises ValueError without labels."""
    if context.distill is None or not context.distill.uses_kl:
        return None
    if context.labels is None:
        raise ValueError("distillation requires the teacher's labels: train_student(..., distill=..., labels=...).")
    return Distillation(context.distill, context.labels, context.grid_tokens, context.seed).term()


def _pooled_term(context: LossContext) -> LossTerm | None:
    """Return the KL divergence to the pool, mean over all steps. Raises ValueError without a pool."""
    if context.distill is None or not context.distill.uses_pooled:
        return None
    if context.pooled is None:
        raise ValueError("the recipe `pooled` requires its targets: LossContext(..., pooled=PooledTargets.fit(...)).")
    targets = context.pooled

    def mean(batch: Batch, output: StudentOutput, _epoch: int) -> Tensor:
        scores = output.steps_of(targets(batch, output.candidates))
        return kl_loss(output.of_steps("logits"), scores, output.of_steps("candidates") >= 0, 1.0)

    return LossTerm("pooled", context.distill.pooled.weight, mean, num_steps)


def check_loss_term(name: str, factory: object) -> None:
    """Validate a loss term before it is registered. Raises TypeError with the right call."""
    if isinstance(factory, LossTerm) or not callable(factory):
        raise TypeError(
            f"loss term {name!r} is {factory!r}, not a function. Register a function of the LossContext that returns a "
            f"LossTerm or None: LOSS_TERMS.register({name!r}, lambda context: LossTerm(...))."
        )


_BUILT_IN: dict[str, LossFactory] = {
    "next_step": _next_step_term,
    "time": _time_term,
    "kl": _kl_term,
    "pooled": _pooled_term,
}
for _name, _factory in _BUILT_IN.items():
    LOSS_TERMS.register(_name, _factory)


def _mixed(value: Tensor) -> Tensor:
    """Mix the bits of int64 values (finalizer of MurmurHash3, with wrapping arithmetic)."""
    for factor in (-0xAE502812AA7333, -0x3B314601E57A13AD):
        value = (value ^ ((value >> 33) & 0x7FFFFFFF)) * factor
    return value ^ ((value >> 33) & 0x7FFFFFFF)
