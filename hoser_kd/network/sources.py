"""Where a city's data come from: a folder, the made city, or a data-set repository on Hugging Face.

Whatever the kind, what comes out is a folder in HOSER's format, and a digest by which its content is known.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from threading import Lock
from typing import Any

from tqdm import tqdm

from hoser_kd.common.errors import DataError
from hoser_kd.common.hashing import digest_file, digest_json
from hoser_kd.common.progress import Progress, silent
from hoser_kd.config.schema import SourceConfig
from hoser_kd.network.synthetic.city import make_city
from hoser_kd.network.trajectories import SPLITS
from hoser_kd.network.zones import PARTITION_FILE, TRANSITIONS_FILE

REQUIRED_FILES = ("roadmap.geo", "roadmap.rel", *(f"{split}.csv" for split in SPLITS))
OPTIONAL_FILES = (PARTITION_FILE, TRANSITIONS_FILE)


def fetch(source: SourceConfig, folder: str | PathLike[str], progress: Progress = silent) -> Path:
    """Return a folder in HOSER's format: the existing one, or one made or downloaded inside `folder`.

    Kind hoser returns `source.path` itself, nothing is copied. A download that was cut off goes on where it stopped.
    Raises DataError where files are missing or cannot be downloaded.
    """
    if source.kind == "synthetic":
        return make_city(folder, source.synthetic, progress)
    if source.kind == "huggingface":
        return _download(source, Path(folder), progress)
    place = Path(source.path or "").expanduser()
    if not place.is_dir():
        hint = "Point the config's `source.path` at a folder in HOSER's format."
        raise DataError(place, "no such folder.", hint=hint)
    _refuse_incomplete(place, "Put them there, or correct the config's `source.path`.")
    return place


def hoser_files(folder: str | PathLike[str]) -> list[Path]:
    """Return the files of HOSER's format that are in the folder, in a fixed order."""
    paths = [Path(folder) / name for name in (*REQUIRED_FILES, *OPTIONAL_FILES)]
    return [path for path in paths if path.is_file()]


def content_digest(folder: str | PathLike[str]) -> str:
    """Return the sha256 (hex) over names and contents of the files of HOSER's format; other files do not count."""
    total = hashlib.sha256()
    for path in hoser_files(folder):
        total.update(f"{path.name} {digest_file(path)}\n".encode())
    return total.hexdigest()


def raw_files_of(source: SourceConfig) -> list[Path]:
    """Return the raw files that lie outside the store: those of a folder of kind hoser, none of other kinds.

    Raises DataError where the folder is missing or incomplete.
    """
    return hoser_files(fetch(source, "")) if source.kind == "hoser" else []


def raw_version(source: SourceConfig, names: Sequence[str]) -> str:
    """Return the sha256 (hex) over those of the named raw files that are there.

    What is made or downloaded lies in the store; it is known by what says how to make or where to find it. Raises
    DataError where a folder of kind hoser is missing or incomplete.
    """
    if source.kind != "hoser":
        return digest_json(source.model_dump(mode="json", exclude={"on_bad_row"}))
    return digest_json([[path.name, digest_file(path)] for path in raw_files_of(source) if path.name in names])


def raw_signature(source: SourceConfig) -> str | None:
    """Return what changes when a raw file does, at the cost of looking at sizes and times only.

    None where files of a folder of kind hoser are missing.
    """
    try:
        states = [(path, path.stat()) for path in raw_files_of(source)]
    except (DataError, FileNotFoundError):
        return None
    return digest_json([[str(path), state.st_size, state.st_mtime_ns] for path, state in states])


def _refuse_incomplete(folder: Path, hint: str) -> None:
    missing = [name for name in REQUIRED_FILES if not (folder / name).is_file()]
    if missing:
        raise DataError(folder, f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing.", hint=hint)


def _download(source: SourceConfig, folder: Path, progress: Progress) -> Path:
    from huggingface_hub import errors, snapshot_download

    prefix = f"{source.subfolder.strip('/')}/" if source.subfolder else ""
    address = f"Hugging Face data set {source.repo_id}"
    try:
        snapshot_download(
            str(source.repo_id),
            repo_type="dataset",
            revision=source.revision,
            local_dir=folder,
            allow_patterns=[prefix + name for name in (*REQUIRED_FILES, *OPTIONAL_FILES)],
            endpoint=os.environ.get("HF_ENDPOINT") or None,
            tqdm_class=_reporting_bar(progress),
        )
    except errors.RevisionNotFoundError as error:
        raise DataError(
            address,
            f"it has no revision {source.revision}.",
            hint="Correct the config's `source.revision`, or remove it.",
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise DataError(
            address,
            "no such repository, or it is private.",
            hint="Correct the config's `source.repo_id`, or log in with `hf auth login`.",
        ) from error
    except Exception as error:  # the client's versions raise their HTTP library's own errors
        raise DataError(
            address,
            f"cannot be downloaded: {type(error).__name__}: {str(error).strip().splitlines()[0].rstrip('.')}.",
            hint="Check the connection (HF_HUB_OFFLINE, HF_ENDPOINT), or download it elsewhere and use "
            "`source.kind: hoser` with its `path`.",
        ) from error
    place = folder / prefix
    _refuse_incomplete(place, f"`source.subfolder` must name the folder of {source.repo_id} that holds them.")
    return place


def _reporting_bar(progress: Progress) -> type[tqdm[Any]]:
    """Return a progress bar class that draws nothing and reports files, with the megabytes so far."""
    lock = Lock()
    state = {"files": 0, "total": 0, "mb": 0.0}

    class ReportingBar(tqdm):  # type: ignore[misc]
        monitor_interval = 0

        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*args, **{**options, "file": io.StringIO(), "disable": False})

        def display(self, *_: Any, **__: Any) -> bool:
            return True

        def update(self, n: float | None = 1) -> bool:
            shown = bool(super().update(n))
            with lock:
                if self.unit == "B":
                    state["mb"] = max(state["mb"], self.n / 1e6)
                else:
                    state["files"], state["total"] = int(self.n), int(self.total or 0)
                progress("download", int(state["files"]), int(state["total"]), {"MB": state["mb"]})
            return shown

    return ReportingBar
