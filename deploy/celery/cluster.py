"""A small cluster on this machine: redis, PostgreSQL, Dagster's web server and daemon, and two Celery workers.

    python deploy/celery/cluster.py up FOLDER [--workers 2] [--port 3000]
    python deploy/celery/cluster.py run FOLDER --city demo --seeds 0 1
    python deploy/celery/cluster.py stop FOLDER redis        # and start: redis, postgres, dev, worker-0, worker-1
    python deploy/celery/cluster.py down FOLDER

`up` lays out FOLDER, starts everything and returns. Each worker stands for a machine: it has its own temporary folder,
so it counts its own slots. `run` launches the whole pipeline of a city and waits for the report. It needs the
programs redis-server and initdb (Debian: redis-server, postgresql), and no root, containers or systemd.

On real machines each of these commands is one line of a service; docs/engines.md lists them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
_WAIT_S = 120


class Cluster:
    """The services in a folder. All their state is on disk, so that every process sees the same cluster."""

    def __init__(self, folder: Path, config: Path | None = None) -> None:
        self.folder = folder.resolve()
        self.config = config or Path(os.environ.get("HOSER_KD_CONFIG") or ROOT / "config").resolve()

    def lay_out(self, port: int, workers: int, changes: Mapping[str, int]) -> None:
        """Make the folder. Servers listen on the ports from `port`; `changes` are numbers in dagster.yaml."""
        for name in ("home", "store", "logs", "pids", "redis"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        text = (ROOT / "deploy" / "celery" / "dagster.yaml").read_text(encoding="utf-8")
        for key, value in {"default_limit": workers, "max_concurrent_runs": workers, **changes}.items():
            text, count = re.subn(rf"({key}:) \d+", rf"\1 {value}", text)
            assert count == 1, key
        (self.folder / "home" / "dagster.yaml").write_text(text, encoding="utf-8")
        (self.folder / "layout").write_text(f"{port} {workers} {self.config}", encoding="utf-8")

    @property
    def ports(self) -> dict[str, int]:
        """The port of each server."""
        port = int((self.folder / "layout").read_text(encoding="utf-8").split()[0])
        return {"dev": port, "redis": port + 1, "postgres": port + 2}

    @property
    def workers(self) -> list[str]:
        """The names of the workers."""
        number = int((self.folder / "layout").read_text(encoding="utf-8").split()[1])
        return [f"worker-{each}" for each in range(number)]

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every machine."""
        config = (self.folder / "layout").read_text(encoding="utf-8").split(" ", 2)[2]
        return {
            **os.environ,
            "DAGSTER_HOME": str(self.folder / "home"),
            "HOSER_KD_STORE": str(self.folder / "store"),
            "HOSER_KD_CONFIG": config,
            "HOSER_KD_POSTGRES": f"postgresql+psycopg2://dagster@{HOST}:{self.ports['postgres']}/postgres",
            "HOSER_KD_BROKER": f"redis://{HOST}:{self.ports['redis']}/0",
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
        }

    def up(self) -> None:
        """Start everything and wait until the web server answers."""
        for name in ("redis", "postgres", "dev", *self.workers):
            self.start(name)
        self.wait_for_web()

    def down(self) -> None:
        """Stop everything that runs."""
        for name in (*self.workers, "dev", "redis", "postgres"):
            self.stop(name)

    def start(self, name: str) -> None:
        """Start a service. A worker and the web server need some seconds until they are ready."""
        if name == "postgres":
            self._postgres("start")
        elif name == "redis":
            # every change is written to disk, so that a restarted broker still has the queue
            words = ["--bind", HOST, "--port", str(self.ports[name]), "--appendonly", "yes", "--save", ""]
            self._start(name, ["redis-server", *words, "--dir", str(self.folder / "redis")])
        elif name == "dev":
            self._start(name, [sys.executable, "-m", "dagster_project.dev", "--port", str(self.ports[name])])
        else:
            self._start_worker(name)

    def _start_worker(self, name: str) -> None:
        temporary = self.folder / name
        temporary.mkdir(exist_ok=True)
        options = ["-P", "threads", "-c", "1", "-n", f"{name}@%h", "--without-gossip", "--without-mingle", "-l", "INFO"]
        command = [sys.executable, "-m", "celery", "-A", "dagster_project.celery_worker", "worker", *options]
        self._start(name, command, {"TMPDIR": str(temporary), "HOSER_KD_SLOTS": "1"})

    def _start(self, name: str, command: Sequence[str], more: Mapping[str, str] | None = None) -> None:
        with (self.folder / "logs" / name).open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**self.environment, **(more or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (self.folder / "pids" / name).write_text(str(process.pid), encoding="utf-8")

    def pid(self, name: str) -> int:
        """Return the process of a service; of PostgreSQL its first one."""
        return int((self.folder / "pids" / name).read_text(encoding="utf-8"))

    def stop(self, name: str, seconds: float = 40) -> None:
        """End a service by SIGTERM, a worker that is busy by a second one, and after some seconds by SIGKILL."""
        if name == "postgres":
            self._postgres("stop")
            return
        file = self.folder / "pids" / name
        if not file.is_file():
            return
        with contextlib.suppress(ProcessLookupError):
            for number in (signal.SIGTERM, signal.SIGQUIT if name in self.workers else signal.SIGTERM):
                os.kill(self.pid(name), number)
                time.sleep(0.5)
            end = time.monotonic() + seconds
            while time.monotonic() < end and not _is_zombie(self.pid(name)):
                os.kill(self.pid(name), 0)
                time.sleep(0.1)
            os.kill(self.pid(name), signal.SIGKILL)
        file.unlink()

    def _postgres(self, action: str) -> None:
        """Start or stop PostgreSQL, as the user `postgres` where this one is root."""
        home = self.folder / "postgres"
        user = "postgres" if os.geteuid() == 0 else None
        binaries = _postgres_binaries()

        def command(*words: str) -> None:
            subprocess.run(
                [str(binaries / words[0]), "-D", str(home / "db"), *words[1:]],
                user=user,
                cwd=home,
                check=action == "start",
                stdout=subprocess.DEVNULL,
                stderr=None if action == "start" else subprocess.DEVNULL,
                timeout=_WAIT_S,
            )

        if action == "stop":
            if home.is_dir():
                command("pg_ctl", "stop", "-m", "immediate")
            return
        if not home.is_dir():
            home.mkdir()
            if user:
                shutil.chown(home, user)
            command("initdb", "-U", "dagster", "--auth=trust", "--no-sync")
        options = f"-p {self.ports['postgres']} -k '' -c listen_addresses={HOST} -c max_connections=200"
        command("pg_ctl", "start", "-w", "-l", str(home / "log"), "-o", options)

    def query(self, text: str, **variables: Any) -> dict[str, Any]:
        """Ask the web server by GraphQL."""
        address, body = f"http://{HOST}:{self.ports['dev']}/graphql", {"query": text, "variables": variables}
        request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
        for left in range(5, -1, -1):
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return dict(json.load(answer)["data"])
            except urllib.error.HTTPError as error:
                # after a restart of the database, each of the server's old connections fails once
                if error.code < 500 or not left or text.lstrip().startswith("mutation"):
                    raise
        raise AssertionError

    def wait_for_web(self, seconds: float = 300) -> None:
        """Wait until the web server has loaded the graph."""
        loaded = "{repositoriesOrError {... on RepositoryConnection {nodes {name}}}}"
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                if self.query(loaded)["repositoriesOrError"].get("nodes"):
                    return
            time.sleep(0.5)
        raise SystemExit(f"the web server does not answer after {seconds:.0f} s: see {self.folder / 'logs' / 'dev'}")

    def launch(self, job: str, partition: str, config: Mapping[str, Any] | None = None) -> str:
        """Launch a job for a city, or for `city|seed`, and return the run's id."""
        tags = {"dagster/partition": partition}
        if "|" in partition:
            tags["dagster/partition/city"], tags["dagster/partition/seed"] = partition.split("|")
        place = {"repositoryLocationName": "hoser_kd", "repositoryName": "__repository__", "jobName": job}
        params = {
            "selector": place,
            "runConfigData": config or {},
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        }
        answer = self.query(_LAUNCH, params=params)["launchRun"]
        if "run" not in answer:
            raise SystemExit(f"{job} of {partition} cannot be launched: {json.dumps(answer)}")
        return str(answer["run"]["runId"])

    def status(self, run: str) -> str:
        """Return the status of a run."""
        return str(self.query(_STATUS, run=run)["runOrError"]["status"])

    def cancel(self, run: str) -> None:
        """Cancel a run as the UI does."""
        self.query(_TERMINATE, run=run)

    def run_city(self, city: str, seeds: Sequence[int]) -> bool:
        """Run the whole pipeline of a city; returns whether the report was written."""
        first = self.launch("full_pipeline", city, {"ops": {"begin": {"config": {"seeds": list(seeds)}}}})
        shown: dict[str, str] = {}
        while True:
            tags = [{"key": "hoser_kd/full_pipeline", "value": first}]
            runs = self.query(_CHAIN, filter={"tags": tags})["runsOrError"]["results"]
            for run in reversed(runs):
                worker = {tag["key"]: tag["value"] for tag in run["tags"]}.get("hoser_kd/worker", "")
                name = f"{run['jobName']} {run['runId'][:8]}"
                if shown.get(name) != (state := f"{run['status']} {worker}"):
                    print(f"{time.strftime('%H:%M:%S')} {name} {state}", flush=True)
                    shown[name] = state
            if any(run["status"] in {"FAILURE", "CANCELED"} for run in runs) or self.status(first) == "FAILURE":
                return False
            if any(run["jobName"] == "report" and run["status"] == "SUCCESS" for run in runs):
                return True
            time.sleep(1)


_LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  ... on RunConfigValidationInvalid { errors { message } } } }"""
_STATUS = "query($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"
_TERMINATE = "mutation($run: String!) { terminateRun(runId: $run) { __typename } }"
_CHAIN = """query($filter: RunsFilter!) { runsOrError(filter: $filter) { ... on Runs {
  results { runId jobName status tags { key value } } } } }"""


def _postgres_binaries() -> Path:
    found = [*map(Path, filter(None, [shutil.which("initdb")])), *Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if not found:
        raise SystemExit("no PostgreSQL server here: apt-get install postgresql")
    return found[-1].parent


def missing() -> str:
    """Return what this machine lacks for a cluster, empty if nothing."""
    lacking = []
    if shutil.which("redis-server") is None:
        lacking.append("redis-server (apt-get install redis-server)")
    if shutil.which("initdb") is None and not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        lacking.append("initdb (apt-get install postgresql)")
    if os.geteuid() == 0:
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            lacking.append("the user postgres, because PostgreSQL does not run as root")
    return ", ".join(lacking)


def _is_zombie(pid: int) -> bool:
    """Return whether a process has ended and only its parent has not read it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False


