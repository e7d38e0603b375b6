"""Trips that Valhalla matched: JSON Lines with one answer of `trace_attributes` per trip.

Valhalla's edges have ids of its own tiles, so its matched line is taken instead: its points lie on the roads within
about 0.1 m, and the matcher of this project finds the roads below them. Times are `elapsed_time` of the edges' ends.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hoser_kd.common.arrays import Float64Array, Int64Array, offsets_of
from hoser_kd.common.errors import DataError
from hoser_kd.config.matching import MatchingSettings
from hoser_kd.network.importing.times import local_seconds
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.trajectories import Trajectories

_SUFFIXES = (".json", ".jsonl", ".ndjson")
_ON_ROADS = MatchingSettings(radius_m=15, sigma_m=2, beta_m=5, end_m=2, backward_m=1, max_gap_s=3600, max_speed_m_s=100)
_HINT = (
    "Each line is an answer of trace_attributes with `shape` and `edges` (begin_shape_index, end_shape_index, "
    "end_node.elapsed_time), and the keys `start_time` and optionally `id` of the trip."
)


def is_valhalla(path: Path) -> bool:
    """Return whether a file has the suffix of JSON Lines."""
    return path.suffix in _SUFFIXES


def read_valhalla(path: Path, network: RoadNetwork, time_zone: str | None) -> tuple[Trajectories, Int64Array]:
    """Read trips as roads of `network`; a trip that leaves the network becomes several, named `id-0`, `id-1`, ….

    Returns the pieces and the line that each comes from, (n,) int64.

    Raises DataError for a line that cannot be used, or if nothing lies on the network.
    """
    from hoser_kd.network.matching import match_trips

    if not path.is_file():
        raise DataError(path, "no such file.", hint="Give the path of an existing file.")
    texts = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    trips = [_trip(path, row, text) for row, text in enumerate(texts)]
    if not trips:
        raise DataError(path, "no trips.", hint=_HINT)
    rows = np.arange(len(trips))
    starts = local_seconds(path, pa.array([start for start, _, _, _ in trips], pa.string()), rows, time_zone)
    offsets = offsets_of(np.array([len(points) for _, _, points, _ in trips]))
    points = np.concatenate([points for _, _, points, _ in trips])
    t = np.concatenate([start + elapsed for start, (_, _, _, elapsed) in zip(starts, trips, strict=True)])
    matched = match_trips(offsets, t, points[:, 0], points[:, 1], network, _ON_ROADS)
    if not len(matched.trips):
        raise DataError(path, "no trip lies on the roads.", hint="Use the network of the map that Valhalla matched to.")
    names = [name for _, name, _, _ in trips]
    piece = _number_within(matched.input_trip)
    ids = np.array([f"{names[trip]}-{k}" for trip, k in zip(matched.input_trip, piece, strict=True)], object)
    pieces = matched.trips
    return Trajectories(pieces.offsets, pieces.road_ids, pieces.times, ids), matched.input_trip


def decode_polyline(text: str) -> Float64Array:
    """Return (K, 2) float64 lon, lat of a polyline with 6 decimals (Google's encoding, latitude first)."""
    code = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - 63
    ends = np.flatnonzero(code < 32)
    number = np.searchsorted(ends, np.arange(len(code)))
    place = np.arange(len(code)) - np.concatenate([[0], ends[:-1] + 1])[number]
    values = np.zeros(len(ends), np.int64)
    np.add.at(values, number, (code & 31) << (5 * place))
    steps = np.where(values & 1, ~(values >> 1), values >> 1).reshape(-1, 2)
    degrees: Float64Array = np.cumsum(steps, 0)[:, ::-1] / 1e6
    return degrees


def _trip(path: Path, row: int, text: str) -> tuple[str, str, Float64Array, Float64Array]:
    """Return start time, name, (K, 2) lon and lat, and (K,) seconds since the start of one line."""
    try:
        answer: Mapping[str, Any] = json.loads(text)
        points = decode_polyline(answer["shape"])
        edges = answer["edges"]
        at = np.array([[edge["begin_shape_index"], edge["end_shape_index"]] for edge in edges], np.int64)
        elapsed = np.array([edge["end_node"]["elapsed_time"] for edge in edges], np.float64)
        start = str(answer["start_time"])
    except (ValueError, TypeError, KeyError, IndexError) as error:
        missing = f"{error.args[0]} is missing" if isinstance(error, KeyError) else "is not such an answer"
        raise DataError(path, f"{missing}.", row=row, hint=_HINT) from None
    if len(edges) == 0 or at.max() >= len(points):
        raise DataError(path, "edges and shape do not belong together.", row=row, hint=_HINT)
    distance = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    known = np.concatenate([[at[0, 0]], at[:, 1]])
    seconds = np.maximum.accumulate(np.concatenate([[0.0], elapsed]))
    return start, str(answer.get("id", row)), points, np.interp(distance, distance[known], seconds)


def _number_within(groups: Int64Array) -> Int64Array:
    """Return 0, 1, 2, … within each run of equal values."""
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    number: Int64Array = np.arange(len(groups)) - np.repeat(starts, np.diff([*starts, len(groups)]))
    return number
