"""Measure pairs of trips/s: the compiled kernel against Hausdorff, DTW and EDR in plain Python, one thread.

    python benchmarks/metrics.py

The tests compare the kernel with the definitions in this file.
"""

from __future__ import annotations

import argparse
import time
from math import asin, cos, inf, radians, sin, sqrt
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

Point = tuple[float, float]


def haversine(a: Point, b: Point, radius: float) -> float:
    """Return the great-circle distance of two (lat, lon) points in degrees, in the unit of `radius`."""
    (lat_a, lon_a), (lat_b, lon_b) = [(radians(lat), radians(lon)) for lat, lon in (a, b)]
    hav = sin((lat_b - lat_a) / 2) ** 2 + cos(lat_a) * cos(lat_b) * sin((lon_b - lon_a) / 2) ** 2
    return 2 * radius * asin(min(1.0, sqrt(hav)))


def hausdorff_km(a: Sequence[Point], b: Sequence[Point]) -> float:
    def one_way(here: Sequence[Point], there: Sequence[Point]) -> float:
        return max(min(haversine(p, q, 6378.0) for q in there) for p in here)

    return max(one_way(a, b), one_way(b, a))


def dtw_km(a: Sequence[Point], b: Sequence[Point]) -> float:
    table = [[inf] * (len(b) + 1) for _ in range(len(a) + 1)]
    table[0][0] = 0.0
    for i, p in enumerate(a):
        for j, q in enumerate(b):
            table[i + 1][j + 1] = haversine(p, q, 6378.0) + min(table[i][j], table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def edits(num_a: int, num_b: int, matches: Sequence[Sequence[bool]]) -> int:
    table = [[i + j if i * j == 0 else 0 for j in range(num_b + 1)] for i in range(num_a + 1)]
    for i in range(num_a):
        for j in range(num_b):
            table[i + 1][j + 1] = min(table[i][j] + (not matches[i][j]), table[i][j + 1] + 1, table[i + 1][j] + 1)
    return table[-1][-1]


def edr(a: Sequence[Point], b: Sequence[Point], threshold_m: float) -> float:
    matches = [[haversine(p, q, 6378137.0) < threshold_m for q in b] for p in a]
    return edits(len(a), len(b), matches) / max(len(a), len(b))


def main() -> None:
    """Print pairs/s of both, and their ratio, for trips of 21 and 38 roads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20_000, help="pairs for the compiled kernel")
    parser.add_argument("--plain-pairs", type=int, default=20, help="pairs for plain Python")
    arguments = parser.parse_args()

    started = time.perf_counter()
    from hoser_kd.evaluation._similarity_kernels import pair_distances
    from hoser_kd.network.trajectories import Trajectories

    rng = np.random.default_rng(0)
    centers = np.column_stack([rng.uniform(41.14, 41.18, 5000), rng.uniform(-8.69, -8.56, 5000)])

    def trips(num_trips: int, num_roads: int) -> Trajectories:
        roads = rng.integers(0, len(centers), num_trips * num_roads)
        return Trajectories(np.arange(num_trips + 1) * num_roads, roads, np.zeros_like(roads))

    few = trips(1, 2)
    pair_distances(few, few, np.zeros((1, 2), np.int64), centers, 100.0)
    print(f"import and first call: {time.perf_counter() - started:.1f} s")

    for num_roads in (21, 38):
        real, generated = trips(1000, num_roads), trips(1000, num_roads)
        pairs = rng.integers(0, 1000, (arguments.pairs, 2))
        started = time.perf_counter()
        pair_distances(real, generated, pairs, centers, 100.0)
        compiled_s = (time.perf_counter() - started) / len(pairs)

        started = time.perf_counter()
        for r, g in pairs[: arguments.plain_pairs]:
            a, b = ([(lat, lon) for lat, lon in centers[t.roads(i)].tolist()] for t, i in ((real, r), (generated, g)))
            hausdorff_km(a, b), dtw_km(a, b), edr(a, b, 100.0)
        plain_s = (time.perf_counter() - started) / arguments.plain_pairs
        print(
            f"{num_roads} roads: compiled {1 / compiled_s:,.0f} pairs/s ({compiled_s * 1e6:.1f} µs), plain Python "
            f"{1 / plain_s:,.0f} pairs/s ({plain_s * 1e3:.2f} ms), {plain_s / compiled_s:,.0f} times faster"
        )


if __name__ == "__main__":
    main()
