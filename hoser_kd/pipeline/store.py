"""The artifact store: one folder per version of each stage's result, with a record beside the files.

    <root>/<city>/<stage>[/seed-<n>]/<version>/...files, artifact.json

A version is a digest of everything the result depends on. A finished folder is never written again, so a killed run
leaves all earlier versions intact. Work in progress is in `<root>/.work/` under the same version, locked by the process
that writes it; the next run of the same version resumes from it.

The root is a folder or an fsspec address (`s3://bucket/prefix`). A remote artifact is copied to a local cache when
it is first read, because stages map their files into memory.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock
from upath import UPath

from hoser_kd.common.errors import StoreError

RECORD = "artifact.json"
_RENAMED_KEYS = {
    "all_apart": "all_distinguishable_share",
    "label_apart": "label_distinguishable_share",
    "guess": "uniform_loss",
    "least_half_a_cell_off": "min_loss_half_cell",
    "can_tell": "is_conclusive",
}
"""New names of keys of the summary. Records that were written before are read under the new names, so that a renamed
key does not cost a new teacher."""


@dataclass(frozen=True)
class Artifact:
    """One version of a stage's result."""

    stage: str
    """Name of the stage, such as `teacher_soft_labels`."""
    city: str
    """Name of the city."""
    seed: int | None
    """Seed of a student and of the artifacts that depend on it; None for stages with one artifact per city."""
    version: str
    """Digest of everything the result depends on."""
    path: Path
    """Local folder of the files."""
    code_version: str = ""
    """Version of the stage's own code."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Versions of the inputs, by `stage` or `stage/seed-<n>`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """All settings that the stage read, defaults included."""
    created_at: str = ""
    """Time of materialization, UTC."""
    seconds: float = 0.0
    """Duration of the computation in seconds."""
    summary: Mapping[str, Any] = field(default_factory=dict)
    """Metrics for people: numbers, texts, and lists and dicts of them."""
    files: Mapping[str, int] = field(default_factory=dict)
    """Bytes of each file, by its path in the folder; an artifact is complete if all exist with these sizes."""

    def integrity_error(self) -> str | None:
        """Return which file is missing or truncated; None if the artifact is complete."""
        for name, size in self.files.items():
            file = self.path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != size:
                return f"{name} has {file.stat().st_size} bytes instead of {size}"
        return None

    @property
    def name(self) -> str:
        """Return `stage`, or `stage/seed-<n>`."""
        return _name(self.stage, self.seed)

    @property
    def size_bytes(self) -> int:
        """Return the bytes of all files together."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())


def _name(stage: str, seed: int | None) -> str:
    return stage if seed is None else f"{stage}/seed-{seed}"


