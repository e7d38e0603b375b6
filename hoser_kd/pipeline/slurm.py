"""Batch scripts for Slurm: the stages that all seeds of a city share, an array with a job per seed, the report.

The scripts call the command line, so results are the artifacts of the store, which must be on a file system that all
nodes share. Nothing is pickled and no service runs besides Slurm; the scripts can be read, changed and submitted by
hand.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hoser_kd.common.files import atomic_path
from hoser_kd.config.schema import CityConfig
from hoser_kd.pipeline.plan import Step, plan

REPORT = "distillation_report"
SHARED, SEED, LAST, SUBMIT = "shared.sh", "seed.sh", "report.sh", "submit.sh"
"""Files of a folder of batch scripts."""


@dataclass(frozen=True)
class SlurmJobs:
    """What to run on a cluster, and how."""

    config: CityConfig
    yaml: str
    """The text of the city's YAML. The jobs read a copy of it, so an edit does not change jobs that wait."""
    store: str
    """Folder on a shared file system, or an address that all nodes reach."""
    seeds: Sequence[int]
    options: Sequence[str] = ()
    """Options of sbatch for all jobs, such as `--partition=gpu`."""
    restarts: int = 10
    """How often a job is put back into the queue after it was killed or reached its time limit."""


def shared_stages(config: CityConfig) -> list[str]:
    """Return the stages that all seeds share, without those that others of them include."""
    steps = {step.key: step for step in plan([REPORT], config=config)}
    per_seed = [step for step in steps.values() if step.seed is not None]
    needed = {key for step in per_seed for key in step.dependencies if key[1] is None}
    return _last([steps[key] for key in steps if key in needed], list(steps.values()))


def seed_stages(config: CityConfig) -> list[str]:
    """Return the stages to run for each seed, without those that others of them include."""
    return _last([step for step in plan([REPORT], config=config) if step.seed is not None], [])


def _last(steps: Sequence[Step], others: Sequence[Step]) -> list[str]:
    """Return the names of the steps that no other of them depends on, directly or through `others`."""
    reached: set[tuple[str, int | None]] = set()
    by_key = {step.key: step for step in (*others, *steps)}

    def reach(step: Step) -> None:
        for key in step.dependencies & by_key.keys() - reached:
            reached.add(key)
            reach(by_key[key])

    for step in steps:
        reach(step)
    return [step.stage.name for step in steps if step.key not in reached]


def write_scripts(jobs: SlurmJobs, folder: Path) -> None:
    """Write the three batch scripts, `submit.sh`, which submits them with their dependencies, and the settings."""
    folder = folder.resolve()
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    seeds = [str(seed) for seed in jobs.seeds]
    parts = {
        SHARED: ({"output": f"{folder}/logs/shared.log"}, ("make", *shared_stages(jobs.config))),
        SEED: (
            {"output": f"{folder}/logs/seed-%a.log", "array": ",".join(seeds)},
            ("make", *seed_stages(jobs.config), "--seed", "$SLURM_ARRAY_TASK_ID"),
        ),
        LAST: ({"output": f"{folder}/logs/report.log"}, ("report", "--seeds", *seeds)),
    }
    for name, (options, command) in parts.items():
        _write(folder / name, _script(jobs, folder, name.removesuffix(".sh"), options, command))
    _write(folder / SUBMIT, _SUBMIT)
    _write(folder / f"{jobs.config.city}.yaml", jobs.yaml)


def _write(file: Path, text: str) -> None:
    with atomic_path(file) as path:
        path.write_text(text, encoding="utf-8")


def _script(jobs: SlurmJobs, folder: Path, name: str, options: Mapping[str, str], command: Sequence[str]) -> str:
    """Return a batch script."""
    lines = [f"--job-name={jobs.config.city}-{name}", *(f"--{option}={value}" for option, value in options.items())]
    lines += ["--open-mode=append", "--requeue", "--signal=B:USR1@120", *jobs.options]
    python = shlex.join([sys.executable, "-m", "hoser_kd.cli"])
    which = shlex.join(["--config", str(folder / f"{jobs.config.city}.yaml"), "--store", jobs.store])
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH {line}" for line in lines),
            _RUN.replace("@RESTARTS@", str(jobs.restarts)),
            f"cd {shlex.quote(str(Path.cwd()))}",
            f"run {python} {' '.join(command)} {which}",
            "",
        ]
    )


_RUN = """
# The job goes back into the queue when a process of it is killed (out of memory, for example), and two minutes before
# the time limit. Training then resumes at its last epoch. `scancel` ends it.
again() {
  trap - TERM USR1
  # by its task: the number of the array alone, which its last task has, would put all tasks back
  job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
  if [ "${SLURM_RESTART_COUNT:-0}" -lt @RESTARTS@ ]; then
    echo "$(date): $1; back into the queue (restart $((${SLURM_RESTART_COUNT:-0} + 1)))"
    if scontrol requeue "${job:-$SLURM_JOB_ID}"; then
      sleep 60 # Slurm ends this script
      exit 1
    fi
  fi
  echo "$(date): $1"
  exit 1
}
run() {
  trap 'kill $process; wait $process; again "the time limit is near"' USR1
  trap 'kill $process; wait $process; exit 143' TERM
  "$@" &
  process=$!
  wait $process
  status=$?
  case $status in
    0) ;;
    75 | 134 | 135 | 137 | 139) again "a process was killed (status $status)" ;;
    *) exit $status ;;
  esac
}
"""

_SUBMIT = """#!/bin/sh
# Submits the three jobs; each waits until the one before has succeeded, and is removed if it has failed.
set -e
cd "$(dirname "$0")"
shared=$(sbatch --parsable shared.sh)
seeds=$(sbatch --parsable --kill-on-invalid-dep=yes --dependency="afterok:${shared%%;*}" seed.sh)
report=$(sbatch --parsable --kill-on-invalid-dep=yes --dependency="afterok:${seeds%%;*}" report.sh)
echo "${shared%%;*} ${seeds%%;*} ${report%%;*}"
"""
