"""Types of the values in an artifact's record (artifact.json), which any program could have written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "stage": (str,),
    "city": (str,),
    "seed": (int, type(None)),
    "version": (str,),
    "code_version": (str,),
    "inputs": (dict,),
    "settings": (dict,),
    "created_at": (str,),
    "seconds": (int, float),
    "summary": (dict,),
    "files": (dict,),
}


def require_types(record: Mapping[str, Any]) -> None:
    """Raise TypeError for a value of another type than `Artifact` has; keys that are absent or unknown pass."""
    for key, types in _TYPES.items():
        value = record.get(key, _ABSENT)
        if value is not _ABSENT and (isinstance(value, bool) or not isinstance(value, types)):
            raise TypeError(f"`{key}` is {str(value)[:60]!r}, of type {type(value).__name__}")


_ABSENT = object()
