"""Training of a student: vanilla HOSER, or HOSER distilled from the teacher's labels.

loss = cross-entropy over the candidates + relative error of log1p(seconds) + lambda * KL(teacher || student)

The terms are those of `hoser_kd.config.variants.LOSS_TERMS` (see `hoser_kd.student.losses`). With `off_path` in
`distill.recipe`, a fine-tuning follows on states that the student itself visits (see `hoser_kd.student.off_path`).
"""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, cast

import numpy as np
import torch

from hoser_kd.common.ahead import computed_ahead
from hoser_kd.common.distributed import DistributedContext, no_sync
from hoser_kd.common.errors import TrainingError
from hoser_kd.common.optimizer import Optimizer
from hoser_kd.common.progress import Progress, silent
from hoser_kd.config.student import StudentConfig
from hoser_kd.hoser import HOSER, Batch, StudentOutput, collate
from hoser_kd.hoser.cuda_graphs import GraphedModel, HostBatch
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.student.losses import LabelSource, LossContext, LossTerm, RaggedLabels, loss_terms
from hoser_kd.student.model_selection import patience_exhausted
from hoser_kd.student.next_step_metrics import evaluate_student, frequency_baseline
from hoser_kd.student.off_path import OffPath, OffPathStates, TripSampler
from hoser_kd.student.pooled import PooledTargets
from hoser_kd.student.training_arguments import check_types, check_validators, device_of
from hoser_kd.student.training_budget import TrainingBudget
from hoser_kd.student.training_checkpoint import TrainingCheckpoint, TrainingResult, read_result
from hoser_kd.student.training_data import TrainingData
from hoser_kd.student.training_inputs import TrainingInputs
from hoser_kd.student.training_precision import replays_graphs, training_precision

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from os import PathLike

    from hoser_kd.common.arrays import Float64Array, Int64Array
    from hoser_kd.config.distill import DistillConfig

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

_WINDOW_BATCHES = 50
"""Batches whose trips are sorted by length together."""


