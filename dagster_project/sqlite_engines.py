"""Keeps the SQLAlchemy engines of Dagster's SQLite files, of which Dagster creates one for every statement.

A new engine compiles each SQL statement again. With one engine per file, a statement is compiled once per process.
Engines hold no connection (`NullPool`), so they stay valid in threads, in forked processes, and when a file is deleted.

Belongs here: this one change of Dagster's own modules, which are private and pinned. It changes no data.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

    from sqlalchemy import Engine

MODULES = (
    "dagster._core.storage.event_log.sqlite.sqlite_event_log",
    "dagster._core.storage.runs.sqlite.sqlite_run_storage",
)
"""Modules of Dagster that make an engine for every statement."""
_MOST = 32
"""Engines that are kept per module: of the index of all events, and of the recent runs."""


@cache
def keep_engines() -> tuple[ModuleType, ...]:
    """Let Dagster's SQLite storage use one engine per file in this process; return the changed modules."""
    modules = tuple(importlib.import_module(name) for name in MODULES)
    for module in modules:
        module.create_engine = _kept(module.create_engine)  # type: ignore[attr-defined]
    return modules


def _kept(create_engine: Callable[..., Engine]) -> Callable[..., Engine]:
    """Return `create_engine` with a memory of its last engines."""

    @lru_cache(_MOST)
    def engine_of(address: str, connect_args: frozenset[tuple[str, Any]], others: frozenset[tuple[str, Any]]) -> Engine:
        return create_engine(address, connect_args=dict(connect_args), **dict(others))

    def kept(address: str, connect_args: dict[str, Any] | None = None, **others: Any) -> Engine:
        return engine_of(address, frozenset((connect_args or {}).items()), frozenset(others.items()))

    return kept
