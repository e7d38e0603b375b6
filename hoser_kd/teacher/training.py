"""Train a teacher on token sequences with the published recipe, scaled by the settings.

AdamW with weight decay on matrices only, linear warm-up and cosine decay over the whole run, gradient clipping. There
are two differences: the weights of the best validation loss are kept, not the last ones, and an interrupted run resumes
after its last complete epoch and ends with the same weights (exactly on a CPU, since order and dropout of an epoch
depend on seed and epoch number only).

Several processes can train together, as for a student (`hoser_kd.common.distributed`): each takes its share of every
batch. The main one writes.

The folder holds `model.safetensors` and `config.json` (the best epoch), `history.json`, `tensorboard/`, and
`training_state.pt` (weights and optimizer state of the last epoch, while the run is not finished).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from hoser_kd.common.arrays import Int64Array
from hoser_kd.common.device import pick_device
from hoser_kd.common.distributed import DistributedContext
from hoser_kd.common.errors import TrainingError
from hoser_kd.common.files import atomic_path
from hoser_kd.common.hashing import digest_arrays, digest_json
from hoser_kd.common.optimizer import Optimizer
from hoser_kd.common.progress import Progress, silent
from hoser_kd.common.seals import digests_of, require_unchanged
from hoser_kd.common.training_state import TrainingState
from hoser_kd.config.section import execution_only_fields
from hoser_kd.config.teacher import TeacherConfig
from hoser_kd.lmtad import LMTAD, LMTADCheckpoint, LMTADConfig, load_checkpoint, save
from hoser_kd.lmtad.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from hoser_kd.teacher.corpus import Corpus, check_corpus, length_batches

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

PRESETS = {"tiny": (2, 2, 64), "small": (4, 4, 256), "published": (8, 12, 768)}
"""Layers, heads and width by name."""

STATE_FILE, HISTORY_FILE, TENSORBOARD_FOLDER = "training_state.pt", "history.json", "tensorboard"

_BETA1 = 0.9
_VALIDATION_BATCH = 64
_LOG_EVERY_STEPS = 10
"""Steps between two points of the curves by step."""

Metrics = dict[str, float]


@dataclass(frozen=True)
class TeacherTraining:
    """A finished training."""

    checkpoint: LMTADCheckpoint
    """The teacher of the best epoch, on the CPU."""
    history: list[Metrics]
    """One row per epoch: epoch (from 1), step, train_loss, val_loss, val_perplexity, learning_rate, tokens_per_s."""
    best_epoch: int
    """The epoch with the lowest validation loss, whose weights are kept."""
    best_val_loss: float
    """Its mean negative log-likelihood of the validation sequences, in nats per token."""
    stopped_early: bool
    """Whether the run ended before `max_epochs` by `patience`."""
    folder: Path
    """The folder of the run."""


@dataclass
class _State:
    """State between epochs besides weights and optimizer state."""

    epoch: int = 0
    best_epoch: int = 0
    best_val_loss: float = math.inf
    finished: bool = False
    history: list[Metrics] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    """Digests of the saved teacher's files, by name."""


def train(
    corpus_train: Corpus,
    corpus_val: Corpus,
    vocab_size: int,
    config: TeacherConfig,
    folder: str | PathLike[str],
    device: torch.device | str = "auto",
    progress: Progress = silent,
    resume: bool = True,
    *,
    on_epoch: Callable[[Metrics], object] | None = None,
    dataset_config: Mapping[str, Any] | None = None,
) -> TeacherTraining:
    """Train a teacher and save its best epoch in `folder`.

    Corpora are ragged tokens without specials, all below `vocab_size` - 3. `dataset_config` is stored in the checkpoint
    (grid, bounds). A run whose folder holds a state resumes from it, or returns its result if it is finished;
    resume=False deletes the state first. `on_epoch` is called with each new row of the history.

    Under `torchrun`, with an initialized process group, every process calls this with the same arguments; the main
    process writes and calls `progress` and `on_epoch`. The result equals that of one process up to the rounding of sums
    and the random numbers of dropout.

    Raises TrainingError if a sequence cannot be used or a loss is not finite, StoreError if the state or the teacher in
    the folder is damaged or belongs to a run with other settings, data or seed, ConfigError if the device is missing.
    """
    corpora = Corpus(*corpus_train), Corpus(*corpus_val)
    run = _Run(
        _model_config(*corpora, vocab_size, config),
        config,
        corpora,
        Path(folder),
        pick_device(str(device)),
        progress,
        dict(dataset_config or {}),
    )
    devices = [run.device] if run.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        state = run.start(resume)
        if not state.finished:
            with run.tensorboard(state) as board:
                while not state.finished:
                    row = run.epoch(state, board)
                    if on_epoch is not None and run.context.is_main_process:
                        on_epoch(row)
    if run.context.is_main_process:
        require_unchanged(
            run.folder, state.files, "Delete the training's folder, or pass resume=False, to train again."
        )
    run.report(run.total_steps, {"val_loss": state.best_val_loss})
    run.context.wait()
    return read_training(run.folder, config)


