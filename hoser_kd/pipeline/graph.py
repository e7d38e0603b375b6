"""The stages from raw files to the report: what each reads, which settings it obeys, and how its version is made.

Both front ends run stages through `make`: Dagster's assets and the command line. A stage's function lives in
`pipeline.stages`, is imported when it runs, and writes plain files into the folder it is given. Its version is a
digest of the versions of its inputs, of the settings it reads, of its code version and of the seed, so a stage that
has been made already is found again instead of being made twice.

This module imports nothing heavy: definitions are loaded from it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hoser_kd.common.errors import CheckpointError, DataError
from hoser_kd.common.hashing import digest_file, digest_json
from hoser_kd.common.progress import Progress, silent
from hoser_kd.config.schema import CityConfig
from hoser_kd.pipeline.store import Artifact

Inputs = Mapping[str, Artifact | Mapping[int, Artifact]]
"""Artifacts by stage; a stage that is made once a city sees all seeds of one that is made per seed."""


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline."""

    name: str
    """Its name, a noun, and that of the Dagster asset."""
    group: str
    """Its group: the module of `hoser_kd.pipeline.stages` and of `assets` it lives in."""
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
        module = importlib.import_module(f"hoser_kd.pipeline.stages.{self.group}")
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
        raise CheckpointError(
            f"{path}: no such file. `distill.ckpt_path` names it; correct it, or remove it to "
            "train a teacher in the graph."
        )
    return digest_json([digest_file(file) for file in files])


def _label_settings(config: CityConfig) -> dict[str, Any]:
    """What was added to the section counts where it is not the default, so that labels made before stay theirs."""
    added = config.distill.model_dump(mode="json", include={"labels", "store_outside_mass"}, exclude_defaults=True)
    return config.distill.model_dump(mode="json", include={"window", "teacher_fp16"}) | added


def _distillation_settings(config: CityConfig) -> dict[str, Any]:
    others = {"repo_path", "ckpt_path", "window", "teacher_fp16", "labels", "label_processes", "store_outside_mass"}
    return config.distill.model_dump(mode="json", exclude=others)


def _generation_settings(config: CityConfig) -> dict[str, Any]:
    """A file of ODs counts by its content, as a checkpoint does."""
    settings = config.generation.model_dump(mode="json")
    if config.generation.od_file is not None:
        file = Path(config.generation.od_file)
        if not file.is_file():
            raise DataError(file, "no such file.", hint="`generation.od_file` names it.")
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
        Stage(
            "grid_token_table", "grid", ("road_network", "road_centroids", "trajectories"), ("grid",), code_version="2"
        ),
        Stage("teacher_corpus", "teacher", ("trajectories", "grid_token_table")),
        Stage("teacher", "teacher", ("teacher_corpus", "grid_token_table", "road_network"), ("teacher",)),
        Stage(
            "teacher_evaluation",
            "teacher",
            ("teacher", "teacher_corpus", "grid_token_table", "road_network"),
            code_version="2",
        ),
        Stage(
            "teacher_soft_labels",
            "teacher",
            ("teacher", "grid_token_table", "trajectories", "road_network"),
            ("labels",),
        ),
        Stage("vanilla_student", "student", _NETWORK, ("student",), per_seed=True),
        Stage(
            "distilled_student",
            "student",
            (*_NETWORK, "teacher_soft_labels", "grid_token_table"),
            ("student", "distillation"),
            per_seed=True,
        ),
        Stage(
            "generated_trajectories",
            "evaluation",
            (*_STUDENTS, "road_network", "trajectories"),
            ("generation",),
            per_seed=True,
            code_version="2",
        ),
        Stage(
            "trajectory_metrics",
            "evaluation",
            (*_STUDENTS, "generated_trajectories", "teacher_soft_labels", "road_network", "trajectories"),
            ("evaluation",),
            per_seed=True,
            code_version="3",
        ),
        Stage(
            "distillation_report",
            "evaluation",
            (
                *_STUDENTS,
                "generated_trajectories",
                "trajectory_metrics",
                "road_network",
                "trajectories",
                "grid_token_table",
                "teacher",
                "teacher_evaluation",
                "teacher_soft_labels",
            ),
            code_version="4",
        ),
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
