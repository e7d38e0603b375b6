"""Next-step probabilities of started trips, and travel times along given routes.

Shapes: n histories or routes, P roads of all of them, K candidates of all histories.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hoser_kd.common.arguments import check_path
from hoser_kd.common.arrays import Float64Array, Int64Array, offsets_of, row_of_value
from hoser_kd.common.errors import DataError
from hoser_kd.common.files import atomic_path
from hoser_kd.generation.generator import check_start_times
from hoser_kd.generation.trajectories import GeneratedTrajectories
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.sharing.requests import MAX_SNAP_M, OdPlaces, Places, destination_places, integers, seconds_of
from hoser_kd.sharing.student import Student, student_of
from hoser_kd.sharing.student_trips import StudentTrips

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd

    from hoser_kd.hoser import HOSER
    from hoser_kd.hoser.incremental import Decoded

BATCH_ROADS = 16_384
"""Roads of the histories that are evaluated together; it affects speed and memory only."""
_CALL = "next_step(student, histories, times, destinations)"
_ROUTE_CALL = "travel_times(student, routes, start_times)"


@dataclass(frozen=True)
class NextSteps:
    """Candidates of the next road of n histories; those of history i are the rows `offsets[i]` to `offsets[i + 1]`."""

    offsets: Int64Array
    """(n + 1,) int64; a history that ends in a dead end has no candidates."""
    road_ids: Int64Array
    """(K,) int64, in the order of the network's successors."""
    probabilities: Float64Array
    """(K,) float64, summing to 1 for each history with candidates."""
    seconds: Float64Array
    """(K,) float64: predicted seconds until the candidate is entered."""
    last_roads: Int64Array
    """(n,) int64: last road of each history."""
    destinations: Int64Array
    """(n,) int64."""
    destination_snap_m: Float64Array | None = None
    """(n,) float64: meters from the given point to its road; None where roads were given."""
    student: Student | None = field(default=None, compare=False, repr=False)
    """The student, with its road network."""

    def __len__(self) -> int:
        """Return the number of histories."""
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        """Name the numbers of histories and of candidates."""
        return f"NextSteps({len(self):,} histories, {len(self.road_ids):,} candidates)"

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per candidate: history, last_road_id, destination_road_id, road_id, probability, seconds."""
        import pandas as pd

        history = row_of_value(self.offsets)
        columns = {
            "history": history,
            "last_road_id": self.last_roads[history],
            "destination_road_id": self.destinations[history],
            "road_id": self.road_ids,
            "probability": self.probabilities,
            "seconds": self.seconds,
        }
        if self.destination_snap_m is not None:
            columns["destination_snap_m"] = np.round(self.destination_snap_m[history], 2)
        return pd.DataFrame(columns)

    def to_geodataframe(self) -> gpd.GeoDataFrame:
        """Return the rows of `to_pandas` with the LineString of each candidate, EPSG:4326.

        Raises ValueError if the student has no road network.
        """
        import geopandas as gpd

        from hoser_kd.network.road_network import CRS_WGS84

        if self.student is None:
            raise ValueError(f"Lines need geometries, but there is no student. Take the result of {_CALL}.")
        network = self.student.require_network("Lines need geometries")
        return gpd.GeoDataFrame(self.to_pandas(), geometry=network.geometry[self.road_ids], crs=CRS_WGS84)

    def to_parquet(self, path: str | PathLike[str]) -> None:
        """Write `to_pandas` as Parquet."""
        check_path("path", path, 'steps.to_parquet("next.parquet")')
        with atomic_path(path) as beside:
            self.to_pandas().to_parquet(beside)

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Write `to_pandas` as CSV."""
        check_path("path", path, 'steps.to_csv("next.csv")')
        with atomic_path(path) as beside:
            self.to_pandas().to_csv(beside, index=False)

    def to_geojson(self, path: str | PathLike[str]) -> None:
        """Write `to_geodataframe` as a FeatureCollection of LineStrings."""
        check_path("path", path, 'steps.to_geojson("next.geojson")')
        with atomic_path(path) as beside:
            beside.write_text(self.to_geodataframe().to_json(drop_id=True), encoding="utf-8")


def next_step(
    student: Student | HOSER,
    histories: Any,
    times: Any = None,
    destinations: Any = None,
    *,
    max_snap_m: float = MAX_SNAP_M,
) -> NextSteps:
    """Predict the next road of trips under way, and the seconds until it is entered.

    `histories` are the roads so far: a `Trajectories` (which has the times, so `times` stays None), or n lists of road
    ids, each at least one road, with the `times` at which they are entered as n lists, or (n,) road ids and (n,) times
    for trips that have just begun. Times are seconds since 1970 on the clock of the training trips. `destinations` are
    road ids or points, as for `generate`.

    Raises DataError with the row of a wrong road, step, time or point, TypeError or ValueError for arguments of the
    wrong kind.
    """
    owner = student_of(student, _CALL)
    if destinations is None:
        raise TypeError(f"destinations is missing: a student predicts the way to a destination. Call {_CALL}.")
    trips = _histories(histories, times)
    places = destination_places(owner, destinations, max_snap_m, _CALL)
    roads = integers("destinations", places.roads, _CALL)
    if len(roads) != len(trips):
        raise ValueError(f"histories and destinations differ in length ({len(trips)}, {len(roads)}). Call {_CALL}.")
    _check_roads(owner, "destinations", roads)
    _check_histories(owner, trips)
    return replace(predict_next_steps(owner, trips, roads), destination_snap_m=places.distance_m)