class StudentTrainer:
    """Runs optimizer steps; `train_student` holds the loop."""

    def __init__(
        self, model: HOSER, config: StudentConfig, total_steps: int, terms: Sequence[LossTerm] | None = None
    ) -> None:
        """`terms`: the loss terms in the order of their sum; None: those of vanilla HOSER, without a teacher."""
        self.model, self.config = model, config
        self.context = DistributedContext.current()
        table = cast("torch.nn.Parameter", model.road_network_encoder.road_id_emb.weight)
        rows = table if config.road_updates == "touched_rows" else None
        self._replica = self.context.replica(model, () if rows is None else (rows,))
        self.terms = loss_terms(LossContext(model.time_scale, config)) if terms is None else list(terms)
        self.optimizer = Optimizer(
            model.parameters() if rows is None else [each for each in model.parameters() if each is not rows],
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            total_steps=total_steps,
            warmup_ratio=config.warmup_ratio,
            max_norm=config.max_norm,
            precision=training_precision(config, model.device),
            device=model.device,
            rows=rows,
        )
        model.road_network_encoder.on_read = None if rows is None else self.optimizer.catch_up
        graphed = replays_graphs(config, model.device) and self.optimizer.precision == "fp32"
        self._graphed = GraphedModel(model) if graphed else None

    def ahead(
        self, trips: Trajectories, batches: Iterable[Int64Array]
    ) -> Iterator[tuple[Int64Array, HostBatch | None]]:
        """Yield batches of rows, each with its arrays on the host; a thread computes those of the next batch."""
        if self._graphed is None:
            yield from ((rows, None) for rows in batches)
        else:
            yield from computed_ahead(lambda rows: HostBatch.of(self.model, collate(trips, rows)), batches)

    def step(
        self, trips: Trajectories, rows: Int64Array, epoch: int, prepared: HostBatch | None = None
    ) -> dict[str, float]:
        """Train on these rows; returns the unweighted loss terms, gradient norm and learning rate of the step.

        Each term is a mean over steps. Terms of micro-batches and of processes are weighted by their steps, so that
        their gradients add up to the gradient of the whole batch. Raises TrainingError if a loss or, except in fp16, a
        gradient is not finite. `prepared`: the arrays of the batch, from `ahead`.
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
                sums += self._backward(trips, part, shares, epoch, prepared)
        size = self.optimizer.step()
        if not math.isfinite(size.grad_norm) and self.optimizer.precision != "fp16":
            self._stop(f"the gradient norm is {size.grad_norm}", trips, rows, epoch)
        summed = self.context.sum(sums, self.model.device)
        metrics = dict(zip([term.name for term in self.terms], summed.tolist(), strict=True))
        return {**metrics, "grad_norm": size.grad_norm, "learning_rate": size.learning_rate}

    def _backward(
        self, trips: Trajectories, rows: Int64Array, shares: Sequence[float], epoch: int, prepared: HostBatch | None
    ) -> Float64Array:
        """Add the gradients of some trips; returns each term times its share, (terms,) float64."""
        batch, output = self._forward(trips, rows, prepared)
        losses = [term.compute(batch, output, epoch) * share for term, share in zip(self.terms, shares, strict=True)]
        total = reduce(operator.add, (term.weight * loss for term, loss in zip(self.terms, losses, strict=True)))
        # DistributedDataParallel averages gradients over the processes; here their sum is needed
        self.optimizer.backward(total * self.context.size)
        # read once and after the backward pass is queued, because reading waits for the device
        *values, sum_of_terms = torch.stack([*losses, total]).detach().tolist()
        if not math.isfinite(sum_of_terms):
            named = ", ".join(f"{term.name} {value:g}" for term, value in zip(self.terms, values, strict=True))
            self._stop(f"the loss is not finite ({named})", trips, rows, epoch)
        return np.array(values)

    def _forward(
        self, trips: Trajectories, rows: Int64Array, prepared: HostBatch | None
    ) -> tuple[Batch, StudentOutput]:
        """Return a batch and its predictions."""
        if self._graphed is not None:
            host = HostBatch.of(self.model, collate(trips, rows)) if prepared is None else prepared
            graphed = self._graphed(host)
            if graphed is not None:
                return host.batch.to(self.model.device), graphed
        batch = collate(trips, rows).to(self.model.device)
        with self.optimizer.autocast():
            return batch, self._replica(batch)

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
    synthetic: Trajectories | None = None,
    synthetic_labels: RaggedLabels | LabelSource | None = None,
    sampler: TripSampler | None = None,
    online_teacher: LabelSource | None = None,
    off_path_states: OffPathStates | None = None,
    first_generation: HOSER | None = None,
    other_teachers: Sequence[LabelSource] = (),
    vanilla: TrainingResult | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    folder: str | PathLike[str],
    progress: Progress = silent,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    validators: Sequence[Validator] = (),
    resume: bool = True,
) -> TrainingResult:
    """Train HOSER (Cao et al., AAAI 2025) and keep the best epoch by `config.select_by`.

    The default rule is the validation NLL, the published one `accuracy` (`hoser_kd.student.model_selection`). Each of
    `validators` is called after each epoch and adds metrics to the history; rules that read metrics of generated trips
    require `hoser_kd.evaluation.validation_trips.validators_for(val, network, config)`.
    `zones` (N,) int64, `zone_transitions` (Z, Z) counts; if `config.train_fraction` is below 1, the counts of the
    student's own trips replace them. `labels`: the teacher's scores of every step of `train`, stored or computed
    online; required by the recipe `kl` of `distill`, not read if its `lambda_kl` is 0. `val_labels` only add metrics.
    `grid_tokens` (N,) int64 are required if `distill.shared_cells` is not `replicate`. `synthetic`: trips sampled from
    the teacher, whose times are not read; required by the recipe `sequence`. An epoch then has own and synthetic trips.
    They are also histories for `distill.off_path.costs` other than markov. `synthetic_labels`: the teacher's scores of
    every step of `synthetic`, for the recipe `[sequence, pooled]`; not needed if `labels` is a teacher that scores any
    batch.
    `sampler`: required by the recipe `off_path`, usually `hoser_kd.generation.student_trips.sample_trips`;
    `online_teacher`: scores sampled trips, required if `distill.off_path.teacher_weight` is above 0 or its `costs` are
    not markov. `off_path_states`: in place of both if `distill.off_path.labels` is stored. `vanilla`: with the recipe
    `off_path` alone, the finished training of the vanilla student, whose epochs are then not repeated. The recipe
    `pooled` reads `labels` and `val_labels` if the teacher is a member, and `first_generation`, a vanilla student of
    the same trips, if the student is; its parameters need no gradient afterwards. `other_teachers`: one for each of
    `distill.pooled.other_teachers`, usually from `hoser_kd.teacher.other_teachers.load_other_teacher`. `resume`:
    continue an interrupted training of the same settings, data and seed in `folder`. On a CPU, a seed gives the same
    result bit for bit, interrupted or not.

    Under `torchrun`, with an initialized process group, every process calls this with the same arguments and takes its
    share of each batch; the main process writes and calls `progress` and `on_epoch`. The result equals that of one
    process up to the rounding of sums, and a resumed training may use another number of processes.

    Raises TypeError or ValueError for wrong arguments, ConfigError for an unknown device, TrainingError for a
    non-finite loss, StoreError if the folder belongs to another training or the labels to other trips.
    """
    check_types(network, train, val, config, seed, resume=resume, progress=progress, on_epoch=on_epoch)
    inputs = TrainingInputs(
        network,
        zones,
        zone_transitions,
        train,
        val,
        config,
        seed,
        distill=distill,
        labels=labels,
        val_labels=val_labels,
        grid_tokens=grid_tokens,
        synthetic=synthetic,
        synthetic_labels=synthetic_labels,
        sampler=sampler,
        online_teacher=online_teacher,
        stored_states=off_path_states,
        first_generation=first_generation,
        other_teachers=other_teachers,
        vanilla=vanilla,
    ).checked()
    check_validators(config, validators)
    device = device_of(device)
    context = DistributedContext.current()
    checkpoint = TrainingCheckpoint(
        Path(folder), inputs.key(), select_by=config.select_by, writes=context.is_main_process
    )
    if not resume and context.is_main_process:
        checkpoint.clear()
    context.wait()
    finished = checkpoint.finished()
    if finished is not None:
        return finished
    with torch.random.fork_rng(devices=[]):
        for metrics in _epochs(inputs, device, checkpoint, validators, progress):
            if on_epoch is not None and context.is_main_process:
                on_epoch(metrics)
    checkpoint.finish()
    context.wait()
    return read_result(checkpoint.path)


def _epochs(
    inputs: TrainingInputs,
    device: torch.device,
    checkpoint: TrainingCheckpoint,
    validators: Sequence[Validator],
    progress: Progress,
) -> Iterator[dict[str, float]]:
    """Train from the state in the checkpoint to the end; yields the metrics of each epoch. Seeds torch's generator."""
    own_trips, data, budget = inputs.own_trips(), inputs.data(), inputs.budget()
    pooled = inputs.fit_pool(data, own_trips, device)
    if pooled is not None and _reads_scores_again(data, budget):
        pooled = pooled.with_scores_computed_once(data.trips, inputs.network, checkpoint.path, progress)
    torch.manual_seed(inputs.seed)
    model = inputs.build_model(own_trips, device)
    losses = inputs.loss_context(model, data, pooled)
    trainer = StudentTrainer(model, inputs.config, budget.total_steps, loss_terms(losses))
    if inputs.vanilla is not None:
        checkpoint.start_from(inputs.vanilla)
        trainer.optimizer.steps_done = len(inputs.vanilla.history) * budget.steps_per_epoch
    checkpoint.restore(model, trainer.optimizer)
    next_step: Validator = partial(_validate_next_steps, inputs)
    run = _Run(data, inputs.seed, checkpoint, (next_step, *validators, *_pool_metrics(pooled)), progress)
    states = inputs.off_path_states(model, own_trips, data.own.rows)
    yield from _training_epochs(trainer, budget, run)
    if states is not None:
        yield from _off_path_epochs(trainer, states, run, loss_terms(replace(losses, own_step_share=1.0)))


