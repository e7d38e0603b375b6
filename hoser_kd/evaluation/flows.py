"""Where trips go: distributions over OD pairs, turns and cells, and requested OD cells at several sizes.

Shapes: N roads, n trips, S steps of all trips, K keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hoser_kd.evaluation.distributions import jensen_shannon
from hoser_kd.evaluation.metric_registry import Metric

if TYPE_CHECKING:
    from collections.abc import Callable

    from hoser_kd.common.arrays import Int64Array
    from hoser_kd.evaluation.context import EvaluationContext
    from hoser_kd.network.trajectories import Trajectories

OD_FLOW_CELL_M = 1000.0
"""Side of the cells of OD flows, meters."""
DENSITY_CELL_M = 500.0
"""Side of the cells of visits, meters."""
OD_MATCH_CELLS_M = (200.0, 500.0, 1000.0)
"""Sides of the cells in which requested and generated ends are compared, meters."""


def od_flows(trips: Trajectories, cell: Int64Array) -> Int64Array:
    """Return (n,) int64: a key of each trip's pair of OD cells; `cell` is (N,) int64, the cell of each road."""
    key: Int64Array = cell[trips.origins] * (cell.max() + 1) + cell[trips.destinations]
    return key


def turns(trips: Trajectories, num_roads: int) -> Int64Array:
    """Return (S,) int64: road * `num_roads` + next road of each step."""
    at, _ = trips.step_positions()
    return trips.road_ids[at] * num_roads + trips.road_ids[at + 1]


def divergence_of_keys(real: Int64Array, generated: Int64Array) -> float | None:
    """Return the Jensen-Shannon divergence of the shares of keys in two (K,) arrays, nats; None where one is empty."""
    if len(real) == 0 or len(generated) == 0:
        return None
    keys, which = np.unique(np.concatenate([real, generated]), return_inverse=True)
    counts = [np.bincount(part, minlength=len(keys)) for part in np.split(which, [len(real)])]
    return jensen_shannon(counts[0], counts[1])


def _od_jsd(context: EvaluationContext) -> float | None:
    cell = context.cells(OD_FLOW_CELL_M)
    return divergence_of_keys(od_flows(context.real, cell), od_flows(context.generated, cell))


def _turn_jsd(context: EvaluationContext) -> float | None:
    num_roads = context.network.num_roads
    return divergence_of_keys(turns(context.real, num_roads), turns(context.generated, num_roads))


def _cell_jsd(context: EvaluationContext) -> float | None:
    cell = context.cells(DENSITY_CELL_M)
    return divergence_of_keys(cell[context.real.road_ids], cell[context.generated.road_ids])


def _match(side_m: float) -> Callable[[EvaluationContext], float | None]:
    def compute(context: EvaluationContext) -> float | None:
        if context.destinations is None:
            return None
        cell, generated = context.cells(side_m), context.generated
        starts = cell[context.requested_origins] == cell[generated.origins]
        return float((starts & (cell[context.destinations] == cell[generated.destinations])).mean())

    return compute


FLOWS = (
    Metric(
        "flows.od_jsd",
        label="divergence of OD pairs",
        text="Jensen-Shannon divergence between the real and the generated distribution of trips over pairs of origin "
        "and destination cells (1 km). 0 where every trip reaches the requested destination of a real trip.",
        unit="nat",
        better="lower",
        compute=_od_jsd,
        is_divergence=True,
        source="trip error of AdaTrace (Gursoy et al., CCS 2018), there over 6 by 6 cells",
    ),
    Metric(
        "flows.turn_jsd",
        label="divergence of turns",
        text="Jensen-Shannon divergence between the real and the generated distribution of steps over the pairs of a "
        "road and the next road.",
        unit="nat",
        better="lower",
        compute=_turn_jsd,
        is_divergence=True,
        source="transition error of RetraSyn (Hu et al., ICDE 2024), there over grid cells and per time step",
    ),
    Metric(
        "flows.cell_jsd",
        label="divergence of visited cells",
        text="Jensen-Shannon divergence between the real and the generated distribution of visited road centers over "
        "cells (500 m).",
        unit="nat",
        better="lower",
        compute=_cell_jsd,
        is_divergence=True,
        source="density error of DiffTraj (Zhu et al., NeurIPS 2023)",
    ),
)
OD_MATCH = tuple(
    Metric(
        f"od_match.within_{side_m:.0f}m_share",
        label=f"cells of {side_m:.0f} m",
        text="Share of generated trips that start and end in the requested cells, "
        f"{side_m:.0f} m wide, counted like the OD cells of pairs; cells of different sizes do not nest.",
        better="higher",
        is_share=True,
        same_as="requests.od_cell_share",
        variant=True,
        compute=_match(side_m),
    )
    for side_m in OD_MATCH_CELLS_M
)
"""Registered by `hoser_kd.evaluation.metrics`, like `FLOWS`."""
