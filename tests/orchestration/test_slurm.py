"""A city on a Slurm cluster of one node: jobs in order, and a killed one that resumes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from guarded_process import GuardedProcess
from homes import ROOT, wait_until
from ports import free_ports

from hoser_kd.cli import main

pytestmark = pytest.mark.xdist_group("engines")


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A cluster; skipped where Slurm is not installed."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    lacking = [name for name in ("slurmctld", "slurmd", "sbatch", "munged") if not shutil.which(name, path=path)]
    if lacking or os.geteuid() != 0:
        pytest.skip(
            f"no Slurm here ({', '.join(lacking)}): apt-get install slurmctld slurmd slurm-client munge, as root"
        )
    monkeypatch.setenv("SLURM_PORT", str(free_ports(1)[0]))
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm" / "slurm.conf"))
    command, log = ["sh", str(ROOT / "deploy" / "slurm" / "cluster.sh")], tmp_path / "cluster.log"
    folder = str(tmp_path / "slurm")
    # its daemons are the guard's descendants
    with GuardedProcess([*command, "start", folder], cwd=tmp_path, environment=os.environ, log=log) as process:
        try:
            assert process.wait(60) == 0, log.read_text()
            yield
        finally:
            subprocess.run([*command, "stop", folder], check=False, timeout=60)


def processes_of(words: str) -> list[int]:
    """Return the processes whose command has these words."""
    numbers = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if words in line and " -m hoser_kd.cli " in line:
                numbers.append(int(entry.name))
    return numbers


def test_a_killed_job_resumes_and_the_report_follows(slurm, copy_of_town, tmp_path, monkeypatch, capsys):
    home = copy_of_town
    for name in ("HOSER_KD_STORE", "HOSER_KD_CONFIG"):
        monkeypatch.setenv(name, home.environment[name])
    monkeypatch.chdir(ROOT)
    [student] = (home.store / "town" / "vanilla_student" / "seed-0").iterdir()
    weights = (student / "model.safetensors").read_bytes()
    shutil.rmtree(student)
    logs = tmp_path / "batch" / "logs"

    arguments = ["slurm", "--dataset", "town", "--seeds", "0", "--folder", str(tmp_path / "batch")]
    assert main([*arguments, "--sbatch=--partition=all"]) == 0
    assert "(seeds 0)" in capsys.readouterr().out
    wait_until(lambda: list((home.store / ".work" / "town").rglob("state.pt")), 240, lambda: show(logs), every=0.1)
    [process] = processes_of(str(tmp_path / "batch"))
    os.kill(process, signal.SIGKILL)

    report = logs / "report.log"
    wait_until(lambda: report.is_file() and "report.html" in report.read_text(), 600, lambda: show(logs))
    assert "back into the queue (restart 1)" in (logs / "seed-0.log").read_text()
    assert (student / "model.safetensors").read_bytes() == weights
    # Dagster finds the version that it has recorded, and trains nothing
    made = (student / "artifact.json").stat().st_mtime_ns
    home.materialize("distill")
    assert (student / "artifact.json").stat().st_mtime_ns == made


def show(logs: Path) -> str:
    queue = subprocess.run(["squeue"], capture_output=True, text=True, check=False).stdout
    return queue + "\n".join(f"{file}:\n{file.read_text()}" for file in sorted(logs.glob("*")))