def predict_next_steps(student: Student, trips: Trajectories, destinations: Int64Array) -> NextSteps:
    """Return what `next_step` does for n histories and (n,) destinations that are known to be valid."""
    parts = [_predict(student, trips, destinations, rows) for rows in _batches(trips.lengths)]
    counts, candidates, probabilities, seconds = (np.concatenate(part) for part in zip(*parts, strict=True))
    return NextSteps(
        offsets_of(counts),
        candidates,
        probabilities,
        seconds,
        trips.destinations,
        destinations,
        student=student,
    )


def travel_times(student: Student | HOSER, routes: Any, start_times: Any) -> StudentTrips:
    """Predict when each road of given routes is entered, from the start time on.

    `routes` are n lists of connected road ids, each at least one road, or a `Trajectories`; the last road of each
    is its destination. `start_times` (n,) as for `generate`. Times advance as there, by whole seconds: each step
    begins at the predicted time of the one before. Returns the trips with these times, and the exports of `generate`.

    Raises DataError with the row of a wrong road, step or time, TypeError or ValueError for other wrong arguments.
    """
    owner = student_of(student, _ROUTE_CALL)
    starts = integers("start_times", seconds_of("start_times", start_times), _ROUTE_CALL)
    if isinstance(routes, Trajectories):
        offsets, roads = routes.offsets, np.asarray(routes.road_ids, np.int64)
    else:
        offsets, roads = _lists("routes", routes, _ROUTE_CALL)
    if len(starts) != len(offsets) - 1:
        raise ValueError(
            f"routes and start_times differ in length ({len(offsets) - 1}, {len(starts)}). Call {_ROUTE_CALL}."
        )
    check_start_times(starts)
    trips = Trajectories(offsets, roads, np.repeat(starts, np.diff(offsets)))
    _check_histories(owner, trips, "routes")
    times = trips.times.copy()
    for rows in _batches(trips.lengths):
        _roll(owner, trips, rows, times)
    count = len(trips)
    result = GeneratedTrajectories(
        offsets, roads, times, reached=np.ones(count, bool), expansions=np.maximum(trips.lengths - 1, 0)
    )
    return StudentTrips.of(result, owner, OdPlaces(Places(trips.origins), Places(trips.destinations)))


def _batches(lengths: Int64Array) -> list[Int64Array]:
    """Return the rows of each batch, of about `BATCH_ROADS` roads; one empty batch for no rows."""
    batch = np.cumsum(lengths) // BATCH_ROADS
    return np.split(np.arange(len(lengths)), np.flatnonzero(np.diff(batch)) + 1)


def _predict(
    student: Student, trips: Trajectories, destinations: Int64Array, rows: Int64Array
) -> tuple[Int64Array, Int64Array, Float64Array, Float64Array]:
    """Return counts (rows,), and candidates, probabilities and seconds (K,), of the next roads of these rows."""
    steps = _Steps(student, trips, rows, destinations[rows])
    counts = np.zeros(len(rows), np.int64)
    parts: list[tuple[Int64Array, Int64Array, Float64Array, Float64Array]] = []
    for depth in range(steps.longest):
        active, decoded = steps.advance(depth, trips.times)
        ends = np.flatnonzero(steps.lengths[active] == depth + 1)
        if len(ends) == 0:
            continue
        kept = decoded.candidates[ends].cpu().numpy()
        probability = torch.log_softmax(decoded.logits[ends].double(), 1).exp().cpu().numpy()
        seconds = student.model.time_scale.seconds(decoded.times[ends]).double().cpu().numpy()
        there = kept >= 0
        counts[active[ends]] = there.sum(1)
        parts.append((np.repeat(active[ends], there.sum(1)), kept[there], probability[there], seconds[there]))
    if not parts:
        return counts, np.zeros(0, np.int64), np.zeros(0), np.zeros(0)
    row, candidates, probabilities, all_seconds = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.argsort(row, kind="stable")
    return counts, candidates[order], probabilities[order], all_seconds[order]


def _roll(student: Student, trips: Trajectories, rows: Int64Array, times: Int64Array) -> None:
    """Fill in the predicted times of these rows in `times` (P,)."""
    steps = _Steps(student, trips, rows, trips.destinations[rows])
    for depth in range(steps.longest - 1):
        active, decoded = steps.advance(depth, times)
        going = np.flatnonzero(steps.lengths[active] > depth + 1)
        at = trips.offsets[rows[active[going]]] + depth
        following = torch.from_numpy(trips.road_ids[at + 1]).to(decoded.candidates.device)
        place = (decoded.candidates[going] == following[:, None]).int().argmax(1)
        predicted = decoded.times[going].gather(1, place[:, None])[:, 0]
        times[at + 1] = times[at] + student.model.time_scale.seconds(predicted).round().long().cpu().numpy()


