"""The instance as users run it: the template, Postgres, canceling a run, two simultaneous runs of a partition."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import pytest
from homes import ROOT, wait_until

from hoser_kd.pipeline.store import read_artifact

LOGS = """query($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events {
  __typename ... on MessageEvent { message } } } } }"""


def test_the_template_is_accepted_as_it_is(tmp_path):
    shutil.copy(ROOT / "dagster.yaml-template", tmp_path / "dagster.yaml")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:  # a warning would be an error here
        assert not instance.telemetry_enabled
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_settings["free_slots_after_run_end_seconds"] > 0
        assert instance.global_op_concurrency_default_limit == 1


def processes_of(run):
    """Return the processes of a run: its worker, whose command names the run, and all its descendants."""
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
    """Return those that still run; zombies do not."""
    states = {}
    for process in processes:
        with contextlib.suppress(OSError):
            states[process] = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    return {process for process, state in states.items() if state != "Z"}


@pytest.mark.xdist_group("dev")
def test_a_canceled_training_ends_within_seconds_and_leaves_finished_artifacts(dev_town):
    home, server = dev_town
    versions = sorted((home.store / "town" / "vanilla_student" / "seed-0").iterdir())
    home.edit("max_epochs: 2, batch_size: 32", "max_epochs: 5000, batch_size: 32")
    run = server.launch("distill", partition="town|0")

    def logged(what):
        events = server.query(LOGS, id=run)["logsForRun"]["events"]
        assert not any(event["__typename"] == "RunFailureEvent" for event in events), events
        return any(event["__typename"] == what for event in events)

    wait_until(lambda: logged("ObservationEvent"), 240, "an epoch of training")
    working = processes_of(run)
    assert len(working) > 1  # the run's own and that of the step
    server.terminate(run)
    wait_until(lambda: not alive(working), 45, "the end of its processes")
    assert server.wait_for_end(run, 30) == "CANCELED"

    assert sorted((home.store / "town" / "vanilla_student" / "seed-0").iterdir()) == versions
    assert read_artifact(versions[0]).version == versions[0].name
    with home.instance() as instance:
        wait_until(
            lambda: not instance.event_log_storage.get_concurrency_info("gpu").active_slot_count,
            120,
            "its slot in the pool to be free",
        )


def test_two_simultaneous_runs_of_a_partition_train_it_once(copy_of_town):
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
        with home.instance() as instance:  # an observation per epoch, from one of the two runs
            epochs = instance.fetch_observations(dg.AssetRecordsFilter(dg.AssetKey(student), ["town|2"]), limit=10)
        assert len(epochs.records) == 2
        assert len({record.run_id for record in epochs.records}) == 1
        assert read_artifact(made[0]).seed == 2
        assert (made[0] / "model.safetensors").is_file()
    assert not list((home.store / ".work" / "town").rglob("*.safetensors"))


@pytest.fixture
def postgres():
    """The address of an empty database on a separate server; skipped where PostgreSQL is not installed."""
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
    done = home.run("dagster_project.demo", "--city", "town", "--only", "prepare_city")
    assert done.returncode == 0, done.stderr[-4000:]
    assert not list((home.root / "home").rglob("*.db"))
    server = serve(home)
    runs = server.query("{runsOrError {... on Runs {results {status jobName}}}}")["runsOrError"]["results"]
    assert runs == [{"status": "SUCCESS", "jobName": "prepare_city"}]
