"""Similarity of two trips: distances between their shapes, shared roads, detours.

Shapes: n trips, P pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hoser_kd.common.arrays import row_of_value
from hoser_kd.evaluation.trip_measures import length_km

if TYPE_CHECKING:
    from hoser_kd.common.arrays import Float64Array, Int64Array
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories


def shape_distances(
    real: Trajectories, generated: Trajectories, network: RoadNetwork, pairs: Int64Array, edr_threshold_m: float
) -> dict[str, Float64Array]:
    """Return (P,) float64 arrays by name for (P, 2) int64 `pairs` of rows (real, generated).

    `hausdorff` and `dtw` (km), `edr`, `edr_published`, `hausdorff_per_road` and `dtw_per_road` (km, divided by the mean
    number of roads), `edit_similarity` (1 minus the road edits over the longer trip's roads).
    """
    from hoser_kd.evaluation import _similarity_kernels as kernel

    columns = kernel.pair_distances(real, generated, pairs, network.centroids, edr_threshold_m).T
    real_roads, generated_roads = real.lengths[pairs[:, 0]], generated.lengths[pairs[:, 1]]
    mean_roads = (real_roads + generated_roads) / 2
    return {
        "hausdorff": columns[kernel.HAUSDORFF_KM],
        "dtw": columns[kernel.DTW_KM],
        "edr": columns[kernel.EDR],
        "edr_published": columns[kernel.EDR_PUBLISHED],
        "hausdorff_per_road": columns[kernel.HAUSDORFF_KM] / mean_roads,
        "dtw_per_road": columns[kernel.DTW_KM] / mean_roads,
        "edit_similarity": 1 - columns[kernel.ROAD_EDITS] / np.maximum(real_roads, generated_roads),
    }


def road_overlap(real: Trajectories, generated: Trajectories, num_roads: int) -> Float64Array:
    """Return (n,) float64: Jaccard index of the road sets of trips i (roads in both over roads in either)."""
    a, b = (np.unique(row_of_value(trips.offsets) * num_roads + trips.road_ids) for trips in (real, generated))
    both = np.intersect1d(a, b, assume_unique=True)
    in_a, in_b, in_both = (np.bincount(keys // num_roads, minlength=len(real)) for keys in (a, b, both))
    return in_both / (in_a + in_b - in_both)


def detour_ratios(real: Trajectories, generated: Trajectories, network: RoadNetwork) -> Float64Array:
    """Return (n,) float64: length of generated trip i over that of real trip i; NaN where their last roads differ."""
    real_km, generated_km = length_km(real, network), length_km(generated, network)
    comparable = (generated.destinations == real.destinations) & (real_km > 0)
    ratios = np.full(len(real), np.nan)
    np.divide(generated_km, real_km, out=ratios, where=comparable)
    return ratios
