"""Settings group: one asset for each section of a city's settings that stages read.

What belongs here: the sections as Dagster assets, whose data versions mark the stages that a changed setting affects.
What does not: the sections themselves (`SETTINGS` in `hoser_kd.pipeline.settings`).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
import yaml

from assets.partitions import city_partitions
from assets.stage_asset import SETTINGS_PREFIX
from hoser_kd.common.errors import HoserKdError
from hoser_kd.common.hashing import digest_json
from hoser_kd.pipeline.settings import SETTINGS

CODE_VERSION = "1"


@dg.multi_asset(
    name="record_settings",
    specs=[
        dg.AssetSpec(
            [SETTINGS_PREFIX, name],
            group_name="settings",
            description=section.description,
            kinds={"yaml"},
            code_version=CODE_VERSION,
            partitions_def=city_partitions,
        )
        for name, section in SETTINGS.items()
    ],
    partitions_def=city_partitions,
    can_subset=True,
    required_resource_keys={"pipeline"},
)
def settings_sections(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[None]]:
    """Record a city's settings, section by section."""
    try:
        config = context.resources.pipeline.config(context.partition_key)
        for key in sorted(context.selected_asset_keys):
            name = key.path[-1]
            values = SETTINGS[name](config)
            yield dg.MaterializeResult(
                asset_key=key, metadata=settings_shown(values), data_version=settings_version(name, values)
            )
    except HoserKdError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error


def settings_version(name: str, values: Mapping[str, Any]) -> dg.DataVersion:
    """Return the data version of a section of the settings: a digest of the values that differ from their defaults."""
    return dg.DataVersion(digest_json(SETTINGS[name].changed(values))[:16])


def settings_shown(values: Mapping[str, Any]) -> dict[str, dg.MetadataValue]:
    """Return the metadata of a section of the settings."""
    text = yaml.safe_dump(dict(values), sort_keys=False)
    return {"values": dg.MetadataValue.md(f"```yaml\n{text}```")}