def read_training(folder: Path, config: TeacherConfig) -> TeacherTraining:
    """Return the result of a finished training from its folder."""
    history: list[Metrics] = json.loads((folder / HISTORY_FILE).read_text(encoding="utf-8"))
    best = min(history, key=lambda row: row["val_loss"])
    return TeacherTraining(
        load_checkpoint(folder),
        history,
        int(best["epoch"]),
        best["val_loss"],
        len(history) < config.max_epochs,
        folder,
    )


def _model_config(train: Corpus, val: Corpus, vocab_size: int, config: TeacherConfig) -> LMTADConfig:
    for corpus, name in ((train, "training"), (val, "validation")):
        if corpus.num_sequences == 0:
            raise TrainingError(f"there are no {name} sequences. The {name} split needs at least one trip.")
        check_corpus(corpus, vocab_size, config.block_size, name, config.frame)
    layers, heads, width = PRESETS[config.preset]
    longest = int(max(train.lengths.max(), val.lengths.max()))
    return LMTADConfig(
        block_size=config.block_size or longest + config.frame,
        vocab_size=vocab_size,
        n_layer=config.n_layer or layers,
        n_head=config.n_head or heads,
        n_embd=config.n_embd or width,
        dropout=config.dropout,
        destination_prefix=config.destination_prefix,
    )


