"""The trips of the made city: who goes where and when, along which roads, and how long each road takes.

What there is to learn: demand is uneven and turns with the hour; routes are quick for the hour's traffic, but some
streets are liked and some turns shunned by everybody, and each driver has a habit (arterials, short cuts, no
motorway) that the road behind tells of.
Shapes: N roads, L connections, n trips, D drivers, H kinds of hour, P points of all trips together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from hoser_kd.common.arrays import BoolArray, Float64Array, Int64Array, offsets_of, ranges, row_of_value, take_rows
from hoser_kd.common.calendar import SECONDS_PER_DAY, SECONDS_PER_HOUR, hour_of_day, is_weekend
from hoser_kd.common.progress import Progress, silent
from hoser_kd.network.synthetic.streets import LINK, MOTORWAY, TERTIARY, Streets
from hoser_kd.network.trajectories import Trajectories

FIRST_DAY = np.datetime64("2023-05-01", "s")
"""A Monday, 00:00:00 UTC."""
NUM_DAYS = 14
SHORTEST_TRIP = 5
"""Roads."""
_FIRST_DAY_S = int(FIRST_DAY.astype(np.int64))

NIGHT, MORNING, MIDDAY, EVENING, WEEKEND = range(5)
_FREE_SPEED_KMH = np.array([80.0, 45.0, 48.0, 44.0, 40.0, 34.0])
_PEAK_SENSITIVITY = np.array([0.35, 0.7, 1.0, 0.8, 0.4, 0.15])
_CONGESTION = np.array([0.0, 2.4, 0.6, 2.1, 0.3])
_INBOUND = np.array([0.0, 0.9, 0.0, -0.85, 0.0])

# weight of trips that start in each hour of the day, on working days and at weekends
_WORKDAY_HOURS = np.array(
    [5, 3, 2, 2, 4, 10, 26, 60, 62, 38, 28, 28, 32, 32, 30, 36, 52, 64, 56, 40, 28, 22, 16, 10], np.float64
)
_WEEKEND_HOURS = np.array(
    [16, 14, 11, 8, 5, 5, 8, 13, 22, 32, 40, 44, 44, 42, 40, 40, 40, 40, 38, 36, 32, 28, 26, 22], np.float64
)

# share of each purpose by kind of hour: home to work, work to home, any to leisure, leisure to home, to or from the
# station, from anywhere to anywhere
_PURPOSES = np.array(
    [
        [0.03, 0.08, 0.12, 0.40, 0.10, 0.27],
        [0.55, 0.03, 0.03, 0.02, 0.12, 0.25],
        [0.15, 0.13, 0.20, 0.08, 0.12, 0.32],
        [0.04, 0.46, 0.15, 0.03, 0.09, 0.23],
        [0.05, 0.05, 0.33, 0.22, 0.09, 0.26],
    ]
)

# habits: factor on the time of each class of road, and on the time of turns
_HABIT_SHARE = np.array([0.30, 0.30, 0.25, 0.15])
_HABIT_ON_CLASS = np.array(
    [
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
        [0.85, 0.9, 0.75, 0.95, 1.5, 2.0],
        [1.3, 1.2, 1.35, 1.1, 0.9, 0.75],
        [3.5, 3.0, 0.95, 0.9, 1.0, 1.2],
    ]
)
_HABIT_ON_TURNS = np.array([1.0, 1.8, 0.4, 1.2])


class Trips(NamedTuple):
    """Trips with the driver of each."""

    trajectories: Trajectories
    """n trips in the order of their start."""
    driver: Int64Array
    """(n,) int64."""


class _Calls(NamedTuple):
    """Who asks for a trip, when, from where to where: (n,) each."""

    driver: Int64Array
    start_s: Int64Array
    hour_kind: Int64Array
    origin: Int64Array
    destination: Int64Array


def draw_trips(seed: int, streets: Streets, num_trips: int, progress: Progress = silent) -> Trips:
    """Draw trips of at least `SHORTEST_TRIP` roads over two weeks from Monday `FIRST_DAY`."""
    rng = np.random.default_rng([seed, 2])
    num_drivers = max(8, num_trips // 40)
    costs = _Costs(rng, streets, num_drivers)
    demand = _Demand(rng, streets)
    parts: list[tuple[_Calls, Int64Array, Int64Array]] = []
    found = 0
    while found < num_trips:
        calls = demand.draw(rng, max(64, int((num_trips - found) * 1.25)), num_drivers)
        offsets, road_ids = _routes(costs, calls, partial(_report, progress, found, num_trips))
        long_enough = np.flatnonzero(np.diff(offsets) >= SHORTEST_TRIP)[: num_trips - found]
        kept, at = take_rows(offsets, long_enough)
        parts.append((_Calls(*(column[long_enough] for column in calls)), np.diff(kept), road_ids[at]))
        found += len(long_enough)
    calls = _Calls(*(np.concatenate(columns) for columns in zip(*(part[0] for part in parts), strict=True)))
    offsets = offsets_of(np.concatenate([part[1] for part in parts]))
    road_ids = np.concatenate([part[2] for part in parts])
    progress("trips", num_trips, num_trips)
    return _drive(rng, costs, calls, offsets, road_ids)


def _report(progress: Progress, found: int, num_trips: int, done: int) -> None:
    progress("trips", min(found + done, num_trips), num_trips)


class _Demand:
    """Where trips begin and end: homes in quarters, work in the center, leisure at the river, two stations."""

    def __init__(self, rng: np.random.Generator, streets: Streets) -> None:
        xy, road_class = streets.midpoint, streets.road_class
        taste = rng.lognormal(0, 0.6, (4, len(xy)))
        stops_here = (road_class != MOTORWAY) & (road_class != LINK) & ~streets.is_bridge
        lives_here = stops_here * np.where(road_class >= TERTIARY, 1.0, 0.25)
        quarters = np.array([[-0.65, 0.55], [0.6, 0.65], [-0.55, -0.6], [0.7, -0.5], [0.1, -0.8]])
        work = np.array([[0.05, 0.1], [-0.05, 0.3], [0.75, 0.05]])
        leisure = np.array([[-0.25, -0.05], [0.3, 0.35], [-0.8, 0.85]])
        stations = np.array([[0.15, 0.2], [-0.45, -0.15]])
        home_w = _hills(xy, quarters, 0.38, [1, 0.8, 0.9, 0.6, 0.7]) * lives_here * taste[0]
        work_w = _hills(xy, work, 0.3, [1, 0.7, 0.35]) * stops_here * taste[1]
        leisure_w = _hills(xy, leisure, 0.25, [1, 0.8, 0.5]) * stops_here * taste[2]
        station_w = _hills(xy, stations, 0.08, [1, 0.5]) * stops_here
        any_w = stops_here * taste[3]
        self._cumulative = np.cumsum([home_w, work_w, leisure_w, station_w, any_w], axis=1)
        self._cumulative /= self._cumulative[:, -1:]

    def draw(self, rng: np.random.Generator, count: int, num_drivers: int) -> _Calls:
        """Draw `count` calls; a few of them begin just before midnight, the first of these on Fridays."""
        day = rng.integers(NUM_DAYS, size=count)
        weekend = is_weekend(_FIRST_DAY_S + day * SECONDS_PER_DAY)
        share = rng.random(count)
        hour = np.where(weekend, _pick(_WEEKEND_HOURS, share), _pick(_WORKDAY_HOURS, share))
        late = np.arange(count) < max(5, count // 100)
        day[late] = np.array([4, 11, 5, 1, 2, 6, 9, 12])[np.arange(late.sum()) % 8]
        hour[late] = 23
        second = hour * SECONDS_PER_HOUR + np.where(
            late, 3510 + rng.integers(85, size=count), rng.integers(3600, size=count)
        )
        start_s = day * SECONDS_PER_DAY + second
        hour_kind = _hour_kind(start_s)
        purpose = (rng.random(count)[:, None] > np.cumsum(_PURPOSES, axis=1)[hour_kind][:, :-1]).sum(1)
        homeward = rng.random(count) < 0.5
        # homes, work, leisure, station, anywhere
        origin_kind = np.array([0, 1, 4, 2, 3, 4])[purpose]
        destination_kind = np.array([1, 0, 2, 0, 0, 4])[purpose]
        swap = (purpose == 4) & homeward
        ends = np.where(swap, destination_kind, origin_kind), np.where(swap, origin_kind, destination_kind)
        origin, destination = (self._roads(rng, kind) for kind in ends)
        return _Calls(rng.integers(num_drivers, size=count), start_s, hour_kind, origin, destination)

    def _roads(self, rng: np.random.Generator, kind: Int64Array) -> Int64Array:
        keys = (self._cumulative + np.arange(len(self._cumulative))[:, None]).ravel()
        at = np.searchsorted(keys, kind + rng.random(len(kind)), side="right")
        roads: Int64Array = at - kind * self._cumulative.shape[1]
        return roads


def _hills(xy: Float64Array, centers: Float64Array, width: float, heights: list[float]) -> Float64Array:
    square = ((xy[:, None] - centers) ** 2).sum(2)
    total: Float64Array = (np.exp(-square / (2 * width**2)) * np.array(heights)).sum(1)
    return total + 1e-9


def _pick(weights: Float64Array, share: Float64Array) -> Int64Array:
    cumulative = np.cumsum(weights) / weights.sum()
    at: Int64Array = np.searchsorted(cumulative, share, side="right").clip(0, len(weights) - 1)
    return at


def _hour_kind(seconds: Int64Array) -> Int64Array:
    """Return the kind of hour of seconds since the first Monday, (n,) int64."""
    hour, weekend = hour_of_day(seconds), is_weekend(_FIRST_DAY_S + seconds)
    return np.select(
        [(hour < 6) | (hour >= 21.5), weekend, (hour >= 6.5) & (hour < 9.5), (hour >= 16) & (hour < 19)],
        [NIGHT, WEEKEND, MORNING, EVENING],
        MIDDAY,
    ).astype(np.int64)


class _Costs:
    """What a road and a turn cost, in seconds, by kind of hour and by driver."""

    def __init__(self, rng: np.random.Generator, streets: Streets, num_drivers: int) -> None:
        network = streets.network
        self.network = network
        self.road_seconds = _road_seconds(streets)
        """(H, N) float64: time to drive along a road."""
        self.turn_seconds, sharp = _turn_seconds(streets)
        """(L,) float64: time lost before each following road."""
        self._liking = rng.lognormal(0, 0.2, streets.street.max() + 1)[streets.street]
        self._shunned = np.where(sharp & (rng.random(len(sharp)) < 0.12), 45.0, 0.0)
        self._habit = rng.choice(len(_HABIT_SHARE), num_drivers, p=_HABIT_SHARE)
        self._familiar = rng.lognormal(0, 0.10, (num_drivers, network.num_roads))
        self._mood = rng.lognormal(0, 0.05, (len(self.road_seconds), network.num_roads))
        self._on_class = _HABIT_ON_CLASS[:, streets.road_class]
        self.pace = rng.lognormal(0, 0.12, num_drivers)
        """(D,) float64: how slowly each driver drives."""

    def graph(self, driver: int, hour_kind: int) -> csr_array:
        """Return the (N, N) sparse graph of what it costs this driver at this hour to take each following road."""
        habit = self._habit[driver]
        road = self.road_seconds[hour_kind] * self._liking * self._familiar[driver] * self._mood[hour_kind]
        turn = self.turn_seconds * _HABIT_ON_TURNS[habit] + self._shunned
        following = self.network.successors.indices
        count = self.network.num_roads
        return csr_array(
            ((road * self._on_class[habit])[following] + turn, following, self.network.successors.indptr),
            (count, count),
        )


def _road_seconds(streets: Streets) -> Float64Array:
    """Free-flow time, longer where and when traffic is dense: into the center in the morning, out in the evening."""
    network = streets.network
    free = network.length_m / (_FREE_SPEED_KMH[streets.road_class] / 3.6)
    centrality = np.exp(-(streets.midpoint**2).sum(1) / 0.5)
    heading = (network.end - network.start)[:, ::-1] * np.array([np.cos(np.radians(network.end[0, 0])), 1.0])
    to_center = network.centroids.mean(0)[::-1] - network.centroids[:, ::-1]
    norms = np.linalg.norm(heading, axis=1) * np.linalg.norm(to_center, axis=1)
    inbound = (heading * to_center).sum(1) / np.maximum(norms, 1e-12)
    sensitivity = _PEAK_SENSITIVITY[streets.road_class] * (0.25 + centrality + 0.4 * streets.is_bridge)
    seconds: Float64Array = free * (1 + _CONGESTION[:, None] * sensitivity * (1 + _INBOUND[:, None] * inbound))
    return seconds


def _turn_seconds(streets: Streets) -> tuple[Float64Array, BoolArray]:
    """Return the time each turn takes and whether it is a real turn, (L,) both: left turns wait longest."""
    network = streets.network
    origin = np.repeat(np.arange(network.num_roads), network.successors.degrees)
    following = network.successors.indices
    offsets, coords = network.coord_offsets, network.coords
    leaving = coords[offsets[1:] - 1] - coords[offsets[1:] - 2]
    entering = coords[offsets[:-1] + 1] - coords[offsets[:-1]]
    scale = np.array([np.cos(np.radians(coords[0, 1])), 1.0])
    a, b = leaving[origin] * scale, entering[following] * scale
    angle = np.degrees(np.arctan2(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0], (a * b).sum(1)))
    is_turn = np.abs(angle) > 40
    seconds = np.select([np.abs(angle) > 150, angle > 40, angle < -40], [20.0, 4.0, 2.0], 0.5)
    onto_larger = is_turn & (streets.road_class[following] < streets.road_class[origin])
    return seconds + 1.5 * onto_larger, is_turn & (streets.road_class[origin] != LINK)


def _routes(costs: _Costs, calls: _Calls, report: Callable[[int], None]) -> tuple[Int64Array, Int64Array]:
    """Return offsets and road ids of the cheapest route of every call, first and last road included.

    One search serves all calls of a driver at one kind of hour.
    """
    group = calls.driver * len(costs.road_seconds) + calls.hour_kind
    order = np.argsort(group, kind="stable")
    keys, starts = np.unique(group[order], return_index=True)
    lengths, roads = [], []
    for key, members in zip(keys, np.split(order, starts[1:]), strict=True):
        origins, row = np.unique(calls.origin[members], return_inverse=True)
        graph = costs.graph(*divmod(int(key), len(costs.road_seconds)))
        _, before = dijkstra(graph, indices=origins, return_predecessors=True)
        part_lengths, part_roads = _walk_back(before, row, calls.destination[members])
        lengths.append(part_lengths)
        roads.append(part_roads)
        report(sum(map(len, lengths)))
    grouped = offsets_of(np.concatenate(lengths))
    offsets, at = take_rows(grouped, np.argsort(order, kind="stable"))
    return offsets, np.concatenate(roads)[at]


def _walk_back(
    before: npt.NDArray[np.int32], row: Int64Array, destination: Int64Array
) -> tuple[Int64Array, Int64Array]:
    """Follow predecessors from every destination at once; return lengths and the road ids, route after route."""
    backwards = [destination]
    while True:
        found = before[row, backwards[-1]].astype(np.int64)
        previous = np.where(found < 0, backwards[-1], found)
        if (previous == backwards[-1]).all():
            break
        backwards.append(previous)
    steps = np.stack(backwards)
    lengths = 1 + (steps[1:] != steps[:-1]).sum(0)
    trip = row_of_value(offsets_of(lengths))
    from_end = ranges(np.zeros_like(lengths), lengths)
    return lengths, steps[lengths[trip] - 1 - from_end, trip]


def _drive(rng: np.random.Generator, costs: _Costs, calls: _Calls, offsets: Int64Array, road_ids: Int64Array) -> Trips:
    """Give every road of every trip the second it is entered, and put the trips in the order of their start."""
    network = costs.network
    trip = row_of_value(offsets)
    following = np.append(road_ids[1:], road_ids[:1])
    connection = network.successors.indptr[road_ids] + network.candidate_index(road_ids, following)
    # the last road of a trip has no turn after it, whatever the next trip begins with
    is_last = np.isin(np.arange(len(road_ids)), offsets[1:] - 1)
    turn = np.where(is_last, 0.0, costs.turn_seconds[np.where(is_last, 0, connection)])
    seconds = costs.road_seconds[calls.hour_kind[trip], road_ids] * costs.pace[calls.driver[trip]]
    seconds = seconds * rng.lognormal(0, 0.18, len(seconds)) + turn * rng.exponential(1.0, len(seconds))
    # at least a second a road, so that whole seconds never stand still
    entered = np.concatenate([[0.0], np.cumsum(np.maximum(seconds, 1.0))])[:-1]
    elapsed = np.floor(entered - entered[offsets[:-1]][trip] + 1e-6).astype(np.int64)
    times = _FIRST_DAY_S + calls.start_s[trip] + elapsed

    order = np.lexsort((np.arange(len(calls.start_s)), calls.start_s))
    ids = np.arange(len(order)).astype(str).astype(object)
    trajectories = Trajectories(offsets, road_ids, times).take(order)
    return Trips(replace(trajectories, ids=ids), calls.driver[order])
