"""Training of a student: plain HOSER, or HOSER distilled from the teacher's labels.

loss = cross-entropy over the candidates + relative error of log1p(seconds) + lambda * KL(teacher || student)

The terms are those of `hoser_kd.config.variants.LOSS_TERMS` (see `hoser_kd.student.losses`).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch

from hoser_kd.common.distributed import DistributedContext, no_sync
from hoser_kd.common.errors import TrainingError
from hoser_kd.common.hashing import digest_arrays, digest_json
from hoser_kd.common.optimizer import Optimizer
from hoser_kd.common.progress import Progress, silent
from hoser_kd.hoser import HOSER, collate, time_label_statistics
from hoser_kd.student.losses import LabelSource, LossContext, LossTerm, RaggedLabels, extra_loss_terms, loss_terms
from hoser_kd.student.next_step_metrics import as_label_source, evaluate_student, frequency_baseline
from hoser_kd.student.training_checkpoint import TrainingCheckpoint, TrainingResult, read_result

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from os import PathLike

    from hoser_kd.common.arrays import Float64Array, Int64Array
    from hoser_kd.config.schema import DistillConfig, StudentConfig
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories

__all__ = [
    "StudentTrainer",
    "TrainingResult",
    "bucketed_batches",
    "evaluate_student",
    "frequency_baseline",
    "train_student",
]

Validator = Callable[[HOSER, Progress], dict[str, float]]
"""Computes metrics of the model after an epoch. It must leave weights, mode and torch's generator as they are, and
return the same metrics in every process that trains together."""

_POOL_BATCHES = 50


class StudentTrainer:
    """Runs optimizer steps; `train_student` holds the loop."""

    def __init__(
        self, model: HOSER, config: StudentConfig, total_steps: int, terms: Sequence[LossTerm] | None = None
    ) -> None:
        """`terms`: the loss terms in the order of their sum; None: those of plain HOSER, without a teacher."""
        self.model, self.config = model, config
        self.context = DistributedContext.current()
        self._replica = self.context.replica(model)
        self.terms = loss_terms(LossContext(model.time_scale, config)) if terms is None else list(terms)
        self.optimizer = Optimizer(
            model.parameters(),
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            total_steps=total_steps,
            warmup_ratio=config.warmup_ratio,
            max_norm=config.max_norm,
            precision=config.precision,
            device=model.device,
        )

    def step(self, trips: Trajectories, rows: Int64Array, epoch: int) -> dict[str, float]:
        """Train on these rows; returns the unweighted loss terms, gradient norm and learning rate of the step.

        Each term is a mean over steps. Terms of micro-batches and of processes are weighted by their steps, so that
        their gradients add up to the gradient of the whole batch. Raises TrainingError if a loss or, except in fp16, a
        gradient is not finite.
        """
        self.model.train()
        totals = self._counts(trips, rows)
        own = self.context.share(rows)
        micro = self.config.micro_batch_size or len(rows)
        # a process without trips still takes part in averaging the gradients
        parts = [own[start : start + micro] for start in range(0, len(own), micro)] or [rows[:1]]
        sums = np.zeros(len(self.terms))
        for place, part in enumerate(parts, start=1):
            counts = self._counts(trips, part if len(own) else own)
            shares = [count / total for count, total in zip(counts, totals, strict=True)]
            with no_sync(self._replica, until_later=place < len(parts)):
                sums += self._backward(trips, part, shares, epoch)
        size = self.optimizer.step()
        if not math.isfinite(size.grad_norm) and self.optimizer.precision != "fp16":
            self._stop(f"the gradient norm is {size.grad_norm}", trips, rows, epoch)
        summed = self.context.sum(sums, self.model.device)
        metrics = dict(zip([term.name for term in self.terms], summed.tolist(), strict=True))
        return {**metrics, "grad_norm": size.grad_norm, "learning_rate": size.learning_rate}

    def _backward(self, trips: Trajectories, rows: Int64Array, shares: Sequence[float], epoch: int) -> Float64Array:
        """Add the gradients of some trips; returns each term times its share, (terms,) float64."""
        batch = collate(trips, rows).to(self.model.device)
        with self.optimizer.autocast():
            output = self._replica(batch)
        losses = [term.compute(batch, output, epoch) * share for term, share in zip(self.terms, shares, strict=True)]
        total = reduce(operator.add, (term.weight * loss for term, loss in zip(self.terms, losses, strict=True)))
        values = [loss.item() for loss in losses]
        if not math.isfinite(total.item()):
            named = ", ".join(f"{term.name} {value:g}" for term, value in zip(self.terms, values, strict=True))
            self._stop(f"the loss is not finite ({named})", trips, rows, epoch)
        # DistributedDataParallel averages gradients over the processes; here their sum is needed
        self.optimizer.backward(total * self.context.size)
        return np.array(values)

    def _counts(self, trips: Trajectories, rows: Int64Array) -> list[int]:
        """Return the number of steps in the mean of each term over these trips."""
        lengths = torch.from_numpy(trips.offsets[rows + 1] - trips.offsets[rows])
        return [term.count(lengths) for term in self.terms]

    def _stop(self, what: str, trips: Trajectories, rows: Int64Array, epoch: int) -> NoReturn:
        names = [str(row) for row in rows] if trips.ids is None else [str(trips.ids[row]) for row in rows]
        raise TrainingError(
            f"epoch {epoch + 1}, step {self.optimizer.steps_done + 1}: {what}. Trajectories of the batch: "
            f"{', '.join(names)}. Inspect them, lower student.learning_rate, or set student.precision: fp32."
        )


def train_student(
    network: RoadNetwork,
    zones: Int64Array,
    zone_transitions: Any,
    train: Trajectories,
    val: Trajectories,
    config: StudentConfig,
    *,
    distill: DistillConfig | None = None,
    labels: RaggedLabels | LabelSource | None = None,
    val_labels: RaggedLabels | LabelSource | None = None,
    grid_tokens: Int64Array | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    folder: str | PathLike[str],
    progress: Progress = silent,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    validators: Sequence[Validator] = (),
    resume: bool = True,
) -> TrainingResult:
    """Train HOSER and keep the best epoch, as published by validation accuracy (Cao et al., AAAI 2025).

    `config.select_by` names another rule of `student.model_selection`. Each of `validators` is called after each epoch
    and adds metrics to the history; rules that need generated trips need
    `hoser_kd.evaluation.validation_trips.validators_for(val, network, config)` here.
    `zones` (N,) int64, `zone_transitions` (Z, Z) counts. `labels`: the teacher's scores of every step of `train`,
    stored or asked for; with `distill` None or `lambda_kl` 0 they are not read. `val_labels` only add figures.
    `grid_tokens` (N,) int64 are needed where cells are shared otherwise than by replicating. `resume`: go on from
    what an interrupted training of the same settings, data and seed left in `folder`. On a CPU a seed repeats
    exactly, interrupted or not.

    Under `torchrun`, with a process group made, every process calls this with the same arguments and takes its share
    of each batch; the first one writes and calls `progress` and `on_epoch`. The result is that of one process to the
    rounding of sums, and an interrupted training may go on with another number of processes.

    Raises TrainingError at a non-finite loss, StoreError where the folder belongs to another training or the labels
    to other trips.
    """
    if config.num_validation_ods and not validators:
        raise ValueError(
            "student.select_by or student.select_num_ods require trips generated after each epoch: pass "
            "validators=hoser_kd.evaluation.validation_trips.validators_for(val, network, config)."
        )
    rows = _training_rows(len(train), config.train_fraction, seed)
    distill = None if distill is None or distill.lambda_kl == 0 else distill
    settings = {
        "student": config.of_the_result(),
        "seed": seed,
        "distill": distill
        and {
            **distill.model_dump(mode="json", exclude={"label_processes", "store_outside_mass"}),
            "labels": _made_from(labels),
        },
    }
    if extra := extra_loss_terms():
        settings["loss_terms"] = extra
    data = (
        zones,
        *network.successors,
        *(part for split in (train, val) for part in (split.offsets, split.road_ids, split.times)),
    )
    team = DistributedContext.current()
    run = TrainingCheckpoint(
        Path(folder),
        digest_json({**settings, "data": digest_arrays(*data)}),
        select_by=config.select_by,
        writes=team.is_main_process,
    )
    if not resume and team.is_main_process:
        run.clear()
    team.wait()
    done = run.finished()
    if done is not None:
        return done
    mean, std = time_label_statistics(train.take(rows))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = HOSER.build(config, network, zones, zone_transitions, log1p_mean=mean, log1p_std=std).to(device)
        cells = None if grid_tokens is None else torch.from_numpy(np.array(grid_tokens, np.int64)).to(model.device)
        source = None if distill is None else as_label_source(labels, train)
        terms = loss_terms(LossContext(model.time_scale, config, distill, source, cells, seed, model.device))
        steps_per_epoch = -(-len(rows) // config.batch_size)
        trainer = StudentTrainer(model, config, config.max_epochs * steps_per_epoch, terms)
        run.restore(model, trainer.optimizer)
        for epoch in range(len(run.history), config.max_epochs):
            # the generator's state follows from the epoch, so none of it must be kept
            torch.manual_seed(seed * 1_000_003 + epoch + team.rank * 7_919)
            means = _epoch(trainer, train, rows, seed, epoch, run, progress)
            judged = evaluate_student(
                model,
                val,
                labels=val_labels,
                batch_size=config.batch_size,
                temperature=1.0 if distill is None else distill.temperature,
                precision=config.precision,
            )
            figures = {"epoch": float(epoch + 1), **means, **judged}
            for validator in validators:
                figures |= validator(model, progress)
            run.finish_epoch(model, trainer.optimizer, figures)
            if on_epoch is not None and team.is_main_process:
                on_epoch(figures)
    run.finish()
    team.wait()
    return read_result(run.path)


def bucketed_batches(lengths: Int64Array, batch_size: int, *, seed: int, epoch: int) -> Iterator[Int64Array]:
    """Yield indices into `lengths`, each once, in batches of trips of similar length and in random order.

    Trips are shuffled, sorted by length within pools of 50 batches, cut into batches, and the batches shuffled:
    little padding, and other neighbors in each epoch.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    pool = np.arange(len(order)) // (batch_size * _POOL_BATCHES)
    order = order[np.lexsort([lengths[order], pool])]
    starts = np.arange(0, len(order), batch_size)
    for start in rng.permutation(starts):
        yield order[start : start + batch_size]


