"""Match GPS trips to the roads of a network, in one or more processes.

Shapes: n input trips, P points of all input trips, m pieces of matched trips, R roads of all pieces.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from hoser_kd.common.arrays import Float64Array, Int64Array, offsets_of, row_of_value, take_rows
from hoser_kd.common.progress import Progress, silent
from hoser_kd.config.matching import MatchingSettings
from hoser_kd.network.matching import street_graph
from hoser_kd.network.matching.chunks import Matcher, Model, Part, match_in_worker, start_worker
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.trajectories import Trajectories

POINTS_PER_CHUNK = 20_000
"""Points that one call of the compiled loops matches; its memory is about 16 numbers per candidate of a point."""


@dataclass(frozen=True)
class MatchedTrips:
    """Matched pieces of the input trips, and what became of every point."""

    trips: Trajectories
    """m pieces in the order of the input; consecutive roads are connected in the network, times are whole seconds."""
    input_trip: Int64Array
    """(m,) int64: row of the input trip that each piece belongs to."""
    first_point: Int64Array
    """(m,) int64: position of the first matched point of each piece among all P points."""
    point_road: Int64Array
    """(P,) int64: road that each point belongs to, -1 for points without one."""
    point_distance_m: Float64Array
    """(P,) float64: distance of each point from its road in meters, NaN for points without one."""
    counts: dict[str, int]
    """What was left out or split, by reason; keys are those of `REASONS`."""


REASONS = {
    "points_off_road": "points without a road within radius_m, or with a coordinate or time that is not finite",
    "splits_at_gaps": "splits of a trip at a time gap above max_gap_s",
    "splits_without_path": "splits of a trip where no path leads to the next point",
    "short_pieces": "pieces of fewer than min_roads roads",
    "unmatched_trips": "input trips without a piece",
}
"""Keys of `MatchedTrips.counts` and their meaning."""


def match_trips(
    offsets: Int64Array,
    t: Float64Array | Int64Array,
    lon: Float64Array,
    lat: Float64Array,
    network: RoadNetwork,
    settings: MatchingSettings,
    *,
    processes: int = 1,
    progress: Progress | None = None,
) -> MatchedTrips:
    """Match trips to the most probable paths (Newson and Krumm 2009).

    The road of the first point is entered at the time of that point; each following one at the time interpolated along
    the path between the two points around it. Results do not depend on `processes`.

    Args:
        offsets: (n + 1,) int64; the points of trip i are `[offsets[i]:offsets[i + 1]]`.
        t: (P,) seconds, not decreasing within a trip.
        lon: (P,) float64 degrees.
        lat: (P,) float64 degrees.
        network: roads and their connections.
        settings: the model, and where trips are split.
        processes: number of processes; 1 matches in this one.
        progress: callback, called with the number of input trips.

    Raises:
        ValueError: the arrays differ in length, or times decrease within a trip.
    """
    with TripMatcher(network, settings, processes) as match:
        return match(offsets, t, lon, lat, progress)


class TripMatcher:
    """Matches batch after batch of trips to one network: graph, kept paths and processes are prepared once."""

    def __init__(self, network: RoadNetwork, settings: MatchingSettings, processes: int = 1) -> None:
        """Prepare the graph; arguments as those of `match_trips`."""
        self._graph = street_graph.build(network, settings.radius_m, u_turns=settings.u_turns == "as_mapped")
        self._model = Model(**settings.model_dump(include=set(Model._fields)))
        self._settings = settings
        self._processes = processes
        self._own: Matcher | None = None
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __call__(
        self,
        offsets: Int64Array,
        t: Float64Array | Int64Array,
        lon: Float64Array,
        lat: Float64Array,
        progress: Progress | None = None,
    ) -> MatchedTrips:
        """Match a batch of trips; arguments, result and errors as those of `match_trips`."""
        offsets = np.asarray(offsets, np.int64)
        points = np.column_stack([np.asarray(values, np.float64) for values in (t, lon, lat)])
        _check(offsets, points)
        chunks = _chunks(offsets)
        alone = self._processes == 1 or len(chunks) == 1
        parts = (self._in_this_process if alone else self._in_processes)(offsets, points, chunks)
        report = progress or silent
        done: list[Part | None] = [None] * len(chunks)
        finished = 0
        for k, part in parts:
            done[k] = part
            finished += chunks[k][1] - chunks[k][0]
            report("match trips", finished, len(offsets) - 1)
        return _joined([part for part in done if part is not None], chunks, offsets, self._settings.min_roads)

    def _in_this_process(
        self, offsets: Int64Array, points: Float64Array, chunks: list[_Chunk]
    ) -> Iterator[tuple[int, Part]]:
        self._own = self._own or Matcher(self._graph, self._model, self._settings.cache_mb)
        for k, (first, end) in enumerate(chunks):
            yield k, self._own(*_slice(offsets, points, first, end))

    def _in_processes(
        self, offsets: Int64Array, points: Float64Array, chunks: list[_Chunk]
    ) -> Iterator[tuple[int, Part]]:
        if self._pool is None:
            # spawn: a fork of a process with threads, such as one that has loaded torch, can hang
            self._pool = ProcessPoolExecutor(
                self._processes,
                get_context("spawn"),
                initializer=start_worker,
                initargs=(self._graph, self._model, self._settings.cache_mb),
            )
        number = {
            self._pool.submit(match_in_worker, *_slice(offsets, points, first, end)): k
            for k, (first, end) in enumerate(chunks)
        }
        for future in as_completed(number):
            yield number.pop(future), future.result()


_Chunk = tuple[int, int]
"""First input trip, and the one after the last."""


def _check(offsets: Int64Array, points: Float64Array) -> None:
    if offsets.ndim != 1 or len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(points):
        raise ValueError(f"offsets must run from 0 to the number of points, {len(points)}.")
    if (np.diff(offsets) < 0).any():
        raise ValueError("offsets decrease.")
    trip = row_of_value(offsets)
    backwards = (np.diff(points[:, 0]) < 0) & (trip[1:] == trip[:-1])
    if backwards.any():
        raise ValueError(f"point {int(np.argmax(backwards)) + 1} is earlier than the previous one of its trip.")


def _chunks(offsets: Int64Array) -> list[_Chunk]:
    """Return consecutive trips of about `POINTS_PER_CHUNK` points together."""
    number = offsets[:-1] // POINTS_PER_CHUNK
    starts = np.flatnonzero(np.diff(number, prepend=-1))
    return list(pairwise([*starts.tolist(), len(offsets) - 1]))


def _slice(offsets: Int64Array, points: Float64Array, first: int, end: int) -> tuple[Int64Array, Float64Array]:
    return offsets[first : end + 1] - offsets[first], points[offsets[first] : offsets[end]]


def _joined(parts: list[Part], chunks: list[_Chunk], offsets: Int64Array, min_roads: int) -> MatchedTrips:
    """Put the chunks together, and leave short pieces out."""
    first_of_chunk = [int(offsets[first]) for first, _ in chunks]
    lengths = _concatenated([np.diff(part.piece_start) for part in parts], np.int64)
    road = _concatenated([part.road for part in parts], np.int64)
    entered = _concatenated([part.entered for part in parts], np.float64)
    first_point = _concatenated(
        [part.first_point + first for part, first in zip(parts, first_of_chunk, strict=True)], np.int64
    )
    point_road = _concatenated([part.point_road for part in parts], np.int64)
    kept = np.flatnonzero(lengths >= min_roads)
    piece_offsets, at = take_rows(offsets_of(lengths), kept)
    input_trip = np.searchsorted(offsets, first_point[kept], side="right") - 1
    return MatchedTrips(
        Trajectories(piece_offsets, road[at], np.rint(entered[at]).astype(np.int64)),
        input_trip,
        first_point[kept],
        point_road,
        _concatenated([part.point_distance_m for part in parts], np.float64),
        {
            "points_off_road": int((point_road < 0).sum()),
            "splits_at_gaps": sum(part.splits[0] for part in parts),
            "splits_without_path": sum(part.splits[1] for part in parts),
            "short_pieces": len(lengths) - len(kept),
            "unmatched_trips": len(offsets) - 1 - len(np.unique(input_trip)),
        },
    )


def _concatenated(arrays: list[Int64Array] | list[Float64Array], kind: type) -> npt.NDArray[Any]:
    return np.concatenate(arrays) if arrays else np.zeros(0, kind)
