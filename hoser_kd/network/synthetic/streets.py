"""Streets of the synthetic city: a plan of crossings and edges, converted to HOSER's directed roads.

The plan is in meters on a flat square (x east, y north). It is bent and rotated as a whole at the end, then projected
to coordinates in the middle of the Atlantic, so that it cannot be mistaken for a real place.
Shapes: K crossings, E edges (street segments between two crossings), N directed roads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from hoser_kd.common.arrays import BoolArray, Csr, Float64Array, Int64Array, offsets_of, ranges, row_of_value, take_rows
from hoser_kd.common.geodesy import EARTH_RADIUS_M, great_circle_m
from hoser_kd.network.road_network import RoadNetwork

CLASSES = np.array(["motorway", "motorway_link", "primary", "secondary", "tertiary", "residential"], object)
"""OpenStreetMap classes; their indices are the constants below."""
MOTORWAY, LINK, PRIMARY, SECONDARY, TERTIARY, RESIDENTIAL = range(6)
CENTER_LAT_DEG, CENTER_LNG_DEG = 44.5, -33.5

_LINES_PER_PRIMARY = 7
_RIVER_WIDTH_M = 130.0
_RING_MARGIN_M = 260.0
_CARRIAGEWAY_GAP_M = 45.0
_INTERCHANGE_REACH_M = 120.0
_LONGEST_MOTORWAY_M = 650.0
_OFF, _ON, _PLAIN = -1, 1, 0


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


class _Edges(NamedTuple):
    """Segments between two crossings, each stored once; `direction` is +1 or -1 for one-way segments, 0 for both."""

    a: Int64Array
    b: Int64Array
    road_class: Int64Array
    direction: Int64Array
    street: Int64Array
    is_bridge: BoolArray

    def take(self, which: npt.NDArray[np.generic]) -> _Edges:
        return _Edges(*(column[which] for column in self))


class _Plan(NamedTuple):
    """The plan of the city on the flat square."""

    crossings: Float64Array
    """(K, 2) float64: x, y in meters."""
    edges: _Edges
    inner_offsets: Int64Array
    """(E + 1,) int64: edge i has the interior points `inner[inner_offsets[i]:inner_offsets[i + 1]]`."""
    inner: Float64Array
    """(…, 2) float64: x, y in meters."""


class _Directed(NamedTuple):
    """Directed roads: start and end crossing, edge, and whether they run against the direction of the edge."""

    tail: Int64Array
    head: Int64Array
    edge: Int64Array
    is_back: BoolArray


class _Lines(NamedTuple):
    """The lines of the street grid along one axis."""

    at_m: Float64Array
    road_class: Int64Array
    direction: Int64Array


def build_streets(seed: int, blocks: tuple[int, int]) -> Streets:
    """Generate the streets; `blocks` is the number of crossings south-north and west-east, at least 5 each."""
    rng = np.random.default_rng([seed, 1])
    river = blocks[0] // 2 + (blocks[0] > 10)
    rows, columns = _lines(rng, blocks[0], river), _lines(rng, blocks[1], None)
    crossings, edges = _street_grid(rng, rows, columns, river)
    crossings, edges = _dead_ends(rng, crossings, edges, blocks)
    crossings, edges = _split_long(rng, crossings, edges)
    plan = _Plan(crossings, edges, *_bows(rng, crossings, edges))
    half = np.array([columns.at_m[-1], rows.at_m[-1]]) / 2
    gates = _gates(rows, columns)
    # right-hand traffic: the outer carriageway runs counter-clockwise
    for sense, margin_m in ((-1, _RING_MARGIN_M), (1, _RING_MARGIN_M + _CARRIAGEWAY_GAP_M)):
        plan = _add_carriageway(rng, plan, gates, _Outline.around(half, margin_m), sense)
    return _draw(rng, plan, half)


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


def _street_grid(rng: np.random.Generator, rows: _Lines, columns: _Lines, river: int) -> tuple[Float64Array, _Edges]:
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
    edges = _Edges(
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


def _in_park(edges: _Edges, height: int, width: int) -> BoolArray:
    """Return the edges to remove in the park, a rectangle in the north-east: all below secondary, (E,) bool."""
    size = max(2, min(height, width) // 6)
    south, west = round(height * 0.62), round(width * 0.6)

    def inside(node: Int64Array) -> BoolArray:
        row, column = np.divmod(node, width)
        return (row > south) & (row < south + size) & (column > west) & (column < west + size)

    return (inside(edges.a) | inside(edges.b)) & (edges.road_class >= TERTIARY)


def _dead_ends(
    rng: np.random.Generator, crossings: Float64Array, edges: _Edges, blocks: tuple[int, int]
) -> tuple[Float64Array, _Edges]:
    """Add short residential dead-end streets."""
    used = np.unique(np.concatenate([edges.a, edges.b]))
    roots = rng.choice(used, max(2, blocks[0] * blocks[1] // 16), replace=False)
    angle = np.pi / 4 + np.pi / 2 * rng.integers(4, size=len(roots)) + rng.normal(0, 0.2, len(roots))
    reach = rng.uniform(45, 85, len(roots))[:, None]
    ends = crossings[roots] + reach * np.column_stack([np.cos(angle), np.sin(angle)])
    spurs = _Edges(
        roots,
        len(crossings) + np.arange(len(roots)),
        np.full(len(roots), RESIDENTIAL),
        np.zeros(len(roots), np.int64),
        edges.street.max() + 1 + np.arange(len(roots)),
        np.zeros(len(roots), bool),
    )
    return np.concatenate([crossings, ends]), _join(edges, spurs)


def _split_long(rng: np.random.Generator, crossings: Float64Array, edges: _Edges) -> tuple[Float64Array, _Edges]:
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


def _bows(rng: np.random.Generator, crossings: Float64Array, edges: _Edges) -> tuple[Int64Array, Float64Array]:
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


def _add_carriageway(rng: np.random.Generator, plan: _Plan, gates: Int64Array, ring: _Outline, sense: int) -> _Plan:
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
    return _Plan(
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


def _one_way(a: Int64Array, b: Int64Array, road_class: int, street: int) -> _Edges:
    return _Edges(
        a, b, np.full(len(a), road_class), np.ones(len(a), np.int64), np.full(len(a), street), np.zeros(len(a), bool)
    )


def _join(first: _Edges, second: _Edges) -> _Edges:
    return _Edges(*(np.concatenate(pair) for pair in zip(first, second, strict=True)))


def _draw(rng: np.random.Generator, plan: _Plan, half: Float64Array) -> Streets:
    """Convert edges to directed roads with coordinates; keep the largest strongly connected component."""
    crossings, edges = plan.crossings, plan.edges
    there, back = np.flatnonzero(edges.direction >= 0), np.flatnonzero(edges.direction <= 0)
    edge = np.concatenate([there, back])
    is_back = np.repeat([False, True], [len(there), len(back)])
    order = np.lexsort((is_back, edge))
    edge, is_back = edge[order], is_back[order]
    tail, head = np.where(is_back, (edges.b[edge], edges.a[edge]), (edges.a[edge], edges.b[edge]))
    successors = _successors(tail, head, edge)
    kept = _largest_component(successors)
    roads = _Directed(tail[kept], head[kept], edge[kept], is_back[kept])

    bend = _Bend.draw(rng, half)
    on_globe = plan._replace(crossings=_to_globe(bend(crossings)), inner=_to_globe(bend(plan.inner)))
    coord_offsets, coords = _assemble(on_globe, roads)
    road_class = edges.road_class[roads.edge]
    _, node = np.unique(np.concatenate([roads.tail, roads.head]), return_inverse=True)
    return Streets(
        network=RoadNetwork(
            coord_offsets, coords, _length_m(coord_offsets, coords), CLASSES[road_class], _restrict(successors, kept)
        ),
        tail=node[: len(kept)],
        head=node[len(kept) :],
        road_class=road_class,
        is_one_way=np.bincount(roads.edge)[roads.edge] == 1,
        is_bridge=edges.is_bridge[roads.edge],
        street=edges.street[roads.edge],
        midpoint=(crossings[roads.tail] + crossings[roads.head]) / 2 / half - 1,
    )


def _successors(tail: Int64Array, head: Int64Array, edge: Int64Array) -> Csr:
    """Connect each road to all roads that leave its end crossing; allow a U-turn only if there is no other road."""
    leaving = np.argsort(tail, kind="stable")
    first = np.searchsorted(tail[leaving], head)
    count = np.searchsorted(tail[leaving], head, side="right") - first
    road = row_of_value(offsets_of(count))
    following = leaving[ranges(first, count)]
    turns_back = edge[road] == edge[following]
    is_dead_end = np.bincount(road[~turns_back], minlength=len(tail)) == 0
    kept = ~turns_back | is_dead_end[road]
    return Csr(offsets_of(np.bincount(road[kept], minlength=len(tail))), following[kept])


def _largest_component(successors: Csr) -> Int64Array:
    """Return the road indices of the largest strongly connected component, ascending."""
    count = len(successors.degrees)
    ones = np.ones(len(successors.indices), np.int8)
    graph = csr_array((ones, successors.indices, successors.indptr), (count, count))
    _, component = connected_components(graph, directed=True, connection="strong")
    return np.flatnonzero(component == np.bincount(component).argmax())


def _restrict(graph: Csr, kept: Int64Array) -> Csr:
    """Renumber the kept roads from 0 and drop connections to other roads."""
    new_id = np.full(len(graph.degrees), -1)
    new_id[kept] = np.arange(len(kept))
    offsets, at = take_rows(graph.indptr, kept)
    following = new_id[graph.indices[at]]
    inside = following >= 0
    return Csr(offsets_of(np.bincount(row_of_value(offsets)[inside], minlength=len(kept))), following[inside])


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


def _assemble(plan: _Plan, roads: _Directed) -> tuple[Int64Array, Float64Array]:
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


def _length_m(coord_offsets: Int64Array, coords: Float64Array) -> Float64Array:
    """Return each road's length along its coordinates in meters, rounded to millimeters."""
    pieces = great_circle_m(coords[:-1, 1], coords[:-1, 0], coords[1:, 1], coords[1:, 0])
    along = np.concatenate([[0.0], np.cumsum(pieces)])
    length_m: Float64Array = np.round(along[coord_offsets[1:] - 1] - along[coord_offsets[:-1]], 3)
    return length_m
