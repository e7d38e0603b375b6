"""The instance as users run it: the template, Postgres, two simultaneous runs of a partition."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import dagster as dg
import pytest
from homes import ROOT, start_module, wait_until
from ports import free_ports

from dagster_project.records import recorded_version
from hoser_kd.pipeline.store import read_artifact


def test_the_template_is_accepted_as_it_is(tmp_path):
    shutil.copy(ROOT / "dagster.yaml-template", tmp_path / "dagster.yaml")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:  # a warning would be an error here
        assert not instance.telemetry_enabled
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_settings["free_slots_after_run_end_seconds"] > 0
        assert instance.global_op_concurrency_default_limit == 1
        assert instance.get_concurrency_config().run_queue_config.max_concurrent_runs == 4
        assert instance.run_coordinator.dequeue_interval_seconds == 1


def test_two_simultaneous_runs_of_a_partition_train_it_once(copy_of_town):
    """One run in the runner's process; another one begins here as soon as the first has begun its training."""
    home = copy_of_town
    command = ("dagster_project.demo", "--city", "town", "--only", "distill", "--seeds", "2")
    with start_module(home, *command) as first:
        work = home.store / ".work" / "town" / "vanilla_student"
        wait_until(lambda: list(work.glob("*/*")) or first.poll() is not None, 120, "the training", every=0.05)
        assert first.poll() is None, "the first run ended before the second could begin"
        home.materialize("distill", seeds=["2"])
        assert first.wait(300) == 0
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
    [port] = free_ports(1)
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


def test_one_setting_moves_runs_and_events_to_postgres(postgres, fresh_home, monkeypatch):
    home = fresh_home
    home.environment["HOSER_KD_POSTGRES"] = postgres
    made = subprocess.run(
        [
            "make",
            "--no-print-directory",
            "-o",
            ".venv/.installed",
            f"BIN={Path(sys.executable).parent}",
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
    monkeypatch.setenv("HOSER_KD_POSTGRES", postgres)
    home.materialize("prepare_city")
    assert not list((home.root / "home").rglob("*.db"))
    with home.instance() as instance:
        assert [(run.job_name, run.status) for run in instance.get_runs()] == [
            ("prepare_city", dg.DagsterRunStatus.SUCCESS)
        ]
        assert recorded_version(instance, dg.AssetKey("road_network"), "town")
