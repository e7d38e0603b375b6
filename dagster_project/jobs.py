"""Jobs: the steps of the pipeline, each over assets that share their partitions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.gpu_limits import gpu_tags_of_run
from assets.partitions import CONFIG_FOLDER, city_partitions, city_seed_partitions
from assets.raw_files import RAW
from assets.run_config import YAML_ERROR_TAG, YAML_TAG, defaults_from_yaml
from hoser_kd.common.errors import HoserKdError
from hoser_kd.config.loading import load_config

if TYPE_CHECKING:  # not public, but the return type of the public `define_asset_job`
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition


def _config_from_yaml(folder: Path, partitions_def: dg.PartitionsDefinition, *stages: str) -> dg.PartitionedConfig:
    """Return a run config that fills the launchpad with the current YAML values of the selected city.

    The folder is an argument, because Dagster fills a launchpad without resources.
    If the YAML cannot be read, the launchpad stays empty, and the tag `YAML_ERROR_TAG` and the failing run say why.
    """

    def defaults(partition_key: str) -> dict[str, dict[str, Any]]:
        settings = load_config(folder / f"{partition_key.partition('|')[0]}.yaml")
        return {stage: defaults_from_yaml(stage, settings) for stage in stages}

    def run_config(partition_key: str) -> dict[str, Any]:
        try:
            by_stage = defaults(partition_key)
        except HoserKdError:
            return {}
        return {
            "ops": {
                stage: {"config": {path.split(".")[1]: value for path, value in values.items()}}
                for stage, values in by_stage.items()
            }
        }

    def tags(partition_key: str) -> dict[str, str]:
        try:
            by_stage = defaults(partition_key)
        except HoserKdError as error:
            return {YAML_ERROR_TAG: str(error)}
        return {YAML_TAG: json.dumps({path: value for values in by_stage.values() for path, value in values.items()})}

    return dg.PartitionedConfig(
        partitions_def, run_config_for_partition_key_fn=run_config, tags_for_partition_key_fn=tags
    )


def jobs_of(config_folder: Path) -> tuple[UnresolvedAssetJobDefinition, ...]:
    """Return the jobs of the pipeline in the order in which a city runs them.

    The YAML files of the folder fill the launchpads.
    """
    return (
        dg.define_asset_job(
            "prepare_city",
            selection=dg.AssetSelection.groups("settings", "network", "grid") | dg.AssetSelection.assets(*RAW),
            description="Record the settings of a city, and turn its raw files into roads, trips, zones and the token "
            "table.",
        ),
        dg.define_asset_job(
            "train_teacher",
            selection=dg.AssetSelection.groups("teacher"),
            config=_config_from_yaml(config_folder, city_partitions, "teacher"),
            tags=gpu_tags_of_run(),
            description="Train or import the teacher of a city, evaluate it, and compute its soft labels.",
        ),
        dg.define_asset_job(
            "train_vanilla",
            selection=dg.AssetSelection.assets("vanilla_student"),
            config=_config_from_yaml(config_folder, city_seed_partitions, "vanilla_student"),
            tags=gpu_tags_of_run(),
            description="Train the vanilla student of a city with one seed. It needs no teacher, so it can run beside "
            "train_teacher; distill then reuses it.",
        ),
        dg.define_asset_job(
            "distill",
            selection=dg.AssetSelection.groups("student"),
            config=_config_from_yaml(config_folder, city_seed_partitions, "vanilla_student", "distilled_student"),
            tags=gpu_tags_of_run(),
            description="Train the vanilla and the distilled student of a city with one seed, and label states off any "
            "real trip where `distill.off_path.labels` is `stored`.",
        ),
        dg.define_asset_job(
            "evaluate",
            selection=dg.AssetSelection.assets("generated_trajectories", "trajectory_metrics"),
            config=_config_from_yaml(config_folder, city_seed_partitions, "generated_trajectories"),
            tags=gpu_tags_of_run(),
            description="Generate trips with both students of one seed and compute their metrics. Both must be "
            "materialized, the vanilla one too: launch `distill` of the seed first.",
        ),
        dg.define_asset_job(
            "report",
            selection=dg.AssetSelection.assets("baseline_trips", "ceilings", "distillation_report"),
            tags=gpu_tags_of_run(),
            description="Generate and evaluate the baselines' trips of a city, compute the ceilings, and write the "
            "report over all evaluated seeds.",
        ),
    )


JOBS = prepare_city, train_teacher, train_vanilla, distill, evaluate, report = jobs_of(CONFIG_FOLDER)
"""The jobs of the pipeline over the default config folder; sensors and commands refer to them."""

run_study = dg.define_asset_job(
    "run_study",
    selection=dg.AssetSelection.assets("sweep"),
    tags=gpu_tags_of_run(),
    description="Run the trials that are left of a study over settings of a city. Not a part of the full pipeline.",
)
"""The job of studies, launched by hand alone."""
