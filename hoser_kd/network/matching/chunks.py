"""Match one chunk of trips with the compiled loops, in this process or in a worker.

The loops are in `_kernels`, which imports numba (seconds), so it is imported on first use. Workers import this module
but not `matcher`, because geopandas is slow to import too.

Shapes: P points of the trips of a chunk, R roads of their pieces.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hoser_kd.common.arrays import Float64Array, Int64Array
from hoser_kd.network.matching.street_graph import StreetGraph, project


class Model(NamedTuple):
    """Numbers of `MatchingSettings`, as the loops read them."""

    candidates: int
    radius_m: float
    sigma_m: float
    beta_m: float
    max_gap_s: float
    max_speed_m_s: float
    max_detour_m: float
    backward_m: float
    end_m: float


class Part(NamedTuple):
    """The result of a chunk; positions and rows count from its first point."""

    road: Int64Array
    entered: Float64Array
    piece_start: Int64Array
    first_point: Int64Array
    point_road: Int64Array
    point_distance_m: Float64Array
    splits: tuple[int, int]
    """Splits at gaps, and where there is no path."""


class Matcher:
    """The graph and the kept shortest paths of one process."""

    def __init__(self, graph: StreetGraph, model: Model, cache_mb: int) -> None:
        from hoser_kd.network.matching._kernels import new_reach

        self.graph = graph
        self.model = model
        self.reach = new_reach(graph, cache_mb)

    def __call__(self, offsets: Int64Array, points: Float64Array) -> Part:
        """Match (P, 3) float64 points: t, lon, lat."""
        from hoser_kd.network.matching import _kernels

        t = np.ascontiguousarray(points[:, 0])
        xy = project(points[:, 1:], self.graph.center)
        xy[~np.isfinite(points).all(1)] = np.inf  # no road is near
        states = _kernels.States(*_kernels.find_candidates(self.graph, self.model, xy))
        chosen, begins = _kernels.choose_states(self.graph, self.reach, self.model, offsets, t, xy, states)
        room = 4 * len(t) + 2 * len(self.graph.length_m)
        pieces = np.zeros((len(t) + 1, 2), np.int64)
        used = -1
        while used < 0:
            road, entered = np.empty(room, np.int64), np.empty(room)
            used, count = _kernels.assemble(
                self.graph, self.reach, self.model, offsets, t, xy, states, chosen, begins, road, entered, pieces
            )
            room *= 2
        row = np.arange(len(t))
        return Part(
            road[:used],
            entered[:used],
            pieces[: count + 1, 0],
            pieces[:count, 1],
            np.where(chosen >= 0, states.road[row, chosen], -1),
            np.where(chosen >= 0, states.away_m[row, chosen], np.nan),
            (int((begins == _kernels.GAP).sum()), int((begins == _kernels.NO_PATH).sum())),
        )


_worker: list[Matcher] = []
"""The matcher of a worker process, once it is prepared."""


def start_worker(graph: StreetGraph, model: Model, cache_mb: int) -> None:
    """Prepare a worker process for `match_in_worker`."""
    _worker[:] = [Matcher(graph, model, cache_mb)]


def match_in_worker(offsets: Int64Array, points: Float64Array) -> Part:
    """Match a chunk in a worker process."""
    return _worker[0](offsets, points)
