"""Zones: the road network cut into parts of equal size, and how often training trips go from one to another.

Both are inputs of HOSER (Cao et al., AAAI 2025, section on the road network encoder).
Shapes: N roads, Z zones.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hoser_kd.common.arrays import Csr, Float64Array, Int64Array, offsets_of, row_of_value
from hoser_kd.common.errors import DataError

if TYPE_CHECKING:
    from hoser_kd.config.schema import ZonesConfig
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories

PARTITION_FILE = "road_network_partition"
TRANSITIONS_FILE = "zone_trans_mat.npy"
FEWEST_ROADS_PER_ZONE = 4
"""Small networks get fewer zones than asked for, so that a zone has this many roads on average."""

_STRONG = 2
_kahip_lock = Lock()
"""KaHIP keeps its random state in globals."""


class Shipped(NamedTuple):
    """Zones that came with the data."""

    zones: Int64Array
    """(N,) int64: the zone of each road."""
    transitions: Int64Array | None
    """(Z, Z) int64, where the data have them."""


def partition(network: RoadNetwork, config: ZonesConfig) -> Int64Array:
    """Cut the network into zones; return the zone of each road, (N,) int64.

    `kahip` cuts the graph of `network.successors` without direction, all weights 1, in KaHIP's strong mode; one seed
    gives one partition. `bisection` halves the map, see `bisection`. At most N // 4 zones are made, whatever
    `config.count` asks for.
    """
    count = min(config.count, max(1, network.num_roads // FEWEST_ROADS_PER_ZONE))
    if count == 1:
        return np.zeros(network.num_roads, np.int64)
    if config.method == "bisection":
        return bisection(network.centroids, count)
    import kahip

    graph = _undirected(network.successors)
    unit_weights = [1] * max(network.num_roads, len(graph.indices))
    with _kahip_lock:
        _, zones = kahip.kaffpa(
            unit_weights[: network.num_roads],
            graph.indptr.tolist(),
            unit_weights[: len(graph.indices)],
            graph.indices.tolist(),
            count,
            config.imbalance,
            True,
            config.seed,
            _STRONG,
        )
    return np.asarray(zones, np.int64)


def bisection(centroids: Float64Array, count: int) -> Int64Array:
    """Cut points into `count` zones of equal size by halving the longer side of their extent again and again.

    `centroids` (N, 2) float64: lat, lon in degrees. Returns (N,) int64; sizes differ by 1 at the most a halving.
    The work is N log(count). Zones are compact on the map, and blind to the rivers and one-way streets KaHIP follows.
    """
    lat, lon = centroids.T
    place = np.column_stack([lat, lon * np.cos(np.radians(lat.mean()))])
    zones = np.zeros(len(centroids), np.int64)
    waiting = [(np.arange(len(centroids)), 0, count)]
    while waiting:
        rows, first, parts = waiting.pop()
        if parts == 1:
            zones[rows] = first
            continue
        left = parts // 2
        at = len(rows) * left // parts
        side = place[rows]
        axis = int(np.argmax(np.ptp(side, axis=0)))
        order = rows[np.argpartition(side[:, axis], at)]
        waiting += [(order[:at], first, left), (order[at:], first + left, parts - left)]
    return zones


def transitions(zones: Int64Array, trajectories: Trajectories, num_zones: int) -> Int64Array:
    """Count zone changes between consecutive roads of training trips, (Z, Z) int64: from row to column.

    Steps inside a zone are not counted, so the diagonal is 0.
    """
    position, _ = trajectories.step_positions()
    origin, destination = zones[trajectories.road_ids[position]], zones[trajectories.road_ids[position + 1]]
    change = origin != destination
    pairs = origin[change] * num_zones + destination[change]
    return np.bincount(pairs, minlength=num_zones**2).astype(np.int64).reshape(num_zones, num_zones)


def read_shipped(folder: str | PathLike[str], network: RoadNetwork) -> Shipped | None:
    """Read `road_network_partition` and, if it is there, `zone_trans_mat.npy`; None where there is no partition.

    Raises DataError where a file does not fit the network, or the matrix does not fit the partition.
    """
    path, matrix_path = Path(folder) / PARTITION_FILE, Path(folder) / TRANSITIONS_FILE
    if not path.is_file():
        return None
    zones = _read_partition(path, network.num_roads)
    if not matrix_path.is_file():
        return Shipped(zones, None)
    return Shipped(zones, _read_transitions(matrix_path, int(zones.max()) + 1))


def _undirected(successors: Csr) -> Csr:
    """Return the simple graph without direction and without loops, neighbors ascending."""
    count = len(successors.degrees)
    origin, destination = row_of_value(successors.indptr), successors.indices
    keys = np.unique(np.concatenate([origin * count + destination, destination * count + origin]))
    a, b = np.divmod(keys, count)
    different = a != b
    return Csr(offsets_of(np.bincount(a[different], minlength=count)), b[different])


_MEND = f"Mend or remove it, or set `zones.use_shipped: false` to leave {PARTITION_FILE} and {TRANSITIONS_FILE} aside."


def _read_partition(path: Path, num_roads: int) -> Int64Array:
    lines = path.read_text(encoding="utf-8").split()
    if len(lines) != num_roads:
        raise DataError(path, f"{len(lines)} zones for {num_roads} roads.", hint=_MEND)
    wrong = [row for row, text in enumerate(lines) if not (text.isascii() and text.isdigit())]
    if wrong:
        raise DataError(path, f"{lines[wrong[0]]!r} is no zone id.", row=wrong[0], hint=_MEND)
    return np.array(lines, np.int64)


def _read_transitions(path: Path, num_zones: int) -> Int64Array:
    try:
        matrix = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(path, f"cannot be read as a NumPy array: {error}.", hint=_MEND) from None
    if not isinstance(matrix, np.ndarray) or matrix.dtype.kind not in "iu":
        raise DataError(path, "it does not hold whole numbers.", hint=_MEND)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < num_zones:
        shape = " × ".join(map(str, matrix.shape))
        raise DataError(path, f"it is {shape}, and the partition has {num_zones} zones.", hint=_MEND)
    if (matrix < 0).any():
        raise DataError(path, "a count is negative.", hint=_MEND)
    return matrix.astype(np.int64)
