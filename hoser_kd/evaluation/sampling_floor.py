"""Sampling floor of the distribution metrics: the divergence of real trips from real trips at the same number of trips.

A Jensen-Shannon divergence of histograms is positive for two finite samples of the same distribution. Below this floor,
the metric cannot tell generated trips from real ones; that does not show that they are equal. The samples of the floor
are independent, while generated trips have the origins, destinations and start times of the test trips. They can be
closer to these than the floor and still differ systematically, as shortest paths do, which are too short.

Shapes: n trips of a sample, N real trips, K values of all trips.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hoser_kd.common.arrays import offsets_of, take_rows
from hoser_kd.evaluation.distributions import DistributionPair, jensen_shannon
from hoser_kd.evaluation.trip_measures import MEASURES, TIMED
from hoser_kd.network.trip_consistency import has_times

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    import numpy.typing as npt

    from hoser_kd.common.arrays import Int64Array
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories

RESAMPLES = 100
"""Pairs of samples of a floor."""
_QUANTILE = 0.95


class Floor(NamedTuple):
    """Divergence of two samples of real trips."""

    mean: float
    """Mean over the pairs of samples, nats."""
    quantile_95: float
    """95 % quantile over the pairs, nats: a divergence below it may be that of real trips."""
    num_trips: int
    """n: trips of each sample."""
    disjoint: bool
    """Whether the two samples of a pair share no trip; if not, each is drawn with replacement from all real trips."""


def jsd_floor(
    values: npt.NDArray[Any],
    n: int,
    *,
    offsets: Int64Array | None = None,
    divergence: Callable[[npt.NDArray[Any], npt.NDArray[Any]], float] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Floor:
    """Return the floor of a divergence between two samples of n of the real trips each.

    Where there are 2n real trips or more, the samples of a pair are disjoint parts of a permutation; with fewer, both
    are bootstrap samples of n trips, which share trips and give a lower floor (by a sixth on Porto). One of the two
    takes the role of the real trips, so that edges of histograms follow from it as in the metric.

    Args:
        values: (K,) the value of each real trip, or with `offsets` of each of its steps or roads.
        n: trips of a sample, those of the metric that the floor stands beside.
        offsets: (N + 1,) int64, the values of each trip; None: one value per trip.
        divergence: function of both samples' values, nats; None: that of their published histograms.
        resamples: number of pairs.
        seed: seed of the samples.

    Raises:
        ValueError: n is below 1, there is no real trip, or `resamples` is below 1.
    """
    offsets = offsets_of(np.ones(len(values), np.int64)) if offsets is None else offsets
    num_real = len(offsets) - 1
    if n < 1 or num_real < 1 or resamples < 1:
        raise ValueError(f"expected real trips, n and resamples of 1 or more, got {num_real}, {n} and {resamples}")
    measure = divergence or _histogram_divergence
    rng = np.random.default_rng(seed)
    disjoint = 2 * n <= num_real
    results = np.empty(resamples)
    for i in range(resamples):
        rows = rng.permutation(num_real)[: 2 * n] if disjoint else rng.integers(num_real, size=2 * n)
        samples = [values[take_rows(offsets, half)[1]] for half in (rows[:n], rows[n:])]
        results[i] = measure(*samples)
    return Floor(float(results.mean()), float(np.quantile(results, _QUANTILE)), n, disjoint)


def jsd_floors(
    real: Trajectories, network: RoadNetwork, n: int, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Floor]:
    """Return the floor of every distribution metric for n generated trips, by its name (`distance.jsd`).

    `real`: the real trips of the evaluation, one or more; more trips of the same city make the samples disjoint.
    Durations have no floor where the trips have no times.
    """
    by_step = offsets_of(np.maximum(real.lengths - 1, 0))
    floors = {}
    is_timed = has_times(real)
    for name, measure in MEASURES.items():
        if name in TIMED and not is_timed:
            continue
        values = np.concatenate([measure(part, network) for part in real.chunks()])
        offsets = by_step if name == "duration" else None
        floors[f"{name}.jsd"] = jsd_floor(values, n, offsets=offsets, resamples=resamples, seed=seed)

    def road_use_divergence(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
        return jensen_shannon(*(np.bincount(roads, minlength=network.num_roads) for roads in (a, b)))

    floors["road_use.jsd"] = jsd_floor(
        real.road_ids, n, offsets=real.offsets, divergence=road_use_divergence, resamples=resamples, seed=seed
    )
    return floors


def _histogram_divergence(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """Return the divergence of the published histograms, nats; 0 where a sample has no value."""
    pair = DistributionPair.of(np.asarray(a, np.float64), np.asarray(b, np.float64))
    return 0.0 if pair is None else pair.divergence
