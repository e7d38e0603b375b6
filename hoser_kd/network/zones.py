"""Zones: a balanced partition of the road network, and the counts of zone transitions in training trips.

Both are inputs of HOSER (Cao et al., AAAI 2025, section on the road network encoder).
Shapes: N roads, Z zones.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hoser_kd.common.arrays import Csr, Float64Array, Int64Array, offsets_of, read_array, row_of_value
from hoser_kd.common.errors import DataError

if TYPE_CHECKING:
    from hoser_kd.config.zones import ZonesConfig
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories

PARTITION_FILE = "road_network_partition"
TRANSITIONS_FILE = "zone_trans_mat.npy"
MIN_ROADS_PER_ZONE = 4
"""Minimum mean number of roads per zone; small networks get fewer zones than configured."""

_STRONG = 2
_kahip_lock = Lock()
"""KaHIP keeps its random state in global variables."""


class Shipped(NamedTuple):
    """Zones shipped with the dataset."""

    zones: Int64Array
    """(N,) int64: zone of each road."""
    transitions: Int64Array | None
    """(Z, Z) int64 transition counts; None if the dataset does not ship them."""


def partition(network: RoadNetwork, config: ZonesConfig) -> Int64Array:
    """Partition the network into at most N // 4 zones; return the zone of each road, (N,) int64.

    Method `kahip` partitions the undirected graph of `network.successors`, all weights 1, in KaHIP's strong mode; it is
    deterministic for a seed. Method `bisection` is described at `bisection`.
    """
    count = min(config.count, max(1, network.num_roads // MIN_ROADS_PER_ZONE))
    if count == 1:
        return np.zeros(network.num_roads, np.int64)
    if config.method == "bisection":
        return bisection(network.centroids, count)
    import kahip

    graph = _undirected(network.successors)
    # a memoryview yields the numbers one by one; a list of them would take ten times the memory of the array
    starts, neighbors = (values.astype(np.int32).data for values in graph)
    unit_weights = np.ones(max(network.num_roads, len(neighbors)), np.int32).data
    with _kahip_lock:
        _, zones = kahip.kaffpa(
            unit_weights[: network.num_roads],
            starts,
            unit_weights[: len(neighbors)],
            neighbors,
            count,
            config.imbalance,
            True,
            config.seed,
            _STRONG,
        )
    return np.asarray(zones, np.int64)


def bisection(centroids: Float64Array, count: int) -> Int64Array:
    """Partition points into `count` zones of nearly equal size by recursive halving along the longer side.

    `centroids` (N, 2) float64: lat, lon in degrees. Returns (N,) int64; each halving splits evenly up to one point.
    Runtime is O(N log count). Zones are compact on the map but, unlike KaHIP's, ignore rivers and one-way streets.
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
    """Count zone changes between consecutive roads, (Z, Z) int64: from row to column.

    Steps within a zone are not counted, so the diagonal is 0.
    """
    counts = np.zeros(num_zones**2, np.int64)
    for part in trajectories.chunks():
        position, _ = part.step_positions()
        origin, destination = zones[part.road_ids[position]], zones[part.road_ids[position + 1]]
        change = origin != destination
        pairs, times = np.unique(origin[change] * num_zones + destination[change], return_counts=True)
        counts[pairs] += times
    return counts.reshape(num_zones, num_zones)


def read_shipped(folder: str | PathLike[str], network: RoadNetwork) -> Shipped | None:
    """Read `road_network_partition` and, if it exists, `zone_trans_mat.npy`; return None without a partition.

    Raises DataError if the partition does not match the network or the matrix does not match the partition.
    """
    path, matrix_path = Path(folder) / PARTITION_FILE, Path(folder) / TRANSITIONS_FILE
    if not path.is_file():
        return None
    zones = _read_partition(path, network.num_roads)
    if not matrix_path.is_file():
        return Shipped(zones, None)
    return Shipped(zones, _read_transitions(matrix_path, int(zones.max()) + 1))


def _undirected(successors: Csr) -> Csr:
    """Return the simple undirected graph without loops, neighbors ascending."""
    count = len(successors.degrees)
    origin, destination = row_of_value(successors.indptr), successors.indices
    keys = np.unique(np.concatenate([origin * count + destination, destination * count + origin]))
    a, b = np.divmod(keys, count)
    different = a != b
    return Csr(offsets_of(np.bincount(a[different], minlength=count)), b[different])


_FEW_ZONES, _MOST_ZONES = 1000, 20_000
"""Zone ids below the first are always accepted; the second bounds the memory of the matrix of transitions, 3 GiB."""
_MAX_COUNT = 2**40
"""Larger counts would wrap around in int64 sums, and unsigned ones become negative."""
_HINT = f"Fix or remove it, or set `zones.use_shipped: false` to ignore {PARTITION_FILE} and {TRANSITIONS_FILE}."


def _read_partition(path: Path, num_roads: int) -> Int64Array:
    try:
        lines = path.read_text(encoding="utf-8").split()
    except UnicodeDecodeError as error:
        raise DataError(path, f"byte {error.start} is not UTF-8.", hint=_HINT) from None
    if len(lines) != num_roads:
        raise DataError(path, f"it has {len(lines)} zones for {num_roads} roads.", hint=_HINT)
    invalid = [row for row, text in enumerate(lines) if not (text.isascii() and text.isdigit())]
    if invalid:
        raise DataError(path, f"{lines[invalid[0]][:60]!r} is not a zone id.", row=invalid[0], hint=_HINT)
    limit = min(max(num_roads, _FEW_ZONES), _MOST_ZONES)
    too_large = [row for row, text in enumerate(lines) if len(text.lstrip("0")) > 9 or int(text) >= limit]
    if too_large:
        problem = (
            f"zone id {lines[too_large[0]][:20]} is not below {limit}; {num_roads} roads cannot need so many zones."
        )
        raise DataError(path, problem, row=too_large[0], hint=_HINT)
    return np.array(lines, np.int64)


def _read_transitions(path: Path, num_zones: int) -> Int64Array:
    try:
        matrix = read_array(path)
    except (ValueError, EOFError) as error:
        raise DataError(path, f"cannot be read as a NumPy array: {error}.", hint=_HINT) from None
    if not isinstance(matrix, np.ndarray) or matrix.dtype.kind not in "iu":
        raise DataError(path, "its values are not integers.", hint=_HINT)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < num_zones:
        shape = " × ".join(map(str, matrix.shape))
        raise DataError(path, f"its shape is {shape}, but the partition has {num_zones} zones.", hint=_HINT)
    if (matrix < 0).any():
        raise DataError(path, "a count is negative.", hint=_HINT)
    if matrix.size and int(matrix.max()) > _MAX_COUNT:
        raise DataError(path, f"the count {matrix.max()} is above 2^40, so it is not a number of trips.", hint=_HINT)
    return matrix.astype(np.int64)
