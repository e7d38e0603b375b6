"""Number of epochs and steps of a training, and warnings about a training that did not reach its optimum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hoser_kd.config.student import StudentConfig

MIN_STEPS_PER_EPOCH = 10
"""With fewer steps in an epoch, epochs are too coarse to select from and the training has few steps in all."""


@dataclass(frozen=True)
class TrainingBudget:
    """Number of trips, epochs and optimizer steps of a training."""

    num_trips: int
    """Training trips of the student, a share `student.train_fraction` of all, without synthetic trips."""
    steps_per_epoch: int
    """Optimizer steps per epoch."""
    num_epochs: int
    """Epochs of the learning-rate schedule; early stopping may end the training before."""
    min_steps: int
    """Early stopping needs at least this many steps."""

    @classmethod
    def of(cls, config: StudentConfig, num_train_trips: int, num_synthetic: int = 0) -> TrainingBudget:
        """Return the budget of a student, given the number of all training trips of the city.

        Each of the `num_synthetic` trips sampled from the teacher is trained on once in an epoch, like the student's
        own trips, so `min_steps` gives about the same number of steps with and without them.
        """
        num_trips = max(1, round(config.train_fraction * num_train_trips))
        steps_per_epoch = _ceil_divide(num_trips + num_synthetic, config.batch_size)
        min_steps = config.min_steps or 0
        return cls(
            num_trips, steps_per_epoch, max(config.max_epochs, _ceil_divide(min_steps, steps_per_epoch)), min_steps
        )

    @property
    def total_steps(self) -> int:
        """Optimizer steps of all epochs."""
        return self.num_epochs * self.steps_per_epoch

    def allows_stop_after(self, epochs: int) -> bool:
        """Return whether early stopping may end the training after this many epochs."""
        return epochs * self.steps_per_epoch >= self.min_steps


def training_warnings(
    config: StudentConfig, num_train_trips: int, num_epochs_trained: int, best_epoch: int, num_synthetic: int = 0
) -> list[dict[str, Any]]:
    """Return why a finished training may not have reached its optimum; empty if there is no sign of it.

    `best_epoch` is counted from 1. Each entry has `kind` (`few_steps_per_epoch`, `best_epoch_in_warmup` or
    `last_epoch_is_best`), `message`, which ends with the setting to change, and the numbers behind it.
    """
    budget = TrainingBudget.of(config, num_train_trips, num_synthetic)
    return [
        *_few_steps(config, budget, num_synthetic),
        *_best_in_warmup(config, budget, best_epoch),
        *_last_is_best(config, budget, num_epochs_trained, best_epoch),
    ]


def _few_steps(config: StudentConfig, budget: TrainingBudget, num_synthetic: int) -> Iterator[dict[str, Any]]:
    steps, trips = budget.steps_per_epoch, budget.num_trips + num_synthetic
    if steps >= MIN_STEPS_PER_EPOCH:
        return
    largest = trips // MIN_STEPS_PER_EPOCH
    yield {
        "kind": "few_steps_per_epoch",
        "message": f"An epoch has fewer than {MIN_STEPS_PER_EPOCH} optimizer steps: {steps} for {trips} training trips "
        f"in batches of {config.batch_size}. "
        + (f"Set `student.batch_size` to {largest} or less." if largest else "Use more training trips."),
        "steps_per_epoch": steps,
        "train_trips": trips,
    }


def _best_in_warmup(config: StudentConfig, budget: TrainingBudget, best_epoch: int) -> Iterator[dict[str, Any]]:
    """Yield a warning if the best epoch ends before the learning rate reaches its peak."""
    warmup_epochs = config.warmup_ratio * budget.num_epochs
    if best_epoch > warmup_epochs:
        return
    hint = (
        "Lower `student.learning_rate` or `student.warmup_ratio`."
        if config.select_by == "nll"
        else "Set `student.select_by: nll`, or lower `student.learning_rate`."
    )
    yield {
        "kind": "best_epoch_in_warmup",
        "message": f"The best epoch by {config.select_by}, {best_epoch}, lies in the warm-up of the learning rate, "
        f"which lasts {warmup_epochs:g} of {budget.num_epochs} epochs. {hint}",
        "best_epoch": best_epoch,
        "warmup_epochs": warmup_epochs,
    }


def _last_is_best(
    config: StudentConfig, budget: TrainingBudget, num_epochs_trained: int, best_epoch: int
) -> Iterator[dict[str, Any]]:
    if best_epoch < num_epochs_trained:
        return
    setting = "min_steps" if budget.num_epochs > config.max_epochs else "max_epochs"
    yield {
        "kind": "last_epoch_is_best",
        "message": f"The last epoch, {best_epoch}, is the best by {config.select_by}: training stopped too early. "
        f"Raise `student.{setting}`.",
        "best_epoch": best_epoch,
    }


def _ceil_divide(count: int, by: int) -> int:
    return -(-count // by)
