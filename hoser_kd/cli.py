"""The command line `hoser-kd`: runs the stages without Dagster, with the same functions and the same store.

Artifacts of the same version that exist in the store, from Dagster or from the command line, are reused.

It uses argparse: typer (click) has no option with several values, so it cannot read `report --seeds 0 1 2`.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hoser_kd.common.errors import ConfigError, HoserKdError, StoreError
from hoser_kd.common.progress import TimedLines, duration
from hoser_kd.config.loading import dump_config, load_city, load_config, with_changes
from hoser_kd.config.messages import nearest
from hoser_kd.config.schema import CityConfig
from hoser_kd.config.variants import DECODERS
from hoser_kd.pipeline.graph import STAGES, Stage
from hoser_kd.pipeline.plan import plan
from hoser_kd.pipeline.run import make_steps
from hoser_kd.pipeline.store import Artifact, Store, read_artifact


class Bars:
    """Progress bars on a terminal, one at a time, with the remaining time; a few lines of text if there is none."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._task = ""
        self._lines = None if sys.stderr.isatty() else TimedLines(lambda line: sys.stderr.write(f"  {line}\n"))

    def __call__(self, task: str, done: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
        """Update the bar of `task`; it opens at the first call and closes when it is full."""
        if self._lines is not None:
            self._lines(task, done, total, metrics)
            return
        if task == self._task and self._bar is None and done >= total:
            return
        if self._bar is None or task != self._task:
            self.close()
            self._bar, self._task = tqdm(total=total, desc=task, leave=True, dynamic_ncols=True), task
        self._bar.total = total
        if metrics:
            self._bar.set_postfix({name: f"{value:.4g}" for name, value in metrics.items()}, refresh=False)
        self._bar.update(done - self._bar.n)
        if done >= total:
            self.close()

    def close(self) -> None:
        """Close the open bar, if any."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 2 after an error of the user, with its message on one line."""
    options = _parse(arguments)
    try:
        status: int = options.run(options)
    except HoserKdError as error:
        sys.stderr.write(f"hoser-kd: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\nhoser-kd: interrupted. Finished work is kept; the same command resumes from there.\n")
        return 130
    return status


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; an unknown one ends the program with the closest of the command."""
    options, unknown = _parser().parse_known_args(arguments)
    if unknown:
        command: argparse.ArgumentParser = options.parser
        known = [name for name in command._option_string_actions if name.startswith("--")]  # noqa: SLF001
        hint = nearest(unknown[0].split("=")[0], known) or f" Known: {', '.join(known)}."
        command.error(f"unknown argument: {unknown[0]}.{hint}")
    return options


Run = Callable[[argparse.Namespace], int]


class _Parser(argparse.ArgumentParser):
    """Parser that suggests the closest command or stage; argparse itself does so from Python 3.14."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            hint = nearest(str(value), action.choices)
            raise argparse.ArgumentError(
                action, f"invalid choice: {value!r}.{hint} Known: {', '.join(action.choices)}."
            )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="hoser-kd", description="Distill LM-TAD into HOSER. Finished stages are kept in the store and reused."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, about: str, run: Run) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=about, description=about)
        sub.set_defaults(run=run, parser=sub)
        return sub

    _add_stage_commands(command)
    _add_file_commands(command)
    return parser


def _add_stage_commands(command: Callable[[str, str, Run], argparse.ArgumentParser]) -> None:
    """Add the commands for a city."""

    def city_command(name: str, about: str, run: Run) -> argparse.ArgumentParser:
        sub = command(name, about, run)
        sub.add_argument(
            "--config", type=Path, help="YAML file of the city (default: <dataset>.yaml in $HOSER_KD_CONFIG or config/)"
        )
        sub.add_argument("--dataset", help="name of the city (default: the name of the config file)")
        sub.add_argument("--seed", type=_seed, help="seed of the student (default 0)")
        sub.add_argument("--cuda", type=int, help="number of the GPU, -1 for the CPU (default: a GPU if there is one)")
        sub.add_argument("--store", help="artifact store (default: $HOSER_KD_STORE or data/)")
        return sub

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
        "Compute the metrics of both students of a seed and of their generated trips, beside the baselines; with "
        "--trips those of another generator's trips.",
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
        type=_seed,
        nargs="+",
        help="seeds to compare over; confidence intervals need two or more (default: that of --seed)",
    )
    make = city_command("make", "Materialize a stage and all its dependencies.", _make)
    make.add_argument("stage", choices=list(STAGES), metavar="STAGE", help=", ".join(STAGES))
    city_command("show-config", "Print the settings of a city with all defaults.", _show_config)


