"""The artifact store: every result of a stage in a folder named by its version, with a record beside it.

    <root>/<city>/<stage>[/seed-<n>]/<version>/...files, artifact.json

A version is a digest of what the result depends on, so a folder, once there, is never written again: a run that is
killed leaves all earlier versions as they were. Work in progress lies in `<root>/.work/` under the same version,
locked by the process that writes it; the next run of the same version finds it there and can resume.

The root may be a folder or any fsspec address (`s3://bucket/prefix`); a remote artifact is copied to a local cache
when it is first read, because stages map their files into memory.
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

from filelock import FileLock, Timeout
from upath import UPath

from hoser_kd.common.errors import StoreError

RECORD = "artifact.json"


@dataclass(frozen=True)
class Artifact:
    """One version of a stage's result."""

    stage: str
    """Name of the stage, such as `teacher_soft_labels`."""
    city: str
    """Name of the city."""
    seed: int | None
    """Seed of a student and of what follows from it; None for what a city has once."""
    version: str
    """Digest of everything the result depends on."""
    path: Path
    """Local folder that holds the files."""
    code_version: str = ""
    """Version of the stage's own code."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Versions of the inputs, by `stage` or `stage/seed-<n>`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The settings the stage read."""
    created_at: str = ""
    """When it was made, UTC."""
    seconds: float = 0.0
    """How long it took."""
    summary: Mapping[str, Any] = field(default_factory=dict)
    """Figures worth showing; numbers, texts, and lists and dicts of them."""
    files: Mapping[str, int] = field(default_factory=dict)
    """Bytes of each file, by its path in the folder; an artifact is whole when all are there with these sizes."""

    def damage(self) -> str | None:
        """Say which file is missing or cut short; None where the artifact is whole."""
        for name, size in self.files.items():
            file = self.path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != size:
                return f"{name} has {file.stat().st_size} bytes instead of {size}"
        return None

    @property
    def name(self) -> str:
        """`stage`, or `stage/seed-<n>`."""
        return _name(self.stage, self.seed)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())


def _name(stage: str, seed: int | None) -> str:
    return stage if seed is None else f"{stage}/seed-{seed}"


class Store:
    """Reads and writes artifacts below one root."""

    def __init__(self, root: str | os.PathLike[str], cache: str | os.PathLike[str] | None = None) -> None:
        """`cache` is the local folder for copies of remote artifacts and for work in progress of a remote root."""
        try:
            self.root = UPath(root)
            self.root.fs  # noqa: B018  the file system behind an address is another package, loaded here
        except ImportError as error:
            raise StoreError(f"{root}: {error}. Install that package into the same environment with pip.") from None
        self._is_local = self.root.protocol in ("", "file", "local")
        if self._is_local:
            self._local = Path(self.root.path).absolute()
        else:
            self._local = Path(cache or Path(tempfile.gettempdir()) / "hoser-kd-cache")

    def find(self, stage: str, city: str, version: str, seed: int | None = None) -> Artifact | None:
        """Return the artifact of this version; None if there is none, or if files of it are missing or cut short."""
        relative = Path(city) / _name(stage, seed) / version
        local = self._local / relative
        if not (local / RECORD).is_file():
            if self._is_local or not (self.root / relative.as_posix() / RECORD).is_file():
                return None
            self._download(relative)
        artifact = read_artifact(local)
        return artifact if artifact.damage() is None else None

    def open(self, stage: str, city: str, version: str, seed: int | None = None) -> Artifact:
        """Return the artifact of this version. Raises StoreError if there is none."""
        artifact = self.find(stage, city, version, seed)
        if artifact is None:
            local = self._local / city / _name(stage, seed) / version
            damaged = (local / RECORD).is_file()
            what = f"is damaged: {read_artifact(local).damage()}" if damaged else "is not there"
            raise StoreError(
                f"{self.root}: version {version} of {city}/{_name(stage, seed)} {what}. Materialize "
                f"{stage} again for {city}, or set HOSER_KD_STORE to the store it was made in."
            )
        return artifact

    @contextmanager
    def work_folder(self, stage: str, city: str, version: str, seed: int | None = None) -> Iterator[Path]:
        """Give the folder in which this version is made, to one process at a time.

        What an earlier, interrupted run of the same version left is still in it. Waits for another process that
        makes the same version.
        """
        folder = self._local / ".work" / city / _name(stage, seed) / version
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{self.root}: cannot be written ({error.strerror}: {error.filename}). Set "
                "HOSER_KD_STORE, or --store, to a folder of your own."
            ) from None
        with FileLock(f"{folder}.lock"):
            folder.mkdir(parents=True, exist_ok=True)
            yield folder

    def is_being_made(self, stage: str, city: str, version: str, seed: int | None = None) -> bool:
        """Tell whether another process holds the work folder of this version."""
        lock = FileLock(f"{self._local / '.work' / city / _name(stage, seed) / version}.lock")
        if not Path(lock.lock_file).exists():
            return False
        try:
            with lock.acquire(timeout=0):
                return False
        except Timeout:
            return True

    def commit(self, folder: Path, artifact: Artifact) -> Artifact:
        """Move a finished work folder to its place and return the artifact there.

        An older copy of the same version (a forced re-make) is replaced in one rename.
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
            place.rename(old / "was")
            folder.rename(place)
            shutil.rmtree(old)
        else:
            folder.rename(place)
        if not self._is_local:
            self._upload(relative)
        return read_artifact(place)

    def _upload(self, relative: Path) -> None:
        """The record goes last: a remote artifact without one does not exist."""
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
    """Read the record of an artifact's folder. Raises StoreError if it is missing or damaged."""
    path = Path(folder)
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
        return Artifact(path=path, **record)
    except FileNotFoundError:
        raise StoreError(f"{path}: no {RECORD}, so this is no artifact.") from None
    except (json.JSONDecodeError, TypeError) as error:
        raise StoreError(f"{path / RECORD}: damaged ({error}). Remove the folder and make the stage again.") from None


def now_utc() -> str:
    """Return the time as `2026-01-31T12:00:00Z`."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
