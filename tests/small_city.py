"""A street grid built in code, and random walks on it, for tests that need any city."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from hoser_kd.common.arrays import Csr, offsets_of
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.trajectories import Trajectories

CLASSES = ("primary", "secondary", "tertiary", "residential")


def grid_network(
    blocks: int = 6, spacing_deg: float = 0.002, south_west: tuple[float, float] = (41.14, -8.66)
) -> RoadNetwork:
    """Return two-way streets between `blocks` × `blocks` crossings, classed by their row or column."""
    corner = np.arange(blocks * blocks).reshape(blocks, blocks)
    ends = np.concatenate(
        [
            np.stack([corner[:, :-1], corner[:, 1:]], -1).reshape(-1, 2),
            np.stack([corner[:-1], corner[1:]], -1).reshape(-1, 2),
        ]
    )
    ends = np.concatenate([ends, ends[:, ::-1]])
    row, column = np.divmod(ends, blocks)
    lat, lon = south_west[0] + row * spacing_deg, south_west[1] + column * spacing_deg
    meters = np.hypot(np.diff(lat)[:, 0], np.diff(lon)[:, 0] * np.cos(np.radians(lat[:, 0]))) * 111_195
    line = np.where(row[:, 0] == row[:, 1], row[:, 0], column[:, 0])
    follows = [np.flatnonzero((ends[:, 0] == end) & (ends[:, 1] != start)) for start, end in ends.tolist()]
    return RoadNetwork(
        coord_offsets=np.arange(len(ends) + 1, dtype=np.int64) * 2,
        coords=np.stack([lon, lat], -1).reshape(-1, 2),
        length_m=meters,
        highway=np.array([CLASSES[k % len(CLASSES)] for k in line], object),
        successors=Csr(offsets_of(np.array([len(f) for f in follows])), np.concatenate(follows)),
    )


def random_trips(
    network: RoadNetwork, num_trips: int, seed: int = 0, lengths: tuple[int, int] = (2, 20)
) -> Trajectories:
    """Return random walks with steps of 5 to 60 s, of `lengths[0]` to `lengths[1]` roads."""
    rng = np.random.default_rng(seed)
    walks = []
    for _ in range(num_trips):
        walk = [int(rng.integers(network.num_roads))]
        for _ in range(int(rng.integers(lengths[0], lengths[1] + 1)) - 1):
            walk.append(int(rng.choice(network.successors.row(walk[-1]))))
        walks.append(walk)
    offsets = offsets_of(np.array([len(walk) for walk in walks]))
    seconds = rng.integers(5, 61, offsets[-1])
    times = np.concatenate(
        [1_372_636_800 + rng.integers(0, 86_400) + np.cumsum(seconds[a:b]) for a, b in pairwise(offsets)]
    )
    return Trajectories(offsets, np.concatenate(walks).astype(np.int64), times.astype(np.int64))
