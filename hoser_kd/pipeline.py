"""The stages from raw files to the report: what each reads, which settings it obeys, and how its version is made.

Both front ends run stages through `make`: Dagster's assets and the command line. A stage's function lives in
`hoser_kd.stages`, is imported when it runs, and writes plain files into the folder it is given. Its version is a
digest of the versions of its inputs, of the settings it reads, of its code version and of the seed, so a stage that
has been made already is found again instead of being made twice.

This module imports nothing heavy: definitions are loaded from it.
"""

from __future__ import annotations

import importlib
import resource
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hoser_kd.checks import CHECKS, run_checks
from hoser_kd.config import CityConfig
from hoser_kd.digest import digest_file, digest_json, same_bytes
from hoser_kd.errors import CheckError, CheckpointError, DataError, StoreError
from hoser_kd.progress import Progress, silent
from hoser_kd.store import Artifact, Store, now_utc

Inputs = Mapping[str, Artifact | Mapping[int, Artifact]]
"""Artifacts by stage; a stage that is made once a city sees all seeds of one that is made per seed."""


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline."""

    name: str
    """Its name, a noun, and that of the Dagster asset."""
    group: str
    """Its group: the module of `hoser_kd.stages` and of `assets` it lives in."""
    inputs: tuple[str, ...] = ()
    """Stages it reads."""
    settings: tuple[str, ...] = ()
    """Settings it obeys: names of `SETTINGS`."""
    per_seed: bool = False
    """Made once for each seed rather than once a city."""
    code_version: str = "1"
    """Raised by hand when the code makes something else of the same inputs."""

    def function(self) -> Callable[[StageRun], dict[str, Any]]:
        """Import and return the stage's function."""
        module = importlib.import_module(f"hoser_kd.stages.{self.group}")
        function: Callable[[StageRun], dict[str, Any]] = getattr(module, self.name)
        return function


def _teacher_settings(config: CityConfig) -> dict[str, Any]:
    return {**config.teacher.model_dump(mode="json"), "checkpoint": _checkpoint(config)}


