"""Data versions that Dagster has recorded for materializations of assets."""

from __future__ import annotations

import dagster as dg

_VERSION_TAG = "dagster/data_version"


def latest_record(
    instance: dg.DagsterInstance, key: dg.AssetKey, partition_key: str, before: int | None = None
) -> dg.EventLogRecord | None:
    """Return the latest materialization of a partition, or the latest one older than the storage id `before`."""
    partition = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[partition_key], before_storage_id=before)
    return next(iter(instance.fetch_materializations(partition, limit=1).records), None)


def recorded_version(
    instance: dg.DagsterInstance, key: dg.AssetKey, partition_key: str, before: int | None = None
) -> str | None:
    """Return the data version of the record that `latest_record` finds; None if there is none."""
    record = latest_record(instance, key, partition_key, before)
    event = record.asset_materialization if record else None
    return ((event.tags if event else None) or {}).get(_VERSION_TAG)
