"""Resources: where cities are configured and where artifacts lie, and the IO manager that hands artifacts on."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from assets.partitions import city_and_seed
from hoser_kd.common.errors import HoserKdError
from hoser_kd.config.loading import load_config
from hoser_kd.config.schema import CityConfig
from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.store import Artifact, Store


@dataclass(frozen=True)
class Pipeline:
    """The cities' settings and the artifact store: the same for every run, so no run config and in no launchpad."""

    config_folder: str
    """Folder of the cities' YAML files."""
    store_root: str
    """Folder or fsspec address of the artifact store."""

    def config(self, city: str) -> CityConfig:
        """Read and check the YAML of a city, as it is now."""
        return load_config(Path(self.config_folder) / f"{city}.yaml")

    def store(self) -> Store:
        """Return the artifact store."""
        return Store(self.store_root)


class ArtifactIOManager(dg.IOManager):
    """Hands artifacts from asset to asset by the version that Dagster recorded, never by what is newest on disk."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def handle_output(self, context: dg.OutputContext, obj: Artifact) -> None:
        """Do nothing: the stage has committed its files, and Dagster records the version."""

    def load_input(self, context: dg.InputContext) -> Artifact | Mapping[int, Artifact] | None:
        """Open the recorded version of the upstream partition; of all seeds there are, where all are asked for."""
        stage = STAGES[context.asset_key.path[-1]]
        found: dict[int, Artifact] = {}
        for partition_key in context.asset_partition_keys:
            version = _recorded_version(context.instance, context.asset_key, partition_key)
            city, seed = city_and_seed(_typed(partition_key, context))
            if version is not None:
                try:
                    artifact = self._pipeline.store().open(stage.name, city, version, seed)
                except HoserKdError as error:  # Dagster would put its own words before any other exception's
                    raise dg.Failure(description=str(error), allow_retries=False) from error
                if seed is None or _wants_one_seed(context):
                    return artifact
                found[seed] = artifact
        return dict(sorted(found.items())) if found else None


def _wants_one_seed(context: dg.InputContext) -> bool:
    """Whoever runs for one seed reads that seed; whoever runs for a city reads all."""
    return isinstance(context.partition_key, dg.MultiPartitionKey)


def _typed(partition_key: str, context: dg.InputContext) -> str:
    """Dagster hands keys over as plain text; the definition knows their dimensions."""
    definition = context.asset_partitions_def
    if isinstance(definition, dg.MultiPartitionsDefinition):
        return definition.get_partition_key_from_str(partition_key)
    return partition_key


def _recorded_version(instance: dg.DagsterInstance, key: dg.AssetKey, partition_key: str) -> str | None:
    """Return the data version of the latest materialization of this partition."""
    wanted = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[partition_key])
    records = instance.fetch_materializations(wanted, limit=1).records
    if not records or (event := records[0].asset_materialization) is None:
        return None
    return (event.tags or {}).get("dagster/data_version")