def _checkpoint(config: CityConfig) -> str | None:
    """A checkpoint counts by its content: a new file under the old name is another teacher, a moved one is not."""
    if config.distill.ckpt_path is None:
        return None
    path = Path(config.distill.ckpt_path)
    files = sorted(path.glob("*.safetensors")) + sorted(path.glob("config.json")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise CheckpointError(f"{path}: no such file. `distill.ckpt_path` names it; correct it, or remove it to "
                              "train a teacher in the graph.")
    return digest_json([digest_file(file) for file in files])


def _label_settings(config: CityConfig) -> dict[str, Any]:
    """What was added to the section counts where it is not the default, so that labels made before stay theirs."""
    added = config.distill.model_dump(mode="json", include={"labels", "store_outside_mass"},
                                      exclude_defaults=True)
    return config.distill.model_dump(mode="json", include={"window", "teacher_fp16"}) | added


def _distillation_settings(config: CityConfig) -> dict[str, Any]:
    others = {"repo_path", "ckpt_path", "window", "teacher_fp16", "labels", "label_processes",
              "store_outside_mass"}
    return config.distill.model_dump(mode="json", exclude=others)


def _generation_settings(config: CityConfig) -> dict[str, Any]:
    """A file of ODs counts by its content, as a checkpoint does."""
    settings = config.generation.model_dump(mode="json")
    if config.generation.od_file is not None:
        file = Path(config.generation.od_file)
        if not file.is_file():
            raise DataError(file, "no such file.", mend="`generation.od_file` names it.")
        settings["od_file"] = digest_file(file)
    return settings


SETTINGS: dict[str, Callable[[CityConfig], dict[str, Any]]] = {
    "source": lambda config: config.source.model_dump(mode="json", exclude={"on_bad_row"}),
    "rows": lambda config: config.source.model_dump(mode="json", include={"on_bad_row"}),
    "zones": lambda config: config.zones.model_dump(mode="json"),
    "grid": lambda config: {**config.grid.model_dump(mode="json"), "checkpoint": _checkpoint(config)},
    "teacher": _teacher_settings,
    "labels": _label_settings,
    "student": lambda config: config.student.of_the_result(),
    "distillation": _distillation_settings,
    "generation": _generation_settings,
    "evaluation": lambda config: config.evaluation.model_dump(mode="json"),
}
"""The settings as stages read them; a change in one concerns only the stages that name it."""

SOURCE_NOTE = "source.json"
"""Where the raw files are and what they were like: what `source_files` writes."""

_NETWORK = ("road_network", "trajectories", "road_zones", "zone_transitions")
_STUDENTS = ("vanilla_student", "distilled_student")

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("source_files", "network", (), ("source",)),
        Stage("road_network", "network", ("source_files",)),
        Stage("trajectories", "network", ("source_files", "road_network"), ("rows",)),
        Stage("road_centroids", "network", ("road_network",)),
        Stage("road_zones", "network", ("source_files", "road_network"), ("zones",)),
        Stage("zone_transitions", "network", ("road_zones", "trajectories")),
        Stage("grid_token_table", "grid", ("road_network", "road_centroids", "trajectories"), ("grid",),
              code_version="2"),
        Stage("teacher_corpus", "teacher", ("trajectories", "grid_token_table")),
        Stage("teacher", "teacher", ("teacher_corpus", "grid_token_table", "road_network"), ("teacher",)),
        Stage("teacher_evaluation", "teacher", ("teacher", "teacher_corpus", "grid_token_table", "road_network"),
              code_version="2"),
        Stage("teacher_soft_labels", "teacher", ("teacher", "grid_token_table", "trajectories", "road_network"),
              ("labels",)),
        Stage("vanilla_student", "student", _NETWORK, ("student",), per_seed=True),
        Stage("distilled_student", "student", (*_NETWORK, "teacher_soft_labels", "grid_token_table"),
              ("student", "distillation"), per_seed=True),
        Stage("generated_trajectories", "evaluation", (*_STUDENTS, "road_network", "trajectories"),
              ("generation",), per_seed=True, code_version="2"),
        Stage("trajectory_metrics", "evaluation",
              (*_STUDENTS, "generated_trajectories", "teacher_soft_labels", "road_network", "trajectories"),
              ("evaluation",), per_seed=True, code_version="3"),
        Stage("distillation_report", "evaluation",
              (*_STUDENTS, "generated_trajectories", "trajectory_metrics", "road_network", "trajectories",
               "grid_token_table", "teacher", "teacher_evaluation", "teacher_soft_labels"), code_version="4"),
    )
}
"""Every stage by name, in an order in which they can run."""


@dataclass
class StageRun:
    """What a stage's function is given."""

    stage: Stage
    config: CityConfig
    seed: int | None
    inputs: Inputs
    folder: Path
    """Empty, or holding what an interrupted run of the same version left; files written here are the result."""
    progress: Progress = silent
    device: str = "auto"
    """auto, cpu, cuda or cuda:<n>."""
    on_epoch: Callable[[dict[str, float]], None] = field(default=lambda _: None)
    """Told the figures of each finished epoch of a training."""

    def path(self, stage: str) -> Path:
        """Return the folder of an input."""
        artifact = self.inputs[stage]
        if not isinstance(artifact, Artifact):
            raise TypeError(f"{stage} has one artifact a seed; use `seeds`")
        return artifact.path

    def seeds(self, stage: str) -> Mapping[int, Artifact]:
        """Return the artifacts of an input that is made per seed."""
        artifacts = self.inputs[stage]
        if isinstance(artifacts, Artifact):
            raise TypeError(f"{stage} has one artifact; use `path`")
        return artifacts


def input_versions(inputs: Inputs) -> dict[str, str]:
    """Return the versions of all inputs by their names, sorted."""
    flat: list[Artifact] = []
    for artifact in inputs.values():
        flat.extend([artifact] if isinstance(artifact, Artifact) else artifact.values())
    return dict(sorted((artifact.name, artifact.version) for artifact in flat))


def settings_of(stage: Stage, config: CityConfig) -> dict[str, Any]:
    """Return the settings the stage obeys, by the names of `SETTINGS`."""
    return {name: SETTINGS[name](config) for name in stage.settings}


def version_of(stage: Stage, config: CityConfig, inputs: Inputs, seed: int | None = None) -> str:
    """Return the version a stage's result has: 16 hexadecimal digits."""
    return digest_json({
        "stage": stage.name, "code": stage.code_version, "seed": seed,
        "settings": settings_of(stage, config), "inputs": input_versions(inputs),
    })[:16]