class _Steps:
    """Extends the histories of some rows road by road."""

    def __init__(self, student: Student, trips: Trajectories, rows: Int64Array, destinations: Int64Array) -> None:
        self._decoder = student.decoder
        self._tree = self._decoder.tree()
        self._trips = trips
        self._rows = rows
        self._destinations = destinations
        self._parents = np.full(len(rows), -1, np.int64)
        self.lengths = trips.lengths[rows]
        self.longest = int(self.lengths.max(initial=0))

    def advance(self, depth: int, times: Int64Array) -> tuple[Int64Array, Decoded]:
        """Append the roads at this depth; return the rows that have one, by position, and their next candidates."""
        active = np.flatnonzero(self.lengths > depth)
        at = self._trips.offsets[self._rows[active]] + depth
        decoded = self._decoder.step(
            self._tree,
            self._parents[active],
            np.asarray(self._trips.road_ids[at], np.int64),
            np.asarray(times[at], np.int64),
            np.asarray(times[at - depth], np.int64),
            self._destinations[active],
        )
        self._parents[active] = decoded.slots
        return active, decoded


def _histories(histories: Any, times: Any) -> Trajectories:
    """Return the roads and times so far. Raises TypeError or ValueError with the right call."""
    if isinstance(histories, Trajectories):
        if times is not None:
            raise TypeError("times is given, but the Trajectories hold times. Call next_step(student, trips, None, …).")
        return histories
    if times is None:
        raise TypeError(f"times is missing: when each road of the histories is entered. Call {_CALL}.")
    offsets, roads = _lists("histories", histories, _CALL)
    time_offsets, seconds = _lists("times", times, _CALL)
    if len(offsets) != len(time_offsets):
        counts = f"{len(offsets) - 1}, {len(time_offsets) - 1}"
        raise ValueError(f"histories and times differ in length ({counts}). Call {_CALL}.")
    if (unequal := np.diff(offsets) != np.diff(time_offsets)).any():
        row = int(np.argmax(unequal))
        raise DataError(
            "histories",
            f"{np.diff(offsets)[row]} roads and {np.diff(time_offsets)[row]} times.",
            row=row,
            hint="Give one time per road.",
        )
    return Trajectories(offsets, roads, seconds)


def _lists(name: str, values: Any, call: str) -> tuple[Int64Array, Int64Array]:
    """Return offsets and values of n lists of integers or datetimes; (n,) values are n lists of one."""
    if isinstance(values, str | bytes) or not (isinstance(values, Sequence) or hasattr(values, "__array__")):
        raise TypeError(f"{name} is of type {type(values).__name__}, not n lists. Call {call}.")
    rows = list(values)
    if not any(isinstance(row, Sequence) or getattr(row, "ndim", 0) for row in rows):
        flat = integers(name, seconds_of(name, values), call)
        return np.arange(len(flat) + 1, dtype=np.int64), flat
    parts = [integers(f"{name}[{row}]", seconds_of(name, part), call) for row, part in enumerate(rows)]
    return offsets_of(np.array([len(part) for part in parts], np.int64)), np.concatenate(parts)


def _check_roads(student: Student, name: str, roads: Int64Array, rows: Int64Array | None = None) -> None:
    """Raise DataError with the row of a road that does not exist; `rows` are those of the roads."""
    outside = (roads < 0) | (roads >= student.num_roads)
    if outside.any():
        at = int(np.argmax(outside))
        row = at if rows is None else int(rows[at])
        hint = f"Ids run from 0 to {student.num_roads - 1}."
        raise DataError(name, f"road {roads[at]} does not exist.", row=row, hint=hint)


def _check_histories(student: Student, trips: Trajectories, name: str = "histories") -> None:
    """Raise ValueError without a time scale, DataError for an empty row, an unknown road, a gap or a wrong time."""
    student.model.time_scale  # noqa: B018  raises ValueError without a time scale
    if (trips.lengths < 1).any():
        raise DataError(name, "no road.", row=int(np.argmin(trips.lengths)), hint="Give the road of the start.")
    row = row_of_value(trips.offsets)
    _check_roads(student, name, trips.road_ids, row)
    at, step_row = trips.step_positions()
    one, other = trips.road_ids[at], trips.road_ids[at + 1]
    broken = ~student.is_connected(one, other)
    if broken.any():
        first = int(np.argmax(broken))
        problem = f"road {other[first]} does not follow road {one[first]}."
        raise DataError(name, problem, row=int(step_row[first]), hint="Give connected roads.")
    backwards = trips.times[at + 1] < trips.times[at]
    if backwards.any():
        raise DataError(name, "a time is earlier than the one before.", row=int(step_row[int(np.argmax(backwards))]))
    check_start_times(trips.start_times)
