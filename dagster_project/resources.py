"""Resources: the cities' settings and the artifact store, and the IO manager that passes artifacts between assets."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from assets.partitions import city_and_seed
from dagster_project.records import recorded_version
from hoser_kd.common.errors import HoserKdError
from hoser_kd.config.loading import load_config
from hoser_kd.config.schema import CityConfig
from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.store import Artifact, Store


@dataclass(frozen=True)
class Pipeline:
    """Settings of the cities and the artifact store. The same for every run, therefore not part of the run config."""

    config_folder: str
    """Folder of the cities' YAML files."""
    store_root: str
    """Folder or fsspec address of the artifact store."""

    def config(self, city: str) -> CityConfig:
        """Read and validate the current YAML of a city."""
        return load_config(Path(self.config_folder) / f"{city}.yaml")

    def store(self) -> Store:
        """Return the artifact store."""
        return Store(self.store_root)


class ArtifactIOManager(dg.IOManager):
    """Passes artifacts by the data version that Dagster has recorded, never by what is newest on disk."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def handle_output(self, context: dg.OutputContext, obj: Artifact) -> None:
        """Do nothing: the stage has committed its files, and Dagster records the version."""

    def load_input(self, context: dg.InputContext) -> Artifact | Mapping[int, Artifact] | None:
        """Open the recorded version of the upstream partition.

        A step of a city that reads a per-seed asset gets all materialized seeds, sorted; None if there are none.

        Raises:
            dagster.Failure: the store does not hold the recorded version.
        """
        stage = STAGES[context.asset_key.path[-1]]
        by_seed: dict[int, Artifact] = {}
        for partition_key in context.asset_partition_keys:
            version = recorded_version(context.instance, context.asset_key, partition_key)
            city, seed = city_and_seed(_typed(partition_key, context))
            if version is not None:
                try:
                    artifact = self._pipeline.store().open(stage.name, city, version, seed)
                except HoserKdError as error:  # Dagster wraps any other exception in its own message
                    raise dg.Failure(description=str(error), allow_retries=False) from error
                if seed is None or _has_seed(context):
                    return artifact
                by_seed[seed] = artifact
        return dict(sorted(by_seed.items())) if by_seed else None


def _has_seed(context: dg.InputContext) -> bool:
    """Return whether the step runs for one seed, so that it reads that seed only."""
    return isinstance(context.partition_key, dg.MultiPartitionKey)


def _typed(partition_key: str, context: dg.InputContext) -> str:
    """Return the key with its dimensions, which the input context passes as plain text."""
    definition = context.asset_partitions_def
    if isinstance(definition, dg.MultiPartitionsDefinition):
        return definition.get_partition_key_from_str(partition_key)
    return partition_key
