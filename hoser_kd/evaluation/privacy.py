"""Distance to training trips: how close generated trips come, and whether they give training trips away.

Distances are 1 minus the Jaccard index of the sets of roads. The sets are rows of sparse matrices, whose products count
the common roads of all pairs of trips that share a road; they are computed in chunks of bounded size.

Shapes: N roads, n trips, m other trips.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix

from hoser_kd.common.arrays import row_of_value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hoser_kd.common.arrays import Float64Array, Int64Array
    from hoser_kd.network.trajectories import Trajectories

MAX_COMMON = 4_000_000
"""Common roads counted in one chunk: about 100 MB."""


@dataclass(frozen=True)
class Privacy:
    """Distances between generated, training and real trips."""

    nearest: Float64Array
    """(n,) float64: distance of each generated trip to the nearest training trip."""
    real_nearest: Float64Array
    """(n,) float64: that of each real trip."""
    membership_auc: float | None
    """AUC of the membership inference by the generated trips; None where the requests are not those of real trips."""
    real_membership_auc: float | None
    """The same by the real trips in place of the generated ones."""

    @classmethod
    def of(
        cls,
        real: Trajectories,
        generated: Trajectories,
        training: Trajectories,
        num_roads: int,
        requests: Int64Array | None,
    ) -> Privacy:
        """Measure distances. `requests`: (n,) int64, the request that both trips i answer; None if not paired."""
        sets = [road_sets(trips, num_roads) for trips in (real, generated, training)]
        nearest, real_nearest = (1 - nearest_similarity(trips, sets[2]) for trips in (sets[1], sets[0]))
        if requests is None:
            return cls(nearest, real_nearest, None, None)
        held_out = np.unique(requests, return_index=True)[1]  # several samples of a request repeat its real trip
        aucs = [_membership(sets[2], sets[0][held_out], known, requests, held_out) for known in (sets[1], sets[0])]
        return cls(nearest, real_nearest, aucs[0], aucs[1])


def _membership(
    training: csr_matrix, real: csr_matrix, known: csr_matrix, requests: Int64Array, held_out: Int64Array
) -> float | None:
    """Return the AUC of telling training from real trips by the nearest `known` trip; None with one request only.

    Known trips that answer a real trip's own request are left out for that trip: they share its ends by construction.
    """
    if len(held_out) < 2:
        return None
    members = nearest_similarity(training, known)
    others = nearest_similarity(real, known, requests[held_out], requests)
    return auc(members, others)


def auc(members: Float64Array, others: Float64Array) -> float:
    """Return the area under the ROC curve: probability that a member scores higher than another, ties counted half."""
    # mean ranks among equal scores, as `scipy.stats.rankdata` gives; its import would take longer than all scores
    _, place, counts = np.unique(np.concatenate([members, others]), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place][: len(members)]
    return float((ranks.mean() - (len(members) + 1) / 2) / len(others))


def road_sets(trips: Trajectories, num_roads: int) -> csr_matrix:
    """Return the (n, N) int32 incidence matrix of trips and roads: 1 where a trip visits a road."""
    ones = np.ones(len(trips.road_ids), np.int32)
    sets = csr_matrix((ones, trips.road_ids, trips.offsets), shape=(len(trips), num_roads), copy=True)
    sets.sum_duplicates()  # several times as fast as np.unique of (trip, road)
    sets.data[:] = 1
    return sets


def nearest_similarity(
    trips: csr_matrix,
    others: csr_matrix,
    groups: Int64Array | None = None,
    other_groups: Int64Array | None = None,
    max_common: int = MAX_COMMON,
) -> Float64Array:
    """Return (n,) float64: largest Jaccard index of each trip's roads with those of another trip; 0 if none is shared.

    Args:
        trips: (n, N) road sets.
        others: (m, N) road sets.
        groups: (n,) int64, with `other_groups` (m,) int64: trips of the same group are not compared.
        other_groups: see `groups`.
        max_common: common roads counted in one chunk.
    """
    best = np.zeros(trips.shape[0])
    sizes, other_sizes = np.diff(trips.indptr), np.diff(others.indptr)
    by_road = others.T.tocsr()
    for first, last in _chunks(trips @ np.diff(by_road.indptr), max_common):
        common = trips[first:last] @ by_road
        row = first + row_of_value(common.indptr.astype(np.int64))
        if len(row) == 0:
            continue
        jaccard = common.data / (sizes[row] + other_sizes[common.indices] - common.data)
        if groups is not None and other_groups is not None:
            jaccard[groups[row] == other_groups[common.indices]] = 0.0
        some = np.flatnonzero(np.diff(common.indptr))
        best[first + some] = np.maximum.reduceat(jaccard, common.indptr[some])
    return best


def _chunks(costs: Int64Array, most: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows with costs of about `most` together, one row at least."""
    part = np.cumsum(costs, dtype=np.int64) // most
    edges = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(costs)]
    yield from pairwise(edges)
