"""What a stage is, and the arguments of its function.

This module imports no heavy library, because Dagster's definitions load it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hoser_kd.common.progress import Progress, silent
from hoser_kd.config.schema import CityConfig
from hoser_kd.pipeline.store import Artifact

Inputs = Mapping[str, Artifact | Mapping[int, Artifact]]
"""Artifacts by stage. A stage with one artifact per city reads all seeds of a stage with one artifact per seed."""


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline."""

    name: str
    """Name of the stage, of its function and of its Dagster asset; a noun."""
    group: str
    """Asset group: the name of its module in `hoser_kd.pipeline.stages` and in `assets`."""
    description: str
    """What the artifact holds, as Dagster's UI shows it; Markdown."""
    inputs: tuple[str, ...] = ()
    """Names of the stages it reads."""
    optional_inputs: Mapping[str, Callable[[CityConfig], bool]] = field(default_factory=dict)
    """Inputs that it reads under some settings only, with the condition. Where it is false, the input stays in the
    lineage but is not passed to the function, and neither version nor record depends on it."""
    settings: tuple[str, ...] = ()
    """Names of the sections of `SETTINGS` it reads."""
    per_seed: bool = False
    """True: one artifact per city and seed; False: one per city."""
    uses_model: bool = False
    """True where it runs a model. Such steps share Dagster's pool `gpu`, so that a single GPU runs one at a time."""
    kinds: tuple[str, ...] = ()
    """Dagster's tags for the kind of computation and file format."""
    code_version: str = "1"
    """Raised by hand when the code, or the default of a setting, gives another result for the same inputs."""
    module: str = ""
    """Module of the function; empty: `hoser_kd.pipeline.stages.<group>`."""

    def inputs_read(self, config: CityConfig) -> tuple[str, ...]:
        """Return the names of the inputs that it reads under these settings."""
        unused = {name for name, is_read in self.optional_inputs.items() if not is_read(config)}
        return tuple(name for name in self.inputs if name not in unused)

    def function(self) -> Callable[[StageRun], dict[str, Any]]:
        """Import and return the stage's function."""
        module = importlib.import_module(self.module or f"hoser_kd.pipeline.stages.{self.group}")
        function: Callable[[StageRun], dict[str, Any]] = getattr(module, self.name)
        return function


@dataclass
class StageRun:
    """Arguments of a stage's function."""

    stage: Stage
    config: CityConfig
    seed: int | None
    inputs: Inputs
    folder: Path
    """Work folder, empty or with the files of an interrupted run of the same version; becomes the artifact."""
    progress: Progress = silent
    device: str = "auto"
    """auto, cpu, cuda or cuda:<n>."""
    on_epoch: Callable[[dict[str, float]], None] = field(default=lambda _: None)
    """Called with the metrics of each finished epoch of a training."""

    def path(self, stage: str) -> Path:
        """Return the folder of an input that has one artifact."""
        return self.artifact(stage).path

    def artifact(self, stage: str) -> Artifact:
        """Return an input that has one artifact."""
        artifact = self.inputs[stage]
        if not isinstance(artifact, Artifact):
            raise TypeError(f"{stage} has one artifact per seed; use `seeds`")
        return artifact

    def seeds(self, stage: str) -> Mapping[int, Artifact]:
        """Return the artifacts of an input that has one per seed."""
        artifacts = self.inputs[stage]
        if isinstance(artifacts, Artifact):
            raise TypeError(f"{stage} has one artifact; use `path`")
        return artifacts
