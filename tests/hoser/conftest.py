"""Cities and models for the tests of HOSER."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hoser_cities import TINY, City, city_of_streets

from hoser_kd.hoser import HOSER
from hoser_kd.road_network import read_hoser
from hoser_kd.trajectories import read_hoser as read_trips

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def golden_city(golden: Path) -> City:
    folder = golden / "hoser_city"
    network = read_hoser(folder)
    return City(network, np.loadtxt(folder / "road_network_partition", dtype=np.int64),
                np.load(folder / "zone_trans_mat.npy"),
                {split: read_trips(folder / f"{split}.csv", network) for split in ("train", "val", "test")})


@pytest.fixture(scope="session")
def golden_io(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "hoser_io.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="session")
def small_city() -> City:
    return city_of_streets()


@pytest.fixture
def small_model(small_city: City) -> HOSER:
    torch.manual_seed(3)
    return HOSER.build(TINY, small_city.network, small_city.zones, small_city.transitions,
                       log1p_mean=3.0, log1p_std=0.5, max_len=16)
