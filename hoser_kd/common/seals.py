"""Seals: digests of files that an interrupted run has finished, so that the next run does not resume from damaged ones.

Files in the store have digests in their record. Files in a work folder get theirs only with the record; until then a
flipped bit would become part of the artifact.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from hoser_kd.common.errors import StoreError
from hoser_kd.common.files import write_json
from hoser_kd.common.hashing import digest_file

_ENDING = ".seal"


def digests_of(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the sha256 (hex) of files in a folder, by name."""
    return {name: digest_file(folder / name) for name in names}


def require_unchanged(folder: Path, digests: Mapping[str, str], fix: str) -> None:
    """Raise StoreError if a file is missing or differs from its digest; `fix` ends the message."""
    for name, digest in digests.items():
        if not (folder / name).is_file():
            raise StoreError(f"{folder / name}: no such file, although the training has saved it. {fix}")
        if digest_file(folder / name) != digest:
            raise StoreError(f"{folder / name}: the content has changed since the training saved it. {fix}")


def seal_of(file: Path) -> Path:
    """Return the path of the seal beside a file."""
    return file.with_name(f".{file.name}{_ENDING}")


def remove_seals(folder: Path) -> None:
    """Remove all seals below a folder."""
    for path in folder.rglob(f".*{_ENDING}"):
        path.unlink()


def seal(path: Path, *files: Path) -> None:
    """Write the digests of finished files to `path`."""
    write_json(path, {file.name: digest_file(file) for file in files})


def is_sealed(path: Path, *files: Path) -> bool:
    """Return whether the files are as they were when `path` was written."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return bool(record == {file.name: digest_file(file) for file in files})
    except (OSError, ValueError):
        return False
