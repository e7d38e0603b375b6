"""The command `sweep`: run trials of a study and print the best settings."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hoser_kd.cli.command import AddCommand, add_city_command, city_config, device_of, store_of
from hoser_kd.cli.progress_bars import Bars
from hoser_kd.common.errors import ConfigError

if TYPE_CHECKING:
    from hoser_kd.pipeline.stage import Stage
    from hoser_kd.pipeline.sweep_results import SweepResult


def add_sweep_commands(command: AddCommand) -> None:
    """Add the command `sweep`."""
    sweep = add_city_command(
        command,
        "sweep",
        "Vary settings of a city over a study's values, and write the best as a YAML patch. Finished trials are kept; "
        "the same command resumes, also in several processes at a time.",
        _sweep,
    )
    sweep.add_argument("--study", required=True, help="name of a study in config/studies, or a YAML file")
    sweep.add_argument("--trials", type=_positive, help="number of trials of the study (default: that of its YAML)")
    sweep.add_argument("--workers", type=_positive, default=1, help="processes that run trials (default 1)")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _sweep(options: argparse.Namespace) -> int:
    from hoser_kd.config.study import find_study, load_study
    from hoser_kd.pipeline.sweep import Sweep
    from hoser_kd.pipeline.sweep_results import write_results

    if options.seed is not None:
        raise ConfigError(f"--seed {options.seed}: the seeds of a study are its key `seeds`. Leave --seed out.")
    config = city_config(options)
    folder = (
        options.config.parent if options.config is not None else Path(os.environ.get("HOSER_KD_CONFIG") or "config")
    )
    file = find_study(options.study, folder)
    study = load_study(file)
    if options.trials is not None:
        study = study.model_copy(update={"trials": options.trials})
    sweep = Sweep(file.stem, study, config, store_of(options))
    others = [
        subprocess.Popen(_command_of_worker(options), stdout=subprocess.DEVNULL)  # noqa: S603
        for _ in range(options.workers - 1)
    ]
    bars = Bars()

    def on_trial(trial: Any) -> None:
        bars.close()
        settings = ", ".join(f"{key} {value}" for key, value in sweep.settings_of(trial).items())
        outcome = trial.user_attrs.get("error") or f"{study.metric} {trial.value:.5g}"
        sys.stderr.write(f"trial {trial.number} of {sweep.num_trials}: {settings}: {outcome}\n")

    def on_stage(stage: Stage) -> None:
        bars.close()
        sys.stderr.write(f"{config.city}: {stage.name}\n")

    try:
        sweep.work(progress=bars, device=device_of(options), on_trial=on_trial, on_stage=on_stage)
    finally:
        bars.close()
        for process in others:
            process.wait()
    result = write_results(sweep)
    sys.stdout.write(_describe(result))
    return 1 if result.rows and result.best is None else 0


def _command_of_worker(options: argparse.Namespace) -> list[str]:
    """Return the command of another process that works on the same study."""
    command = [sys.executable, "-m", "hoser_kd.cli", "sweep", "--study", options.study]
    for name in ("config", "dataset", "cuda", "store", "trials"):
        if (value := getattr(options, name)) is not None:
            command += [f"--{name}", str(value)]
    return command


def _describe(result: SweepResult) -> str:
    """Return the table of the trials, the importances and the patch."""
    from hoser_kd.pipeline.sweep_results import PATCH_FILE

    done = [row for row in result.rows if "error" not in row]
    lines = [f"{len(done)} of {result.num_trials} trials finished, {result.num_failed} failed; the best first:"]
    for row in done[:10]:
        settings = ", ".join(f"{key} {value}" for key, value in row.items() if "." in key)
        lines.append(f"  {result.metric} {row[result.metric]:.5f}  {settings}  ({row['seconds']:.0f} s)")
    lines += [f"  failed: trial {row['trial']}: {row['error']}" for row in result.rows if "error" in row]
    if result.importances:
        shares = ", ".join(f"{key} {share:.2f}" for key, share in result.importances.items())
        lines.append(f"importance: {shares}")
    if done:
        lines += ["", (result.folder / PATCH_FILE).read_text(encoding="utf-8").rstrip()]
    return "\n".join([*lines, f"files: {result.folder}"]) + "\n"
