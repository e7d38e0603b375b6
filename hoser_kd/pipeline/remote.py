"""A remote store's files: single files by fsspec, the lease of a version, and the mirror of work in progress.

Every error of the file system becomes a StoreError that names the address. Shapes of names:

    <root>/<city>/<stage>/<version>/…            an artifact; its record is written last
    <root>/.work/<city>/<stage>/<version>/…      mirror of the work folder of the machine that computes it
    <root>/.leases/<city>/<stage>/<version>.<n>  the lease: the machine that created the highest n computes it
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

from upath import UPath

from hoser_kd.common.errors import StoreError
from hoser_kd.common.files import atomic_path

BEAT_S = 20.0
"""Seconds between two signs of life of a lease, and between two passes of the mirror."""
PATIENCE_S = 90.0
"""Seconds after which a lease without a sign of life is taken over."""
_OWNER_FILE = "mirror-owner"
_BUCKETS = ("s3", "s3a", "gs", "gcs")
_checked: set[str] = set()


def cache_folder(address: str) -> Path:
    """Return the local cache of a remote store: one per user and address, which only this user can read."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "hoser-kd" / hashlib.sha256(address.rstrip("/").encode()).hexdigest()[:16]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise StoreError(
            f"{address}: its local cache {folder} cannot be created ({error.strerror}). Set XDG_CACHE_HOME to a "
            "writable folder."
        ) from None
    return folder


class RemoteFolder:
    """Files below a remote address, by their names relative to it."""

    def __init__(self, root: UPath) -> None:
        self.address = str(root)
        self._fs: Any = root.fs
        self._base = root.path.rstrip("/")
        self._protocol = root.protocol

    def require_bucket(self) -> None:
        """Raise StoreError if the bucket does not exist or cannot be reached; asked once per process."""
        if self._protocol not in _BUCKETS or self.address in _checked:
            return
        bucket = self._base.split("/", 1)[0]
        with self._errors():
            exists = self._fs.exists(bucket)
        if not exists:
            raise StoreError(
                f"{self.address}: there is no bucket {bucket!r}, or these credentials may not read it. Create it, or "
                "set HOSER_KD_STORE or --store to another address."
            )
        _checked.add(self.address)

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None if there is none."""
        with self._errors():
            try:
                return cast("bytes", self._fs.cat_file(self._path(name)))
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Write a small file."""
        with self._errors():
            self._make_parent(name)
            self._fs.pipe_file(self._path(name), content)

    def create(self, name: str, content: bytes) -> bool:
        """Write a small file by a conditional put; return False if it exists already."""
        with self._errors():
            self._make_parent(name)
            try:
                self._fs.pipe_file(self._path(name), content, mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                if "precondition" in str(error).lower() or "conditional" in str(error).lower():
                    return False
                raise
        return True

    def upload(self, file: Path, name: str) -> None:
        """Copy a local file to the store."""
        with self._errors():
            self._make_parent(name)
            self._fs.put_file(str(file), self._path(name))

    def download(self, name: str, file: Path) -> bool:
        """Copy a file to this machine; return False if there is none."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with self._errors():
            try:
                self._fs.get_file(self._path(name), str(file))
            except FileNotFoundError:
                return False
        return True

    def delete(self, name: str) -> None:
        """Delete a file; do nothing if there is none."""
        with self._errors(), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    def names(self, folder: str) -> list[str]:
        """Return the names of all files below a folder, sorted."""
        with self._errors():
            self._fs.invalidate_cache()
            try:
                found = self._fs.find(self._path(folder))
            except FileNotFoundError:
                return []
        base = self._base.lstrip("/")
        return sorted(path.lstrip("/")[len(base) + 1 :] for path in found)

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file for reading, without a local copy."""
        with self._errors(), self._fs.open(self._path(name), "rb") as file:
            yield file

    def _path(self, name: str) -> str:
        return f"{self._base}/{name}"

    def _make_parent(self, name: str) -> None:
        if self._protocol not in _BUCKETS:
            self._fs.makedirs(self._path(name).rsplit("/", 1)[0], exist_ok=True)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn any error of the file system's package, which may be of any class, into a StoreError."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            text = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise StoreError(
                f"{self.address}: cannot be read or written ({text}). Check the address, the credentials and the "
                "connection; finished work is kept, and the same run resumes from it."
            ) from error


