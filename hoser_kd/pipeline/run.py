"""Running stages: the version of a result, and making it where it is missing."""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hoser_kd.common.errors import CheckError, StoreError
from hoser_kd.common.hashing import digest_json, same_bytes
from hoser_kd.common.progress import Progress, silent
from hoser_kd.config.schema import CityConfig
from hoser_kd.pipeline.checks import CHECKS, run_checks
from hoser_kd.pipeline.graph import SETTINGS, SOURCE_NOTE, STAGES, Inputs, Stage, StageRun, changed_settings
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
    the versions of the inputs.
    """
    return digest_json(
        {
            "stage": stage.name,
            "code": stage.code_version,
            "seed": seed,
            "settings": changed_settings(settings_of(stage, config)),
            "inputs": input_versions(inputs),
        }
    )[:16]


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
        raise StoreError(
            f"{stage.name} of {config.city} needs {', '.join(missing)}, which nobody has made yet. "
            "Materialize them first."
        )
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
            stage.name,
            config.city,
            seed,
            version,
            folder,
            stage.code_version,
            input_versions(inputs),
            settings_of(stage, config),
            now_utc(),
            round(time.monotonic() - started, 3),
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
                upstream,
                config,
                store,
                seed=one,
                progress=progress,
                device=device,
                on_stage=on_stage,
                made=of_seed,
                stop_at_checks=stop_at_checks,
            )
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
            raise CheckError(f"{name} of {config.city}: check {check.name} failed: {result.message}")
    return made[name]
