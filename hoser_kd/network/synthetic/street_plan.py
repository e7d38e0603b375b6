"""Plan of the synthetic city's streets: crossings and edges on a flat square, in meters (x east, y north).

A street grid with a river, a park and dead ends, and a motorway around it.
Shapes: K crossings, E edges (street segments between two crossings).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hoser_kd.common.arrays import BoolArray, Float64Array, Int64Array, offsets_of, ranges, row_of_value

CLASSES = np.array(["motorway", "motorway_link", "primary", "secondary", "tertiary", "residential"], object)
"""OpenStreetMap classes; their indices are the constants below."""
MOTORWAY, LINK, PRIMARY, SECONDARY, TERTIARY, RESIDENTIAL = range(6)

_LINES_PER_PRIMARY = 7
_RIVER_WIDTH_M = 130.0
_RING_MARGIN_M = 260.0
_CARRIAGEWAY_GAP_M = 45.0
_INTERCHANGE_REACH_M = 120.0
_LONGEST_MOTORWAY_M = 650.0
_OFF, _ON, _PLAIN = -1, 1, 0


class Edges(NamedTuple):
    """Segments between two crossings, each stored once; `direction` is +1 or -1 for one-way segments, 0 for both."""

    a: Int64Array
    b: Int64Array
    road_class: Int64Array
    direction: Int64Array
    street: Int64Array
    is_bridge: BoolArray

    def take(self, which: npt.NDArray[np.generic]) -> Edges:
        return Edges(*(column[which] for column in self))


class Plan(NamedTuple):
    """The plan of the city on the flat square."""

    crossings: Float64Array
    """(K, 2) float64: x, y in meters."""
    edges: Edges
    inner_offsets: Int64Array
    """(E + 1,) int64: edge i has the interior points `inner[inner_offsets[i]:inner_offsets[i + 1]]`."""
    inner: Float64Array
    """(…, 2) float64: x, y in meters."""


class _Lines(NamedTuple):
    """The lines of the street grid along one axis."""

    at_m: Float64Array
    road_class: Int64Array
    direction: Int64Array


def plan_streets(rng: np.random.Generator, blocks: tuple[int, int]) -> tuple[Plan, Float64Array]:
    """Return the plan of the streets and its half size x, y in meters; `blocks` is as for `build_streets`."""
    river = blocks[0] // 2 + (blocks[0] > 10)
    rows, columns = _lines(rng, blocks[0], river), _lines(rng, blocks[1], None)
    crossings, edges = _street_grid(rng, rows, columns, river)
    crossings, edges = _dead_ends(rng, crossings, edges, blocks)
    crossings, edges = _split_long(rng, crossings, edges)
    plan = Plan(crossings, edges, *_bows(rng, crossings, edges))
    half = np.array([columns.at_m[-1], rows.at_m[-1]]) / 2
    gates = _gates(rows, columns)
    # right-hand traffic: the outer carriageway runs counter-clockwise
    for sense, margin_m in ((-1, _RING_MARGIN_M), (1, _RING_MARGIN_M + _CARRIAGEWAY_GAP_M)):
        plan = _add_carriageway(rng, plan, gates, _Outline.around(half, margin_m), sense)
    return plan, half


def _lines(rng: np.random.Generator, count: int, river: int | None) -> _Lines:
    """Return unevenly spaced lines with classes: primary at regular distances, secondary between and at the rim."""
    step = count / max(1, round(count / _LINES_PER_PRIMARY))
    road_class = np.full(count, RESIDENTIAL)
    road_class[1::4] = TERTIARY
    road_class[np.arange(step, count - 1, step).astype(int)] = SECONDARY
    road_class[[0, -1]] = SECONDARY
    road_class[np.arange(step / 2, count, step).astype(int)] = PRIMARY
    gaps = rng.uniform(130, 235, count - 1)
    if river is not None:
        gaps[river - 1] += _RIVER_WIDTH_M
    # neighboring one-way streets alternate in direction, as in real cities
    one_way = rng.random(count) < np.select([road_class == RESIDENTIAL, road_class == TERTIARY], [0.45, 0.2], 0.0)
    direction = np.where(one_way, np.where(np.cumsum(one_way) % 2, 1, -1), 0)
    return _Lines(np.concatenate([[0.0], np.cumsum(gaps)]), road_class, direction)


def _street_grid(rng: np.random.Generator, rows: _Lines, columns: _Lines, river: int) -> tuple[Float64Array, Edges]:
    """Intersect the lines, then remove segments in the river and the park and a few random ones."""
    height, width = len(rows.at_m), len(columns.at_m)
    x, y = np.meshgrid(columns.at_m, rows.at_m)
    crossings = np.column_stack([x.ravel(), y.ravel()]) + rng.normal(0, 14, (height * width, 2)).clip(-35, 35)
    id_of = np.arange(height * width).reshape(height, width)
    row, column = np.divmod(id_of.ravel(), width)

    east = np.flatnonzero(column < width - 1)
    north = np.flatnonzero(row < height - 1)
    road_class = np.concatenate([rows.road_class[row[east]], columns.road_class[column[north]]])
    over_river = np.concatenate([np.zeros(len(east), bool), row[north] == river - 1])
    bridges = columns.road_class == PRIMARY
    bridges[0 if bridges.sum() > 1 else width - 2] = True
    has_bridge = np.concatenate([np.zeros(len(east), bool), bridges[column[north]]])
    edges = Edges(
        np.concatenate([east, north]),
        np.concatenate([east + 1, north + width]),
        # bridges are at least secondary
        np.where(over_river, np.minimum(road_class, SECONDARY), road_class),
        np.where(over_river, 0, np.concatenate([rows.direction[row[east]], columns.direction[column[north]]])),
        np.concatenate([row[east], height + column[north]]),
        over_river,
    )
    chance = np.select([road_class == RESIDENTIAL, road_class == TERTIARY], [0.12, 0.05], 0.0)
    missing = np.where(over_river, ~has_bridge, rng.random(len(road_class)) < chance)
    return crossings, edges.take(~(missing | _in_park(edges, height, width)))


def _in_park(edges: Edges, height: int, width: int) -> BoolArray:
    """Return the edges to remove in the park, a rectangle in the north-east: all below secondary, (E,) bool."""
    size = max(2, min(height, width) // 6)
    south, west = round(height * 0.62), round(width * 0.6)

    def inside(node: Int64Array) -> BoolArray:
        row, column = np.divmod(node, width)
        return (row > south) & (row < south + size) & (column > west) & (column < west + size)

    return (inside(edges.a) | inside(edges.b)) & (edges.road_class >= TERTIARY)


def _dead_ends(
    rng: np.random.Generator, crossings: Float64Array, edges: Edges, blocks: tuple[int, int]
) -> tuple[Float64Array, Edges]:
    """Add short residential dead-end streets."""
    used = np.unique(np.concatenate([edges.a, edges.b]))
    roots = rng.choice(used, max(2, blocks[0] * blocks[1] // 16), replace=False)
    angle = np.pi / 4 + np.pi / 2 * rng.integers(4, size=len(roots)) + rng.normal(0, 0.2, len(roots))
    reach = rng.uniform(45, 85, len(roots))[:, None]
    ends = crossings[roots] + reach * np.column_stack([np.cos(angle), np.sin(angle)])
    spurs = Edges(
        roots,
        len(crossings) + np.arange(len(roots)),
        np.full(len(roots), RESIDENTIAL),
        np.zeros(len(roots), np.int64),
        edges.street.max() + 1 + np.arange(len(roots)),
        np.zeros(len(roots), bool),
    )
    return np.concatenate([crossings, ends]), _join(edges, spurs)


def _split_long(rng: np.random.Generator, crossings: Float64Array, edges: Edges) -> tuple[Float64Array, Edges]:
    """Split some long segments in two, as maps do where a name or a surface changes."""
    span = np.linalg.norm(crossings[edges.b] - crossings[edges.a], axis=1)
    cut = np.flatnonzero((span > 150) & (rng.random(len(span)) < 0.22))
    share = rng.uniform(0.35, 0.65, (len(cut), 1))
    middles = crossings[edges.a[cut]] * (1 - share) + crossings[edges.b[cut]] * share + rng.normal(0, 4, (len(cut), 2))
    middle = len(crossings) + np.arange(len(cut))
    tails = edges.take(cut)._replace(a=middle)
    b = edges.b.copy()
    b[cut] = middle
    return np.concatenate([crossings, middles]), _join(edges._replace(b=b), tails)


def _bows(rng: np.random.Generator, crossings: Float64Array, edges: Edges) -> tuple[Int64Array, Float64Array]:
    """Return the interior points of every edge as a ragged array: a flat arc, or none for straight streets."""
    start, along = crossings[edges.a], crossings[edges.b] - crossings[edges.a]
    span = np.linalg.norm(along, axis=1)
    counts = np.where(rng.random(len(span)) < 0.25, 0, np.ceil(span / 60)).astype(np.int64)
    bow = rng.normal(0, 0.05, len(span)).clip(-0.12, 0.12)
    offsets = offsets_of(counts)
    edge = row_of_value(offsets)
    share = ((ranges(np.ones_like(counts), counts)) / (counts[edge] + 1))[:, None]
    normal = np.column_stack([-along[:, 1], along[:, 0]])
    arc = bow[edge, None] * np.sin(np.pi * share)
    return offsets, start[edge] + share * along[edge] + arc * normal[edge]


class _Outline(NamedTuple):
    """A closed counter-clockwise line with the distance of each point along it."""

    points: Float64Array
    at_m: Float64Array

    @classmethod
    def around(cls, half: Float64Array, margin_m: float) -> _Outline:
        """Return a rounded rectangle at distance `margin_m` around the grid, whose far corner is 2 · half."""
        x, y = half + margin_m
        radius = min(x, y) * 0.45
        angle = np.linspace(0, 2 * np.pi, 97)[:-1] + np.pi / 192
        corner = np.column_stack([np.sign(np.cos(angle)) * (x - radius), np.sign(np.sin(angle)) * (y - radius)])
        points = half + corner + radius * np.column_stack([np.cos(angle), np.sin(angle)])
        points = np.concatenate([points, points[:1]])
        return cls(points, np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))]))

    def point(self, at_m: Float64Array) -> Float64Array:
        """Return x, y at distances along the line; distances wrap around."""
        return np.column_stack([np.interp(at_m % self.at_m[-1], self.at_m, axis) for axis in self.points.T])

    def nearest(self, xy_m: Float64Array) -> Float64Array:
        """Return the distances along the line of the places nearest to the given points, to 10 m."""
        at_m = np.arange(0, self.at_m[-1], 10.0)
        places: Float64Array = at_m[np.linalg.norm(self.point(at_m)[None] - xy_m[:, None], axis=2).argmin(1)]
        return places


def _add_carriageway(rng: np.random.Generator, plan: Plan, gates: Int64Array, ring: _Outline, sense: int) -> Plan:
    """Add one direction of the motorway, with ramps from and to the gates."""
    around_m = ring.at_m[-1]
    stops, kind, gate = _stops(ring.nearest(plan.crossings[gates]), around_m, sense)
    crossings = np.concatenate([plan.crossings, ring.point(stops)])
    node = len(plan.crossings) + np.arange(len(stops))
    gap = np.diff(np.concatenate([stops, stops[:1] + sense * around_m]))
    counts = np.maximum(np.abs(gap) // 70, 1).astype(np.int64)
    part = row_of_value(offsets_of(counts))
    share = ranges(np.ones_like(counts), counts) / (counts[part] + 1)

    off, on = np.flatnonzero(kind == _OFF), np.flatnonzero(kind == _ON)
    street = int(plan.edges.street.max()) + 1
    motorway = _one_way(node, np.roll(node, -1), MOTORWAY, street)
    slips = _join(
        _one_way(node[off], gates[gate[off]], LINK, street + 1), _one_way(gates[gate[on]], node[on], LINK, street + 1)
    )
    slip_offsets, slip_inner = _bows(rng, crossings, slips)
    return Plan(
        crossings,
        _join(_join(plan.edges, motorway), slips),
        offsets_of(np.concatenate([np.diff(plan.inner_offsets), counts, np.diff(slip_offsets)])),
        np.concatenate([plan.inner, ring.point(stops[part] + share * gap[part]), slip_inner]),
    )


def _gates(rows: _Lines, columns: _Lines) -> Int64Array:
    """Return the crossings at the rim where primary streets end."""
    height, width = len(rows.at_m), len(columns.at_m)
    row, column = np.divmod(np.arange(height * width), width)
    sides = np.isin(column, [0, width - 1]) & (rows.road_class[row] == PRIMARY)
    ends = np.isin(row, [0, height - 1]) & (columns.road_class[column] == PRIMARY)
    return np.flatnonzero(sides | ends)


def _stops(gate_m: Float64Array, around_m: float, sense: int) -> tuple[Float64Array, Int64Array, Int64Array]:
    """Return the motorway's crossings in driving order: distance along the ring, kind, and index of the gate."""
    order = np.argsort(sense * gate_m)
    exits, entries = (sense * gate_m[order] + reach for reach in (-_INTERCHANGE_REACH_M, _INTERCHANGE_REACH_M))
    free = np.concatenate([exits[1:], exits[:1] + around_m]) - entries
    between = np.maximum(np.ceil(free / _LONGEST_MOTORWAY_M).astype(np.int64) - 1, 0)
    gap = row_of_value(offsets_of(between))
    share = ranges(np.ones_like(between), between) / (between[gap] + 1)
    at = np.concatenate([exits, entries, entries[gap] + share * free[gap]])
    kind = np.repeat([_OFF, _ON, _PLAIN], [len(exits), len(entries), len(gap)])
    gate = np.concatenate([order, order, np.full(len(gap), -1)])
    driving = np.argsort(at, kind="stable")
    return sense * at[driving], kind[driving], gate[driving]


def _one_way(a: Int64Array, b: Int64Array, road_class: int, street: int) -> Edges:
    return Edges(
        a, b, np.full(len(a), road_class), np.ones(len(a), np.int64), np.full(len(a), street), np.zeros(len(a), bool)
    )


def _join(first: Edges, second: Edges) -> Edges:
    return Edges(*(np.concatenate(pair) for pair in zip(first, second, strict=True)))
