"""Engines of Dagster's SQLite files: one per file in processes that load the code location, with the same records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from sqlalchemy import Engine, event

import dagster_project.definitions  # noqa: F401  what processes of the pipeline import
from dagster_project.sqlite_engines import keep_engines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def engines() -> Iterator[list[tuple[Engine, str]]]:
    """Engine and statement of everything that is executed during the test."""
    executed: list[tuple[Engine, str]] = []

    def note(connection: Any, _cursor: object, statement: str, *_: object) -> None:
        executed.append((connection.engine, statement))

    event.listen(Engine, "before_cursor_execute", note)
    yield executed
    event.remove(Engine, "before_cursor_execute", note)


def test_statements_of_a_file_share_an_engine(tmp_path: Path, engines: list[tuple[Engine, str]]) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        instance.add_dynamic_partitions("city", ["one"])
        engines.clear()
        assert instance.has_dynamic_partition("city", "one")
        assert not instance.has_dynamic_partition("city", "two")
        instance.add_dynamic_partitions("city", ["two"])
        assert instance.get_dynamic_partitions("city") == ["one", "two"]
        assert len({engine for engine, statement in engines if "dynamic_partitions" in statement}) == 1
        engines.clear()
        assert instance.get_runs_count() == instance.get_runs_count() == 0
        assert len({engine for engine, _ in engines}) == 1


def test_instances_do_not_share_records(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
        with dg.DagsterInstance.local_temp(str(folder)) as instance:
            instance.add_dynamic_partitions("city", [folder.name])
    for folder in folders:
        with dg.DagsterInstance.local_temp(str(folder)) as instance:
            assert instance.get_dynamic_partitions("city") == [folder.name]


def test_keeping_engines_twice_changes_nothing() -> None:
    before = [module.create_engine for module in keep_engines()]
    assert [module.create_engine for module in keep_engines()] == before
