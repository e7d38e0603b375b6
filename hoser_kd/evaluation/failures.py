"""Generated trips that went wrong, and why.

Shapes: n trips.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from hoser_kd.common.arrays import row_of_value
from hoser_kd.common.geodesy import great_circle_m

if TYPE_CHECKING:
    from hoser_kd.common.arrays import Float64Array, Int64Array
    from hoser_kd.generation.trajectories import GeneratedTrajectories
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories

Cause = Literal["no path", "step limit", "wrong turn"]
CAUSES: dict[Cause, str] = {
    "no path": "nothing was left to expand before the destination was found",
    "step limit": "the limit of expansions was reached before the destination",
    "wrong turn": "it arrived, over less than half of the roads of the real trip",
}
"""Causes, in the order in which they are told."""
LEAST_SHARED = 0.5
"""A trip that has fewer of the real trip's roads took a wrong turn."""


class Failure(NamedTuple):
    """A trip that went wrong."""

    row: int
    """Which one."""
    cause: Cause
    """Why."""
    away_km: float
    """From its end to the destination; for a wrong turn, of its road farthest from the real trip to that trip."""


def failures(
    generated: GeneratedTrajectories,
    destinations: Int64Array,
    max_steps: int,
    network: RoadNetwork,
    real: Trajectories | None = None,
) -> list[Failure]:
    """Return the trips that went wrong, those that are farthest away first.

    `destinations` (n,) int64 were asked for with at most `max_steps` expansions; trip i of `real` is the real answer
    to request i: wrong turns are told only where it is given.
    """
    ends, goals = network.centroids[generated.destinations], network.centroids[destinations]
    away_km = great_circle_m(ends[:, 0], ends[:, 1], goals[:, 0], goals[:, 1]) / 1000
    found = [
        Failure(int(row), "step limit" if generated.expansions[row] >= max_steps else "no path", float(away_km[row]))
        for row in np.flatnonzero(~generated.reached)
    ]
    if real is not None:
        turned = generated.reached & (_share_of_real(real, generated, network.num_roads) < LEAST_SHARED)
        found += [
            Failure(row, "wrong turn", _farthest_km(generated.roads(row), real.roads(row), network))
            for row in np.flatnonzero(turned).tolist()
        ]
    return sorted(found, key=lambda failure: -failure.away_km)


def _farthest_km(roads: Int64Array, from_roads: Int64Array, network: RoadNetwork) -> float:
    a, b = network.centroids[roads][:, None], network.centroids[from_roads][None]
    return float(great_circle_m(a[..., 0], a[..., 1], b[..., 0], b[..., 1]).min(1).max()) / 1000


def _share_of_real(real: Trajectories, generated: Trajectories, num_roads: int) -> Float64Array:
    """Return (n,) float64: the share of each real trip's roads that the generated trip has too."""
    a, b = (np.unique(row_of_value(trips.offsets) * num_roads + trips.road_ids) for trips in (real, generated))
    both = np.intersect1d(a, b, assume_unique=True)
    in_both, in_real = (np.bincount(keys // num_roads, minlength=len(real)) for keys in (both, a))
    return np.asarray(in_both / in_real, np.float64)
