"""The command `slurm`: run a city on a Slurm cluster."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from hoser_kd.cli.command import AddCommand, add_city_command, city_config, seed_number, store_of
from hoser_kd.common.errors import ConfigError, ProcessError


def add_slurm_commands(command: AddCommand) -> None:
    """Add the command `slurm`."""
    slurm = add_city_command(
        command,
        "slurm",
        "Submit a city to a Slurm cluster: a job for the stages that all seeds share, an array with a job per seed, "
        "and a job for the report. The store must be on a file system that all nodes share. Finished stages are "
        "reused, so the same command resumes.",
        _slurm,
    )
    slurm.add_argument("--seeds", type=seed_number, nargs="+", default=[0], help="seeds of the students (default 0)")
    slurm.add_argument(
        "--sbatch", default="", metavar="OPTIONS", help='options of all jobs: --sbatch="--partition=gpu --gres=gpu:1"'
    )
    slurm.add_argument("--folder", type=Path, help="folder of the batch scripts and logs (default: slurm/<city>)")
    slurm.add_argument("--dry-run", action="store_true", help="write the scripts and submit nothing")


def _slurm(options: argparse.Namespace) -> int:
    from hoser_kd.pipeline.slurm import SUBMIT, SlurmJobs, write_scripts

    if options.seed is not None:
        raise ConfigError(f"--seed {options.seed}: a job per seed is submitted. Use --seeds {options.seed}.")
    config, store = city_config(options), store_of(options)
    yaml = options.config or Path(os.environ.get("HOSER_KD_CONFIG") or "config") / f"{config.city}.yaml"
    folder = options.folder or Path("slurm") / config.city
    jobs = SlurmJobs(
        config,
        yaml.read_text(encoding="utf-8"),
        str(store.root) if "://" in str(store.root) else str(store.local_root),
        list(dict.fromkeys(options.seeds)),
        shlex.split(options.sbatch),
    )
    write_scripts(jobs, folder)
    if options.dry_run:
        sys.stdout.write(f"{folder}: written. To submit: sh {folder / SUBMIT}\n")
        return 0
    if shutil.which("sbatch") is None:
        raise ConfigError(f"sbatch is not on PATH. Submit on a login node of the cluster: sh {folder / SUBMIT}.")
    done = subprocess.run(["sh", str(folder / SUBMIT)], capture_output=True, text=True, check=False)  # noqa: S603, S607
    if done.returncode != 0:
        raise ProcessError(f"sbatch: {done.stderr.strip() or done.stdout.strip()}. The scripts are in {folder}.")
    shared, seeds, report = done.stdout.split()[-3:]
    sys.stdout.write(
        f"{config.city}: jobs {shared} (shared stages), {seeds} (seeds {' '.join(map(str, jobs.seeds))}), {report} "
        f"(report). They are listed by squeue; logs are in {folder / 'logs'}.\n"
    )
    return 0
