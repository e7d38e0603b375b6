"""Running stages: the version of an artifact, and computing an artifact that the store does not have."""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hoser_kd.common.errors import CheckError, StoreError
from hoser_kd.common.hashing import digest_json, same_bytes
from hoser_kd.common.progress import Progress, silent
from hoser_kd.config.schema import CityConfig
from hoser_kd.grid.parameters import check_settings
from hoser_kd.network.sources import kind_of
from hoser_kd.pipeline.checks import CHECKS, run_checks
from hoser_kd.pipeline.graph import SETTINGS, SOURCE_NOTE, Inputs, Stage, StageRun, changed_settings
from hoser_kd.pipeline.plan import Step, StepKey, plan
from hoser_kd.pipeline.store import Artifact, Store, now_utc


def input_versions(inputs: Inputs) -> dict[str, str]:
    """Return the versions of all inputs by their names, sorted."""
    flat: list[Artifact] = []
    for artifact in inputs.values():
        flat.extend([artifact] if isinstance(artifact, Artifact) else artifact.values())
    return dict(sorted((artifact.name, artifact.version) for artifact in flat))


def settings_of(stage: Stage, config: CityConfig) -> dict[str, Any]:
    """Return all settings that a stage reads, defaults included, by the names of `SETTINGS`."""
    return {name: SETTINGS[name](config) for name in stage.settings}


def version_of(stage: Stage, config: CityConfig, inputs: Inputs, seed: int | None = None) -> str:
    """Return the version of a stage's artifact, 16 hexadecimal digits.

    It is a digest of the stage's name, its code version, the seed, the settings that differ from their defaults, and
    the versions of the inputs that it reads under these settings.
    """
    return digest_json(
        {
            "stage": stage.name,
            "code": stage.code_version,
            "seed": seed,
            "settings": changed_settings(settings_of(stage, config)),
            "inputs": input_versions(_inputs_read(stage, config, inputs)),
        }
    )[:16]


def _inputs_read(stage: Stage, config: CityConfig, inputs: Inputs) -> Inputs:
    """Return the artifacts that a stage reads under these settings."""
    return {name: inputs[name] for name in stage.inputs_read(config) if name in inputs}


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
    """Return a stage's artifact from the store; compute it first if the store has none of this version.

    `force` computes it in any case. `source_files` always runs for raw files outside the store, since these can change
    under an unchanged setting; its version is a digest of their content.

    Raises:
        StoreError: an input is not materialized, or the store cannot be written.
    """
    inputs = _inputs_read(stage, config, inputs)
    missing = [name for name in stage.inputs_read(config) if not inputs.get(name)]
    if missing:
        verb, pronoun = ("is", "it") if len(missing) == 1 else ("are", "them")
        raise StoreError(
            f"{stage.name} of {config.city} needs {', '.join(missing)}, which {verb} not materialized. "
            f"Materialize {pronoun} first."
        )
    version = version_of(stage, config, inputs, seed)
    always = force or _versioned_by_content(stage, config)
    if not always and (artifact := store.find(stage.name, config.city, version, seed)):
        return artifact
    with store.work_folder(stage.name, config.city, version, seed) as folder:
        # another process may have finished it while this one waited for the folder
        if not always and (artifact := store.find(stage.name, config.city, version, seed)):
            shutil.rmtree(folder)
            return artifact
        run = StageRun(stage, config, seed, inputs, folder, progress, device)
        return _compute(run if on_epoch is None else replace(run, on_epoch=on_epoch), version, store)


def _versioned_by_content(stage: Stage, config: CityConfig) -> bool:
    return stage.name == "source_files" and kind_of(config.source).versioned_by_content


