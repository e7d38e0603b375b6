"""Dagster assets from the stages of `hoser_kd.pipeline.graph`: inputs, data versions, checks and metadata."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from assets.freshness import freshness_of
from assets.gpu_limits import gpu_tags_of_step
from assets.orphans import end_with_run
from assets.partitions import city_and_seed, city_partitions, city_seed_partitions
from assets.pool import POOL, slots_of, wait_for_slot
from assets.run_config import RunStage, changes, run_config_of, stale_overrides
from assets.showing import asset_check_result, show
from hoser_kd.common.errors import HoserKdError
from hoser_kd.common.progress import TimedLines
from hoser_kd.config.loading import with_changes
from hoser_kd.config.without_effect import without_effect
from hoser_kd.pipeline.checks import CHECKS, run_checks
from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.run import make
from hoser_kd.pipeline.stage import Stage
from hoser_kd.pipeline.store import Artifact
from hoser_kd.pipeline.workers.nodes import Nodes

SETTINGS_PREFIX = "settings"


def stage_assets(group: str, reads: Mapping[str, Sequence[str]] | None = None) -> list[dg.AssetsDefinition]:
    """Return the assets of all stages of a group, in the order of `STAGES`.

    `reads` gives the external assets that a stage reads in addition to its inputs, by the stage's name.
    """
    stages = [name for name, stage in STAGES.items() if stage.group == group]
    return [stage_asset(name, (reads or {}).get(name, ())) for name in stages]


def stage_asset(name: str, reads: Sequence[str] = ()) -> dg.AssetsDefinition:
    """Return the asset of a stage; all its properties are those of its entry in `STAGES`.

    `reads` names external assets that it reads in addition to its inputs.
    """
    stage = STAGES[name]
    checks = CHECKS.get(name, ())
    run = _compute_function(stage)
    # Dagster reads the run config's class from the annotation; it is built from the stage's overridable settings
    run.__annotations__["config"] = run_config_of(name)
    return dg.asset(
        name=name,
        group_name=stage.group,
        description=stage.description,
        kinds=set(stage.kinds),
        ins={upstream: _input(stage, STAGES[upstream]) for upstream in stage.inputs},
        deps=[*(_settings_dep(stage, section) for section in stage.settings), *map(dg.AssetDep, reads)],
        partitions_def=city_seed_partitions if stage.per_seed else city_partitions,
        code_version=stage.code_version,
        io_manager_key="artifacts",
        required_resource_keys={"pipeline"},
        check_specs=[
            # Dagster's check page mixes the cities (partitioned checks are a preview): each result names its own
            dg.AssetCheckSpec(check.name, asset=name, description=check.description, blocking=check.blocking)
            for check in checks
        ],
        pool=POOL if stage.uses_model else None,
        op_tags=gpu_tags_of_step() if stage.uses_model else None,
        freshness_policy=freshness_of(name),
    )(run)


def _compute_function(stage: Stage) -> Callable[..., Iterator[dg.Output[Artifact] | dg.AssetCheckResult]]:
    """Return the function of a stage's asset, which makes the artifact and runs its checks."""

    def run(
        context: dg.AssetExecutionContext, config: RunStage, **inputs: Any
    ) -> Iterator[dg.Output[Artifact] | dg.AssetCheckResult]:
        end_with_run()
        wait_for_slot(context)
        city, seed = city_and_seed(context.partition_key)
        pipeline = context.resources.pipeline
        try:
            settings = pipeline.config(city)
            for message in stale_overrides(stage.name, config, settings, context.run.tags):
                context.log.warning(message)
            changed = changes(stage.name, config, settings, context.run.tags)
            settings = with_changes(settings, changed)
            Nodes.require_one(settings)  # in every stage: the first one is hours before the training
            for sentence in without_effect(settings) if stage.name == "distilled_student" else ():
                context.log.warning(sentence)
            with slots_of(stage, settings, config.device, context.log.info) as device:
                artifact = make(
                    stage,
                    settings,
                    pipeline.store(),
                    inputs,
                    seed=seed,
                    force=config.force,
                    device=device,
                    progress=TimedLines(context.log.info),
                    on_epoch=lambda metrics: _observe(context, metrics),
                    on_warning=context.log.warning,
                )
            results = run_checks(artifact, inputs)
        except HoserKdError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from error
        first = {"changed_for_this_run": dg.MetadataValue.json(changed)} if changed else {}
        metadata = first | show(artifact)
        yield dg.Output(artifact, metadata=metadata, data_version=dg.DataVersion(artifact.version))
        for check, result in zip(CHECKS.get(stage.name, ()), results, strict=True):
            yield asset_check_result(check, result, city, seed)

    return run


def _input(stage: Stage, upstream: Stage) -> dg.AssetIn:
    """Map partitions: one artifact of a city feeds all seeds; a stage with one artifact per city reads all seeds."""
    if stage.per_seed == upstream.per_seed:
        return dg.AssetIn()
    return dg.AssetIn(partition_mapping=dg.MultiToSingleDimensionPartitionMapping("city"))


def _settings_dep(stage: Stage, section: str) -> dg.AssetDep:
    key = dg.AssetKey([SETTINGS_PREFIX, section])
    if not stage.per_seed:
        return dg.AssetDep(key)
    return dg.AssetDep(key, partition_mapping=dg.MultiToSingleDimensionPartitionMapping("city"))


def _observe(context: dg.AssetExecutionContext, metrics: Mapping[str, float]) -> None:
    """Report the metrics of an epoch as an observation, which draws live curves in the asset's Plots tab."""
    numbers = {name: float(value) for name, value in metrics.items()}
    context.log_event(dg.AssetObservation(context.asset_key, partition=context.partition_key, metadata=numbers))
