"""Running stages: the version of an artifact, and computing an artifact that the store does not have."""

from __future__ import annotations

import contextlib
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hoser_kd.common.errors import CheckError, StoreError
from hoser_kd.common.hashing import digest_json, same_bytes
from hoser_kd.common.progress import Progress, silent
from hoser_kd.config.schema import CityConfig
from hoser_kd.config.without_effect import without_effect
from hoser_kd.grid.parameters import check_settings
from hoser_kd.network.sources import kind_of
from hoser_kd.pipeline.checks import CHECKS, run_checks
from hoser_kd.pipeline.disk_errors import disk_errors
from hoser_kd.pipeline.graph import SOURCE_NOTE
from hoser_kd.pipeline.plan import Step, StepKey, plan
from hoser_kd.pipeline.settings import SETTINGS, changed_settings
from hoser_kd.pipeline.stage import Inputs, Stage, StageRun
from hoser_kd.pipeline.store import RECORD, Artifact, Store, now_utc, read_artifact
from hoser_kd.pipeline.workers.nodes import Nodes


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
    on_warning: Callable[[str], object] = lambda _: None,
) -> Artifact:
    """Return a stage's artifact from the store; compute it first if the store has none of this version.

    `force` computes it in any case. `source_files` always runs for raw files outside the store, since these can change
    under an unchanged setting; its version is a digest of their content.

    A damaged artifact is computed again; `on_warning` is called with a sentence about it, and the summary of the new
    one has it as `replaced_damaged`.

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
    place = (stage.name, config.city, version, seed)
    if not always and (artifact := store.find(*place)):
        return artifact
    damage = store.damage(*place)
    if damage:
        on_warning(f"{stage.name} of {config.city}, version {version}, is damaged and computed again: {damage}.")
    if always and not force and not store.is_writable():
        return _found_by_content(StageRun(stage, config, seed, inputs, Path(), progress, device), store)
    with store.work_folder(*place) as folder, disk_errors(folder):
        # another process may have finished it while this one waited for the folder
        if not always and (artifact := store.find(*place)):
            shutil.rmtree(folder)
            return artifact
        if not always and (finished := _finished(folder)):
            return store.publish(finished)
        (folder / RECORD).unlink(missing_ok=True)
        run = StageRun(stage, config, seed, inputs, folder, progress, device)
        run = run if on_epoch is None else replace(run, on_epoch=on_epoch)
        return _compute(run, version, store, {"replaced_damaged": damage} if damage else {})


def _found_by_content(run: StageRun, store: Store) -> Artifact:
    """Return the artifact whose version is a digest of content, from a store that cannot be written."""
    stage, config = run.stage, run.config
    with tempfile.TemporaryDirectory(prefix="hoser-kd-") as folder:
        run = replace(run, folder=Path(folder))
        version = str(stage.function()(run)["content"])[:16]
        artifact = store.find(stage.name, config.city, version)
        if artifact is None or not _same_place(artifact, config, run.folder):
            raise StoreError(
                f"{store.root}: cannot be written, and has no {stage.name} of {config.city} with the current raw "
                "files. Set HOSER_KD_STORE or --store to a writable folder."
            )
        return artifact


def _finished(folder: Path) -> Artifact | None:
    """Return the artifact in the work folder of a run that was interrupted before it reached the store."""
    if not (folder / RECORD).is_file():
        return None
    with contextlib.suppress(StoreError):
        artifact = read_artifact(folder)
        if artifact.integrity_error() is None:
            return artifact
    return None


def _versioned_by_content(stage: Stage, config: CityConfig) -> bool:
    return stage.name == "source_files" and kind_of(config.source).versioned_by_content


def _compute(run: StageRun, version: str, store: Store, notes: Mapping[str, str]) -> Artifact:
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
        {**summary, **notes, "peak_memory_mib": round(peak_mib)},
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
    on_warning: Callable[[str], object] = lambda _: None,
) -> dict[StepKey, Artifact]:
    """Run the steps of a plan one after the other and return their artifacts.

    `on_warning` is called with the message of each failed check that does not stop, of a damaged artifact, and of each
    setting that has no effect.

    Raises:
        ConfigError, CheckpointError, DataError: a setting of one of the steps is missing or names a missing file.
            Raised before the first step is run.
        CheckError: a blocking check failed, unless `stop_at_checks` is off.
    """
    check_steps(steps, config, on_warning)
    artifacts: dict[StepKey, Artifact] = {}
    for step in steps:
        stage, inputs = step.stage, step.inputs(artifacts)
        if find_step(step, config, store, artifacts) is None:
            on_stage(stage)
        artifact = make(
            stage, config, store, inputs, seed=step.seed, progress=progress, device=device, on_warning=on_warning
        )
        if stop_at_checks:
            require_checks(artifact, inputs, on_warning)
        artifacts[step.key] = artifact
    return artifacts


def find_step(step: Step, config: CityConfig, store: Store, artifacts: Mapping[StepKey, Artifact]) -> Artifact | None:
    """Return the artifact of a step, given those of its dependencies, if the store has it; computes nothing."""
    version = version_of(step.stage, config, step.inputs(artifacts), step.seed)
    return store.find(step.stage.name, config.city, version, step.seed)


def check_steps(
    steps: Sequence[Step], config: CityConfig, on_warning: Callable[[str], object] = lambda _: None
) -> None:
    """Read all settings of the steps, and find the raw files, so that an error in the last one costs no training.

    The environment's number of machines is a setting too. `on_warning` is called with a sentence for each setting of
    the distilled student that has no effect.
    """
    if any(step.stage.name == "distilled_student" for step in steps):
        for sentence in without_effect(config):
            on_warning(f"{config.city}: {sentence}")
        Nodes.require_one(config)
    names = dict.fromkeys(name for step in steps for name in step.stage.settings)
    if "grid" in names and config.distill.ckpt_path is None:
        check_settings(config.grid)
    for name in names:
        SETTINGS[name](config)
    if kind_of(config.source).files_in_settings:
        kind_of(config.source).raw_files(config.source)


def require_checks(artifact: Artifact, inputs: Inputs, on_warning: Callable[[str], object] = lambda _: None) -> None:
    """Run the checks on an artifact. Raises CheckError if a blocking one fails; others that fail are warnings."""
    for check, result in zip(CHECKS.get(artifact.stage, ()), run_checks(artifact, inputs), strict=True):
        message = f"{artifact.stage} of {artifact.city}: check {check.name} failed: {result.message}"
        if result.passed:
            continue
        if check.blocking:
            raise CheckError(message)
        on_warning(message)
