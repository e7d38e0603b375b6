"""Settings group: each part of a city's YAML that a stage obeys, as a small asset of its own.

Its data version is a digest of the part, so Dagster itself sees which stages a changed setting concerns.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
import yaml

from assets.partitions import city_partitions
from assets.stage_asset import SETTINGS_PREFIX
from hoser_kd.common.errors import HoserKdError
from hoser_kd.common.hashing import digest_json
from hoser_kd.pipeline.graph import SETTINGS

CODE_VERSION = "1"
_DESCRIPTIONS = {
    "source": "Where the data of the city come from: `source` of its YAML.",
    "rows": "What to do with a trip that cannot be used: `source.on_bad_row`.",
    "zones": "The partition into zones: `zones`.",
    "grid": "The teacher's grid: `grid`, and the content of the checkpoint if one is named.",
    "teacher": "The teacher's size and training: `teacher`, and the content of the checkpoint if one is named.",
    "labels": "How the teacher labels: `window`, `teacher_fp16`, and what else of `distill` is about labels.",
    "student": "HOSER and its training: `student`.",
    "distillation": "The distillation term: `distill` without what concerns teacher and labels.",
    "generation": "Generated trips: `generation`.",
    "evaluation": "Metrics: `evaluation`.",
}


@dg.multi_asset(
    name="record_settings",
    specs=[
        dg.AssetSpec(
            [SETTINGS_PREFIX, piece],
            group_name="settings",
            description=said,
            kinds={"yaml"},
            code_version=CODE_VERSION,
            partitions_def=city_partitions,
        )
        for piece, said in _DESCRIPTIONS.items()
    ],
    partitions_def=city_partitions,
    can_subset=True,
    required_resource_keys={"pipeline"},
)
def settings_sections(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[None]]:
    """Take note of a city's settings, piece by piece."""
    try:
        config = context.resources.pipeline.config(context.partition_key)
        for key in sorted(context.selected_asset_keys):
            values = SETTINGS[key.path[-1]](config)
            yield dg.MaterializeResult(
                asset_key=key, metadata=settings_shown(values), data_version=settings_version(values)
            )
    except HoserKdError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error


def settings_version(values: Mapping[str, Any]) -> dg.DataVersion:
    """Return the data version of a piece of the settings."""
    return dg.DataVersion(digest_json(values)[:16])


def settings_shown(values: Mapping[str, Any]) -> dict[str, dg.MetadataValue]:
    """Return what a person sees of a piece of the settings."""
    text = yaml.safe_dump(dict(values), sort_keys=False)
    return {"values": dg.MetadataValue.md(f"```yaml\n{text}```")}
