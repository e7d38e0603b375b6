"""A tiny made city, materialized once through a Dagster instance on disk, and a web server over it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOWN = """\
description: A town for tests.
source:
  kind: synthetic
  synthetic: {blocks: [8, 8], num_trips: 200}
zones: {count: 12}
grid: {bounds: roads, cell_size_m: 80}
teacher: {preset: tiny, n_embd: 32, max_epochs: 2}
student: {hidden_dim: 16, road_id_dim: 8, attribute_dim: 2, max_epochs: 2, batch_size: 32, learning_rate: 0.01}
generation: {num_trips: 8, max_steps: 300}
"""


@dataclass
class Home:
    """A Dagster home, a config folder and a store of one's own, seen by this process and by those it starts."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    screen: str = ""
    """What the runner printed at its end."""

    @property
    def config(self) -> Path:
        return self.root / "config"

    @property
    def store(self) -> Path:
        return self.root / "store"

    def run(self, *command: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        """Run a module of this Python with the home's environment."""
        return subprocess.run(
            [sys.executable, "-W", "ignore", "-m", *command],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )

    def demo(self, *jobs: str, seeds: Sequence[str] = ("0",)) -> None:
        """Run jobs of the town."""
        done = self.run("dagster_project.demo", "--city", "town", "--only", *jobs, "--seeds", *seeds)
        assert done.returncode == 0, done.stderr[-4000:]


def home_at(root: Path) -> Home:
    """Return the home laid out in a folder."""
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(root / "home"),
        "HOSER_KD_CONFIG": str(root / "config"),
        "HOSER_KD_STORE": str(root / "store"),
        "HOSER_KD_SEEDS": "3",
    }
    return Home(root, environment)


def make_home(root: Path) -> Home:
    """Lay out a fresh home with the town in it."""
    for name in ("config", "store", "home"):
        (root / name).mkdir(parents=True)
    (root / "config" / "town.yaml").write_text(TOWN)
    shutil.copy(ROOT / "dagster.yaml-template", root / "home" / "dagster.yaml")
    return home_at(root)


@pytest.fixture(scope="session")
def town(tmp_path_factory) -> Home:
    """The whole graph of the town, seeds 0 and 1, as `make demo` makes it. Tests must not change it."""
    home = make_home(tmp_path_factory.mktemp("town"))
    done = home.run("dagster_project.demo", "--city", "town", "--seeds", "0", "1")
    assert done.returncode == 0, done.stderr[-4000:]
    home.screen = done.stdout
    return home


@pytest.fixture
def copy_of_town(town, tmp_path) -> Home:
    """A home of its own with everything made, which a test may change."""
    return home_at(Path(shutil.copytree(town.root, tmp_path / "copy")))


@pytest.fixture
def fresh_home(tmp_path) -> Home:
    """A home with the town in it and nothing made yet."""
    return make_home(tmp_path / "fresh")


@dataclass
class Server:
    """A web server over a home."""

    url: str

    def query(self, text: str, **variables: Any) -> dict[str, Any]:
        """Run a GraphQL query; fails on errors in the answer."""
        body = json.dumps({"query": text, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.load(answer)
        assert "errors" not in found, found
        return found["data"]


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def three_ports() -> list[int]:
    """Ports nobody listens on."""
    return [free_port() for _ in range(3)]


@contextlib.contextmanager
def started(home: Home, *command: str):
    """A process of this Python in a group of its own, which ends with the block; everything it says is in a log."""
    log = home.root / f"{command[0]}.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", *command],
            cwd=ROOT,
            env=home.environment,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT if command[0] == "dagster" else signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answering(home: Home, port: int, log: str) -> Server:
    """Wait for a web server and for the code location behind it."""
    server = Server(f"http://127.0.0.1:{port}")
    for _ in range(400):
        with contextlib.suppress(OSError):
            if server.query("{repositoriesOrError {... on RepositoryConnection {nodes {name}}}}")[
                "repositoriesOrError"
            ].get("nodes"):
                return server
        time.sleep(0.25)
    raise AssertionError((home.root / log).read_text())


@pytest.fixture
def serve():
    """Start web servers over homes; they end with the test."""
    with contextlib.ExitStack() as running:

        def start(home: Home) -> Server:
            port = free_port()
            running.enter_context(started(home, "dagster_webserver", "-w", "workspace.yaml", "-p", str(port)))
            return answering(home, port, "dagster_webserver.log")

        yield start


@pytest.fixture
def beside():
    """Start what runs beside Dagster over homes, each on a port of its own; it ends with the test."""
    with contextlib.ExitStack() as running:

        def start(home: Home, module: str) -> tuple[subprocess.Popen[bytes], int]:
            port = free_port()
            return running.enter_context(started(home, module, "--port", str(port))), port

        yield start


@pytest.fixture
def dev():
    """Start over homes what `make dev` starts: web server, daemon, files of the store; they end with the test."""
    with contextlib.ExitStack() as running:

        def start(home: Home) -> Server:
            port = free_port()
            home.environment["HOSER_KD_FILES"] = f"http://localhost:{free_port()}"
            running.enter_context(started(home, "dagster_project.files"))
            running.enter_context(started(home, "dagster", "dev", "-w", "workspace.yaml", "-p", str(port)))
            return answering(home, port, "dagster.log")

        yield start
