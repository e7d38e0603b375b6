"""The state from which an interrupted training run resumes, saved after each epoch.

A state file carries the key of its run, a digest of settings, data and seed. A run resumes only from a state with its
own key. Any other state is refused, never overwritten: it may hold hours of another training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from hoser_kd.common.errors import CheckpointError, StoreError
from hoser_kd.common.files import atomic_path
from hoser_kd.common.tensor_files import read_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_KEY = "key"
_IF_DAMAGED = "Delete it, or pass resume=False, to train from the first epoch."
_IF_FOREIGN = "Train into another folder, or pass resume=False to delete it and train from the first epoch."

T = TypeVar("T")


@dataclass(frozen=True)
class TrainingState:
    """The state file of one training run."""

    path: Path
    key: str
    """Digest of the run's settings, data and seed."""

    def save(self, content: Mapping[str, Any]) -> None:
        """Replace the file atomically. `content` holds tensors and plain containers, as `state_dict()` returns them."""
        with atomic_path(self.path) as beside:
            torch.save({_KEY: self.key, **content}, beside)

    def restore(self, apply: Callable[[dict[str, Any]], T]) -> T | None:
        """Return `apply(content)` of the saved content, or None if there is no state file.

        Raises StoreError if the file is damaged, belongs to another run, or `apply` cannot use its content.
        """
        if not self.path.is_file():
            return None
        try:
            content = read_tensors(self.path)
        except CheckpointError:
            raise StoreError(f"{self.path}: damaged, or not a training state. {_IF_DAMAGED}") from None
        self.refuse_foreign(self.path, content.get(_KEY) if isinstance(content, dict) else None)
        try:
            return apply(content)
        except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"{self.path}: damaged training state ({type(error).__name__}). {_IF_DAMAGED}") from None

    def refuse_foreign(self, file: Path, key: object) -> None:
        """Raise StoreError if `key`, found in `file`, is not the key of this run."""
        if key != self.key:
            raise StoreError(f"{file}: from a training run with other settings, data or seed. {_IF_FOREIGN}")

    def clear(self) -> None:
        """Delete the file, so that the run starts over."""
        self.path.unlink(missing_ok=True)