class Store:
    """Reads and writes artifacts below one root."""

    def __init__(self, root: str | os.PathLike[str], cache: str | os.PathLike[str] | None = None) -> None:
        """Open a store; `cache` is the local folder for copies and work in progress of a remote root.

        Raises:
            StoreError: the protocol of the address is unknown, its package is not installed, or it cannot be reached.
        """
        try:
            self.root = UPath(root)
            self.root.fs  # noqa: B018  loads the package of the address's file system
        except ImportError as error:
            raise StoreError(f"{root}: {error}. Install that package into the same environment with pip.") from None
        except (ValueError, OSError) as error:
            raise StoreError(
                f"{root}: cannot be opened as a store ({error}). Set HOSER_KD_STORE or --store to a folder, or to an "
                "address that fsspec supports, such as s3://bucket/prefix."
            ) from None
        self._is_local = self.root.protocol in ("", "file", "local")
        if self._is_local:
            self._local = Path(self.root.path).absolute()
        else:
            self._local = Path(cache or Path(tempfile.gettempdir()) / "hoser-kd-cache")

    @property
    def local_root(self) -> Path:
        """Return the folder of the store, or that of the local copies of a remote one."""
        return self._local

    def find(self, stage: str, city: str, version: str, seed: int | None = None) -> Artifact | None:
        """Return the artifact of this version; None if there is none, or if a file of it is missing or truncated."""
        relative = Path(city) / _name(stage, seed) / version
        local = self._local / relative
        if not (local / RECORD).is_file():
            if self._is_local or not (self.root / relative.as_posix() / RECORD).is_file():
                return None
            self._download(relative)
        artifact = read_artifact(local)
        return artifact if artifact.integrity_error() is None else None

    def open(self, stage: str, city: str, version: str, seed: int | None = None) -> Artifact:
        """Return the artifact of this version. Raises StoreError if there is none."""
        artifact = self.find(stage, city, version, seed)
        if artifact is None:
            local = self._local / city / _name(stage, seed) / version
            damaged = (local / RECORD).is_file()
            problem = f"is damaged: {read_artifact(local).integrity_error()}" if damaged else "does not exist"
            raise StoreError(
                f"{self.root}: version {version} of {city}/{_name(stage, seed)} {problem}. Materialize "
                f"{stage} again for {city}, or set HOSER_KD_STORE to the store that has it."
            )
        return artifact

    @contextmanager
    def work_folder(self, stage: str, city: str, version: str, seed: int | None = None) -> Iterator[Path]:
        """Provide the work folder of this version to one process at a time; others wait.

        It still holds the files of an interrupted run of the same version.

        Raises:
            StoreError: the folder cannot be created.
        """
        folder = self._local / ".work" / city / _name(stage, seed) / version
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{self.root}: cannot be written ({error.strerror}: {error.filename}). Set "
                "HOSER_KD_STORE or --store to a writable folder."
            ) from None
        with FileLock(f"{folder}.lock"):
            folder.mkdir(parents=True, exist_ok=True)
            yield folder

    def commit(self, folder: Path, artifact: Artifact) -> Artifact:
        """Move a finished work folder into the store and return its artifact.

        An existing copy of the same version (after a forced run) is replaced by one rename.
        """
        sizes = {
            str(file.relative_to(folder)): file.stat().st_size
            for file in sorted(folder.rglob("*"))
            if file.is_file() and file.name != RECORD
        }
        record = {key: value for key, value in asdict(artifact).items() if key != "path"} | {"files": sizes}
        (folder / RECORD).write_text(json.dumps(record, indent=1, allow_nan=True), encoding="utf-8")
        relative = Path(artifact.city) / artifact.name / artifact.version
        place = self._local / relative
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists():
            old = Path(tempfile.mkdtemp(dir=place.parent, prefix=".old-"))
            place.rename(old / "replaced")
            folder.rename(place)
            shutil.rmtree(old)
        else:
            folder.rename(place)
        if not self._is_local:
            self._upload(relative)
        return read_artifact(place)

    def _upload(self, relative: Path) -> None:
        """Upload the files, the record last: a remote folder without a record is not an artifact."""
        files = [file for file in sorted((self._local / relative).rglob("*")) if file.is_file()]
        for file in sorted(files, key=lambda file: file.name == RECORD):
            target = self.root / file.relative_to(self._local).as_posix()
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())

    def _download(self, relative: Path) -> None:
        place = self._local / relative
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=place.parent, prefix=".part-"))
        source = self.root / relative.as_posix()
        for file in source.rglob("*"):
            if file.is_file():
                target = beside / file.relative_to(source).as_posix()
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read_bytes())
        if place.exists():
            shutil.rmtree(beside)
        else:
            beside.rename(place)


def read_artifact(folder: str | os.PathLike[str]) -> Artifact:
    """Return the artifact in a folder. Raises StoreError if its record is missing or damaged."""
    path = Path(folder)
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
        summary = _with_new_keys(record.pop("summary", {}))
        return Artifact(path=path, summary=summary, **record)
    except FileNotFoundError:
        raise StoreError(f"{path}: not an artifact, as it has no {RECORD}.") from None
    except (json.JSONDecodeError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{path / RECORD}: damaged ({error}). Remove the folder and materialize the stage again."
        ) from None


def _with_new_keys(value: Any) -> Any:
    """Rename the keys of `_RENAMED_KEYS` at any depth."""
    if isinstance(value, dict):
        return {_RENAMED_KEYS.get(key, key): _with_new_keys(part) for key, part in value.items()}
    return [_with_new_keys(part) for part in value] if isinstance(value, list) else value


def now_utc() -> str:
    """Return the current time as `2026-01-31T12:00:00Z`."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
