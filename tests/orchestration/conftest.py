"""A tiny made city, materialised once through a Dagster instance on disk, and a web server over it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
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

    def run(self, *command: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a module of this Python with the home's environment."""
        return subprocess.run([sys.executable, "-W", "ignore", "-m", *command], cwd=ROOT, env=self.environment,
                              capture_output=True, text=True, check=False, timeout=timeout)

    def demo(self, *jobs: str, seeds: Sequence[str] = ("0",)) -> None:
        """Run jobs of the town."""
        done = self.run("dagster_project.demo", "--city", "town", "--only", *jobs, "--seeds", *seeds)
        assert done.returncode == 0, done.stderr[-4000:]


def home_at(root: Path) -> Home:
    """Return the home laid out in a folder."""
    environment = {**os.environ, "DAGSTER_HOME": str(root / "home"), "HOSER_KD_CONFIG": str(root / "config"),
                   "HOSER_KD_STORE": str(root / "store"), "HOSER_KD_SEEDS": "3"}
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


@pytest.fixture
def serve():
    """Start web servers over homes; they end with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(home: Home) -> Server:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-W", "ignore", "-m", "dagster_webserver", "-w", "workspace.yaml", "-p", str(port)]
        with (home.root / "webserver.log").open("wb") as log:
            started.append(subprocess.Popen(command, cwd=ROOT, env=home.environment, stdout=log, stderr=log))
        server = Server(f"http://127.0.0.1:{port}")
        for _ in range(240):
            with contextlib.suppress(OSError):
                server.query("{version}")
                return server
            time.sleep(0.25)
        raise AssertionError((home.root / "webserver.log").read_text())

    yield start
    for process in started:
        process.terminate()
    for process in started:
        process.wait(30)
