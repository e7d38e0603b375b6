"""Commands that materialize the stages of a city."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from hoser_kd.cli.command import (
    AddCommand,
    Run,
    add_city_command,
    announce,
    city_config,
    materialize,
    run_stage,
    seed_number,
    seed_of,
    store_of,
)
from hoser_kd.cli.output import describe, metric_table
from hoser_kd.cli.progress_bars import Bars
from hoser_kd.common.errors import ConfigError
from hoser_kd.config.loading import dump_config, with_changes
from hoser_kd.config.schema import CityConfig
from hoser_kd.config.variants import DECODERS
from hoser_kd.pipeline.graph import STAGES


def add_stage_commands(command: AddCommand) -> None:
    """Add the commands for a city."""

    def city_command(name: str, about: str, run: Run) -> argparse.ArgumentParser:
        return add_city_command(command, name, about, run)

    train = city_command(
        "train", "Train the student of a city: distilled, unless its YAML or --vanilla disables distillation.", _train
    )
    train.add_argument("--vanilla", action="store_true", help="train the vanilla student, without a teacher")
    city_command(
        "label",
        "Compute the teacher's soft labels of a city; trains or imports the teacher first.",
        _stage_command("teacher_soft_labels"),
    )
    generate = city_command("generate", "Generate trips with both students of a seed.", _generate)
    generate.add_argument("--ods", type=Path, help="CSV or Parquet file of ODs: origin, destination, start_time")
    decoders = "; ".join(f"{name}: {DECODERS[name].summary}" for name in DECODERS)
    generate.add_argument("--decoder", help=f"{decoders} (default: that of the YAML)")
    evaluate = city_command(
        "evaluate",
        "Compute the metrics of both students of a seed and of their generated trips, beside the baselines. Trains the "
        "teacher, the vanilla and the distilled student first where the store lacks them. With --trips, compute those "
        "of another generator's trips and train nothing.",
        _evaluate,
    )
    evaluate.add_argument(
        "--trips",
        type=Path,
        help="file of trips to evaluate, without training: Parquet, the published CSV, or rid_list/time_list CSV(.gz)",
    )
    evaluate.add_argument("--name", help="name of the generator (default: the name of the file)")
    evaluate.add_argument("--out", type=Path, help="JSON file to write the metrics of --trips to")
    evaluate.add_argument("--report", type=Path, help="HTML file to write: the city's report with a column for --trips")
    report = city_command("report", "Write the report of a city.", _stage_command("distillation_report"))
    report.add_argument(
        "--seeds",
        type=seed_number,
        nargs="+",
        help="seeds to compare over; confidence intervals need two or more (default: that of --seed)",
    )
    make = city_command("make", "Materialize stages and all their dependencies.", _make)
    make.add_argument("stage", nargs="+", choices=list(STAGES), metavar="STAGE", help=", ".join(STAGES))
    city_command("show-config", "Print the settings of a city with all defaults.", _show_config)


def _train(options: argparse.Namespace) -> int:
    config = city_config(options)
    vanilla = options.vanilla or not config.distill.enabled
    return run_stage(options, config, "vanilla_student" if vanilla else "distilled_student")


def _stage_command(name: str) -> Run:
    return lambda options: run_stage(options, city_config(options), name)


def _generate(options: argparse.Namespace) -> int:
    config = city_config(options)
    changes: dict[str, Any] = {}
    if options.ods is not None:
        changes |= {"generation.od_source": "file", "generation.od_file": str(options.ods)}
    if options.decoder is not None:
        changes["generation.decoder"] = options.decoder
    return run_stage(options, with_changes(config, changes), "generated_trajectories")


def _evaluate(options: argparse.Namespace) -> int:
    config = city_config(options)
    if options.trips is not None:
        return _evaluate_trips(options, config)
    if given := [f"--{name}" for name in ("name", "out", "report") if getattr(options, name) is not None]:
        raise ConfigError(f"{', '.join(given)}: only valid with --trips. Use --trips FILE.")
    from hoser_kd.pipeline.trip_evaluation import short_tables

    students, baselines = materialize(options, config, ["trajectory_metrics", "baseline_trips"])
    tables = [line for columns, names in short_tables(students, baselines) for line in metric_table(columns, names)]
    sys.stdout.write(describe(students, tables))
    return 0


def _evaluate_trips(options: argparse.Namespace, config: CityConfig) -> int:
    from hoser_kd.common.files import write_json
    from hoser_kd.pipeline.trip_evaluation import evaluate_trip_file, write_report_with

    bars, store = Bars(), store_of(options)
    try:
        result = evaluate_trip_file(
            options.trips,
            config,
            store,
            name=options.name,
            seed=seed_of(options),
            progress=bars,
            on_stage=announce(bars, options, config),
            on_warning=bars.warn,
        )
    finally:
        bars.close()
    lines = [f"{result.name}: {options.trips}", f"  {result.match.message}"]
    lines += [f"  {sentence}" for sentence in (result.caution, result.students_message) if sentence]
    lines += metric_table(result.columns, result.metric_names)
    if options.out is not None:
        write_json(options.out, {"city": config.city, "file": str(options.trips), **result.as_json()})
        lines.append(f"  written: {options.out}")
    if options.report is not None:
        write_report_with(options.report, result, config, store, seed=seed_of(options))
        lines.append(f"  written: {options.report}")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _make(options: argparse.Namespace) -> int:
    for artifact in materialize(options, city_config(options), list(dict.fromkeys(options.stage))):
        sys.stdout.write(describe(artifact))
    return 0


def _show_config(options: argparse.Namespace) -> int:
    sys.stdout.write(dump_config(city_config(options)))
    return 0
