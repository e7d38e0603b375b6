"""The folder of a student's training: the best student so far, figures, curves, and the state to go on from.

`model.safetensors` and `model.json` are the student of the best epoch by `student.select_by`, `history.json` the
figures of all epochs of a finished training, `tensorboard/` the curves. `state.pt` exists while a training is under
way, the figures of its epochs included: a killed one goes on from it to the weights and the choice it would have had.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from hoser_kd import hoser
from hoser_kd.common.errors import CheckpointError, StoreError
from hoser_kd.common.files import atomic_path
from hoser_kd.hoser.checkpoint import read_tensors
from hoser_kd.student.model_selection import best_epoch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from hoser_kd.common.optimizer import Optimizer
    from hoser_kd.hoser import HOSER

HISTORY_FILE = "history.json"
STATE_FILE = "state.pt"
TENSORBOARD_FOLDER = "tensorboard"


@dataclass(frozen=True)
class TrainingResult:
    """A finished training."""

    model: HOSER
    """The student of the best epoch, in eval mode, on the CPU."""
    best_epoch: int
    """The best epoch by the rule of the settings, the first of equals, counted from 1."""
    history: list[dict[str, float]]
    """Figures of each epoch: `epoch`, `train_…`, those of `evaluate_student` on the validation trips, and
    `generation_…` where trips were generated for some of them."""
    folder: Path
    """Where it is kept."""

    @property
    def best(self) -> dict[str, float]:
        """Figures of the best epoch."""
        return self.history[self.best_epoch - 1]


def read_result(folder: Path) -> TrainingResult:
    """Return the result of a finished training from its folder."""
    record = json.loads((folder / HISTORY_FILE).read_text(encoding="utf-8"))
    return TrainingResult(hoser.load(folder), record["best_epoch"], record["history"], folder)


@dataclass
class TrainingCheckpoint:
    """What a training writes, each file whole or not at all."""

    path: Path
    key: str
    """Digest of settings, data and seed: whose state and result these are."""
    history: list[dict[str, float]] = field(default_factory=list)
    """Figures of the epochs so far."""
    select_by: str = "accuracy"
    """What the epoch that is kept is best by, a rule of `hoser_kd.student.model_selection`."""
    writes: bool = True
    """Of processes that train together, only the first one writes."""
    _writer: Any = None

    @property
    def best_epoch(self) -> int:
        """Counted from 1; the first of equals."""
        return best_epoch(self.history, self.select_by)

    def clear(self) -> None:
        """Forget state and result, so that the training starts anew."""
        (self.path / STATE_FILE).unlink(missing_ok=True)
        (self.path / HISTORY_FILE).unlink(missing_ok=True)

    def finished(self) -> TrainingResult | None:
        """Return the result in the folder, None where there is none; raises StoreError if it is another's."""
        file = self.path / HISTORY_FILE
        if not file.is_file():
            return None
        record = json.loads(file.read_text(encoding="utf-8"))
        self._refuse_foreign(record["key"], file)
        return read_result(self.path)

    def restore(self, model: HOSER, optimizer: Optimizer) -> None:
        """Go on from the state in the folder, if there is one; raises StoreError if it is another's."""
        file = self.path / STATE_FILE
        if not file.is_file():
            return
        try:
            state = read_tensors(file)
        except CheckpointError as error:
            raise StoreError(f"{error} Delete it to train anew.") from None
        self._refuse_foreign(state["key"], file)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        self.history = state["history"]

    def log(self, figures: Mapping[str, float], step: int, group: str = "step") -> None:
        """Draw figures in TensorBoard."""
        if not self.writes:
            return
        if self._writer is None:
            with warnings.catch_warnings():
                # what TensorBoard imports is not ours to mend
                warnings.simplefilter("ignore")
                from torch.utils.tensorboard import SummaryWriter

                # curves of steps that a killed run made after its last state are drawn once only
                self._writer = SummaryWriter(str(self.path / TENSORBOARD_FOLDER), purge_step=step)
        for name, value in figures.items():
            self._writer.add_scalar(f"{group}/{name}", value, step)

    def finish_epoch(self, model: HOSER, optimizer: Optimizer, figures: dict[str, float]) -> None:
        """Keep the student if it is the best so far, then the state to go on from."""
        self.history.append(figures)
        if not self.writes:
            return
        self.log(figures, optimizer.steps_done, "epoch")
        if self.best_epoch == len(self.history):
            hoser.save(model, self.path)
        with atomic_path(self.path / STATE_FILE) as beside:
            torch.save(
                {
                    "key": self.key,
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "history": self.history,
                },
                beside,
            )

    def finish(self) -> None:
        """Write the history and drop the state."""
        if not self.writes:
            return
        if self._writer is not None:
            self._writer.close()
        record = {"key": self.key, "best_epoch": self.best_epoch, "history": self.history}
        with atomic_path(self.path / HISTORY_FILE) as beside:
            beside.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        (self.path / STATE_FILE).unlink(missing_ok=True)

    def _refuse_foreign(self, key: str, file: Path) -> None:
        if key != self.key:
            raise StoreError(
                f"{file}: from a training with other settings, data or seed. "
                "Train into another folder, or anew with resume=False."
            )
