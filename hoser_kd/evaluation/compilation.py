"""Compiling the loops of generation and of the metrics before they are needed.

Numba compiles a loop for the types of its arguments on its first call, and keeps the machine code on disk. A few trips
in a small network, through the functions that the stages call, have the same types as those of a city.
"""

from __future__ import annotations

import numpy as np
import torch

from hoser_kd.common.arrays import Csr
from hoser_kd.config.student import StudentConfig
from hoser_kd.evaluation.trip_similarity import shape_distances
from hoser_kd.generation.generator import generate
from hoser_kd.hoser import HOSER
from hoser_kd.network.road_network import RoadNetwork

_NUM_ROADS = 96
"""More roads than the search has room for at first, so that its tables grow."""
_SMALL = StudentConfig(hidden_dim=8, road_id_dim=4, attribute_dim=1, num_layers=1)


def compile_loops() -> None:
    """Compile what the published search and the metrics of trips use on a CPU, unless it is in numba's cache on disk.

    It takes 12 s the first time on a machine, and half a second after that.
    """
    network = _ring()
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        zones = np.arange(_NUM_ROADS) % 2
        model = HOSER.build(_SMALL, network, zones, np.ones((2, 2), np.int64), log1p_mean=3.0, log1p_std=0.5).eval()
        trips = generate(model, [0, 1], [0, 0], [_NUM_ROADS // 2, _NUM_ROADS - 1])
    shape_distances(trips, trips, network, np.array([[0, 1]]), 100.0)


def _ring() -> RoadNetwork:
    """Return roads around a circle; from each, one can enter the next three."""
    road = np.arange(_NUM_ROADS)
    angle = np.linspace(0, 2 * np.pi, _NUM_ROADS + 1)
    corner = np.column_stack([np.cos(angle), np.sin(angle)]) / 100
    return RoadNetwork(
        coord_offsets=np.arange(_NUM_ROADS + 1) * 2,
        coords=np.stack([corner[:-1], corner[1:]], axis=1).reshape(-1, 2),
        length_m=np.full(_NUM_ROADS, 70.0),
        highway=np.full(_NUM_ROADS, "residential", object),
        successors=Csr(np.arange(_NUM_ROADS + 1) * 3, (road[:, None] + np.array([1, 2, 3])).reshape(-1) % _NUM_ROADS),
    )
