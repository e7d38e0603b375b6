"""What a metric is computed from: the trips to compare and the intermediate results that several metrics share.

Shapes: n trips, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from hoser_kd.evaluation.distributions import DistributionPair
from hoser_kd.evaluation.memorization import copied
from hoser_kd.evaluation.pairing import cells_of, meters_from_corner, pair_by_od_cell
from hoser_kd.evaluation.privacy import Privacy
from hoser_kd.evaluation.trip_measures import MEASURES, TIMED
from hoser_kd.evaluation.trip_similarity import detour_ratios, road_overlap, shape_distances
from hoser_kd.evaluation.utility import NextRoadScore, score_next_roads
from hoser_kd.network.trip_consistency import has_times

if TYPE_CHECKING:
    from hoser_kd.common.arrays import BoolArray, Float64Array, Int64Array
    from hoser_kd.config.evaluation import EvaluationConfig
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories


@dataclass(frozen=True)
class EvaluationContext:
    """Real and generated trips with everything that metrics derive from them, computed once and on demand."""

    real: Trajectories
    """The real trips, one or more."""
    generated: Trajectories
    """The generated trips, one or more."""
    network: RoadNetwork
    """The road network of both."""
    config: EvaluationConfig
    """OD cells and EDR threshold."""
    destinations: Int64Array | None = None
    """(n,) int64: the requested destination of each generated trip; None if unknown."""
    training: Trajectories | None = None
    """The training trips; None if not given."""
    paired: bool = False
    """Whether generated trip i answers the request of real trip i."""
    _distributions: dict[str, DistributionPair | None] = field(default_factory=dict, init=False, repr=False)
    _cells: dict[float, Int64Array] = field(default_factory=dict, init=False, repr=False)

    def distribution(self, measure: str) -> DistributionPair | None:
        """Return the real and generated distribution of one of `MEASURES`; None where either has no value.

        Durations have none if the real trips have no time information.
        """
        if measure in TIMED and not self.has_times:
            return None
        if measure not in self._distributions:
            real, generated = (MEASURES[measure](trips, self.network) for trips in (self.real, self.generated))
            self._distributions[measure] = DistributionPair.of(real, generated)
        return self._distributions[measure]

    @cached_property
    def has_times(self) -> bool:
        """Whether the real trips have times: not all roads of each trip have the same time."""
        return has_times(self.real)

    @cached_property
    def pairs(self) -> Int64Array:
        """(P, 2) int64: rows of real and generated trips between the same two OD cells."""
        return pair_by_od_cell(self.real, self.generated, self.cells(self.config.od_cell_m))

    def cells(self, side_m: float) -> Int64Array:
        """Return (N,) int64: the square cell of each road's center, `side_m` wide."""
        if side_m not in self._cells:
            self._cells[side_m] = cells_of(*self._meters, side_m)
        return self._cells[side_m]

    @cached_property
    def _meters(self) -> tuple[Float64Array, Float64Array]:
        return meters_from_corner(self.network, self.config)

    @cached_property
    def pair_shapes(self) -> dict[str, Float64Array]:
        """(P,) float64 distances of `pairs`, by name (see `shape_distances`); empty without pairs."""
        return self._shapes(self.pairs) if len(self.pairs) else {}

    @cached_property
    def request_shapes(self) -> dict[str, Float64Array]:
        """(n,) float64 distances of generated trip i from real trip i, by name; empty if trips are not paired.

        Also `detour_ratio` (NaN where the last roads differ) and `jaccard`.
        """
        if not self.paired:
            return {}
        rows = np.arange(len(self.real), dtype=np.int64)
        return {
            **self._shapes(np.column_stack([rows, rows])),
            "detour_ratio": detour_ratios(self.real, self.generated, self.network),
            "jaccard": road_overlap(self.real, self.generated, self.network.num_roads),
        }

    def _shapes(self, pairs: Int64Array) -> dict[str, Float64Array]:
        return shape_distances(self.real, self.generated, self.network, pairs, self.config.edr_threshold_m)

    @property
    def requested_origins(self) -> Int64Array:
        """(n,) int64: the requested origin of each generated trip; where trips are not paired, its own origin."""
        return self.real.origins if self.paired else self.generated.origins

    @cached_property
    def requests(self) -> Int64Array | None:
        """(n,) int64: number of each generated trip's request, equal for the samples of one; None if unknown.

        Requests are equal in origin, start time and destination.
        """
        if self.destinations is None:
            return None
        start_times = self.real.start_times if self.paired else self.generated.start_times
        keys = np.column_stack([self.requested_origins, start_times, self.destinations])
        return np.asarray(np.unique(keys, axis=0, return_inverse=True)[1], np.int64).reshape(-1)

    @cached_property
    def privacy(self) -> Privacy | None:
        """Distances to training trips; None without training trips."""
        if self.training is None or len(self.training) == 0:
            return None
        requests = self.requests if self.paired else None
        return Privacy.of(self.real, self.generated, self.training, self.network.num_roads, requests)

    @cached_property
    def utility(self) -> tuple[NextRoadScore, NextRoadScore] | None:
        """Scores on the real trips of a chain of the generated and of one of the training trips; None without either.

        Both chains are fitted on the same number of trips, where there are enough training trips.
        """
        if self.training is None or len(self.training) == 0:
            return None
        scores = [
            score_next_roads(trips, self.real, self.network, len(self.generated))
            for trips in (self.generated, self.training)
        ]
        return None if scores[0] is None or scores[1] is None else (scores[0], scores[1])

    @cached_property
    def memorized(self) -> BoolArray | None:
        """(n,) bool: whether a generated trip has exactly the roads of a training trip; None without training trips."""
        return None if self.training is None else copied(self.generated, self.training)

    @cached_property
    def real_memorized(self) -> BoolArray | None:
        """(n,) bool: the same for the real trips."""
        return None if self.training is None else copied(self.real, self.training)

    def details(self) -> dict[str, Any]:
        """Return the values of every trip and pair, and the histograms, as lists; None stands for NaN."""
        distributions = {name: self.distribution(name) for name in MEASURES}
        arrays: dict[str, Any] = {name: {} if pair is None else pair.arrays() for name, pair in distributions.items()}
        arrays |= {"similarity": self.pair_shapes, "pairs": self.pairs}
        if self.paired:
            arrays["paired"] = self.request_shapes
        return _as_lists(arrays)


def _as_lists(arrays: dict[str, Any]) -> dict[str, Any]:
    """Return nested arrays as JSON lists, with None for NaN."""
    lists: dict[str, Any] = {}
    for name, values in arrays.items():
        if isinstance(values, dict):
            lists[name] = _as_lists(values)
            continue
        objects = values.astype(object)
        objects[np.isnan(values)] = None
        lists[name] = objects.tolist()
    return lists
