"""Integrity of artifacts: digests of their files, and a record that carries its own digest.

What belongs here: writing and reading the text of a record, and comparing files with it. What does not: where artifacts
are (`store`), and what their fields mean (`Artifact`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hoser_kd.common.hashing import digest_file

DIGEST_ON_OPEN_BYTES = 1 << 30
"""Larger files are compared by size when an artifact is opened, and by digest in `hoser-kd verify`: 1 GiB takes about
1.3 s."""

_HEAD_BYTES = 64
_END = re.compile(r',\n "record_digest": "([0-9a-f]{64})"\n\}\Z')
_known: dict[tuple[str, int, int, int], str] = {}
"""Digests that this process has computed, by path, size, time and inode."""


def record_text(record: Mapping[str, Any]) -> str:
    """Return the text of a record; its last entry is the digest of the text before it."""
    body = json.dumps(record, indent=1, allow_nan=True)[: -len("\n}")]
    return f'{body},\n "record_digest": "{hashlib.sha256(body.encode()).hexdigest()}"\n}}'


def parse_record(text: str) -> dict[str, Any]:
    """Return the entries of a record. A record from before digests has none to compare with.

    Raises ValueError if it is no JSON object, or its text differs from its digest.
    """
    record = json.loads(text)
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004  callers handle one error for any damage
    digest, end = record.pop("record_digest", None), _END.search(text)
    if digest is None and "digests" not in record:
        return record
    if end is None or hashlib.sha256(text[: end.start()].encode()).hexdigest() != digest:
        raise ValueError("its text differs from the digest at its end")
    return record


def digest_tree(folder: Path, *, but: str) -> tuple[dict[str, int], dict[str, str]]:
    """Return sizes in bytes and sha256 digests (hex) of all files below a folder except `but`, by their paths in it."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != but)
    names = {file.relative_to(folder).as_posix(): file for file in files}
    return {name: file.stat().st_size for name, file in names.items()}, {
        name: digest_file(file) for name, file in names.items()
    }


def _begins_with_zeros(file: Path) -> bool:
    """Return whether the first 64 bytes are zero. All kinds of files in artifacts begin with text or a mark."""
    with file.open("rb") as opened:
        head = opened.read(_HEAD_BYTES)
    return len(head) == _HEAD_BYTES and not any(head)


def file_error(
    folder: Path, name: str, size: int, digest: str | None, limit_bytes: int | None = DIGEST_ON_OPEN_BYTES
) -> str | None:
    """Return how a file differs from its recorded size and digest; None if it does not.

    Files above `limit_bytes` (None: no limit) are compared by size only. With a limit, an unchanged file is read once
    per process.
    """
    file = folder / name
    if not file.is_file():
        return f"{name} is missing"
    status = file.stat()
    if status.st_size != size:
        return f"{name} has {status.st_size} bytes instead of {size}"
    if digest is None or (limit_bytes is not None and size > limit_bytes):
        return f"{name} begins with zeros, as after a power cut" if _begins_with_zeros(file) else None
    key = (str(file), size, status.st_mtime_ns, status.st_ino)
    if limit_bytes is None or key not in _known:
        try:
            _known[key] = digest_file(file)
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None if _known[key] == digest else f"the content of {name} has changed: its digest differs from the record"
