"""A tiny synthetic city, materialized once per test session, and servers over it that tests share where they may."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from homes import Home, Server, dev_servers, free_port, make_home, make_towns, reset, web_server


@pytest.fixture(scope="session")
def towns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the town in its three states (see `make_towns`), which all workers of the session share."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "towns"
    with FileLock(f"{root}.lock"):
        if not (root / "done").is_file():
            shutil.rmtree(root, ignore_errors=True)
            make_towns(root)
            (root / "done").touch()
    return root


@pytest.fixture(scope="session")
def town(towns: Path) -> Home:
    """The whole graph of the town, seeds 0 and 1, as `make demo` makes it. Tests must not change it."""
    return Home(towns / "town")


@pytest.fixture
def copy_of_town(town: Home, tmp_path: Path) -> Home:
    """A finished town that the test may change."""
    return town.copy(tmp_path / "copy")


@pytest.fixture
def prepared(towns: Path, tmp_path: Path) -> Home:
    """A town whose roads, trips, zones and grid exist, for the test to change."""
    return Home(towns / "prepared").copy(tmp_path / "prepared")


@pytest.fixture
def taught(towns: Path, tmp_path: Path) -> Home:
    """A town whose teacher has labeled the trips and that has no student, for the test to change."""
    return Home(towns / "taught").copy(tmp_path / "taught")


@pytest.fixture
def fresh_home(tmp_path: Path) -> Home:
    """A home with the town's settings and nothing materialized."""
    return make_home(tmp_path / "fresh")


@pytest.fixture(scope="session")
def town_server(town: Home) -> Iterator[Server]:
    """A web server over the finished town, which tests must not change."""
    with web_server(town) as server:
        yield server


@pytest.fixture(scope="session")
def _shared_dev(town: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, Server]]:
    home = town.copy(tmp_path_factory.mktemp("dev") / "town")
    with dev_servers(home) as server:
        yield home, server


@pytest.fixture
def dev_town(_shared_dev: tuple[Home, Server]) -> tuple[Home, Server]:
    """A finished town under `dagster dev`, one for all tests that ask for it.

    A test may launch runs and change the settings. It finds the town's own settings, no run in progress and a free
    pool, and perhaps versions that earlier tests have added to the store.
    """
    home, server = _shared_dev
    reset(home)
    return home, server


@pytest.fixture
def serve():
    """Start web servers over homes; they end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda home: stack.enter_context(web_server(home))


@pytest.fixture
def dev():
    """Start over homes what `make dev` starts; it ends with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda home: stack.enter_context(dev_servers(home))


@pytest.fixture
def three_ports() -> list[int]:
    """Unused ports."""
    return [free_port() for _ in range(3)]
