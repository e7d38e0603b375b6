"""The directory of a student's training: the best student so far, metrics, curves, and the state to resume from.

- `model.safetensors` and `model.json`: the student of the best epoch by `student.select_by`
- `history.json`: metrics of all epochs, written when the training is finished
- `tensorboard/`: curves
- `state.pt`: weights, optimizer and metrics after the last whole epoch, deleted when the training is finished. An
  interrupted training resumes from it and ends with the same weights and the same choice of epoch. It also has the
  digests of the student's files, which are compared before they are used.
- `off_path_state.pt`: the same of the fine-tuning on off-path states, which follows the training. Its last epoch then
  replaces the student of the best epoch.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hoser_kd import hoser
from hoser_kd.common.files import atomic_path
from hoser_kd.common.seals import digests_of, require_unchanged
from hoser_kd.common.training_state import TrainingState
from hoser_kd.hoser.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from hoser_kd.student.model_selection import best_epoch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from hoser_kd.common.optimizer import Optimizer
    from hoser_kd.hoser import HOSER

HISTORY_FILE = "history.json"
STATE_FILE = "state.pt"
OFF_PATH_STATE_FILE = "off_path_state.pt"
TENSORBOARD_FOLDER = "tensorboard"
_STUDENT_FILES = (WEIGHTS_FILE, CONFIG_FILE)
_IF_CHANGED = "Delete the training's folder, or pass resume=False, to train from the first epoch."


@dataclass(frozen=True)
class TrainingResult:
    """A finished training."""

    model: HOSER
    """The student of the best epoch, or of the last epoch on off-path states, in eval mode, on the CPU."""
    best_epoch: int
    """The best epoch by the rule of the settings, counted from 1."""
    history: list[dict[str, float]]
    """Metrics of each epoch: `epoch`, `train_…`, those of `evaluate_student` on the validation trips, and
    `generation_…` if the settings generate validation trips."""
    folder: Path
    """The training's directory."""
    off_path: list[dict[str, float]] = field(default_factory=list)
    """The same metrics of each epoch on off-path states, with sizes and seconds; empty without them."""

    @property
    def best(self) -> dict[str, float]:
        """Metrics of the student: those of the best epoch, or of the last epoch on off-path states."""
        return self.off_path[-1] if self.off_path else self.history[self.best_epoch - 1]


def read_result(folder: Path) -> TrainingResult:
    """Return the result of a finished training from its folder. Raises StoreError if the student has changed since."""
    record = json.loads((folder / HISTORY_FILE).read_text(encoding="utf-8"))
    require_unchanged(folder, record.get("files", {}), _IF_CHANGED)
    history, off_path = record["history"], record.get("off_path", [])
    return TrainingResult(hoser.load(folder), record["best_epoch"], history, folder, off_path)


def key_of(folder: Path) -> str:
    """Return the digest of settings, data and seed of the finished training in a folder."""
    return str(json.loads((folder / HISTORY_FILE).read_text(encoding="utf-8"))["key"])


