"""What every module of commands needs: the type of a command's function, and the options that name a city.

A module of commands has one function `add_..._commands(command)`, which `main` calls; `command(name, about, run)` adds
a command and returns its parser. Heavy libraries are imported in the function of a command, so that `--help` is fast.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hoser_kd.cli.output import describe
from hoser_kd.cli.progress_bars import Bars
from hoser_kd.common.errors import ConfigError
from hoser_kd.config.loading import load_city, load_config
from hoser_kd.config.schema import CityConfig
from hoser_kd.pipeline.graph import STAGES, Stage
from hoser_kd.pipeline.plan import plan
from hoser_kd.pipeline.run import make_steps
from hoser_kd.pipeline.store import Artifact, Store

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
    sub.add_argument("--store", help="artifact store (default: $HOSER_KD_STORE or data/)")
    return sub


def seed_number(text: str) -> int:
    """Return the seed of an option's text, for argparse. Raises ArgumentTypeError for another text."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
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
    if options.dataset is not None and not re.fullmatch(r"[A-Za-z0-9_]+", options.dataset):
        name = Path(options.dataset).stem
        raise ConfigError(
            f"--dataset {options.dataset} is not the name of a city: letters, digits and _. Use --dataset {name}, or "
            f"--config {Path(options.dataset).with_suffix('.yaml')}."
        )
    if options.config is None:
        return load_city(options.dataset, Path(os.environ.get("HOSER_KD_CONFIG") or "config"))
    config = load_config(options.config)
    if options.dataset is not None and options.dataset != config.city:
        raise ConfigError(f"--dataset {options.dataset} is not the city of {options.config}, {config.city}.")
    return config


def device_of(options: argparse.Namespace) -> str:
    """Return the device of --cuda: `auto`, `cpu` or `cuda:<n>`."""
    if options.cuda is None:
        return "auto"
    return "cpu" if options.cuda < 0 else f"cuda:{options.cuda}"


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


def print_warning(message: str) -> None:
    """Print the message of a failed check that does not stop."""
    sys.stderr.write(f"warning: {message}\n")


def materialize(options: argparse.Namespace, config: CityConfig, names: Sequence[str]) -> list[Artifact]:
    """Return the artifacts of the named stages, computed where the store lacks them."""
    bars = Bars()
    seeds: list[int] = getattr(options, "seeds", None) or []
    seed = seed_of(options)
    try:
        artifacts = make_steps(
            plan(names, seed, seeds),
            config,
            store_of(options),
            progress=bars,
            device=device_of(options),
            on_stage=announce(bars, options, config),
            on_warning=print_warning,
        )
    finally:
        bars.close()
    return [artifacts[name, seed if STAGES[name].per_seed else None] for name in names]


def run_stage(options: argparse.Namespace, config: CityConfig, name: str) -> int:
    """Materialize a stage and print its artifact."""
    [artifact] = materialize(options, config, [name])
    sys.stdout.write(describe(artifact))
    return 0