def _add_file_commands(command: Callable[[str, str, Run], argparse.ArgumentParser]) -> None:
    """Add the commands for single files and folders."""
    teacher = command(
        "import-teacher",
        "Describe an LM-TAD checkpoint and the settings it needs; convert it to safetensors and JSON.",
        _import_teacher,
    )
    teacher.add_argument("file", type=Path, help="the checkpoint, or a folder written by this command")
    teacher.add_argument("--out", type=Path, help="folder to write (default: in the working folder, named as the file)")
    student = command(
        "export-student", "Write a student as a .pth state dict in the published layout.", _export_student
    )
    student.add_argument("folder", type=Path, help="folder of a student's artifact")
    student.add_argument("file", type=Path, help="the .pth file to write")
    lineage = command("lineage", "Print the versions that an artifact depends on, from the files alone.", _lineage)
    lineage.add_argument("artifact", type=Path, help="an artifact's folder, or a file in it such as report.html")


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def _seed_of(options: argparse.Namespace) -> int:
    """Return the seed of the student, 0 where none is given. Raises ConfigError for --seed beside --seeds."""
    seeds: list[int] = getattr(options, "seeds", None) or []
    if options.seed is not None and seeds:
        raise ConfigError(
            f"--seed {options.seed} and --seeds {' '.join(map(str, seeds))} contradict each other. Give --seeds alone."
        )
    seed: int = seeds[0] if seeds else options.seed or 0
    return seed


def _config(options: argparse.Namespace) -> CityConfig:
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


def _device(options: argparse.Namespace) -> str:
    if options.cuda is None:
        return "auto"
    return "cpu" if options.cuda < 0 else f"cuda:{options.cuda}"


def _store(options: argparse.Namespace) -> Store:
    return Store(options.store or os.environ.get("HOSER_KD_STORE") or "data")


def _announce(bars: Bars, options: argparse.Namespace, config: CityConfig) -> Callable[[Stage], None]:
    """Return a function that prints which stage is computed."""

    def on_stage(stage: Stage) -> None:
        bars.close()
        seed = f" (seed {_seed_of(options)})" if stage.per_seed and not getattr(options, "seeds", None) else ""
        sys.stderr.write(f"{config.city}: {stage.name}{seed}\n")

    return on_stage


def _artifacts(options: argparse.Namespace, config: CityConfig, names: Sequence[str]) -> list[Artifact]:
    """Return the artifacts of the named stages, computed where the store lacks them."""
    bars = Bars()
    seeds: list[int] = getattr(options, "seeds", None) or []
    seed = _seed_of(options)
    try:
        artifacts = make_steps(
            plan(names, seed, seeds),
            config,
            _store(options),
            progress=bars,
            device=_device(options),
            on_stage=_announce(bars, options, config),
        )
    finally:
        bars.close()
    return [artifacts[name, seed if STAGES[name].per_seed else None] for name in names]


def _run(options: argparse.Namespace, config: CityConfig, name: str) -> int:
    [artifact] = _artifacts(options, config, [name])
    sys.stdout.write(_describe(artifact))
    return 0


def _describe(artifact: Artifact, tables: list[str] | None = None) -> str:
    """Return the lines for an artifact; `tables` are the lines of the comparison, by default that of its summary."""
    head = (
        f"{artifact.name} of {artifact.city}, version {artifact.version}, materialized {artifact.created_at} "
        f"in {duration(artifact.seconds)}"
    )
    lines = [f"  {key}: {value}" for key, value in artifact.summary.items() if isinstance(value, int | float | str)]
    lines += [
        f"  {key}: " + ", ".join(f"{name} {_short(number)}" for name, number in value.items())
        for key, value in artifact.summary.items()
        if isinstance(value, Mapping) and value
    ]
    lines += _comparison(artifact) if tables is None else tables
    page = artifact.path / "report.html"
    return "\n".join([head, *lines, f"  files: {page if page.is_file() else artifact.path}"]) + "\n"


def _comparison(artifact: Artifact) -> list[str]:
    """Return the tables of the summary, such as students, or students and baselines."""
    lines: list[str] = []
    for rows in (artifact.summary.get(key) for key in ("comparison", "next_step", "baselines", "next_step_baselines")):
        if isinstance(rows, list) and rows and "metric" in rows[0]:
            columns = {column: {row["metric"]: row[column] for row in rows} for column in rows[0] if column != "metric"}
            lines += _metric_table(columns, [row["metric"] for row in rows])
    return lines