class RemoteWork:
    """The lease on one version and the mirror of its work folder, as a context.

    Entering waits until no other machine computes the version, and fetches the work of one that has been interrupted.
    A thread then gives a sign of life and uploads changed files every `beat_s` seconds.
    """

    def __init__(
        self, remote: RemoteFolder, version: str, folder: Path, machine: str, *, beat_s: float, patience_s: float
    ) -> None:
        """`version` is the artifact's name below the root, `folder` its local work folder, `machine` names this one."""
        self._remote, self._folder, self._mirror = remote, folder, f".work/{version}"
        self._beat_s = beat_s
        self._lease = _Lease(remote, f".leases/{version}", machine, patience_s)
        self._uploaded: dict[str, tuple[int, int, int]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        """Take the lease, then fetch the mirror if another machine wrote it last."""
        self._lease.acquire()
        owner = self._remote.read(f"{self._mirror}/{_OWNER_FILE}")
        if owner is not None and owner.decode() != self._lease.machine:
            self._fetch()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Upload what an interrupted run leaves, or delete the mirror of a finished one; give the lease back."""
        self._ended.set()
        self._thread.join()
        # the artifact is complete, or the run has an error of its own to show: a lost connection matters no more here
        with contextlib.suppress(StoreError):
            if not self._lease.is_held():
                return
            if kind is None:
                for name in self._remote.names(self._mirror):
                    self._remote.delete(name)
            else:
                self._upload()
            self._lease.release()

    def require_lease(self) -> None:
        """Raise StoreError if another machine has taken the version over."""
        if not self._lease.is_held():
            raise StoreError(
                f"{self._remote.address}: another machine took {self._mirror.removeprefix('.work/')} over, because "
                "this one gave no sign of life. Its result will appear in the store; run the same command again."
            )

    def _beat(self) -> None:
        while not self._ended.wait(self._beat_s):
            # a short interruption of the connection must not end a training
            with contextlib.suppress(StoreError, OSError):
                self._lease.renew()
                if self._lease.lost:
                    return
                self._upload()

    def _upload(self) -> None:
        """Upload changed files.

        A file may rely on files written before it, such as a training state on the best weights so far. So the newest
        is frozen first (by a hard link) and uploaded last: the mirror then never has a file without what it relies on.
        """
        current = {name: (at.st_mtime_ns, at.st_size, at.st_ino) for name, at in _files(self._folder)}
        changed = [name for name, state in current.items() if self._uploaded.get(name) != state]
        if not changed:
            return
        changed.sort(key=lambda name: current[name], reverse=True)
        with tempfile.TemporaryDirectory(dir=self._folder.parent, prefix=".mirror-") as frozen:
            links = [(name, Path(frozen) / str(number)) for number, name in enumerate(changed)]
            for name, link in links:
                with contextlib.suppress(FileNotFoundError):
                    os.link(self._folder / name, link)
            self._remote.write(f"{self._mirror}/{_OWNER_FILE}", self._lease.machine.encode())
            for name, link in reversed(links):
                if link.exists():
                    self._remote.upload(link, f"{self._mirror}/{name}")
                    self._uploaded[name] = current[name]

    def _fetch(self) -> None:
        """Replace the work folder by the mirror."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        for name in self._remote.names(self._mirror):
            inner = name.removeprefix(f"{self._mirror}/")
            if inner != _OWNER_FILE:
                self._remote.download(name, self._folder / inner)


class _Lease:
    """The right of one machine to compute a version.

    Lease n is an object created by a conditional put. Its holder rewrites it regularly. A waiting machine that sees it
    unchanged for `patience_s` of its own clock creates lease n + 1, which only one machine can; clocks of machines are
    never compared.
    """

    def __init__(self, remote: RemoteFolder, name: str, machine: str, patience_s: float) -> None:
        self._remote, self._name, self._patience_s = remote, name, patience_s
        self.machine = machine
        self.lost = False
        self._number, self._beats = 0, 0
        self._token = os.urandom(8).hex()

    def acquire(self) -> None:
        """Wait for the lease."""
        seen: dict[int, tuple[bytes, float]] = {}
        number = 0
        while True:
            if self._remote.create(self._at(number), self._content()):
                self._number = number
                return
            content = self._remote.read(self._at(number))
            if content is None:
                continue
            if seen.get(number, (b"", 0.0))[0] != content:
                seen[number] = content, time.monotonic()
            if self._is_over(content) or time.monotonic() - seen[number][1] > self._patience_s:
                number += 1
                continue
            time.sleep(min(1.0, self._patience_s / 10))
            number = 0

    def renew(self) -> None:
        """Give a sign of life, if the lease is still held."""
        if self.is_held():
            self._beats += 1
            self._remote.write(self._at(self._number), self._content())

    def is_held(self) -> bool:
        """Return whether no other machine has taken the lease over."""
        if not self.lost:
            own = self._remote.read(self._at(self._number)) or b""
            # the next lease may have been given back already; its holder has then marked this one
            self.lost = self._token.encode() not in own or self._remote.read(self._at(self._number + 1)) is not None
        return not self.lost

    def release(self) -> None:
        """Give the lease back; earlier ones, of interrupted machines, are marked as over."""
        if self.is_held():
            for number in range(self._number):
                self._remote.write(self._at(number), json.dumps({"over": True}).encode())
            self._remote.delete(self._at(self._number))

    def _is_over(self, content: bytes) -> bool:
        """Return whether a lease is marked as over, or of a run on this machine, whose file lock is ours by now."""
        try:
            lease = json.loads(content)
            return bool(lease.get("over")) or lease.get("machine") == self.machine
        except (ValueError, AttributeError):
            return False

    def _at(self, number: int) -> str:
        return f"{self._name}.{number}"

    def _content(self) -> bytes:
        return json.dumps({"machine": self.machine, "token": self._token, "beats": self._beats}).encode()


def machine_of(cache: Path) -> str:
    """Return the name of a local cache, random and kept in it: machines may share host names."""
    file = cache / ".machine"
    if not file.is_file():
        with atomic_path(file) as beside:
            beside.write_text(f"{socket.gethostname()}-{os.urandom(8).hex()}", encoding="utf-8")
    return file.read_text(encoding="utf-8")


def _files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the finished files below a folder, with their state."""
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if not file.name.endswith((".part", ".lock")) and file.is_file():
                yield file.relative_to(folder).as_posix(), file.stat()
