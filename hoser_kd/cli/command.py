"""What every module of commands needs: the type of a command's function, and the options that name a city.

A module of commands has one function `add_..._commands(command)`, which `main` calls; `command(name, about, run)` adds
a command and returns its parser. Heavy libraries are imported in the function of a command, so that `--help` is fast.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hoser_kd.cli.output import describe
from hoser_kd.cli.progress_bars import Bars
from hoser_kd.common.errors import ConfigError
from hoser_kd.common.progress import Progress
from hoser_kd.common.threads import JOBS, num_jobs
from hoser_kd.config.city_names import why_no_city
from hoser_kd.config.loading import load_city, load_config
from hoser_kd.config.schema import CityConfig
from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.parallel import make_steps_side_by_side
from hoser_kd.pipeline.plan import Step, StepKey, plan
from hoser_kd.pipeline.run import make_steps
from hoser_kd.pipeline.stage import Stage
from hoser_kd.pipeline.store import Artifact, Store

TRAININGS = ("teacher", "vanilla_student", "distilled_student")
"""Stages that train a model, which takes minutes to hours."""

Run = Callable[[argparse.Namespace], int]
"""A command's function: takes the options and returns the exit status."""

AddCommand = Callable[[str, str, Run], argparse.ArgumentParser]
"""Adds a command, given its name, its description and its function, and returns its parser."""


def add_city_command(command: AddCommand, name: str, about: str, run: Run) -> argparse.ArgumentParser:
    """Add a command with the options that name a city, its seed, the device and the store."""
    sub = command(name, about, run)
    sub.add_argument(
        "--config", type=Path, help="YAML file of the city (default: <dataset>.yaml in $HOSER_KD_CONFIG or config/)"
    )
    sub.add_argument("--dataset", help="name of the city (default: the name of the config file)")
    sub.add_argument("--seed", type=seed_number, help="seed of the student (default 0)")
    sub.add_argument("--cuda", type=int, help="number of the GPU, -1 for the CPU (default: a GPU if there is one)")
    sub.add_argument(
        "--jobs",
        type=_number_of_jobs,
        help="stages that run side by side (default: $HOSER_KD_JOBS, or the number of cores over $OMP_NUM_THREADS)",
    )
    sub.add_argument("--store", help="artifact store (default: $HOSER_KD_STORE or data/)")
    return sub


def seed_number(text: str) -> int:
    """Return the seed of an option's text, for argparse. Raises ArgumentTypeError for another text."""
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from 0")
    if len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text[:40]} is too large for a seed; it has at most 18 digits")
    return int(text)


