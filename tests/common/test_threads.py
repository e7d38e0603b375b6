"""Threads: chosen before torch is imported, in every entry point, and never against what the user has set."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hoser_kd.common import threads
from hoser_kd.common.threads import available_cores, choose_threads, num_jobs, thread_settings
from hoser_kd.pipeline.workers import launcher

ROOT = Path(__file__).resolve().parents[2]
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0", "GOMP_SPINCOUNT": "3000"}


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr(threads, "available_cores", lambda: 8)


@pytest.mark.usefixtures("eight_cores")
def test_a_process_gets_half_of_the_cores_and_waits_without_spinning():
    environment = {}
    choose_threads(environment)
    assert environment.items() >= {"OMP_NUM_THREADS": "4", **PASSIVE}.items()
    assert num_jobs(environment) == 2


@pytest.mark.parametrize(("cores", "jobs"), [(1, 1), (2, 2), (3, 3)])
def test_on_few_cores_a_process_gets_one(monkeypatch, cores, jobs):
    monkeypatch.setattr(threads, "available_cores", lambda: cores)
    environment = {}
    choose_threads(environment)
    assert environment["OMP_NUM_THREADS"] == "1"
    assert num_jobs(environment) == jobs


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize("number", ["1", "3", "4,2"])
def test_the_number_of_threads_of_the_user_stays(number):
    environment = {"OMP_NUM_THREADS": number}
    choose_threads(environment)
    assert environment == {"OMP_NUM_THREADS": number, **PASSIVE}
    assert num_jobs(environment) == 8 // int(number[0])
    assert num_jobs(environment | {"HOSER_KD_JOBS": "5"}) == 5


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    "waiting", [{"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "1000"}, {"KMP_BLOCKTIME": "200"}]
)
def test_the_way_of_waiting_of_the_user_stays(waiting):
    settings = thread_settings(waiting)
    assert not settings.keys() & PASSIVE.keys()


@pytest.mark.usefixtures("eight_cores")
def test_worker_processes_share_the_cores_again(monkeypatch):
    """A choice that is inherited from the launching process is not one of the user."""
    for name in (*PASSIVE, "OMP_NUM_THREADS", "HOSER_KD_CHOSEN_THREADS"):
        monkeypatch.delenv(name, raising=False)
    os.environ.update(thread_settings(os.environ))
    try:
        assert os.environ["OMP_NUM_THREADS"] == "4"
        assert launcher._environment(8)["OMP_NUM_THREADS"] == "1"
        os.environ["OMP_NUM_THREADS"] = "3"
        assert launcher._environment(8)["OMP_NUM_THREADS"] == "3"
    finally:
        for name in (*PASSIVE, "OMP_NUM_THREADS", "HOSER_KD_CHOSEN_THREADS"):
            os.environ.pop(name, None)


@pytest.mark.parametrize(
    ("text", "expected"), [("100000 100000", 1), ("50000 100000", 1), ("max 100000", None), ("", None), (None, None)]
)
def test_cores_are_those_of_the_container(tmp_path, text, expected):
    file = tmp_path / "cpu.max"
    if text is not None:
        file.write_text(text)
    assert available_cores(file) == (expected or len(os.sched_getaffinity(0)))


@pytest.mark.parametrize("start", ["import dagster_project", "from hoser_kd.cli import main; main(['show-config'])"])
def test_entry_points_choose_before_they_import_torch(start):
    code = f"import os, sys; {start}; sys.exit(('torch' in sys.modules, os.environ['OMP_WAIT_POLICY']))"
    environment = {key: value for key, value in os.environ.items() if key not in PASSIVE}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "(False, 'PASSIVE')" in done.stderr