def _compute(run: StageRun, version: str, store: Store) -> Artifact:
    """Run a stage's function in its work folder and move the result into the store."""
    stage, config = run.stage, run.config
    started = time.monotonic()
    summary = stage.function()(run)
    if _versioned_by_content(stage, config):
        version = str(summary["content"])[:16]
        artifact = store.find(stage.name, config.city, version)
        if artifact and _same_place(artifact, config, run.folder):
            shutil.rmtree(run.folder)
            return artifact
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    artifact = Artifact(
        stage.name,
        config.city,
        run.seed,
        version,
        run.folder,
        stage.code_version,
        input_versions(run.inputs),
        settings_of(stage, config),
        now_utc(),
        round(time.monotonic() - started, 3),
        {**summary, "peak_memory_mib": round(peak_mib)},
    )
    return store.commit(run.folder, artifact)


def _same_place(artifact: Artifact, config: CityConfig, folder: Path) -> bool:
    """Return whether raw files of the same content are the same files; if not, their record is replaced."""
    return not kind_of(config.source).is_external or same_bytes(artifact.path / SOURCE_NOTE, folder / SOURCE_NOTE)


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
    stop_at_checks: bool = True,
) -> Artifact:
    """Return a stage's artifact without Dagster, after computing what the store lacks of it and its dependencies.

    The call for scripts, notebooks and tests, which need one artifact; `make_all` computes several stages, and `make`
    one whose inputs are given.

    A stage that reads all seeds reads `seeds`, or `seed` alone if None. `on_stage` is called with each stage before it
    is computed. With `stop_at_checks=False` failed blocking checks are ignored, for experiments that train poor
    students intentionally.

    Raises:
        CheckError: a blocking check failed, where Dagster stops too.
    """
    steps = plan([name], seed, seeds or (), config)
    artifacts = make_steps(steps, config, store, progress, device, on_stage, stop_at_checks=stop_at_checks)
    return artifacts[steps[-1].key]


def make_all(
    names: Sequence[str],
    config: CityConfig,
    store: Store,
    *,
    seed: int = 0,
    progress: Progress = silent,
    device: str = "auto",
    stop_at_checks: bool = True,
) -> dict[str, Artifact]:
    """Return the artifacts of several stages and of all their dependencies for one seed, by stage.

    Raises:
        CheckError: a blocking check failed, unless `stop_at_checks` is off.
    """
    steps = plan(names, seed, config=config)
    artifacts = make_steps(steps, config, store, progress, device, stop_at_checks=stop_at_checks)
    return {name: artifact for (name, _), artifact in artifacts.items()}


def make_steps(
    steps: Sequence[Step],
    config: CityConfig,
    store: Store,
    progress: Progress = silent,
    device: str = "auto",
    on_stage: Callable[[Stage], object] = lambda _: None,
    *,
    stop_at_checks: bool = True,
) -> dict[StepKey, Artifact]:
    """Run the steps of a plan one after the other and return their artifacts.

    Raises:
        ConfigError, CheckpointError, DataError: a setting of one of the steps is missing or names a missing file.
            Raised before the first step is run.
        CheckError: a blocking check failed, unless `stop_at_checks` is off.
    """
    _check_settings(steps, config)
    artifacts: dict[StepKey, Artifact] = {}
    for step in steps:
        stage, inputs = step.stage, step.inputs(artifacts)
        version = version_of(stage, config, inputs, step.seed)
        if store.find(stage.name, config.city, version, step.seed) is None:
            on_stage(stage)
        artifact = make(stage, config, store, inputs, seed=step.seed, progress=progress, device=device)
        if stop_at_checks:
            _require_checks(artifact, inputs)
        artifacts[step.key] = artifact
    return artifacts


def _check_settings(steps: Sequence[Step], config: CityConfig) -> None:
    """Read all settings of the steps, so that an error in those of the last one costs no training."""
    names = dict.fromkeys(name for step in steps for name in step.stage.settings)
    if "grid" in names and config.distill.ckpt_path is None:
        check_settings(config.grid)
    for name in names:
        SETTINGS[name](config)


def _require_checks(artifact: Artifact, inputs: Inputs) -> None:
    for check, result in zip(CHECKS.get(artifact.stage, ()), run_checks(artifact, inputs), strict=True):
        if check.blocking and not result.passed:
            raise CheckError(f"{artifact.stage} of {artifact.city}: check {check.name} failed: {result.message}")
