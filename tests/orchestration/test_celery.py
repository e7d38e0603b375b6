"""Runs on Celery workers: heartbeats, cancellation, and a killed worker whose run another one resumes."""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest
from guarded_process import GuardedProcess
from homes import ROOT, wait_until
from ports import free_ports

pytest.importorskip("dagster_celery", reason="no dagster-celery here: pip install '.[celery]'")

from dagster._core.launcher import WorkerStatus
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG as TASK_TAG

from dagster_project.celery_launcher import WORKER_TAG, read_heartbeat, write_heartbeat

pytestmark = pytest.mark.xdist_group("engines")
HOME = """\
telemetry: {enabled: false}
run_launcher:
  module: dagster_project.celery_launcher
  class: ResumingCeleryRunLauncher
  config: {broker: "memory://", lost_after_seconds: 6}
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An instance whose runs go to Celery, and whose broker no process reads."""
    (tmp_path / "dagster.yaml").write_text(HOME)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with dg.DagsterInstance.get() as instance:
        yield instance


def started_run(instance, **tags):
    @dg.job
    def nothing():
        pass

    return instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED, tags={TASK_TAG: "t1", **tags})


def health(instance, run):
    result = instance.run_launcher.check_run_worker_health(instance.get_run_by_id(run.run_id))
    return result.status, result.msg


