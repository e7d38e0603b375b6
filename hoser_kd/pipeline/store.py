"""The artifact store: one folder per version of each stage's result, with a record beside the files.

    <root>/<city>/<stage>[/seed-<n>]/<version>/...files, artifact.json

A version is a digest of everything the result depends on. A finished folder is never written again, so a killed run
leaves all earlier versions intact. Work in progress is in `<root>/.work/` under the same version, locked by the process
that writes it; the next run of the same version resumes from it.

The record has a digest of every file and of itself. `find` compares them, so a damaged artifact counts as absent and
is materialized again.

The root is a folder or an fsspec address (`s3://bucket/prefix`). A remote artifact is copied to a local cache when
it is first read, because stages map their files into memory. It is uploaded before it is moved into the cache, its
record last, so what the cache has is in the store too.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock
from upath import UPath

from hoser_kd.common.errors import StoreError
from hoser_kd.common.files import atomic_path, sync, sync_tree
from hoser_kd.pipeline.integrity import DIGEST_ON_OPEN_BYTES, digest_tree, file_error, parse_record, record_text
from hoser_kd.pipeline.record_types import require_types
from hoser_kd.pipeline.remote import BEAT_S, PATIENCE_S, RemoteFolder, RemoteWork, cache_folder, machine_of

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
    """Bytes of each file, by its path in the folder."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """The sha256 (hex) of each file; empty in records from before digests."""

    def integrity_error(self, limit_bytes: int | None = DIGEST_ON_OPEN_BYTES) -> str | None:
        """Return which file is missing, truncated or changed; None if the artifact is complete.

        Files above `limit_bytes` are compared by size only; None compares all contents, which are read again.
        """
        errors = (
            file_error(self.path, name, size, self.digests.get(name), limit_bytes) for name, size in self.files.items()
        )
        return next(filter(None, errors), None)

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

    def __init__(
        self,
        root: str | os.PathLike[str],
        cache: str | os.PathLike[str] | None = None,
        *,
        beat_s: float = BEAT_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Open a store; `cache` is the local folder for copies and work in progress of a remote root.

        `beat_s` and `patience_s` are the times of a remote root's lease (`hoser_kd.pipeline.remote`).

        Raises:
            StoreError: the protocol of the address is unknown, its package is not installed, or it cannot be reached.
        """
        self._remote: RemoteFolder | None = None
        self._beat_s, self._patience_s = beat_s, patience_s
        self._works: dict[Path, RemoteWork] = {}
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
        if self.root.protocol in ("", "file", "local"):
            self._local = Path(self.root.path).absolute()
        else:
            self._remote = RemoteFolder(self.root)
            self._local = Path(cache) if cache is not None else cache_folder(str(self.root))

    def require_reachable(self) -> None:
        """Raise StoreError if the bucket of a remote store does not exist or cannot be reached."""
        if self._remote is not None:
            self._remote.require_bucket()

    def require_existing(self) -> None:
        """Raise StoreError if the store is a folder that does not exist, or a bucket that cannot be reached."""
        self.require_reachable()
        if self._remote is None and not self._local.is_dir():
            raise StoreError(f"{self._local}: no such folder. Give a store's root, which holds a folder per city.")

    @property
    def local_root(self) -> Path:
        """Return the folder of the store, or that of the local copies of a remote one."""
        return self._local

    def find(self, stage: str, city: str, version: str, seed: int | None = None) -> Artifact | None:
        """Return the artifact of this version; None if there is none, or if a file of it is damaged.

        Raises:
            StoreError: the store is remote and cannot be reached, or its bucket does not exist.
        """
        relative = Path(city) / _name(stage, seed) / version
        return None if self._problem(relative) else read_artifact(self._local / relative)

    def damage(self, stage: str, city: str, version: str, seed: int | None = None) -> str | None:
        """Return what is wrong with the artifact of this version; None if it is intact, or absent."""
        problem = self._problem(Path(city) / _name(stage, seed) / version)
        return problem.removeprefix(_DAMAGED) if problem and problem.startswith(_DAMAGED) else None

    def open(self, stage: str, city: str, version: str, seed: int | None = None) -> Artifact:
        """Return the artifact of this version. Raises StoreError if there is none, or it is damaged."""
        relative = Path(city) / _name(stage, seed) / version
        if problem := self._problem(relative):
            raise StoreError(
                f"{self.root}: version {version} of {city}/{_name(stage, seed)} {problem}. Materialize "
                f"{stage} again for {city}, or set HOSER_KD_STORE to the store that has it."
            )
        return read_artifact(self._local / relative)

    def _problem(self, relative: Path) -> str | None:
        """Return why there is no intact artifact at this place, after a copy to the cache if the root is remote."""
        if self._remote is not None:
            return self._fetch(self._remote, relative)
        return _problem_of(self._local / relative)

    def is_writable(self) -> bool:
        """Return whether work folders can be created; a finished store may be on a read-only disk."""
        work = self._local / ".work"
        try:
            work.mkdir(parents=True, exist_ok=True)
        except OSError:
            return False
        return os.access(work, os.W_OK)

    @contextmanager
    def work_folder(self, stage: str, city: str, version: str, seed: int | None = None) -> Iterator[Path]:
        """Provide the work folder of this version to one process at a time, of all machines; others wait.

        It still holds the files of an interrupted run of the same version.

        Raises:
            StoreError: the folder cannot be created.
        """
        relative = Path(city) / _name(stage, seed) / version
        folder = self._local / ".work" / relative
        with ExitStack() as stack:
            try:
                folder.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(FileLock(f"{folder}.lock"))
                folder.mkdir(exist_ok=True)
            except OSError as error:
                raise StoreError(
                    f"{self.root}: cannot be written ({error.strerror}: {error.filename}). Set "
                    "HOSER_KD_STORE or --store to a writable folder."
                ) from None
            if self._remote is not None:
                machine, times = machine_of(self._local), {"beat_s": self._beat_s, "patience_s": self._patience_s}
                work = RemoteWork(self._remote, relative.as_posix(), folder, machine, **times)
                self._works[relative] = stack.enter_context(work)
                stack.callback(self._works.pop, relative)
            yield folder

    def commit(self, folder: Path, artifact: Artifact) -> Artifact:
        """Move a finished work folder into the store and return its artifact.

        All files are on the disk before the folder gets its place. An existing copy of the same version (after a
        forced run) is replaced by one rename.
        """
        sizes, digests = digest_tree(folder, but=RECORD)
        record = {key: value for key, value in asdict(artifact).items() if key != "path"}
        text = record_text(record | {"files": sizes, "digests": digests})
        (folder / RECORD).write_text(text, encoding="utf-8")
        return self.publish(read_artifact(folder))

    def publish(self, finished: Artifact) -> Artifact:
        """Move a folder that has its record into the store; a remote store gets it first, the record last."""
        folder, relative = finished.path, Path(finished.city) / finished.name / finished.version
        sync_tree(folder)
        if self._remote is not None:
            if relative in self._works:
                self._works[relative].require_lease()
            _upload(self._remote, finished, relative)
        place = self._local / relative
        _replace(place, folder)
        return read_artifact(place)

    def _fetch(self, remote: RemoteFolder, relative: Path) -> str | None:
        """Copy an artifact to the cache, unless the cache has it; return why that is not possible."""
        remote.require_bucket()
        local = self._local / relative
        for _ in range(2):  # a file may have been damaged on its way, or the artifact replaced meanwhile
            record = remote.read(f"{relative.as_posix()}/{RECORD}")
            if record is None:
                return _ABSENT
            if (local / RECORD).is_file() and (local / RECORD).read_bytes() == record and not _problem_of(local):
                return None
            problem = self._download(remote, relative, record)
            if problem is None:
                return None
        return problem

    def _download(self, remote: RemoteFolder, relative: Path, record: bytes) -> str | None:
        place = self._local / relative
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".part-") as parent:
            part = Path(parent) / relative.name
            part.mkdir()
            (part / RECORD).write_bytes(record)
            try:
                names = read_artifact(part).files
            except StoreError as error:
                return f"{_DAMAGED}{error}"
            for name in names:
                remote.download(f"{relative.as_posix()}/{name}", part / name)
            problem = _problem_of(part)
            if problem is None:
                sync_tree(part)
                _replace(place, part)
        return problem

    def artifacts(self) -> Iterator[tuple[str, Artifact | StoreError]]:
        """Yield the name below the root of every artifact, sorted, and its record or the error of its record.

        The path of a remote artifact is that in the cache, which may not have it.
        """
        if self._remote is None:
            for file in sorted(self._local.glob(f"[!.]*/**/{RECORD}")):
                if not any(part.startswith(".") for part in file.relative_to(self._local).parts):
                    name = file.parent.relative_to(self._local).as_posix()
                    yield name, _artifact_or_error(file.parent, file.read_bytes())
            return
        self._remote.require_bucket()
        for file_name in self._remote.names(""):
            name = file_name.removesuffix(f"/{RECORD}")
            if name != file_name and not name.startswith("."):
                yield name, _artifact_or_error(self._local / name, self._remote.read(file_name) or b"")

    def copy_folders(self, folder: str) -> None:
        """Copy the folders of this name, such as `tensorboard`, of all remote artifacts to the cache.

        Other files are not copied, and files that the cache has are not compared. Does nothing for a local store.
        """
        if self._remote is None:
            return
        for name in self._remote.names(""):
            parts = name.split("/")
            if folder in parts[:-1] and not any(part.startswith(".") for part in parts):
                copy = self._local / name
                if not copy.exists():
                    with atomic_path(copy) as beside:
                        self._remote.download(name, beside)

    def verify(self, name: str, artifact: Artifact) -> str | None:
        """Return which file of an artifact is missing or differs from its record, after reading all of them."""
        if self._remote is None:
            return artifact.integrity_error(limit_bytes=None)
        with tempfile.TemporaryDirectory(prefix="hoser-kd-") as folder:
            for file, size in artifact.files.items():
                copy = Path(folder) / file
                self._remote.download(f"{name}/{file}", copy)
                if problem := file_error(Path(folder), file, size, artifact.digests.get(file), limit_bytes=None):
                    return problem
                copy.unlink()
        return None