class _Run:
    """One training run: model, optimizer, data, and the loop over one epoch."""

    def __init__(
        self,
        shape: LMTADConfig,
        config: TeacherConfig,
        corpora: tuple[Corpus, Corpus],
        folder: Path,
        device: torch.device,
        progress: Progress,
        dataset_config: dict[str, Any],
    ) -> None:
        self.shape, self.config, self.folder, self.device = shape, config, folder, device
        self.train, self.val = corpora
        self.progress, self.dataset_config = progress, dataset_config
        self.context = DistributedContext.current()
        self.total_steps = config.max_epochs * -(-self.train.num_sequences // config.batch_size)

    def start(self, resume: bool) -> _State:
        """Build model and optimizer, and restore the state in the folder unless `resume` is false."""
        torch.manual_seed(_seed(self.config.seed, 0))
        self.model = LMTAD(self.shape).to(self.device)
        if self.config.compile:
            # The loss is left out: its data-dependent selection of rows cannot be compiled.
            self.model.hidden = torch.compile(self.model.hidden, dynamic=True)  # type: ignore[method-assign]
        matrices = [p for p in self.model.parameters() if p.dim() >= 2]
        vectors = [p for p in self.model.parameters() if p.dim() < 2]
        self._loss = self.context.replica(_Loss(self.model))
        config = self.config
        self.optimizer = Optimizer(
            [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            total_steps=self.total_steps,
            warmup_ratio=config.warmup_ratio,
            max_norm=config.max_norm,
            precision=config.precision,
            device=self.device,
            betas=(_BETA1, config.beta2),
            floor=min(config.min_learning_rate / config.learning_rate, 1.0),
        )
        key = digest_json(
            {
                "shape": self.shape.fields(),
                "settings": self.config.model_dump(mode="json", exclude=set(execution_only_fields(TeacherConfig))),
                "corpora": digest_arrays(*self.train, *self.val),
                "dataset": digest_json(self.dataset_config),
            }
        )
        self.state_file = TrainingState(self.folder / STATE_FILE, key)
        if not resume and self.context.is_main_process:
            self.state_file.clear()
        self.context.wait()
        return self.state_file.restore(self._restore) or _State()

    def report(self, step: int, metrics: Metrics) -> None:
        """Report the progress of the main process."""
        if self.context.is_main_process:
            self.progress("teacher", step, self.total_steps, metrics)

    def epoch(self, state: _State, board: SummaryWriter | _NoBoard) -> Metrics:
        """Train and validate one epoch, save the weights if they are the best, and save the state."""
        seed = _seed(self.config.seed, state.epoch + 1)
        # dropout differs between processes
        torch.manual_seed(seed + self.context.rank)
        row = self._train(np.random.default_rng(seed), state.epoch + 1, board)
        val_loss = self._validate()
        state.epoch += 1
        row |= {"val_loss": val_loss, "val_perplexity": math.exp(min(val_loss, 700.0))}
        state.history.append(row)
        for name, value in row.items():
            board.add_scalar(f"epoch/{name}", value, int(row["step"]))
        board.flush()
        if val_loss < state.best_val_loss:
            state.best_val_loss, state.best_epoch = val_loss, state.epoch
            if self.context.is_main_process:
                save(LMTADCheckpoint(self.model, self.shape, self.dataset_config), self.folder)
                state.files = digests_of(self.folder, (WEIGHTS_FILE, CONFIG_FILE))
        epochs_without_gain = state.epoch - state.best_epoch
        state.finished = state.epoch == self.config.max_epochs or epochs_without_gain >= self.config.patience
        if self.context.is_main_process:
            self._save(state)
        return row

    @contextmanager
    def tensorboard(self, state: _State) -> Iterator[SummaryWriter | _NoBoard]:
        """Yield a writer that discards the points of steps after the last complete epoch."""
        if not self.context.is_main_process:
            yield _NoBoard()
            return
        from torch.utils.tensorboard import SummaryWriter

        steps = int(state.history[-1]["step"]) if state.history else 0
        writer = SummaryWriter(str(self.folder / TENSORBOARD_FOLDER), purge_step=steps + 1 if steps else None)
        try:
            yield writer
        finally:
            writer.close()

    def _train(self, rng: np.random.Generator, epoch: int, board: SummaryWriter | _NoBoard) -> Metrics:
        """Make the steps of one epoch; return its training metrics."""
        self.model.train()
        started, nats, count, rate = time.perf_counter(), 0.0, 0, 0.0
        for rows in length_batches(self.train.lengths, self.config.batch_size, rng):
            loss, rate = self.step(rows, epoch)
            tokens = self._tokens(rows)
            nats, count = nats + loss * tokens, count + tokens
            step = self.optimizer.steps_done
            if step % _LOG_EVERY_STEPS == 0:
                board.add_scalar("step/train_loss", loss, step)
                board.add_scalar("step/learning_rate", rate, step)
            self.report(min(step, self.total_steps - 1), {"train_loss": loss})
        return {
            "epoch": epoch,
            "step": self.optimizer.steps_done,
            "train_loss": nats / count,
            "learning_rate": rate,
            "tokens_per_s": count / (time.perf_counter() - started),
        }

    def step(self, rows: Int64Array, epoch: int) -> tuple[float, float]:
        """Make one optimizer step; return its loss and learning rate."""
        own = self.context.share(rows)
        # a process without sequences still takes part in averaging the gradients
        part = own if len(own) else rows[:1]
        with self.optimizer.autocast():
            loss = self._loss(torch.from_numpy(self.train.batch(part, self.shape)).to(self.device))
        if self.context.size > 1:
            loss = loss * (self._tokens(own) / self._tokens(rows))
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(
                f"the teacher's loss is {value} in epoch {epoch}, step {self.optimizer.steps_done + 1}, on training "
                f"sequences {rows[:8].tolist()}{' …' if len(rows) > 8 else ''}. Lower `teacher.learning_rate`, or "
                "train with `teacher.precision: fp32`."
            )
        # DistributedDataParallel averages gradients over the processes; here their sum is needed
        self.optimizer.backward(loss * self.context.size if self.context.size > 1 else loss)
        rate = self.optimizer.step().learning_rate
        return float(self.context.sum(np.array([value]), self.device)[0]), rate

    def _tokens(self, rows: Int64Array) -> int:
        """Return the number of predicted tokens of these sequences."""
        return int(self.train.lengths[rows].sum()) + len(rows)

    @torch.no_grad()
    def _validate(self) -> float:
        """Return the mean negative log-likelihood of the validation sequences, in nats per token."""
        self.model.eval()
        nats = 0.0
        batches = list(length_batches(self.val.lengths, _VALIDATION_BATCH))
        for rows in batches[self.context.rank :: self.context.size]:
            with self.optimizer.autocast():
                tokens_BT = torch.from_numpy(self.val.batch(rows, self.shape)).to(self.device)
                nats += float(self.model.token_nll(tokens_BT).sum(dtype=torch.float64))
        nats = float(self.context.sum(np.array([nats]), self.device)[0])
        loss = nats / (len(self.val.tokens) + self.val.num_sequences)
        if not math.isfinite(loss):
            raise TrainingError(f"the teacher's validation loss is {loss}. Lower `teacher.learning_rate`.")
        return loss

    def _save(self, state: _State) -> None:
        content: dict[str, Any] = {"state": asdict(state)}
        if not state.finished:
            content |= {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        with atomic_path(self.folder / HISTORY_FILE) as file:
            file.write_text(json.dumps(state.history, indent=1) + "\n", encoding="utf-8")
        self.state_file.save(content)

    def _restore(self, content: dict[str, Any]) -> _State:
        state = _State(**content["state"])
        if not state.finished:
            self.model.load_state_dict(content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
        return state


class _Loss(nn.Module):
    """The training loss as a module, because DistributedDataParallel wraps `forward`."""

    def __init__(self, model: LMTAD) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        return self.model.loss(tokens_BT)


class _NoBoard:
    """Curves of a process that does not write."""

    def add_scalar(self, *_: object) -> None:
        """Discard a point."""

    def flush(self) -> None:
        """Do nothing."""


def _seed(seed: int, epoch: int) -> int:
    return int(digest_json([seed, epoch])[:15], 16)
