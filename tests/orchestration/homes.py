"""Dagster homes of a tiny synthetic city, `town`, and the servers that run over them."""

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
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg
import guarded_process
from guarded_process import GuardedProcess

from dagster_project.definitions import build_defs

T = TypeVar("T")
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
PER_SEED_JOBS = ("distill", "evaluate")
REPOSITORY = {"repositoryLocationName": "hoser_kd", "repositoryName": "__repository__"}
"""How GraphQL selects the code location."""
UNFINISHED = ["QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING"]

_LOADED = "{repositoriesOrError {... on RepositoryConnection {nodes {name}}}}"
_LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  ... on RunConfigValidationInvalid { errors { message } } } }"""
_STATUS = "query($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"
_TERMINATE = "mutation($run: String!) { terminateRun(runId: $run) { __typename } }"


def wait_until(condition: Callable[[], T], seconds: float, what: object) -> T:
    """Poll until a condition is true and return its value; fails the test after `seconds`, naming `what`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what() if callable(what) else what}"
        time.sleep(0.2)
    return value


def free_port() -> int:
    """Return an unused port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Home:
    """A Dagster home, a config folder and an artifact store, seen by this process and by those it starts."""

    root: Path
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.environment = {
            **os.environ,
            "DAGSTER_HOME": str(self.root / "home"),
            "HOSER_KD_CONFIG": str(self.config),
            "HOSER_KD_STORE": str(self.store),
            "HOSER_KD_SEEDS": "3",
            "PYTHONPATH": str(ROOT),
        }

    @property
    def config(self) -> Path:
        return self.root / "config"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def yaml(self) -> Path:
        """The town's settings."""
        return self.config / "town.yaml"

    @property
    def screen(self) -> str:
        """Standard output of the runner that materialized the town."""
        return (self.root / "screen.txt").read_text()

    def edit(self, old: str, new: str) -> None:
        """Replace a part of the town's settings, which must be there."""
        text = self.yaml.read_text()
        assert old in text
        self.yaml.write_text(text.replace(old, new))

    def copy(self, folder: Path) -> Home:
        """Copy everything into a folder."""
        return Home(Path(shutil.copytree(self.root, folder)))

    def run(self, *command: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        """Run a module of this Python with the home's environment."""
        return guarded_process.run(
            [sys.executable, "-W", "ignore", "-m", *command], cwd=ROOT, environment=self.environment, timeout=timeout
        )

    @contextlib.contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        """Open the Dagster instance in this process."""
        with dg.DagsterInstance.from_config(self.environment["DAGSTER_HOME"]) as instance:
            yield instance

    def definitions(self) -> dg.Definitions:
        """Assemble the graph over this home's settings and store."""
        return build_defs(config_folder=self.config, store_root=str(self.store))

    def materialize(self, *jobs: str, seeds: Sequence[str] = ("0",)) -> None:
        """Execute jobs of the town in this process, for each seed where a job has seeds.

        The runner does the same in a separate process, which takes seconds to import everything.
        """
        definitions = self.definitions()
        with warnings.catch_warnings(), self.instance() as instance:
            warnings.simplefilter("ignore")
            instance.add_dynamic_partitions("city", ["town"])
            for job in jobs:
                per_seed = [dg.MultiPartitionKey({"city": "town", "seed": seed}) for seed in seeds]
                for key in per_seed if job in PER_SEED_JOBS else ["town"]:
                    definitions.resolve_job_def(job).execute_in_process(
                        instance=instance, partition_key=key, run_config={"loggers": {"plain": {}}}
                    )


def make_home(root: Path) -> Home:
    """Lay out a fresh home with the settings of the town."""
    for name in ("config", "store", "home"):
        (root / name).mkdir(parents=True)
    (root / "config" / "town.yaml").write_text(TOWN)
    shutil.copy(ROOT / "dagster.yaml-template", root / "home" / "dagster.yaml")
    return Home(root)


def make_towns(root: Path) -> None:
    """Make the town in three states: `prepared` (the city), `taught` (and its teacher), `town` (everything, 2 seeds).

    The last state comes from the runner, as `make demo` starts it.
    """
    home = make_home(root / "town")
    home.materialize("prepare_city")
    home.copy(root / "prepared")
    home.materialize("train_teacher")
    home.copy(root / "taught")
    done = home.run("dagster_project.demo", "--city", "town", "--seeds", "0", "1")
    assert done.returncode == 0, done.stderr[-4000:]
    (home.root / "screen.txt").write_text(done.stdout)


@dataclass
class Server:
    """A web server over a home."""

    url: str

    def query(self, text: str, **variables: Any) -> dict[str, Any]:
        """Run a GraphQL query; fails on errors in the answer."""
        body = json.dumps({"query": text, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            result = json.load(response)
        assert "errors" not in result, result
        return result["data"]

    def launch(
        self,
        job: str,
        *assets: str,
        partition: str,
        run_config: Mapping[str, Any] | str = "{}",
        tags: Sequence[Mapping[str, str]] = (),
    ) -> str:
        """Launch a job, or only some assets of it, as the UI does; returns the run's id."""
        key_tags = {"dagster/partition": partition}
        if "|" in partition:
            key_tags["dagster/partition/city"], key_tags["dagster/partition/seed"] = partition.split("|")
        given = {tag["key"] for tag in tags}
        params = {
            "selector": {
                **REPOSITORY,
                "jobName": job,
                **({"assetSelection": [{"path": [asset]} for asset in assets]} if assets else {}),
            },
            "runConfigData": run_config,
            "executionMetadata": {
                "tags": [*tags, *({"key": k, "value": v} for k, v in key_tags.items() if k not in given)]
            },
        }
        launched = self.query(_LAUNCH, params=params)["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return launched["run"]["runId"]

    def status(self, run: str) -> str:
        """Return the status of a run."""
        return self.query(_STATUS, run=run)["runOrError"]["status"]

    def wait_for_end(self, run: str, seconds: float = 300) -> str:
        """Wait for the end of a run; returns its last status."""
        return wait_until(
            lambda: status if (status := self.status(run)) not in UNFINISHED else "", seconds, f"the end of run {run}"
        )

    def terminate(self, run: str) -> None:
        """Cancel a run as the UI does."""
        answer = self.query(_TERMINATE, run=run)["terminateRun"]
        assert answer["__typename"] == "TerminateRunSuccess", answer


def start_module(home: Home, *command: str) -> GuardedProcess:
    """Start a module of this Python over a home; its output goes to a log in the home."""
    return GuardedProcess(
        [sys.executable, "-W", "ignore", "-m", *command],
        cwd=ROOT,
        environment=home.environment,
        log=home.root / f"{command[0]}.log",
    )


@contextlib.contextmanager
def web_server(home: Home) -> Iterator[Server]:
    """Run a web server over a home."""
    port = free_port()
    with start_module(home, "dagster_webserver", "-w", "workspace.yaml", "-p", str(port)) as process:
        yield _answering(home, process, port, "dagster_webserver.log")


@contextlib.contextmanager
def dev_servers(home: Home) -> Iterator[Server]:
    """Run over a home what `make dev` runs: web server, daemon and the files of the store."""
    port = free_port()
    home.environment["HOSER_KD_FILES"] = f"http://localhost:{free_port()}"
    with (
        start_module(home, "dagster_project.files"),
        start_module(home, "dagster", "dev", "-w", "workspace.yaml", "-p", str(port)) as process,
    ):
        yield _answering(home, process, port, "dagster.log")


def _answering(home: Home, process: GuardedProcess, port: int, log: str) -> Server:
    """Wait for a web server and for the code location behind it."""
    server = Server(f"http://127.0.0.1:{port}")

    def loaded() -> bool:
        assert process.poll() is None, (home.root / log).read_text()
        with contextlib.suppress(OSError):
            return bool(server.query(_LOADED)["repositoriesOrError"].get("nodes"))
        return False

    wait_until(loaded, 300, (home.root / log).read_text)
    return server


def reset(home: Home) -> None:
    """Bring a shared home back to the town's settings: no run in progress, no unfinished work, a free pool."""
    home.yaml.write_text(TOWN)
    shutil.rmtree(home.store / ".work", ignore_errors=True)
    with home.instance() as instance:
        unfinished = [dg.DagsterRunStatus(status) for status in UNFINISHED]
        wait_until(lambda: not instance.get_runs(dg.RunsFilter(statuses=unfinished)), 60, "the end of all runs")
        for slot in instance.event_log_storage.get_concurrency_info("gpu").claimed_slots:
            instance.event_log_storage.free_concurrency_slots_for_run(slot.run_id)
