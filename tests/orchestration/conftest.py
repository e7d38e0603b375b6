"""A tiny synthetic city, materialized once per test session, and one `make dev` over it for all tests that need it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from homes import Dev, Home, Server, make_home, make_town, reset
from ports import free_ports


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The whole graph of the town, seeds 0 and 1, as `make demo` makes it. Tests must not change it.

    All workers of the session share it.
    """
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "town"
    with FileLock(f"{root}.lock"):
        if not (root / "screen.txt").is_file():
            shutil.rmtree(root, ignore_errors=True)
            make_town(root)
    return Home(root)


@pytest.fixture
def copy_of_town(town: Home, tmp_path: Path) -> Home:
    """A finished town that the test may change."""
    return town.copy(tmp_path / "copy")


@pytest.fixture
def fresh_home(tmp_path: Path) -> Home:
    """A home with the town's settings and nothing materialized."""
    return make_home(tmp_path / "fresh")


class SharedDev:
    """One `make dev` over a home with a finished town."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._running: tuple[Dev, Server] | None = None

    def running(self) -> tuple[Dev, Server]:
        """Return it; start it if no test has, or if one has ended it."""
        if self._running is None or self._running[0].process.poll() is not None:
            self.close()
            dev = Dev(self.home, free_ports(1))
            self._running = dev, dev.server()
        return self._running

    def close(self) -> None:
        """Kill it if it runs."""
        if self._running is not None:
            self._running[0].close()


@pytest.fixture(scope="session")
def shared_dev(town: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedDev]:
    """`make dev`, one for all tests of the group `dev`. `dev_town` is the way to change the town in it."""
    shared = SharedDev(town.copy(tmp_path_factory.mktemp("dev") / "homes"))
    yield shared
    shared.close()


@pytest.fixture
def dev_town(shared_dev: SharedDev) -> tuple[Home, Server]:
    """A finished town under `make dev`.

    A test may launch runs and change the settings. It finds the town's own settings, no run in progress and a free
    pool, and perhaps versions that earlier tests have added to the store.
    """
    reset(shared_dev.home)
    _, server = shared_dev.running()
    return shared_dev.home, server