def _number_of_jobs(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def seed_of(options: argparse.Namespace) -> int:
    """Return the seed of the student, 0 where none is given. Raises ConfigError for --seed beside --seeds."""
    seeds: list[int] = getattr(options, "seeds", None) or []
    if options.seed is not None and seeds:
        raise ConfigError(
            f"--seed {options.seed} and --seeds {' '.join(map(str, seeds))} contradict each other. Give --seeds alone."
        )
    seed: int = seeds[0] if seeds else options.seed or 0
    return seed


def city_config(options: argparse.Namespace) -> CityConfig:
    """Return the settings of the city that --config or --dataset names. Raises ConfigError if there are none."""
    if options.config is None and options.dataset is None:
        raise ConfigError("no city given. Use --config config/<city>.yaml or --dataset <city>.")
    if options.dataset is not None and (reason := why_no_city(options.dataset)):
        name = Path(options.dataset).stem
        fix = "Use --config config/<city>.yaml."
        if name and why_no_city(name) is None:
            fix = f"Use --dataset {name}, or --config {Path(options.dataset).with_suffix('.yaml')}."
        raise ConfigError(f"--dataset {options.dataset!r} is not the name of a city: {reason}. {fix}")
    if options.config is None:
        return load_city(options.dataset, Path(os.environ.get("HOSER_KD_CONFIG") or "config"))
    config = load_config(options.config)
    if options.dataset is not None and options.dataset != config.city:
        raise ConfigError(f"--dataset {options.dataset} is not the city of {options.config}, {config.city}.")
    return config


def device_of(options: argparse.Namespace) -> str:
    """Return the device of --cuda: `auto`, `cpu` or `cuda:<n>`. Raises ConfigError if there is no such GPU."""
    if options.cuda is None:
        return "auto"
    if options.cuda < 0:
        return "cpu"
    from hoser_kd.common.device import pick_device

    return str(pick_device(f"cuda:{options.cuda}"))  # here, and not after the stages that need no GPU


def store_of(options: argparse.Namespace) -> Store:
    """Return the store of --store, of $HOSER_KD_STORE, or `data`."""
    return Store(options.store or os.environ.get("HOSER_KD_STORE") or "data")


def announce(bars: Bars, options: argparse.Namespace, config: CityConfig) -> Callable[[Stage], None]:
    """Return a function that prints which stage is computed."""

    def on_stage(stage: Stage) -> None:
        bars.close()
        seed = f" (seed {seed_of(options)})" if stage.per_seed and not getattr(options, "seeds", None) else ""
        sys.stderr.write(f"{config.city}: {stage.name}{seed}\n")

    return on_stage


def jobs_of(options: argparse.Namespace) -> int:
    """Return how many stages run side by side: --jobs, $HOSER_KD_JOBS, or as many as the cores have threads for."""
    if options.jobs is not None:
        return int(options.jobs)
    text = os.environ.get(JOBS, "")
    try:
        _number_of_jobs(text or "1")
    except argparse.ArgumentTypeError as error:
        raise ConfigError(f"{JOBS}: {error}. Correct it or remove it.") from None
    return num_jobs()


def materialize(options: argparse.Namespace, config: CityConfig, names: Sequence[str]) -> list[Artifact]:
    """Return the artifacts of the named stages, computed where the store lacks them."""
    seed = seed_of(options)
    steps = plan(names, seed, getattr(options, "seeds", None) or [], config)
    trainings = trainings_of(steps, names)
    artifacts = (_one_by_one if jobs_of(options) == 1 else _side_by_side)(options, config, steps, trainings)
    return [artifacts[name, seed if STAGES[name].per_seed else None] for name in names]


def _one_by_one(
    options: argparse.Namespace, config: CityConfig, steps: Sequence[Step], trainings: list[str]
) -> dict[StepKey, Artifact]:
    bars = Bars()
    print_stage = announce(bars, options, config)

    def on_stage(stage: Stage) -> None:
        while trainings:  # once, and only if the store lacks something
            bars.write(f"{config.city}: {trainings.pop()}")
        print_stage(stage)

    try:
        return make_steps(
            steps,
            config,
            store_of(options),
            progress=bars,
            device=device_of(options),
            on_stage=on_stage,
            on_warning=bars.warn,
        )
    finally:
        bars.close()


def _side_by_side(
    options: argparse.Namespace, config: CityConfig, steps: Sequence[Step], trainings: list[str]
) -> dict[StepKey, Artifact]:
    bars = Bars()
    several_seeds = len({step.seed for step in steps} - {None}) > 1

    def on_start(step: Step) -> Progress:
        while trainings:
            bars.write(f"{config.city}: {trainings.pop()}")
        title = step.stage.name + (f" (seed {step.seed})" if several_seeds and step.seed is not None else "")
        bars.write(f"{config.city}: {title}")
        return bars.of(title)

    try:
        return make_steps_side_by_side(
            steps,
            config,
            store_of(options),
            jobs=jobs_of(options),
            on_start=on_start,
            device=device_of(options),
            on_warning=bars.warn,
        )
    finally:
        bars.close()


def trainings_of(steps: Sequence[Step], names: Sequence[str]) -> list[str]:
    """Return a line about the models that the named stages need and that are trained where the store lacks them.

    Empty where they need no model but those named.
    """
    models = [
        step.stage.name if step.seed is None else f"{step.stage.name} (seed {step.seed})"
        for step in steps
        if step.stage.name in TRAININGS and step.stage.name not in names
    ]
    if not models:
        return []
    return [f"{', '.join(models)}: needed for {', '.join(names)}, and trained now where the store lacks them"]


def run_stage(options: argparse.Namespace, config: CityConfig, name: str) -> int:
    """Materialize a stage and print its artifact."""
    [artifact] = materialize(options, config, [name])
    sys.stdout.write(describe(artifact))
    return 0
