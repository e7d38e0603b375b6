"""Records of artifacts (artifact.json) that are damaged, or are no records."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bad_input_kinds.base import BadInput


def bad_records() -> Iterator[BadInput]:
    """Yield records of artifacts (artifact.json) that are damaged, or are no records."""
    good = {
        "stage": "road_network",
        "city": "town",
        "seed": None,
        "version": "0123456789abcdef",
        "code_version": "1",
        "inputs": {},
        "settings": {},
        "created_at": "2026-01-01T00:00:00Z",
        "seconds": 1.0,
        "summary": {},
    }

    def record(content: bytes) -> Callable[[Path], Any]:
        def read(folder: Path) -> Any:
            from hoser_kd.pipeline.store import RECORD, read_artifact

            (folder / RECORD).write_bytes(content)
            return read_artifact(folder)

        return read

    for label, content in (
        ("empty", b""),
        ("zeros", bytes(200)),
        ("cut", json.dumps(good).encode()[:60]),
        ("a list", b"[1]"),
        ("null", b"null"),
        ("a number", b"5"),
        ("text", b'"x"'),
        ("bytes", b"\xff\xfe{}"),
        ("no keys", b"{}"),
    ):
        yield BadInput("records", label, record(content))
    for key, right in good.items():
        if key in ("stage", "city", "seed", "version"):
            rest = {name: value for name, value in good.items() if name != key}
            yield BadInput("records", f"no {key}", record(json.dumps(rest).encode()))
        for value in ([1], 5.5, {"a": 1}):
            if isinstance(value, type(right)):
                continue
            yield BadInput("records", f"{key} = {value!r}", record(json.dumps({**good, key: value}).encode()))
