"""Partitions: `city`, and `city × seed` from the students on.

A city is a file of the config folder. Its name joins the partitions as soon as the sensor `city_watch` sees the file
(the in-process runner does it by itself), so a new city needs no reload.
"""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg

CONFIG_FOLDER = Path(os.environ.get("HOSER_KD_CONFIG") or Path(__file__).resolve().parent.parent / "config")
"""Folder of the cities' YAML files; the environment variable HOSER_KD_CONFIG names another one."""

SEEDS = tuple(str(seed) for seed in range(int(os.environ.get("HOSER_KD_SEEDS", "5"))))
"""Seeds a student can be trained with; the environment variable HOSER_KD_SEEDS sets how many."""

city_partitions = dg.DynamicPartitionsDefinition(name="city")
city_seed_partitions = dg.MultiPartitionsDefinition(
    {"city": city_partitions, "seed": dg.StaticPartitionsDefinition(SEEDS)}
)


def cities() -> tuple[str, ...]:
    """Return the cities there are files for, in the order of their names."""
    return tuple(sorted(path.stem for path in CONFIG_FOLDER.glob("*.yaml")))


def city_and_seed(partition_key: str) -> tuple[str, int | None]:
    """Return city and seed of a partition key; the seed is None where the partition is a city."""
    if isinstance(partition_key, dg.MultiPartitionKey):
        keys = partition_key.keys_by_dimension
        return keys["city"], int(keys["seed"])
    return partition_key, None
