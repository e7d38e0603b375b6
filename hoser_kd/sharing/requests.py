"""Requests as users give them: roads or points, seconds or datetimes; checked and turned into arrays.

Shapes: n requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np

from hoser_kd.common.arrays import Float64Array, Int64Array
from hoser_kd.common.errors import DataError
from hoser_kd.sharing.student import Student

MAX_SNAP_M = 1000.0
"""Default for the largest distance of a point to its road."""
_POINTS = "Points are an (n, 2) array of lon, lat in degrees, a GeoSeries, or a list of shapely Points"


class Places(NamedTuple):
    """Roads of requests, and how far the given points are from them."""

    roads: Any
    """(n,) road ids as given, or int64 for points."""
    distance_m: Float64Array | None = None
    """(n,) float64: distance of the given point to its road in meters; None where roads were given."""


class OdPlaces(NamedTuple):
    """Origins and destinations of requests."""

    origins: Places
    destinations: Places


def od_places(student: Student, origins: Any, destinations: Any, max_snap_m: float, call: str) -> OdPlaces:
    """Return the roads of origins and destinations; points are snapped, of a two-way street in the trip's direction.

    Raises TypeError or ValueError for arguments of another kind, DataError with the row of a point that is no
    coordinate or farther from all roads than `max_snap_m` meters.
    """
    _check_distance(max_snap_m, call)
    start, end = _points("origins", origins, call), _points("destinations", destinations, call)
    toward = end - start if start is not None and end is not None and len(start) == len(end) else None
    return OdPlaces(
        Places(origins) if start is None else _snap(student, "origins", start, toward, max_snap_m),
        Places(destinations) if end is None else _snap(student, "destinations", end, toward, max_snap_m),
    )


def destination_places(student: Student, destinations: Any, max_snap_m: float, call: str) -> Places:
    """Return the roads of destinations alone; errors as for `od_places`."""
    _check_distance(max_snap_m, call)
    points = _points("destinations", destinations, call)
    return Places(destinations) if points is None else _snap(student, "destinations", points, None, max_snap_m)


def _check_distance(max_snap_m: object, call: str) -> None:
    is_number = isinstance(max_snap_m, int | float | np.number) and not isinstance(max_snap_m, bool)
    if not is_number or not max_snap_m > 0:  # type: ignore[operator]
        raise ValueError(f"max_snap_m is {max_snap_m!r}, not a number of meters above 0. Call {call}.")


def _points(name: str, values: Any, call: str) -> Float64Array | None:
    """Return (n, 2) float64 lon, lat; None where the values are roads. Raises TypeError or ValueError."""
    if hasattr(values, "to_crs"):
        return _geo_points(name, values, call)
    if isinstance(values, Sequence) and values and all(hasattr(value, "geom_type") for value in values):
        return _shapely_points(name, np.array(values, object), call)
    array = np.asarray(values)
    if array.dtype.kind in "iuf" and array.ndim == 2 and array.shape[1] == 2:
        return np.asarray(array, np.float64)
    if array.dtype.kind == "f" and array.size:
        raise TypeError(
            f"{name} has shape {array.shape} and dtype {array.dtype}: neither road ids, (n,) integers, nor points. "
            f"{_POINTS}. Call {call}."
        )
    return None


def _geo_points(name: str, values: Any, call: str) -> Float64Array:
    series = values.geometry
    if series.crs is None:
        raise ValueError(f"{name} has no CRS. Set it: {name}.set_crs('EPSG:4326') for lon, lat in degrees.")
    return _shapely_points(name, series.to_crs("EPSG:4326").to_numpy(), call)


def _shapely_points(name: str, values: Any, call: str) -> Float64Array:
    import shapely

    if not (shapely.get_type_id(values) == shapely.GeometryType.POINT).all():
        raise TypeError(f"{name} holds geometries that are no points. {_POINTS}. Call {call}.")
    return np.column_stack([shapely.get_x(values), shapely.get_y(values)]).astype(np.float64)


def _snap(student: Student, name: str, points: Float64Array, toward: Float64Array | None, max_snap_m: float) -> Places:
    index = student.road_index
    outside = ~(np.isfinite(points).all(1) & (np.abs(points) <= (180, 90)).all(1))
    if outside.any():
        row = int(np.argmax(outside))
        raise DataError(
            name, f"({points[row, 0]:g}, {points[row, 1]:g}) is no point.", row=row, hint="Give lon, lat in degrees."
        )
    roads, distance_m = index.nearest(points, toward)
    if (far := distance_m > max_snap_m).any():
        row = int(np.argmax(far))
        raise DataError(name, _too_far(student, points[row], distance_m[row], max_snap_m), row=row)
    return Places(roads, distance_m)


def _too_far(student: Student, point: Float64Array, distance_m: float, max_snap_m: float) -> str:
    message = (
        f"({point[0]:g}, {point[1]:g}) is {distance_m:,.0f} m from the nearest road, more than max_snap_m = "
        f"{max_snap_m:g}."
    )
    swapped = point[None, ::-1]
    if abs(point[0]) <= 90 and student.road_index.nearest(swapped)[1][0] <= max_snap_m:
        return f"{message} Points are lon, lat: this one looks exchanged."
    coords = student.require_network("").coords
    (west, south), (east, north) = coords.min(0), coords.max(0)
    return (
        f"{message} The roads are within lon {west:.4f} to {east:.4f}, lat {south:.4f} to {north:.4f}. Leave it out, "
        "or raise max_snap_m."
    )


def seconds_of(name: str, times: Any) -> Any:
    """Return datetimes as (n,) int64 seconds since 1970; other values are returned as given, to be checked later.

    Accepts datetime64 arrays, pandas datetimes and lists of `datetime`, without a time zone: hours are those of the
    training trips. Raises ValueError for datetimes with a time zone.
    """
    zone = getattr(getattr(times, "dt", times), "tz", None)
    if zone is None and isinstance(times, Sequence):
        zone = next((value.tzinfo for value in times if isinstance(value, datetime) and value.tzinfo), None)
    if zone is not None:
        raise ValueError(
            f"{name} has the time zone {zone}. A student reads hours as its training trips write them: give that wall "
            f"clock without a zone, such as {name}.dt.tz_localize(None)."
        )
    if isinstance(times, Sequence) and times and all(isinstance(value, datetime) for value in times):
        times = np.array([np.datetime64(value, "s") for value in times])
    array = np.asarray(times)
    return array.astype("datetime64[s]").astype(np.int64) if array.dtype.kind == "M" else times


def integers(name: str, values: Any, call: str) -> Int64Array:
    """Return (n,) int64. Raises TypeError for other dtypes and ValueError for other shapes."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}, not (n,). Call {call}.")
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {array.dtype}, not an integer type. Call {call}.")
    return array.astype(np.int64)