def _reads_scores_again(data: TrainingData, budget: TrainingBudget) -> bool:
    """Return whether scoring every trip once takes fewer passes than scoring the trips of every batch.

    The answer does not depend on how far a training has come, so that a resumed one has the same rounding. Each of
    several processes would score all trips, so they score their own batches.
    """
    in_epoch = len(data.rows_of(0))
    return DistributedContext.current().size == 1 and budget.num_epochs * in_epoch > len(data.trips)


def _pool_metrics(pooled: PooledTargets | None) -> list[Validator]:
    """Return a validator that adds exponents and NLL of the pool to the history, also of a resumed training."""
    return [] if pooled is None else [lambda _model, _progress: pooled.metrics]


class _Run(NamedTuple):
    """What the epochs of a training share."""

    data: TrainingData
    """Trips of an epoch."""
    seed: int
    """Seed of the training."""
    checkpoint: TrainingCheckpoint
    """Folder of the training."""
    validators: Sequence[Validator]
    """Called after each epoch."""
    progress: Progress
    """Receives the finished steps."""

    def epoch(self, trainer: StudentTrainer, epoch: int) -> dict[str, float]:
        """Train on each trip once; returns the number of the epoch, counted from 1, and the means of its steps."""
        # the state of the generator follows from the epoch, so it need not be saved
        torch.manual_seed(self.seed * 1_000_003 + epoch + trainer.context.rank * 7_919)
        metrics = _epoch(trainer, self.data, self.seed, epoch, self.checkpoint, self.progress)
        trainer.optimizer.flush()
        return {"epoch": float(epoch + 1), **metrics}

    def validate(self, model: HOSER) -> dict[str, float]:
        """Return the metrics of all validators."""
        metrics: dict[str, float] = {}
        for validator in self.validators:
            metrics |= validator(model, self.progress)
        return metrics


