"""Load a teacher: the public name of `load_checkpoint`, with a check of its argument."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from hoser_kd.common.errors import CheckpointError
from hoser_kd.lmtad.checkpoint import CONFIG_FILE, WEIGHTS_FILE, LMTADCheckpoint, load_checkpoint


def load_teacher(path: str | PathLike[str]) -> LMTADCheckpoint:
    """Load any LM-TAD file or a teacher's folder, in eval mode, on the CPU; see `load_checkpoint`.

    Raises TypeError if `path` is no path, CheckpointError if there is no readable teacher.
    """
    if not isinstance(path, str | PathLike):
        raise TypeError(f"path is of type {type(path).__name__}, not a path. Call load_teacher(path).")
    folder = Path(path)
    if folder.is_dir() and not (folder / CONFIG_FILE).is_file() and (folder / "model.json").is_file():
        raise CheckpointError(
            f"{folder}: no {CONFIG_FILE} beside {WEIGHTS_FILE}. It looks like a student: load_student({str(path)!r})."
        )
    return load_checkpoint(path)