_ABSENT = "does not exist"
_DAMAGED = "is damaged: "


def _problem_of(folder: Path) -> str | None:
    """Return why a folder is no intact artifact; None if it is."""
    if not (folder / RECORD).is_file():
        return _ABSENT
    try:
        error = read_artifact(folder).integrity_error()
    except StoreError as damage:
        return f"{_DAMAGED}{damage}"
    return error and f"{_DAMAGED}{error}"


def _artifact_or_error(folder: Path, record: bytes) -> Artifact | StoreError:
    try:
        return _artifact_of(folder, record)
    except StoreError as error:
        return error


def _replace(place: Path, folder: Path) -> None:
    """Rename a folder to its place, which may hold an older copy."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        old = Path(tempfile.mkdtemp(dir=place.parent, prefix=".old-"))
        place.rename(old / "replaced")
        folder.rename(place)
        shutil.rmtree(old)
    else:
        folder.rename(place)
    sync(place.parent)


def _upload(remote: RemoteFolder, artifact: Artifact, relative: Path) -> None:
    """Upload the files, the record last: a remote folder without a record is not an artifact.

    An older copy stops being one before its first file is replaced.
    """
    remote.require_bucket()
    before = remote.names(relative.as_posix())
    remote.delete(f"{relative.as_posix()}/{RECORD}")
    names = [f"{relative.as_posix()}/{name}" for name in (*artifact.files, RECORD)]
    for name in sorted(set(before).difference(names)):
        remote.delete(name)
    for name in names:
        remote.upload(artifact.path / Path(name).relative_to(relative), name)


def read_artifact(folder: str | os.PathLike[str]) -> Artifact:
    """Return the artifact in a folder. Raises StoreError if its record is missing or damaged."""
    path = Path(folder)
    try:
        record = (path / RECORD).read_bytes()
    except FileNotFoundError:
        raise StoreError(f"{path}: not an artifact, as it has no {RECORD}.") from None
    except OSError as error:
        raise StoreError(f"{path / RECORD}: cannot be read ({error.strerror}).") from None
    return _artifact_of(path, record)


def _artifact_of(path: Path, text: bytes) -> Artifact:
    try:
        record = parse_record(text.decode())
        require_types(record)
        summary = _with_new_keys(record.pop("summary", {}))
        return Artifact(path=path, summary=summary, **record)
    except (ValueError, TypeError, AttributeError) as error:
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