def _metric_table(columns: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> list[str]:
    """Return the lines of a table: a row per metric, a column per student, baseline or generator."""
    widths = {column: max(len(column) + 2, 12) for column in columns}
    lines = ["", f"  {'metric on test trips':<34}" + "".join(f"{column:>{widths[column]}}" for column in columns)]
    for name in names:
        cells = (f"{values[name]:.4f}" if name in values else "–" for values in columns.values())
        row = "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths.values(), strict=True))
        lines.append(f"  {name:<34}{row}")
    return lines


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _train(options: argparse.Namespace) -> int:
    config = _config(options)
    vanilla = options.vanilla or not config.distill.enabled
    return _run(options, config, "vanilla_student" if vanilla else "distilled_student")


def _stage_command(name: str) -> Run:
    return lambda options: _run(options, _config(options), name)


def _generate(options: argparse.Namespace) -> int:
    config = _config(options)
    changes: dict[str, Any] = {}
    if options.ods is not None:
        changes |= {"generation.od_source": "file", "generation.od_file": str(options.ods)}
    if options.decoder is not None:
        changes["generation.decoder"] = options.decoder
    return _run(options, with_changes(config, changes), "generated_trajectories")


def _evaluate(options: argparse.Namespace) -> int:
    config = _config(options)
    if options.trips is not None:
        return _evaluate_trips(options, config)
    if given := [f"--{name}" for name in ("name", "out", "report") if getattr(options, name) is not None]:
        raise ConfigError(f"{', '.join(given)}: only valid with --trips. Use --trips FILE.")
    from hoser_kd.pipeline.trip_evaluation import short_tables

    students, baselines = _artifacts(options, config, ["trajectory_metrics", "baseline_trips"])
    tables = [line for columns, names in short_tables(students, baselines) for line in _metric_table(columns, names)]
    sys.stdout.write(_describe(students, tables))
    return 0


def _evaluate_trips(options: argparse.Namespace, config: CityConfig) -> int:
    from hoser_kd.common.files import write_json
    from hoser_kd.pipeline.trip_evaluation import evaluate_trip_file, write_report_with

    bars, store = Bars(), _store(options)
    try:
        result = evaluate_trip_file(
            options.trips,
            config,
            store,
            name=options.name,
            seed=_seed_of(options),
            progress=bars,
            on_stage=_announce(bars, options, config),
        )
    finally:
        bars.close()
    lines = [f"{result.name}: {options.trips}", f"  {result.match.message}"]
    lines += [f"  {sentence}" for sentence in (result.caution, result.students_message) if sentence]
    lines += _metric_table(result.columns, result.metric_names)
    if options.out is not None:
        write_json(options.out, {"city": config.city, "file": str(options.trips), **result.as_json()})
        lines.append(f"  written: {options.out}")
    if options.report is not None:
        write_report_with(options.report, result, config, store, seed=_seed_of(options))
        lines.append(f"  written: {options.report}")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _make(options: argparse.Namespace) -> int:
    return _run(options, _config(options), options.stage)


def _show_config(options: argparse.Namespace) -> int:
    sys.stdout.write(dump_config(_config(options)))
    return 0


def _import_teacher(options: argparse.Namespace) -> int:
    from hoser_kd.teacher.importing import import_teacher

    sys.stdout.write("\n".join(import_teacher(options.file, options.out)) + "\n")
    return 0


def _export_student(options: argparse.Namespace) -> int:
    from hoser_kd.hoser import export_checkpoint, load

    export_checkpoint(load(options.folder), options.file)
    sys.stdout.write(f"written: {options.file}\n")
    return 0


def _lineage(options: argparse.Namespace) -> int:
    folder = options.artifact if options.artifact.is_dir() else options.artifact.parent
    if not options.artifact.exists():
        raise StoreError(
            f"{options.artifact}: no such folder or file. An artifact's folder is "
            "<store>/<city>/<stage>/<version>, for a student <store>/<city>/<stage>/seed-<n>/<version>."
        )
    artifact = read_artifact(folder)
    levels = 1 + len(Path(artifact.name).parts)
    city = folder.resolve().parents[levels - 1]
    sys.stdout.write("\n".join(_chain(artifact, city, 0, set())) + "\n")
    return 0


def _chain(artifact: Artifact, city: Path, depth: int, printed: set[tuple[str, str]]) -> list[str]:
    line = f"{'  ' * depth}{artifact.name} {artifact.version} (code {artifact.code_version}, {artifact.created_at})"
    if (artifact.name, artifact.version) in printed:
        return [f"{line} …"] if artifact.inputs else [line]
    printed.add((artifact.name, artifact.version))
    lines = [line]
    for name, version in artifact.inputs.items():
        lines += _chain(read_artifact(city / name / version), city, depth + 1, printed)
    return lines


if __name__ == "__main__":
    sys.exit(main())
