"""Cities for tests of HOSER, and the settings of a small student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from small_city import grid_network, random_trips

from hoser_kd.config.student import StudentConfig

if TYPE_CHECKING:
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories

TINY = StudentConfig(
    hidden_dim=16, road_id_dim=8, attribute_dim=2, batch_size=8, max_epochs=2, candidate_angle="published"
)


@dataclass(frozen=True)
class City:
    """A network, its zones and trips."""

    network: RoadNetwork
    zones: np.ndarray
    transitions: np.ndarray
    trips: dict[str, Trajectories]


def count_transitions(zones: np.ndarray, trips: Trajectories, num_zones: int) -> np.ndarray:
    at, _ = trips.step_positions()
    counts = np.zeros((num_zones, num_zones), np.int64)
    np.add.at(counts, (zones[trips.road_ids[at]], zones[trips.road_ids[at + 1]]), 1)
    np.fill_diagonal(counts, 0)
    return counts


def city_of_streets() -> City:
    """Return 120 roads, 6 zones and random trips, the same each time."""
    network = grid_network(6)
    zones = np.arange(network.num_roads, dtype=np.int64) // 20
    trips = {
        split: random_trips(network, count, seed)
        for seed, (split, count) in enumerate((("train", 48), ("val", 20), ("test", 20)))
    }
    return City(network, zones, count_transitions(zones, trips["train"], int(zones.max()) + 1), trips)
