"""Jobs: the steps a person runs, each over the partitions its assets have in common."""

from __future__ import annotations

import json
from typing import Any

import dagster as dg

from assets import partitions
from assets.partitions import city_partitions, city_seed_partitions
from assets.raw_files import RAW
from assets.run_config import YAML_ERROR_TAG, YAML_TAG, defaults_from_yaml
from hoser_kd.common.errors import HoserKdError
from hoser_kd.config.loading import load_config


def _filled_in(partitions_def: dg.PartitionsDefinition, *stages: str) -> dg.PartitionedConfig:
    """Return the run config that fills a launchpad in with what the YAML of the chosen city says at that moment.

    Where it cannot be read, the launchpad stays empty, a tag beside it says why, and so does the run.
    """

    def said(partition_key: str) -> dict[str, dict[str, Any]]:
        settings = load_config(partitions.CONFIG_FOLDER / f"{partition_key.partition('|')[0]}.yaml")
        return {stage: defaults_from_yaml(stage, settings) for stage in stages}

    def run_config(partition_key: str) -> dict[str, Any]:
        try:
            knobs_of = said(partition_key)
        except HoserKdError:
            return {}
        return {
            "ops": {
                stage: {"config": {knob.split(".")[1]: value for knob, value in knobs.items()}}
                for stage, knobs in knobs_of.items()
            }
        }

    def tags(partition_key: str) -> dict[str, str]:
        try:
            knobs_of = said(partition_key)
        except HoserKdError as error:
            return {YAML_ERROR_TAG: str(error)}
        return {YAML_TAG: json.dumps({knob: value for knobs in knobs_of.values() for knob, value in knobs.items()})}

    return dg.PartitionedConfig(
        partitions_def, run_config_for_partition_key_fn=run_config, tags_for_partition_key_fn=tags
    )


prepare_city = dg.define_asset_job(
    "prepare_city",
    selection=dg.AssetSelection.groups("settings", "network", "grid") | dg.AssetSelection.assets(*RAW),
    description="Take note of a city's settings; from raw files to roads, trips, zones and the grid token table.",
)
train_teacher = dg.define_asset_job(
    "train_teacher",
    selection=dg.AssetSelection.groups("teacher"),
    config=_filled_in(city_partitions, "teacher"),
    description="Train or import the teacher of a city, judge it, and make its labels.",
)
distill = dg.define_asset_job(
    "distill",
    selection=dg.AssetSelection.groups("student"),
    config=_filled_in(city_seed_partitions, "vanilla_student", "distilled_student"),
    description="Train the plain and the distilled student of a city with one seed.",
)
evaluate = dg.define_asset_job(
    "evaluate",
    selection=dg.AssetSelection.assets("generated_trajectories", "trajectory_metrics"),
    config=_filled_in(city_seed_partitions, "generated_trajectories"),
    description="Generate trips with both students of one seed and measure them.",
)
report = dg.define_asset_job(
    "report",
    selection=dg.AssetSelection.assets("distillation_report"),
    description="Write the report of a city over all seeds that exist.",
)

JOBS = (prepare_city, train_teacher, distill, evaluate, report)
"""All jobs, in the order in which they make a city from nothing."""
