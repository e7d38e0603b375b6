"""Partitions: `city`, and `city × seed` for the student and evaluation assets.

A city is a YAML file in the config folder. The sensor `city_watch` adds its name to the partitions when the file
appears, so a new city needs no reload; `dagster_project.demo` adds it itself.
"""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg

from hoser_kd.common.project import project_folder
from hoser_kd.config.city_names import city_files
from hoser_kd.config.compared_seeds import num_seeds

CONFIG_FOLDER = Path(os.environ.get("HOSER_KD_CONFIG") or project_folder() / "config")
"""Folder of the cities' YAML files: HOSER_KD_CONFIG, or `config/` of the project."""


def seeds_of(text: str) -> tuple[str, ...]:
    """Return the partitions of a number of seeds, 0 to n - 1. Raises ConfigError for another text."""
    return tuple(map(str, range(num_seeds(text))))


SEEDS = seeds_of(os.environ.get("HOSER_KD_SEEDS") or "5")
"""Seeds of the students: 0 to HOSER_KD_SEEDS - 1, five by default."""

city_partitions = dg.DynamicPartitionsDefinition(name="city")
city_seed_partitions = dg.MultiPartitionsDefinition(
    {"city": city_partitions, "seed": dg.StaticPartitionsDefinition(SEEDS)}
)


def cities() -> tuple[str, ...]:
    """Return the names of all cities in the config folder, sorted."""
    return tuple(file.stem for file in city_files(CONFIG_FOLDER))


def city_and_seed(partition_key: str) -> tuple[str, int | None]:
    """Return city and seed of a partition key; the seed is None for a key of `city_partitions`."""
    if isinstance(partition_key, dg.MultiPartitionKey):
        keys = partition_key.keys_by_dimension
        return keys["city"], int(keys["seed"])
    return partition_key, None
