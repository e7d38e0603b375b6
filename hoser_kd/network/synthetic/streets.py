"""Streets of the synthetic city: the plan of `street_plan`, converted to HOSER's directed roads.

The plan is bent and rotated as a whole, then projected to coordinates in the middle of the Atlantic, so that it cannot
be mistaken for a real place.
Shapes: K crossings, E edges (street segments between two crossings), N directed roads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hoser_kd.common.arrays import BoolArray, Float64Array, Int64Array, offsets_of, ranges, row_of_value
from hoser_kd.common.geodesy import EARTH_RADIUS_M, line_lengths_m
from hoser_kd.network.road_graph import connect, largest_component, restrict
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.synthetic.street_plan import CLASSES, Plan, plan_streets

CENTER_LAT_DEG, CENTER_LNG_DEG = 44.5, -33.5


@dataclass(frozen=True)
class Streets:
    """The generated streets, one strongly connected component."""

    network: RoadNetwork
    """N roads; each is followed by all roads that leave its last crossing, with U-turns only at dead ends."""
    tail: Int64Array
    """(N,) int64: crossing at which each road starts."""
    head: Int64Array
    """(N,) int64: crossing at which each road ends."""
    road_class: Int64Array
    """(N,) int64: index in `CLASSES`."""
    is_one_way: BoolArray
    """(N,) bool: there is no road in the opposite direction."""
    is_bridge: BoolArray
    """(N,) bool: the road crosses the river."""
    street: Int64Array
    """(N,) int64: index of the street of each road; both directions share it."""
    midpoint: Float64Array
    """(N, 2) float64: x, y of the road's midpoint in the plan, scaled so that the street grid spans [-1, 1]."""


class _Directed(NamedTuple):
    """Directed roads: start and end crossing, edge, and whether they run against the direction of the edge."""

    tail: Int64Array
    head: Int64Array
    edge: Int64Array
    is_back: BoolArray


def build_streets(seed: int, blocks: tuple[int, int]) -> Streets:
    """Generate the streets; `blocks` is the number of crossings south-north and west-east, at least 5 each."""
    rng = np.random.default_rng([seed, 1])
    return _draw(rng, *plan_streets(rng, blocks))


def _draw(rng: np.random.Generator, plan: Plan, half: Float64Array) -> Streets:
    """Convert edges to directed roads with coordinates; keep the largest strongly connected component."""
    crossings, edges = plan.crossings, plan.edges
    there, back = np.flatnonzero(edges.direction >= 0), np.flatnonzero(edges.direction <= 0)
    edge = np.concatenate([there, back])
    is_back = np.repeat([False, True], [len(there), len(back)])
    order = np.lexsort((is_back, edge))
    edge, is_back = edge[order], is_back[order]
    tail, head = np.where(is_back, (edges.b[edge], edges.a[edge]), (edges.a[edge], edges.b[edge]))
    successors = connect(tail, head, edge)
    kept = largest_component(successors)
    roads = _Directed(tail[kept], head[kept], edge[kept], is_back[kept])

    bend = _Bend.draw(rng, half)
    on_globe = plan._replace(crossings=_to_globe(bend(crossings)), inner=_to_globe(bend(plan.inner)))
    coord_offsets, coords = _assemble(on_globe, roads)
    road_class = edges.road_class[roads.edge]
    _, node = np.unique(np.concatenate([roads.tail, roads.head]), return_inverse=True)
    return Streets(
        network=RoadNetwork(
            coord_offsets,
            coords,
            line_lengths_m(coord_offsets, coords),
            CLASSES[road_class],
            restrict(successors, kept),
        ),
        tail=node[: len(kept)],
        head=node[len(kept) :],
        road_class=road_class,
        is_one_way=np.bincount(roads.edge)[roads.edge] == 1,
        is_bridge=edges.is_bridge[roads.edge],
        street=edges.street[roads.edge],
        midpoint=(crossings[roads.tail] + crossings[roads.head]) / 2 / half - 1,
    )


class _Bend(NamedTuple):
    """Bends and rotates the plan, so that the city is not a regular grid."""

    half: Float64Array
    amplitude_m: float
    phase: Float64Array
    turn: float

    @classmethod
    def draw(cls, rng: np.random.Generator, half: Float64Array) -> _Bend:
        return cls(half, 0.06 * float(half.min()), rng.uniform(0, 2 * np.pi, 2), float(rng.uniform(0.15, 0.45)))

    def __call__(self, xy_m: Float64Array) -> Float64Array:
        x, y = (xy_m - self.half).T
        wave = 2 * np.pi / (2.2 * float(self.half.min()))
        x = x + self.amplitude_m * np.sin(wave * y + self.phase[0])
        y = y + self.amplitude_m * np.sin(wave * x + self.phase[1])
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        return np.column_stack([cos * x - sin * y, sin * x + cos * y])


def _to_globe(xy_m: Float64Array) -> Float64Array:
    """Return lon, lat in degrees, rounded to 7 decimals like OpenStreetMap."""
    degrees = np.degrees(xy_m / EARTH_RADIUS_M) / np.array([np.cos(np.radians(CENTER_LAT_DEG)), 1.0])
    lnglat: Float64Array = np.round(degrees + np.array([CENTER_LNG_DEG, CENTER_LAT_DEG]), 7)
    return lnglat


def _assemble(plan: Plan, roads: _Directed) -> tuple[Int64Array, Float64Array]:
    """Return each road's coordinates: start crossing, interior points in driving order, end crossing."""
    counts = np.diff(plan.inner_offsets)[roads.edge]
    coord_offsets = offsets_of(counts + 2)
    road = row_of_value(offsets_of(counts))
    step = ranges(np.zeros_like(counts), counts)
    coords = np.empty((int(coord_offsets[-1]), 2))
    coords[coord_offsets[:-1]] = plan.crossings[roads.tail]
    coords[coord_offsets[1:] - 1] = plan.crossings[roads.head]
    in_driving_order = np.where(roads.is_back[road], counts[road] - 1 - step, step)
    coords[coord_offsets[road] + 1 + step] = plan.inner[plan.inner_offsets[roads.edge][road] + in_driving_order]
    return coord_offsets, coords
