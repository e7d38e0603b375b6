"""Trips of the synthetic city: demand, route choice and travel times.

The structure to learn: demand is uneven and depends on the hour; routes minimize travel time under the hour's traffic,
with preferences for streets and aversions to turns that all drivers share, and with a habit of each driver (arterials,
shortcuts, no motorway) that the roads driven so far reveal.
Shapes: N roads, L connections, n trips, D drivers, H hour kinds, P points of all trips.
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
from hoser_kd.network.synthetic.street_plan import LINK, MOTORWAY, TERTIARY
from hoser_kd.network.synthetic.streets import Streets
from hoser_kd.network.trajectories import Trajectories

FIRST_DAY = np.datetime64("2023-05-01", "s")
"""A Monday, 00:00:00 UTC."""
NUM_DAYS = 14
MIN_ROADS = 5
"""Minimum number of roads of a trip."""
_FIRST_DAY_S = int(FIRST_DAY.astype(np.int64))

NIGHT, MORNING, MIDDAY, EVENING, WEEKEND = range(5)
_FREE_SPEED_KMH = np.array([80.0, 45.0, 48.0, 44.0, 40.0, 34.0])
_PEAK_SENSITIVITY = np.array([0.35, 0.7, 1.0, 0.8, 0.4, 0.15])
_CONGESTION = np.array([0.0, 2.4, 0.6, 2.1, 0.3])
_INBOUND = np.array([0.0, 0.9, 0.0, -0.85, 0.0])

# relative frequency of trip starts by hour of the day, on working days and weekends
_WORKDAY_HOURS = np.array(
    [5, 3, 2, 2, 4, 10, 26, 60, 62, 38, 28, 28, 32, 32, 30, 36, 52, 64, 56, 40, 28, 22, 16, 10], np.float64
)
_WEEKEND_HOURS = np.array(
    [16, 14, 11, 8, 5, 5, 8, 13, 22, 32, 40, 44, 44, 42, 40, 40, 40, 40, 38, 36, 32, 28, 26, 22], np.float64
)

# share of each purpose by hour kind: home to work, work to home, any to leisure, leisure to home, to or from the
# station, any to any
_PURPOSES = np.array(
    [
        [0.03, 0.08, 0.12, 0.40, 0.10, 0.27],
        [0.55, 0.03, 0.03, 0.02, 0.12, 0.25],
        [0.15, 0.13, 0.20, 0.08, 0.12, 0.32],
        [0.04, 0.46, 0.15, 0.03, 0.09, 0.23],
        [0.05, 0.05, 0.33, 0.22, 0.09, 0.26],
    ]
)

# factors of each driver habit on the travel time per road class and on turn times
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
    """Trips and their drivers."""

    trajectories: Trajectories
    """n trips, sorted by start time."""
    driver: Int64Array
    """(n,) int64: driver of each trip."""


class _Requests(NamedTuple):
    """Requested trips: driver, start, hour kind, origin and destination, (n,) int64 each."""

    driver: Int64Array
    start_s: Int64Array
    hour_kind: Int64Array
    origin: Int64Array
    destination: Int64Array


def draw_trips(
    seed: int, streets: Streets, num_trips: int, progress: Progress = silent, *, trip_seed: int | None = None
) -> Trips:
    """Sample trips of at least `MIN_ROADS` roads over two weeks from Monday `FIRST_DAY`.

    `trip_seed`: seed of the requests and driving times, if they are not to follow from `seed`. Drivers, their habits
    and the demand then stay those of `seed` and `num_trips`.
    """
    rng = np.random.default_rng([seed, 2])
    num_drivers = max(8, num_trips // 40)
    costs = _Costs(rng, streets, num_drivers)
    demand = _Demand(rng, streets)
    if trip_seed is not None:
        rng = np.random.default_rng([seed, 4, trip_seed])
    parts: list[tuple[_Requests, Int64Array, Int64Array]] = []
    accepted = 0
    while accepted < num_trips:
        requests = demand.draw(rng, max(64, int((num_trips - accepted) * 1.25)), num_drivers)
        offsets, road_ids = _routes(costs, requests, partial(_report, progress, accepted, num_trips))
        long_enough = np.flatnonzero(np.diff(offsets) >= MIN_ROADS)[: num_trips - accepted]
        kept, at = take_rows(offsets, long_enough)
        parts.append((_Requests(*(column[long_enough] for column in requests)), np.diff(kept), road_ids[at]))
        accepted += len(long_enough)
    requests = _Requests(*(np.concatenate(columns) for columns in zip(*(part[0] for part in parts), strict=True)))
    offsets = offsets_of(np.concatenate([part[1] for part in parts]))
    road_ids = np.concatenate([part[2] for part in parts])
    progress("trips", num_trips, num_trips)
    return _drive(rng, costs, requests, offsets, road_ids)


def _report(progress: Progress, accepted: int, num_trips: int, done: int) -> None:
    progress("trips", min(accepted + done, num_trips), num_trips)


class _Demand:
    """Spatial demand: homes in residential quarters, work in the center, leisure at the river, two stations."""

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

    def draw(self, rng: np.random.Generator, count: int, num_drivers: int) -> _Requests:
        """Sample `count` requests; a few start just before midnight, the first of these on Fridays."""
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
        return _Requests(rng.integers(num_drivers, size=count), start_s, hour_kind, origin, destination)

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
    """Return the hour kind of seconds since the first Monday, (n,) int64."""
    hour, weekend = hour_of_day(seconds), is_weekend(_FIRST_DAY_S + seconds)
    return np.select(
        [(hour < 6) | (hour >= 21.5), weekend, (hour >= 6.5) & (hour < 9.5), (hour >= 16) & (hour < 19)],
        [NIGHT, WEEKEND, MORNING, EVENING],
        MIDDAY,
    ).astype(np.int64)


class _Costs:
    """Costs of roads and turns in seconds, by hour kind and driver."""

    def __init__(self, rng: np.random.Generator, streets: Streets, num_drivers: int) -> None:
        network = streets.network
        self.network = network
        self.road_seconds = _road_seconds(streets)
        """(H, N) float64: travel time of each road."""
        self.turn_seconds, avoidable = _turn_seconds(streets)
        """(L,) float64: turn time of each connection."""
        self._preference = rng.lognormal(0, 0.2, streets.street.max() + 1)[streets.street]
        self._avoided = np.where(avoidable & (rng.random(len(avoidable)) < 0.12), 45.0, 0.0)
        self._habit = rng.choice(len(_HABIT_SHARE), num_drivers, p=_HABIT_SHARE)
        self._familiar = rng.lognormal(0, 0.10, (num_drivers, network.num_roads))
        self._mood = rng.lognormal(0, 0.05, (len(self.road_seconds), network.num_roads))
        self._on_class = _HABIT_ON_CLASS[:, streets.road_class]
        self.pace = rng.lognormal(0, 0.12, num_drivers)
        """(D,) float64: factor of each driver on travel times."""

    def graph(self, driver: int, hour_kind: int) -> csr_array:
        """Return the (N, N) sparse graph of perceived costs of each connection for a driver and hour kind."""
        habit = self._habit[driver]
        road = self.road_seconds[hour_kind] * self._preference * self._familiar[driver] * self._mood[hour_kind]
        turn = self.turn_seconds * _HABIT_ON_TURNS[habit] + self._avoided
        following = self.network.successors.indices
        count = self.network.num_roads
        return csr_array(
            ((road * self._on_class[habit])[following] + turn, following, self.network.successors.indptr),
            (count, count),
        )


def _road_seconds(streets: Streets) -> Float64Array:
    """Return (H, N) travel times: free flow, slowed inbound in the morning and outbound in the evening."""
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
    """Return the turn time of each connection (left turns are slowest), and whether drivers may avoid it, (L,) both.

    Avoidable are turns of more than 40° that do not leave a motorway ramp.
    """
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


def _routes(costs: _Costs, requests: _Requests, report: Callable[[int], None]) -> tuple[Int64Array, Int64Array]:
    """Return offsets and road ids of the cheapest route of every request, first and last road included.

    All requests of a driver in one hour kind share a Dijkstra search.
    """
    group = requests.driver * len(costs.road_seconds) + requests.hour_kind
    order = np.argsort(group, kind="stable")
    keys, starts = np.unique(group[order], return_index=True)
    lengths, roads = [], []
    for key, members in zip(keys, np.split(order, starts[1:]), strict=True):
        origins, row = np.unique(requests.origin[members], return_inverse=True)
        graph = costs.graph(*divmod(int(key), len(costs.road_seconds)))
        _, before = dijkstra(graph, indices=origins, return_predecessors=True)
        part_lengths, part_roads = _walk_back(before, row, requests.destination[members])
        lengths.append(part_lengths)
        roads.append(part_roads)
        report(sum(map(len, lengths)))
    grouped = offsets_of(np.concatenate(lengths))
    offsets, at = take_rows(grouped, np.argsort(order, kind="stable"))
    return offsets, np.concatenate(roads)[at]


def _walk_back(
    before: npt.NDArray[np.int32], row: Int64Array, destination: Int64Array
) -> tuple[Int64Array, Int64Array]:
    """Follow predecessors from all destinations at once; return route lengths and concatenated road ids."""
    backwards = [destination]
    while True:
        predecessor = before[row, backwards[-1]].astype(np.int64)
        previous = np.where(predecessor < 0, backwards[-1], predecessor)
        if (previous == backwards[-1]).all():
            break
        backwards.append(previous)
    steps = np.stack(backwards)
    lengths = 1 + (steps[1:] != steps[:-1]).sum(0)
    trip = row_of_value(offsets_of(lengths))
    from_end = ranges(np.zeros_like(lengths), lengths)
    return lengths, steps[lengths[trip] - 1 - from_end, trip]


def _drive(
    rng: np.random.Generator, costs: _Costs, requests: _Requests, offsets: Int64Array, road_ids: Int64Array
) -> Trips:
    """Sample the time at which each road is entered, and sort the trips by start time."""
    network = costs.network
    trip = row_of_value(offsets)
    following = np.append(road_ids[1:], road_ids[:1])
    connection = network.successors.indptr[road_ids] + network.candidate_index(road_ids, following)
    # no turn follows the last road of a trip; its successor in the flat array belongs to another trip
    is_last = np.isin(np.arange(len(road_ids)), offsets[1:] - 1)
    turn = np.where(is_last, 0.0, costs.turn_seconds[np.where(is_last, 0, connection)])
    seconds = costs.road_seconds[requests.hour_kind[trip], road_ids] * costs.pace[requests.driver[trip]]
    seconds = seconds * rng.lognormal(0, 0.18, len(seconds)) + turn * rng.exponential(1.0, len(seconds))
    # at least one second per road, so that whole seconds increase strictly
    entered = np.concatenate([[0.0], np.cumsum(np.maximum(seconds, 1.0))])[:-1]
    elapsed = np.floor(entered - entered[offsets[:-1]][trip] + 1e-6).astype(np.int64)
    times = _FIRST_DAY_S + requests.start_s[trip] + elapsed

    order = np.lexsort((np.arange(len(requests.start_s)), requests.start_s))
    ids = np.arange(len(order)).astype(str).astype(object)
    trajectories = Trajectories(offsets, road_ids, times).take(order)
    return Trips(replace(trajectories, ids=ids), requests.driver[order])
