"""The instance as users run it: the template, Postgres, canceling a run, two runs of the same thing at once."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import pytest

from hoser_kd.pipeline.store import read_artifact

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
STATUS = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
LOGS = """query($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events {
  __typename ... on MessageEvent { message } } } } }"""
TERMINATE = "mutation($id: String!) { terminateRun(runId: $id) { __typename } }"


def launch(server, job, **partition):
    """Launch a job for a partition as the UI does; returns the run's id."""
    key = "|".join(partition.values())
    tags = {"dagster/partition": key}
    if len(partition) > 1:
        tags |= {f"dagster/partition/{name}": value for name, value in partition.items()}
    params = {
        "selector": {"repositoryLocationName": "hoser_kd", "repositoryName": "__repository__", "jobName": job},
        "runConfigData": {},
        "mode": "default",
        "executionMetadata": {"tags": [{"key": name, "value": value} for name, value in tags.items()]},
    }
    launched = server.query(LAUNCH, params=params)["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    return launched["run"]["runId"]


def wait_for(condition, seconds, what):
    """Poll until something holds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.3)
    raise AssertionError(f"{what}: not within {seconds} s")


def test_the_template_is_accepted_as_it_is(tmp_path):
    shutil.copy(ROOT / "dagster.yaml-template", tmp_path / "dagster.yaml")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:  # a warning would be an error here
        assert not instance.telemetry_enabled
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_settings["free_slots_after_run_end_seconds"] > 0
        assert instance.global_op_concurrency_default_limit == 1


def processes_of(run):
    """Ids of the processes of a run: its worker, which is told the run's id, and all that stem from it."""
    parents, found = {}, set()
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            if run.encode() in (place / "cmdline").read_bytes():
                found.add(int(place.name))
    while more := {process for process, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def alive(processes):
    """Those that still run; one that ended and waits to be noticed does not."""
    states = {}
    for process in processes:
        with contextlib.suppress(OSError):
            states[process] = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    return {process for process, state in states.items() if state != "Z"}


def test_a_canceled_training_ends_within_seconds_and_leaves_what_was_there(copy_of_town, dev):
    home = copy_of_town
    versions = sorted((home.store / "town" / "vanilla_student" / "seed-0").iterdir())
    config = home.config / "town.yaml"
    config.write_text(config.read_text().replace("max_epochs: 2, batch_size: 32", "max_epochs: 5000, batch_size: 32"))
    server = dev(home)
    run = launch(server, "distill", city="town", seed="0")

    def says(what):
        events = server.query(LOGS, id=run)["logsForRun"]["events"]
        assert not any(event["__typename"] == "RunFailureEvent" for event in events), events
        return any(event["__typename"] == what for event in events)

    wait_for(lambda: says("ObservationEvent"), 240, "an epoch of training")
    working = processes_of(run)
    assert len(working) > 1  # the run's own and that of the step
    server.query(TERMINATE, id=run)
    wait_for(lambda: not alive(working), 45, "the end of its processes")
    wait_for(lambda: server.query(STATUS, id=run)["runOrError"]["status"] == "CANCELED", 30, "the run to be canceled")

    assert sorted((home.store / "town" / "vanilla_student" / "seed-0").iterdir()) == versions
    assert read_artifact(versions[0]).version == versions[0].name
    with dg.DagsterInstance.from_config(home.environment["DAGSTER_HOME"]) as instance:
        wait_for(
            lambda: not instance.event_log_storage.get_concurrency_info("gpu").active_slot_count,
            120,
            "the pool's place to be free",
        )


def test_two_runs_of_the_same_partition_at_once_make_it_once(copy_of_town):
    home = copy_of_town
    with ThreadPoolExecutor() as threads:
        both = [
            threads.submit(home.run, "dagster_project.demo", "--city", "town", "--only", "distill", "--seeds", "2")
            for _ in range(2)
        ]
    for one in both:
        assert one.result().returncode == 0, one.result().stderr[-3000:]
    for student in ("vanilla_student", "distilled_student"):
        made = [path for path in (home.store / "town" / student / "seed-2").iterdir() if path.is_dir()]
        assert len(made) == 1
        assert read_artifact(made[0]).seed == 2
        assert (made[0] / "model.safetensors").is_file()
    assert not list((home.store / ".work" / "town").rglob("*.safetensors"))


@pytest.fixture
def postgres():
    """The address of an empty database on a server of its own; skipped where PostgreSQL is not installed."""
    found = [*map(Path, filter(None, [shutil.which("initdb")])), *Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if not found:
        pytest.skip("no PostgreSQL server here: initdb is neither on PATH nor in /usr/lib/postgresql")
    binaries = found[-1].parent
    user = None
    if os.geteuid() == 0:  # the server refuses to run as root
        try:
            user = pwd.getpwnam("postgres").pw_name
        except KeyError:
            pytest.skip("no user `postgres`, and the PostgreSQL server does not run as root")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="hoser-kd-postgres-"))
    if user:
        shutil.chown(folder, user)

    def command(*words):
        subprocess.run(
            [binaries / words[0], "-D", folder / "db", *words[1:]],
            user=user,
            check=True,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            timeout=60,
        )

    try:
        command("initdb", "-U", "dagster", "--auth=trust", "--no-sync")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
        command("pg_ctl", "start", "-w", "-l", folder / "log", "-o", options)
        try:
            yield f"postgresql+psycopg2://dagster@127.0.0.1:{port}/postgres"
        finally:
            command("pg_ctl", "stop", "-m", "immediate")
    finally:
        shutil.rmtree(folder)


def test_one_setting_moves_runs_and_events_to_postgres(postgres, fresh_home, serve):
    home = fresh_home
    home.environment["HOSER_KD_POSTGRES"] = postgres
    made = subprocess.run(
        [
            "make",
            "--no-print-directory",
            "-o",
            ".venv/.installed",
            f"DAGSTER_HOME={home.root / 'made'}",
            str(home.root / "made" / "dagster.yaml"),
        ],
        cwd=ROOT,
        env=home.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    shutil.copy(home.root / "made" / "dagster.yaml", home.root / "home" / "dagster.yaml")
    home.demo("prepare_city")
    assert not list((home.root / "home").rglob("*.db"))
    server = serve(home)
    runs = server.query("{runsOrError {... on Runs {results {status jobName}}}}")["runsOrError"]["results"]
    assert runs == [{"status": "SUCCESS", "jobName": "prepare_city"}]
