"""The batch scripts of `hoser-kd slurm`, without a cluster."""

import os
import shutil
import signal
import subprocess
import time

import pytest

from hoser_kd.cli import main
from hoser_kd.config.loading import load_config
from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.plan import plan
from hoser_kd.pipeline.slurm import REPORT, seed_stages, shared_stages

YAML = "source: {kind: synthetic}\n"


@pytest.fixture
def yaml(tmp_path):
    file = tmp_path / "town.yaml"
    file.write_text(YAML)
    return file


def test_the_jobs_together_run_all_that_the_report_needs(yaml):
    config = load_config(yaml)
    shared, per_seed = shared_stages(config), seed_stages(config)
    assert per_seed == ["trajectory_metrics"]
    assert "teacher_soft_labels" in shared
    assert not any(STAGES[name].per_seed for name in shared)
    done = {step.key for step in plan(shared, config=config)}
    seeds = {step.key for step in plan(per_seed, 0, config=config)}
    # the array computes nothing that two of its jobs need
    assert {key for key in seeds - done if key[1] is None} == set()
    assert {key for key in (step.key for step in plan([REPORT], config=config)) if key[1] is not None} <= seeds


def test_the_scripts_are_valid_and_hold_the_settings(yaml, tmp_path, capsys):
    folder = tmp_path / "batch"
    arguments = ["slurm", "--config", str(yaml), "--seeds", "1", "4", "1", "--store", str(tmp_path / "store")]
    assert main([*arguments, "--folder", str(folder), "--sbatch=--partition=gpu --gres=gpu:1", "--dry-run"]) == 0
    assert capsys.readouterr().out == f"{folder}: written. To submit: sh {folder}/submit.sh\n"
    assert (folder / "town.yaml").read_text() == YAML
    for name in ("shared.sh", "seed.sh", "report.sh", "submit.sh"):
        subprocess.run(["bash", "-n", str(folder / name)], check=True)
    seed = (folder / "seed.sh").read_text()
    assert "#SBATCH --array=1,4\n#SBATCH" in seed
    assert "#SBATCH --partition=gpu\n#SBATCH --gres=gpu:1\n" in seed
    assert "report --seeds 1 4 --config" in (folder / "report.sh").read_text()


@pytest.fixture
def job(yaml, tmp_path):
    """Return a function that starts a batch script with another command, and programs in place of Slurm's."""
    folder, programs = tmp_path / "batch", tmp_path / "programs"
    assert main(["slurm", "--config", str(yaml), "--folder", str(folder), "--dry-run"]) == 0
    programs.mkdir()

    def start(name, body, scontrol='echo "$@"', **variables):
        for program, text in {"make": body, "scontrol": scontrol, "sleep": ""}.items():
            (programs / program).write_text(f"#!/bin/bash\n{text}\n")
            (programs / program).chmod(0o755)
        script = (folder / name).read_text()
        [call] = [line for line in script.splitlines() if line.startswith("run ")]
        return subprocess.Popen(
            ["bash", "-c", script.replace(call, "run make")],
            env={"PATH": f"{programs}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


TASK = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "4"}


@pytest.mark.parametrize(("status", "requeued"), [(0, 0), (2, 0), (75, 1), (137, 1), (143, 0)])
def test_a_job_goes_back_into_the_queue_when_a_process_was_killed(job, status, requeued):
    # the last task of an array has the array's number, with which all of its tasks would go back
    for name, variables, number in (("seed.sh", TASK, "7_4"), ("shared.sh", {}, "7")):
        process = job(name, f"exit {status}", **variables)
        assert process.communicate()[0].count(f"requeue {number}\n") == requeued
        assert (process.returncode == 0) == (status == 0)
    exhausted = job("seed.sh", f"exit {status}", **TASK, SLURM_RESTART_COUNT="10")
    assert "requeue" not in exhausted.communicate()[0]


def test_near_the_time_limit_the_process_ends_before_the_job_goes_back(job, tmp_path):
    state = tmp_path / "state"
    body = f"trap 'echo ended >{state}; exit 143' TERM; echo started >{state}; while :; do /bin/sleep 0.05; done"
    process = job("seed.sh", body, scontrol=f'cat {state}; echo "$@"', **TASK)
    while not state.is_file():
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    said, complaints = process.communicate(timeout=20)
    assert said.endswith("ended\nrequeue 7_4\n")
    assert complaints == ""
    assert process.returncode == 1


def test_without_sbatch_the_error_names_the_scripts(yaml, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert main(["slurm", "--config", str(yaml), "--folder", str(tmp_path / "batch")]) == 2
    assert f"sh {tmp_path}/batch/submit.sh" in capsys.readouterr().err
    assert main(["slurm", "--config", str(yaml), "--seed", "3"]) == 2
    assert "Use --seeds 3." in capsys.readouterr().err