def _epoch(
    trainer: StudentTrainer,
    train: Trajectories,
    rows: Int64Array,
    seed: int,
    epoch: int,
    run: TrainingCheckpoint,
    progress: Progress,
) -> dict[str, float]:
    """Pass over the training trips once; returns the means of the steps' figures, named `train_…`."""
    lengths = train.offsets[rows + 1] - train.offsets[rows]
    optimizer = trainer.optimizer
    sums: dict[str, float] = {}
    count = 0
    for chosen in bucketed_batches(lengths, trainer.config.batch_size, seed=seed, epoch=epoch):
        figures = trainer.step(train, rows[chosen], epoch)
        run.log(figures, optimizer.steps_done)
        if trainer.context.is_main_process:
            progress("training", optimizer.steps_done, optimizer.total_steps, figures)
        sums = {name: sums.get(name, 0.0) + value for name, value in figures.items()}
        count += 1
    return {f"train_{name}": value / count for name, value in sums.items()}


def _training_rows(count: int, fraction: float, seed: int) -> Int64Array:
    """Return the rows of the training trips the student sees, ascending."""
    chosen = np.random.default_rng([seed, count]).permutation(count)[: max(1, round(fraction * count))]
    return np.sort(chosen).astype(np.int64)


def _made_from(labels: RaggedLabels | LabelSource | None) -> dict[str, str]:
    """Return what stored labels say they were made from."""
    return dict(getattr(labels, "fingerprint", {}))
