"""Generated trips that do not arrive, or arrive by another route than the real trip, and the causes.

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

Cause = Literal["no path", "step limit", "another route"]
CAUSES: dict[Cause, str] = {
    "no path": "the search had no node left to expand before it reached the destination",
    "step limit": "the search reached its limit of expansions before the destination",
    "another route": "the trip reached the destination but shares less than half of the real trip's roads",
}
"""Causes and their meanings, in the order of tables and docs."""
LEAST_SHARED = 0.5
"""Share of the real trip's roads below which a trip counts as another route."""


class Failure(NamedTuple):
    """A failed trip."""

    row: int
    """Its row."""
    cause: Cause
    """Its cause."""
    away_km: float
    """Distance from its end to the destination; for another route, largest distance of its roads from the real trip."""


def failures(
    generated: GeneratedTrajectories,
    destinations: Int64Array,
    max_steps: int,
    network: RoadNetwork,
    real: Trajectories | None = None,
) -> list[Failure]:
    """Return the failed trips, the largest distance first.

    `destinations` (n,) int64 are the requested destinations, `max_steps` the limit of expansions. Trip i of `real` is
    the real trip of request i; without it, other routes are not reported.
    """
    ends, goals = network.centroids[generated.destinations], network.centroids[destinations]
    away_km = great_circle_m(ends[:, 0], ends[:, 1], goals[:, 0], goals[:, 1]) / 1000
    failed = [
        Failure(int(row), "step limit" if generated.expansions[row] >= max_steps else "no path", float(away_km[row]))
        for row in np.flatnonzero(~generated.reached)
    ]
    if real is not None:
        turned = generated.reached & (_share_of_real(real, generated, network.num_roads) < LEAST_SHARED)
        failed += [
            Failure(row, "another route", _farthest_km(generated.roads(row), real.roads(row), network))
            for row in np.flatnonzero(turned).tolist()
        ]
    return sorted(failed, key=lambda failure: -failure.away_km)


def _farthest_km(roads: Int64Array, from_roads: Int64Array, network: RoadNetwork) -> float:
    """Return the largest distance of a road center of `roads` from the nearest one of `from_roads`, km."""
    a, b = network.centroids[roads][:, None], network.centroids[from_roads][None]
    return float(great_circle_m(a[..., 0], a[..., 1], b[..., 0], b[..., 1]).min(1).max()) / 1000


def _share_of_real(real: Trajectories, generated: Trajectories, num_roads: int) -> Float64Array:
    """Return (n,) float64: share of each real trip's roads that the generated trip shares."""
    a, b = (np.unique(row_of_value(trips.offsets) * num_roads + trips.road_ids) for trips in (real, generated))
    both = np.intersect1d(a, b, assume_unique=True)
    in_both, in_real = (np.bincount(keys // num_roads, minlength=len(real)) for keys in (both, a))
    return np.asarray(in_both / in_real, np.float64)