def _training_epochs(trainer: StudentTrainer, budget: TrainingBudget, run: _Run) -> Iterator[dict[str, float]]:
    """Train until the budget or the patience is used up; yields the metrics of each epoch."""
    checkpoint = run.checkpoint
    for epoch in range(len(checkpoint.history), budget.num_epochs):
        if _stops_early(checkpoint.history, trainer.config, budget, trainer.model.device):
            break
        metrics = run.epoch(trainer, epoch)
        metrics |= run.validate(trainer.model)
        checkpoint.finish_epoch(trainer.model, trainer.optimizer, metrics)
        yield metrics


def _off_path_epochs(
    base: StudentTrainer, states: OffPath, run: _Run, terms: Sequence[LossTerm]
) -> Iterator[dict[str, float]]:
    """Fine-tune the student of the best epoch on real steps and off-path states; yields the metrics of each epoch.

    The student of the last epoch is kept. `base`: the trainer of the training before; `terms`: its loss terms for the
    student's own trips.
    """
    settings, model, checkpoint = states.settings, base.model, run.checkpoint
    run = run._replace(data=run.data.own)
    config = base.config.model_copy(
        update={"batch_size": settings.batch_size, "learning_rate": settings.learning_rate, "warmup_ratio": 0.0}
    )
    steps = settings.epochs * -(-len(states.rows) // settings.batch_size)
    trainer = StudentTrainer(model, config, base.optimizer.steps_done + steps, [*terms, *states.terms()])
    # curves continue those of the training; a floor of 1 keeps the learning rate constant
    trainer.optimizer.steps_done, trainer.optimizer.floor = base.optimizer.steps_done, 1.0
    checkpoint.restore_off_path(model, trainer.optimizer)
    for number in range(len(checkpoint.off_path), settings.epochs):
        epoch = len(checkpoint.history) + number
        metrics = states.refresh(epoch, run.progress)
        started = time.perf_counter()
        metrics |= run.epoch(trainer, epoch)
        metrics["training_seconds"] = time.perf_counter() - started
        metrics |= run.validate(model)
        checkpoint.finish_off_path_epoch(model, trainer.optimizer, metrics)
        yield metrics
    checkpoint.keep(model)


def _validate_next_steps(inputs: TrainingInputs, model: HOSER, _progress: Progress) -> dict[str, float]:
    """Return the next-step metrics of the validation trips."""
    return evaluate_student(
        model,
        inputs.val,
        labels=inputs.val_labels,
        batch_size=inputs.config.batch_size,
        temperature=1.0 if inputs.distill is None else inputs.distill.temperature,
        precision=training_precision(inputs.config, model.device),
    )


def bucketed_batches(lengths: Int64Array, batch_size: int, *, seed: int, epoch: int) -> Iterator[Int64Array]:
    """Yield indices into `lengths`, each once, in batches of trips of similar length and in random order.

    Trips are shuffled, sorted by length within windows of 50 batches and cut into batches, which are then shuffled.
    This keeps padding small and changes the composition of batches in each epoch.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    window = np.arange(len(order)) // (batch_size * _WINDOW_BATCHES)
    order = order[np.lexsort([lengths[order], window])]
    starts = np.arange(0, len(order), batch_size)
    for start in rng.permutation(starts):
        yield order[start : start + batch_size]


def _epoch(
    trainer: StudentTrainer,
    data: TrainingData,
    seed: int,
    epoch: int,
    checkpoint: TrainingCheckpoint,
    progress: Progress,
) -> dict[str, float]:
    """Train on each trip once; returns the means of the metrics of the steps, named `train_…`."""
    trips, rows = data.trips, data.rows_of(epoch)
    lengths = trips.offsets[rows + 1] - trips.offsets[rows]
    optimizer = trainer.optimizer
    sums: dict[str, float] = {}
    count = 0
    batches = (rows[chosen] for chosen in bucketed_batches(lengths, trainer.config.batch_size, seed=seed, epoch=epoch))
    for chosen, prepared in trainer.ahead(trips, batches):
        metrics = trainer.step(trips, chosen, epoch, prepared)
        checkpoint.log(metrics, optimizer.steps_done)
        if trainer.context.is_main_process:
            progress("training", optimizer.steps_done, optimizer.total_steps, metrics)
        sums = {name: sums.get(name, 0.0) + value for name, value in metrics.items()}
        count += 1
    return {f"train_{name}": value / count for name, value in sums.items()}


def _stops_early(
    history: Sequence[dict[str, float]], config: StudentConfig, budget: TrainingBudget, device: torch.device
) -> bool:
    """Return whether `config.patience` ends the training before the next epoch.

    It follows from the metrics alone, so a resumed training stops after the same epoch. The decision
    of the main process applies to all: a process that trained on alone would wait for the others forever.
    """
    if config.patience is None:
        return False
    context = DistributedContext.current()
    stops = budget.allows_stop_after(len(history)) and patience_exhausted(history, config.patience, config.select_by)
    return bool(context.sum(np.array([float(stops and context.is_main_process)]), device)[0])
