"""Dagster homes of a tiny synthetic city, `town`, and the servers that run over them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import dagster as dg
import guarded_process
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from guarded_process import GuardedProcess

from dagster_project.definitions import build_defs
from dagster_project.records import recorded_version
from hoser_kd.pipeline.graph import STAGES

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
generation: {num_trips: 5, max_steps: 300}
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


def wait_until(condition: Callable[[], T], seconds: float, what: object, every: float = 0.2) -> T:
    """Poll until a condition is true and return its value; fails the test after `seconds`, naming `what`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what() if callable(what) else what}"
        time.sleep(every)
    return value


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

    def stale_statuses(self, seeds: Sequence[str]) -> dict[str, tuple[str, StaleStatus]]:
        """Return data version and staleness of every stage, by `stage` or `stage/seed`, as the UI computes them."""
        result = {}
        with warnings.catch_warnings(), self.instance() as instance:
            warnings.simplefilter("ignore")
            graph = self.definitions().get_repository_def().asset_graph
            resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
            for name, stage in STAGES.items():
                key = dg.AssetKey(name)
                for seed in seeds if stage.per_seed else [None]:
                    partition = "town" if seed is None else dg.MultiPartitionKey({"city": "town", "seed": seed})
                    version = recorded_version(instance, key, partition)
                    assert version is not None, f"{name} of {partition} is not materialized"
                    status = resolver.get_status(key, partition)
                    result[name if seed is None else f"{name}/{seed}"] = version, status
        return result

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


def make_town(root: Path) -> Home:
    """Make the whole town with 2 seeds by the runner, as `make demo` starts it."""
    home = make_home(root)
    done = home.run("dagster_project.demo", "--city", "town", "--seeds", "0", "1")
    assert done.returncode == 0, done.stderr[-4000:]
    (home.root / "screen.txt").write_text(done.stdout)
    return home


@dataclass
class Server:
    """A web server over a home."""

    url: str

    def query(self, text: str, **variables: Any) -> dict[str, Any]:
        """Run a GraphQL query; fails on errors in the answer.

        A query that changes nothing is repeated while the server answers with an error of its own (5xx), as it does
        when its code location or its database is busy; fails with that answer if it lasts.
        """
        body = json.dumps({"query": text, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        problems: list[str] = []

        def answer() -> dict[str, Any] | None:
            try:
                with urllib.request.urlopen(request, timeout=60) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                problems.append(f"{error}: {error.read().decode(errors='replace')[:2000]}")
                if error.code < 500 or text.lstrip().startswith("mutation"):
                    pytest.fail(problems[-1])
            return None

        result = wait_until(answer, 60, lambda: problems[-1:], every=1)
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
            lambda: status if (status := self.status(run)) not in UNFINISHED else "",
            seconds,
            f"the end of run {run}",
            every=0.5,
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


class Dev:
    """What `make dev` runs over a home: web server and daemon, the files of the store, and TensorBoard."""

    def __init__(self, home: Home, ports: Sequence[int]) -> None:
        self.home = home
        self.ports = tuple(ports)
        """The port of the gateway, at which UI, files and TensorBoard are."""
        self.url = f"http://127.0.0.1:{ports[0]}"
        home.environment |= {"PYTHONWARNINGS": "ignore"}
        self.log = home.root / "dev.log"
        # a background job of a shell ignores interrupts; the servers must end all the same
        shell = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]
        self.process = GuardedProcess(
            [*shell, sys.executable, "-m", "dagster_project.dev", "--port", str(ports[0])],
            cwd=ROOT,
            environment=home.environment,
            log=self.log,
        )

    def server(self) -> Server:
        """Wait until the web server has loaded the code location."""
        server = Server(self.url)

        def loaded() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            # until it has started, it refuses connections
            with contextlib.suppress(OSError):
                return bool(server.query(_LOADED)["repositoriesOrError"].get("nodes"))
            return False

        wait_until(loaded, 300, self.log.read_text, every=1)
        return server

    def close(self) -> None:
        """Kill all its processes."""
        self.process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def reset(home: Home) -> None:
    """Bring a shared home back to the town's settings: no run in progress, no unfinished work, a free pool."""
    home.yaml.write_text(TOWN)
    with home.instance() as instance:
        unfinished = [dg.DagsterRunStatus(status) for status in UNFINISHED]
        wait_until(lambda: not instance.get_runs(dg.RunsFilter(statuses=unfinished)), 60, "the end of all runs")
        shutil.rmtree(home.store / ".work", ignore_errors=True)
        for slot in instance.event_log_storage.get_concurrency_info("gpu").claimed_slots:
            instance.event_log_storage.free_concurrency_slots_for_run(slot.run_id)


def stop_sensor(home: Home, name: str) -> None:
    """Stop a sensor that the daemon has started, as its switch in the UI does."""
    with home.instance() as instance:
        [state] = [state for state in instance.all_instigator_state() if state.instigator_name == name]
        instance.stop_sensor(state.instigator_origin_id, state.selector_id, None)
