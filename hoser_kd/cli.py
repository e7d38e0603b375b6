"""The command line `hoser-kd`: the stages without Dagster, over the same functions and the same store.

What has been made already, by Dagster or here, is found by its version and not made again.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError
from tqdm import tqdm

from hoser_kd.common.errors import ConfigError, HoserKdError, StoreError
from hoser_kd.common.progress import TimedLines, duration
from hoser_kd.config.loading import dump_config, load_config
from hoser_kd.config.schema import CityConfig, GenerationConfig
from hoser_kd.config.variants import DECODERS
from hoser_kd.pipeline.graph import STAGES, Stage
from hoser_kd.pipeline.run import make_with_inputs
from hoser_kd.pipeline.store import Artifact, Store, read_artifact


class Bars:
    """Progress as bars on a terminal, one at a time, with the time left; as a few lines where there is none."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._stage = ""
        self._lines = None if sys.stderr.isatty() else TimedLines(lambda line: sys.stderr.write(f"  {line}\n"))

    def __call__(self, stage: str, done: int, total: int, figures: Mapping[str, float] | None = None) -> None:
        """Move the bar of `stage`, opening it first and closing it when it is full."""
        if self._lines is not None:
            self._lines(stage, done, total, figures)
            return
        if stage == self._stage and self._bar is None and done >= total:
            return
        if self._bar is None or stage != self._stage:
            self.close()
            self._bar, self._stage = tqdm(total=total, desc=stage, leave=True, dynamic_ncols=True), stage
        self._bar.total = total
        if figures:
            self._bar.set_postfix({name: f"{value:.4g}" for name, value in figures.items()}, refresh=False)
        self._bar.update(done - self._bar.n)
        if done >= total:
            self.close()

    def close(self) -> None:
        """Close the open bar, if any."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status. A user's mistake is one clear message and status 2."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
    except HoserKdError as error:
        sys.stderr.write(f"hoser-kd: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\nhoser-kd: interrupted; what was finished is kept, the same command goes on from there.\n")
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hoser-kd", description="Distil LM-TAD into HOSER. Finished stages are kept and found again."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, about: str, run: object, *, city: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=about, description=about)
        sub.set_defaults(run=run)
        if city:
            sub.add_argument("--config", type=Path, help="YAML of the city (default: config/<dataset>.yaml)")
            sub.add_argument("--dataset", help="name of the city (default: the name of the config file)")
            sub.add_argument("--seed", type=_seed, default=0, help="seed of the student (default 0)")
            sub.add_argument("--cuda", type=int, help="number of the GPU, -1 for the CPU (default: a GPU if any)")
            sub.add_argument("--store", help="artifact store (default: $HOSER_KD_STORE or data/)")
        return sub

    train = command("train", "Train the student of a city, distilled unless its YAML or --vanilla says no.", _train)
    train.add_argument("--vanilla", action="store_true", help="train the plain student, without a teacher")
    command(
        "label",
        "Make the teacher's soft labels of a city (training or importing the teacher first).",
        _stage_command("teacher_soft_labels"),
    )
    made = command("generate", "Generate trips with both students of a seed.", _generate)
    made.add_argument("--ods", type=Path, help="CSV or Parquet of your own ODs: origin, destination, start_time")
    decoders = "; ".join(f"{name}: {DECODERS[name].summary}" for name in DECODERS)
    made.add_argument("--decoder", choices=DECODERS.names(), help=f"{decoders} (default: that of the YAML)")
    command(
        "evaluate", "Measure both students of a seed and their generated trips.", _stage_command("trajectory_metrics")
    )
    told = command("report", "Write the report of a city.", _stage_command("distillation_report"))
    told.add_argument(
        "--seeds",
        type=_seed,
        nargs="+",
        help="seeds to compare over; intervals need two or more (default: that of --seed)",
    )
    one = command("make", "Make any one stage and all it rests on.", _make)
    one.add_argument("stage", choices=list(STAGES), metavar="STAGE", help=", ".join(STAGES))
    command("show-config", "Print a city's settings with all defaults.", _show_config)
    imported = command(
        "import-teacher",
        "Say what an LM-TAD checkpoint holds and needs; write it as safetensors and JSON.",
        _import_teacher,
        city=False,
    )
    imported.add_argument("file", type=Path, help="the checkpoint, or a folder written by this command")
    imported.add_argument("--out", type=Path, help="folder to write (default: named as the file, here)")
    exported = command(
        "export-student", "Write a student as a .pth state dict in the published layout.", _export_student, city=False
    )
    exported.add_argument("folder", type=Path, help="folder of a student's artifact")
    exported.add_argument("file", type=Path, help="the .pth file to write")
    lineage = command(
        "lineage", "Print the chain of versions that an artifact rests on, from the files alone.", _lineage, city=False
    )
    lineage.add_argument("artifact", type=Path, help="an artifact's folder, or a file in it such as report.html")
    return parser


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0")
    return int(text)


def _config(options: argparse.Namespace) -> CityConfig:
    if options.config is None and options.dataset is None:
        raise ConfigError("name the city: --config config/<city>.yaml, or --dataset <city>.")
    config = load_config(options.config or Path("config") / f"{options.dataset}.yaml")
    if options.dataset is not None and options.dataset != config.city:
        raise ConfigError(f"--dataset {options.dataset} is not the city of {options.config}.")
    return config


def _device(options: argparse.Namespace) -> str:
    if options.cuda is None:
        return "auto"
    return "cpu" if options.cuda < 0 else f"cuda:{options.cuda}"


def _run(options: argparse.Namespace, config: CityConfig, name: str) -> Artifact:
    bars = Bars()
    store = Store(options.store or os.environ.get("HOSER_KD_STORE") or "data")
    seeds: list[int] | None = getattr(options, "seeds", None)

    def on_stage(stage: Stage) -> None:
        bars.close()
        seed = f" (seed {options.seed})" if stage.per_seed and not seeds else ""
        sys.stderr.write(f"{config.city}: {stage.name}{seed}\n")

    try:
        artifact = make_with_inputs(
            name,
            config,
            store,
            seed=seeds[0] if seeds else options.seed,
            seeds=seeds,
            progress=bars,
            device=_device(options),
            on_stage=on_stage,
        )
    finally:
        bars.close()
    sys.stdout.write(_describe(artifact))
    return artifact


def _describe(artifact: Artifact) -> str:
    figures = {key: value for key, value in artifact.summary.items() if isinstance(value, int | float | str)}
    head = (
        f"{artifact.name} of {artifact.city}, version {artifact.version}, made {artifact.created_at} "
        f"in {duration(artifact.seconds)}"
    )
    lines = [f"  {key}: {value}" for key, value in figures.items()]
    lines += [
        f"  {key}: " + ", ".join(f"{name} {_short(number)}" for name, number in value.items())
        for key, value in artifact.summary.items()
        if isinstance(value, Mapping) and value
    ]
    if rows := artifact.summary.get("comparison"):
        kinds = [kind for kind in ("vanilla", "distilled") if kind in rows[0]]
        lines += ["", f"  {'figure on test trips':<34}" + "".join(f"{kind:>12}" for kind in kinds)]
        lines += [f"  {row['figure']:<34}" + "".join(f"{row[kind]:>12.4f}" for kind in kinds) for row in rows]
    page = artifact.path / "report.html"
    return "\n".join([head, *lines, f"  files: {page if page.is_file() else artifact.path}"]) + "\n"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _train(options: argparse.Namespace) -> int:
    config = _config(options)
    vanilla = options.vanilla or not config.distill.enabled
    _run(options, config, "vanilla_student" if vanilla else "distilled_student")
    return 0


def _stage_command(name: str) -> object:
    def run(options: argparse.Namespace) -> int:
        _run(options, _config(options), name)
        return 0

    return run


def _generate(options: argparse.Namespace) -> int:
    config = _config(options)
    wanted = config.generation.model_dump()
    if options.ods is not None:
        wanted |= {"od_source": "file", "od_file": str(options.ods)}
    if options.decoder is not None:
        wanted["decoder"] = options.decoder
    try:
        config = config.model_copy(update={"generation": GenerationConfig(**wanted)})
    except ValidationError as error:
        raise ConfigError(f"generation: {error.errors()[0]['msg'].removeprefix('Value error, ')}.") from None
    _run(options, config, "generated_trajectories")
    return 0


def _make(options: argparse.Namespace) -> int:
    _run(options, _config(options), options.stage)
    return 0


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


def _chain(artifact: Artifact, city: Path, depth: int, seen: set[tuple[str, str]]) -> list[str]:
    line = f"{'  ' * depth}{artifact.name} {artifact.version} (code {artifact.code_version}, {artifact.created_at})"
    if (artifact.name, artifact.version) in seen:
        return [f"{line} …"] if artifact.inputs else [line]
    seen.add((artifact.name, artifact.version))
    lines = [line]
    for name, version in artifact.inputs.items():
        lines += _chain(read_artifact(city / name / version), city, depth + 1, seen)
    return lines


if __name__ == "__main__":
    sys.exit(main())