def test_a_run_counts_as_lost_without_heartbeats_of_its_worker(home, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    run = started_run(home, **{WORKER_TAG: "w@a"})
    write_heartbeat(home, "w@a", run.run_id, "t1")
    for now[0] in (0, 5):
        assert health(home, run) == (WorkerStatus.RUNNING, None)
    write_heartbeat(home, "w@a", run.run_id, "t1")
    for now[0] in (7, 13):
        assert health(home, run) == (WorkerStatus.RUNNING, None)
    now[0] = 14
    assert health(home, run) == (WorkerStatus.FAILED, "No heartbeat of w@a for 7 s.")


def test_a_run_counts_as_lost_when_its_worker_has_another_run_or_none(home):
    run = started_run(home, **{WORKER_TAG: "w@a"})
    for of_run, task in ((run.run_id, "t0"), ("other", "t1"), ("", "")):
        write_heartbeat(home, "w@a", of_run, task)
        assert health(home, run)[0] == WorkerStatus.FAILED


def test_a_run_that_waits_is_not_lost_but_sent_again_after_a_while(home, monkeypatch):
    now, sent = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(home.run_launcher.celery, "send_task", lambda *args, **options: sent.append((args, options)))
    run = started_run(home, **{WORKER_TAG: ""})
    for now[0] in (0, 179):
        assert health(home, run) == (WorkerStatus.RUNNING, "It waits for a worker.")
    assert not sent
    now[0] = 181
    assert health(home, run)[0] == WorkerStatus.RUNNING
    [((_, [run_id, resume]), options)] = sent
    assert (run_id, resume) == (run.run_id, True)
    # a worker that finds the first task in the queue sees that it is not the run's any more
    assert home.get_run_by_id(run.run_id).tags[TASK_TAG] == options["task_id"] != "t1"


def test_a_run_of_another_process_is_left_alone(home, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(home.run_launcher.celery, "send_task", lambda *_, **__: pytest.fail("sent to a worker"))
    run = home.create_run_for_job(dg.GraphDefinition(name="empty").to_job(), status=dg.DagsterRunStatus.STARTED)
    for now[0] in (0, 10_000):
        assert health(home, run)[0] == WorkerStatus.RUNNING
    assert not home.run_launcher.terminate(run.run_id)


def test_canceling_reaches_the_worker_through_the_database(home):
    waiting, running = started_run(home, **{WORKER_TAG: ""}), started_run(home, **{WORKER_TAG: "w@a"})
    for run in (waiting, running):
        assert home.run_launcher.terminate(run.run_id)
    assert home.get_run_by_id(waiting.run_id).status == dg.DagsterRunStatus.CANCELED
    assert home.get_run_by_id(running.run_id).status == dg.DagsterRunStatus.CANCELING
    assert not home.run_launcher.terminate(waiting.run_id)


@pytest.mark.parametrize("end", ["cancel", "taken over", "no database"])
def test_a_worker_ends_a_run_that_must_not_go_on(home, end, monkeypatch):
    monkeypatch.delitem(sys.modules, "dagster_project.celery_worker", raising=False)
    celery_worker = importlib.import_module("dagster_project.celery_worker")

    run = started_run(home, **{WORKER_TAG: "w@a"})
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    if end == "cancel":
        home.run_launcher.terminate(run.run_id)
    elif end == "taken over":
        home.add_run_tags(run.run_id, {TASK_TAG: "t2"})
    else:
        monkeypatch.setattr(celery_worker, "write_heartbeat", lambda *_: 1 / 0)
    began = time.monotonic()
    celery_worker._watch(process, "w@a", run.run_id, "t1")
    assert process.poll() is None
    assert time.monotonic() - began < home.run_launcher.lost_after_seconds
    celery_worker._end(process)
    assert process.returncode
    celery_worker._report_end(run.run_id, "t1")
    expected = dg.DagsterRunStatus.CANCELED if end == "cancel" else dg.DagsterRunStatus.STARTED
    assert home.get_run_by_id(run.run_id).status == expected
    if end != "no database":
        assert read_heartbeat(home, "w@a")["run"] == run.run_id


def runs(pid: int) -> bool:
    """Return whether a process runs; one that has ended and that no parent has read yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


RUN = """\
import os, signal, subprocess, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
step = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(step.pid, flush=True)
if sys.argv[1] == "hangs":
    step.wait()
os._exit(0)
"""


@pytest.mark.parametrize("run", ["hangs", "exits"])
def test_a_run_and_its_steps_end_seconds_after_the_worker_whatever_they_do(tmp_path, run):
    """Neither threads of the run nor its steps help: they ignore the interrupt, or the run is gone before its step."""
    (tmp_path / "dagster").mkdir()
    (tmp_path / "dagster" / "__init__.py").touch()
    (tmp_path / "dagster" / "__main__.py").write_text(RUN)
    with subprocess.Popen(
        [sys.executable, "-m", "dagster_project.run_process", run],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
    ) as process:
        step = int(process.stdout.readline())
        assert runs(step)
        began = time.monotonic()
        process.stdin.close()  # as the kernel does when the worker ends
        # at its end, also the process that has ended them is gone
        assert process.stdout.read() == b""
        # a process that ends closes its files first: for a moment it still counts as running
        wait_until(lambda: not runs(step), 12, f"process {step} has ended", every=0.05)
        assert time.monotonic() - began < 12


@pytest.fixture
def cluster(copy_of_town, tmp_path, monkeypatch):
    """Redis, PostgreSQL, web server, daemon and two workers over the town's store, started as the docs say."""
    spec = importlib.util.spec_from_file_location("cluster", ROOT / "deploy" / "celery" / "cluster.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if lacking := module.missing():
        pytest.skip(f"no cluster here: this machine lacks {lacking}")
    folder, log = Path("/tmp") / f"hoser-kd-cluster-{os.getpid()}", tmp_path / "cluster.log"
    folder.mkdir()
    folder.chmod(0o755)  # PostgreSQL runs as another user
    (folder / "store").symlink_to(copy_of_town.store)
    command = [sys.executable, str(ROOT / "deploy" / "celery" / "cluster.py"), "up", str(folder)]
    options = ["--port", str(_three_ports()), "--set", "lost_after_seconds=8", "poll_interval_seconds=2"]
    environment = {**copy_of_town.environment, "HOSER_KD_SEEDS": "3"}
    with GuardedProcess([*command, *options], cwd=ROOT, environment=environment, log=log) as process:
        try:
            assert process.wait(600) == 0, log.read_text()
            yield module.Cluster(folder)
        finally:
            subprocess.run([sys.executable, command[1], "down", str(folder)], check=False, timeout=120)
            subprocess.run(["rm", "-rf", str(folder)], check=True)


def _three_ports() -> int:
    """Return an unused port that two unused ones follow."""
    while True:
        ports = sorted(free_ports(400))
        for port in ports:
            if {port + 1, port + 2} <= set(ports):
                return port


def test_a_killed_worker_s_run_is_resumed_by_another_with_the_same_weights(cluster, copy_of_town, monkeypatch):
    home = copy_of_town
    [student] = (home.store / "town" / "vanilla_student" / "seed-0").iterdir()
    weights = (student / "model.safetensors").read_bytes()
    home.environment["DAGSTER_HOME"] = str(cluster.folder / "home")
    for name in ("HOSER_KD_POSTGRES", "HOSER_KD_BROKER"):
        monkeypatch.setenv(name, cluster.environment[name])
    prepared = dg.RunsFilter(job_name="prepare_city", statuses=[dg.DagsterRunStatus.SUCCESS])
    with home.instance() as instance:  # city_watch has launched it; it finds all in the store, and records it here
        wait_until(lambda: instance.get_runs(prepared), 600, lambda: logs(cluster), every=1)
    subprocess.run(["rm", "-rf", str(student)], check=True)

    run = cluster.launch("train_vanilla", "town|0")
    wait_until(lambda: list((home.store / ".work" / "town").rglob("state.pt")), 600, lambda: logs(cluster), every=0.1)
    with home.instance() as instance:
        first = instance.get_run_by_id(run).tags[WORKER_TAG]
    os.kill(cluster.pid(first.partition("@")[0]), signal.SIGKILL)
    assert wait_until(lambda: ended(cluster, run), 600, lambda: logs(cluster), every=1) == "SUCCESS"
    with home.instance() as instance:
        second = instance.get_run_by_id(run).tags[WORKER_TAG]
    assert {first.partition("@")[0], second.partition("@")[0]} == {"worker-0", "worker-1"}
    assert (student / "model.safetensors").read_bytes() == weights


def ended(cluster, run: str) -> str:
    status = cluster.status(run)
    return status if status in {"SUCCESS", "FAILURE", "CANCELED"} else ""


def logs(cluster) -> str:
    return "\n".join(file.read_text()[-3000:] for file in (cluster.folder / "logs").iterdir())