def main() -> None:
    """Run a command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    about = {"up": "start everything", "run": "run a city", "down": "stop everything", "start": "", "stop": ""}
    subs = {name: commands.add_parser(name, help=about[name] or f"{name} a service") for name in about}
    for sub in subs.values():
        sub.add_argument("folder", type=Path)
    for name in ("start", "stop"):
        subs[name].add_argument("service")
    subs["up"].add_argument("--workers", type=int, default=2)
    subs["up"].add_argument("--port", type=int, default=3000, help="of the UI; redis and PostgreSQL: the next two")
    subs["up"].add_argument("--set", nargs="*", default=[], metavar="KEY=NUMBER", help="numbers in dagster.yaml")
    subs["run"].add_argument("--city", default="demo")
    subs["run"].add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    if options.command in {"up", "start"} and (lacking := missing()):
        raise SystemExit(f"this machine lacks {lacking}")
    cluster = Cluster(options.folder)
    if options.command == "up":
        cluster.lay_out(
            options.port, options.workers, {k: int(v) for k, v in (each.split("=") for each in options.set)}
        )
        cluster.up()
        print(f"http://{HOST}:{options.port}; {', '.join(cluster.workers)}; logs in {cluster.folder / 'logs'}")
    elif options.command == "down":
        cluster.down()
    elif options.command == "run":
        sys.exit(0 if cluster.run_city(options.city, options.seeds) else 1)
    else:
        getattr(cluster, options.command)(options.service)


if __name__ == "__main__":
    main()