@dataclass
class TrainingCheckpoint:
    """Reads and writes the directory of one training; every file is replaced atomically."""

    path: Path
    key: str
    """Digest of settings, data and seed, which state and result carry."""
    history: list[dict[str, float]] = field(default_factory=list)
    """Metrics of the epochs so far."""
    off_path: list[dict[str, float]] = field(default_factory=list)
    """Metrics of the epochs on off-path states so far."""
    select_by: str = "nll"
    """The rule of `hoser_kd.student.model_selection` that chooses the epoch to keep."""
    writes: bool = True
    """False in all but the main process of a distributed training."""
    files: dict[str, str] = field(default_factory=dict)
    """Digests of the saved student's files, by name."""
    _writer: Any = None

    @property
    def best_epoch(self) -> int:
        """The best epoch, counted from 1."""
        return best_epoch(self.history, self.select_by)

    @property
    def _state(self) -> TrainingState:
        return TrainingState(self.path / STATE_FILE, self.key)

    @property
    def _off_path_state(self) -> TrainingState:
        return TrainingState(self.path / OFF_PATH_STATE_FILE, self.key)

    def clear(self) -> None:
        """Delete state and result, so that the training starts from the first epoch."""
        self._state.clear()
        self._off_path_state.clear()
        (self.path / HISTORY_FILE).unlink(missing_ok=True)

    def finished(self) -> TrainingResult | None:
        """Return the result in the directory, or None; raises StoreError if it belongs to another training."""
        file = self.path / HISTORY_FILE
        if not file.is_file():
            return None
        self._state.refuse_foreign(file, key_of(self.path))
        return read_result(self.path)

    def restore(self, model: HOSER, optimizer: Optimizer) -> None:
        """Resume from the state in the directory, if there is one.

        Raises StoreError if it is damaged or belongs to another training.
        """

        def apply(content: dict[str, Any]) -> None:
            model.load_state_dict(content["model"])
            optimizer.load_state_dict(content["optimizer"])
            self.history = content["history"]
            self.files = content.get("files", {})

        self._state.restore(apply)

    def start_from(self, finished: TrainingResult) -> None:
        """Take over the history and the student of a finished training in another folder."""
        self.history = list(finished.history)
        if self.writes:
            self.keep(finished.model)

    def restore_off_path(self, model: HOSER, optimizer: Optimizer) -> None:
        """Load the state after the last whole epoch on off-path states, or the student of the best epoch."""

        def apply(content: dict[str, Any]) -> bool:
            model.load_state_dict(content["model"])
            optimizer.load_state_dict(content["optimizer"])
            self.off_path = content["off_path"]
            return True

        if not self._off_path_state.restore(apply):
            require_unchanged(self.path, self.files, _IF_CHANGED)
            model.load_state_dict(hoser.load(self.path).state_dict())

    def log(self, metrics: Mapping[str, float], step: int, group: str = "step") -> None:
        """Add metrics to the TensorBoard curves."""
        if not self.writes:
            return
        if self._writer is None:
            with warnings.catch_warnings():
                # TensorBoard's own imports warn
                warnings.simplefilter("ignore")
                from torch.utils.tensorboard import SummaryWriter

                # discards the points of steps that an interrupted training repeats
                self._writer = SummaryWriter(str(self.path / TENSORBOARD_FOLDER), purge_step=step)
        for name, value in metrics.items():
            self._writer.add_scalar(f"{group}/{name}", value, step)

    def finish_epoch(self, model: HOSER, optimizer: Optimizer, metrics: dict[str, float]) -> None:
        """Save the student if it is the best so far, then the state."""
        self.history.append(metrics)
        if not self.writes:
            return
        self.log(metrics, optimizer.steps_done, "epoch")
        if self.best_epoch == len(self.history):
            self.keep(model)
        content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "history": self.history}
        self._state.save({**content, "files": self.files})

    def finish_off_path_epoch(self, model: HOSER, optimizer: Optimizer, metrics: dict[str, float]) -> None:
        """Save the state after an epoch on off-path states; the student of the best epoch stays."""
        self.off_path.append(metrics)
        self.log(metrics, optimizer.steps_done, "off_path")
        content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "off_path": self.off_path}
        self._off_path_state.save(content)

    def keep(self, model: HOSER) -> None:
        """Replace the student of the best epoch. The state stays, so that an interruption repeats no epoch."""
        hoser.save(model, self.path)
        self.files = digests_of(self.path, _STUDENT_FILES)

    def finish(self) -> None:
        """Write the history and delete the states. Raises StoreError if the student has changed since it was saved."""
        if not self.writes:
            return
        require_unchanged(self.path, self.files, _IF_CHANGED)
        if self._writer is not None:
            self._writer.close()
        record: dict[str, Any] = {"key": self.key, "best_epoch": self.best_epoch, "history": self.history}
        record["files"] = self.files
        if self.off_path:
            record["off_path"] = self.off_path
        with atomic_path(self.path / HISTORY_FILE) as beside:
            beside.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        self._state.clear()
        self._off_path_state.clear()