def make(
    stage: Stage,
    config: CityConfig,
    store: Store,
    inputs: Inputs,
    *,
    seed: int | None = None,
    force: bool = False,
    progress: Progress = silent,
    device: str = "auto",
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> Artifact:
    """Make a stage's result, or return the one that is there.

    Raw files outside the store may change under an unchanged setting, so `source_files` always looks, and its
    version is that of the content. `force` makes again what is there.
    """
    missing = [name for name in stage.inputs if not inputs.get(name)]
    if missing:
        raise StoreError(f"{stage.name} of {config.city} needs {', '.join(missing)}, which nobody has made yet. "
                         "Materialise them first.")
    version = version_of(stage, config, inputs, seed)
    by_content = stage.name == "source_files" and config.source.kind != "synthetic"
    if not force and not by_content and (found := store.find(stage.name, config.city, version, seed)):
        return found
    with store.work_folder(stage.name, config.city, version, seed) as folder:
        # another process may have finished it while this one waited for the folder
        if not force and not by_content and (found := store.find(stage.name, config.city, version, seed)):
            shutil.rmtree(folder)
            return found
        run = StageRun(stage, config, seed, inputs, folder, progress, device)
        if on_epoch is not None:
            run = replace(run, on_epoch=on_epoch)
        started = time.monotonic()
        summary = stage.function()(run)
        if by_content:
            version = str(summary["content"])[:16]
            found = store.find(stage.name, config.city, version, seed)
            # the same files may lie elsewhere now, or be copies of another time: then the note of them is made anew
            if found and (config.source.kind != "hoser" or same_bytes(found.path / SOURCE_NOTE, folder / SOURCE_NOTE)):
                shutil.rmtree(folder)
                return found
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        artifact = Artifact(
            stage.name, config.city, seed, version, folder, stage.code_version, input_versions(inputs),
            settings_of(stage, config), now_utc(), round(time.monotonic() - started, 3),
            {**summary, "peak_memory_mib": round(peak_mib)},
        )
        return store.commit(folder, artifact)


def make_with_inputs(
    name: str,
    config: CityConfig,
    store: Store,
    *,
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    progress: Progress = silent,
    device: str = "auto",
    on_stage: Callable[[Stage], object] = lambda _: None,
    made: dict[str, Artifact] | None = None,
    stop_at_checks: bool = True,
) -> Artifact:
    """Make a stage and, first, all it rests on: the way without Dagster. Stages that are there are not made again.

    A stage that reads all seeds is given `seeds`, or the one seed where there are none. `on_stage` is told each stage
    that is about to be made. Raises CheckError where a blocking check fails, as Dagster stops there too, unless
    `stop_at_checks` is off: an experiment trains poor students on purpose.
    """
    made = {} if made is None else made
    if name in made:
        return made[name]
    stage = STAGES[name]
    inputs: dict[str, Artifact | Mapping[int, Artifact]] = {}
    by_seed = {one: {} if one != seed else made for one in (seeds or (seed,))}
    for upstream in stage.inputs:
        all_seeds = STAGES[upstream].per_seed and not stage.per_seed
        artifacts = {}
        for one, of_seed in by_seed.items() if all_seeds else ((seed, made),):
            of_seed.update({key: artifact for key, artifact in made.items() if not STAGES[key].per_seed})
            artifacts[one] = make_with_inputs(
                upstream, config, store, seed=one, progress=progress, device=device, on_stage=on_stage, made=of_seed,
                stop_at_checks=stop_at_checks)
            made.update({key: artifact for key, artifact in of_seed.items() if not STAGES[key].per_seed})
        inputs[upstream] = artifacts if all_seeds else artifacts[seed]
    own_seed = seed if stage.per_seed else None
    if store.find(name, config.city, version_of(stage, config, inputs, own_seed), own_seed) is None:
        on_stage(stage)
    made[name] = make(stage, config, store, inputs, seed=own_seed, progress=progress, device=device)
    if not stop_at_checks:
        return made[name]
    for check, result in zip(CHECKS.get(name, ()), run_checks(made[name], inputs), strict=True):
        if check.blocking and not result.passed:
            raise CheckError(f"{name} of {config.city}: check {check.name} failed: {result.said}")
    return made[name]
