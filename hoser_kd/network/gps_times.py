"""Times of GPS points, written in any of the usual ways, as seconds since 1970-01-01 UTC.

Times with a UTC offset are exact. Times without one are local times of the city, or UTC, as the settings say. Numbers
are Unix times.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from hoser_kd.common.arrays import BoolArray, Float64Array
from hoser_kd.common.errors import DataError
from hoser_kd.config.raw_data import PointsConfig

_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
_FIRST, _LAST = 315_532_800, 4_102_444_800
"""Plausible times: 1980 to 2100."""
_NUMBER = r"^\d+(\.\d*)?$"
_WITH_OFFSET = r"\d(Z|[+-]\d\d:?\d\d)$"
_MICROSECONDS = pa.timestamp("us")


def utc_seconds(
    path: Path, column: pa.ChunkedArray, name: str, settings: PointsConfig, first_row: int = 0
) -> Float64Array:
    """Return the times of a column, (P,) float64 seconds UTC.

    `column` holds timestamps, numbers or text, and begins at `first_row` of the file. Raises DataError, with path, row
    and `name`, for a time that cannot be read, for times with and without a UTC offset in one file, and for numbers
    that are no times from 1980 to 2100.
    """
    kind = column.type
    if pa.types.is_timestamp(kind):
        stamps = column if kind.tz else _aware(column, settings)
        return _seconds(stamps)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return _unix(path, column.to_numpy().astype(np.float64), name, settings, first_row)
    texts = column.cast(pa.string())
    if len(texts) == 0:
        return np.zeros(0)
    is_number = np.asarray(pc.fill_null(pc.match_substring_regex(texts, _NUMBER), True))
    if is_number[0] and settings.time_format is None:
        _refuse(path, texts, ~is_number, name, "as a number, like the rows before", first_row)
        return _unix(path, texts.cast(pa.float64()).to_numpy(), name, settings, first_row)
    if settings.time_format is not None:
        stamps = pc.strptime(texts, format=settings.time_format, unit="us", error_is_null=True)
        _refuse(path, texts, np.asarray(pc.is_null(stamps)), name, f"in the format {settings.time_format!r}", first_row)
        return _seconds(_aware(stamps, settings))
    return _iso(path, texts, name, settings, first_row)


def _iso(path: Path, texts: pa.ChunkedArray, name: str, settings: PointsConfig, first_row: int) -> Float64Array:
    """Return the seconds of times in ISO 8601, with blank or T, with or without fractions."""
    with_offset = np.asarray(pc.fill_null(pc.match_substring_regex(texts, _WITH_OFFSET), False))
    parsed = pd.to_datetime(texts.to_pandas(), format="ISO8601", utc=True, errors="coerce")
    _refuse(path, texts, parsed.isna().to_numpy(), name, "in ISO 8601 (2013-07-01T08:30:00Z)", first_row)
    if with_offset.any() and not with_offset.all():
        row = first_row + int(np.argmin(with_offset))
        hint = "Write all times with an offset, or none."
        raise DataError(path, f"{name} has no UTC offset, but other rows have one.", row=row, hint=hint)
    naive = pa.chunked_array([pa.array(parsed.dt.tz_localize(None), _MICROSECONDS)])
    return _seconds(naive if with_offset.all() else _aware(naive, settings))


def _aware(stamps: pa.ChunkedArray, settings: PointsConfig) -> pa.ChunkedArray:
    """Return naive times with the time zone that the settings name; times in the gap of a clock change are moved."""
    zone = "UTC" if settings.naive_times == "utc" else str(settings.time_zone)
    return pc.assume_timezone(stamps.cast(_MICROSECONDS), zone, ambiguous="earliest", nonexistent="latest")


def _seconds(stamps: pa.ChunkedArray) -> Float64Array:
    microseconds = stamps.cast(pa.timestamp("us", tz=stamps.type.tz)).cast(pa.int64())
    seconds: Float64Array = np.asarray(microseconds.to_pandas(), np.float64) / 1e6
    return seconds


def _unix(path: Path, numbers: Float64Array, name: str, settings: PointsConfig, first_row: int) -> Float64Array:
    seconds = numbers * _UNITS[settings.time_unit]
    wrong = ~((seconds > _FIRST) & (seconds < _LAST))
    if wrong.any():
        row = int(np.argmax(wrong))
        hint = "Set `source.points.time_unit` to s, ms or us."
        problem = f"{name} is {numbers[row]:.15g}, which in {settings.time_unit} is no time from 1980 to 2100."
        raise DataError(path, problem, row=first_row + row, hint=hint)
    return seconds


def _refuse(path: Path, texts: pa.ChunkedArray, bad: BoolArray, name: str, expected: str, first_row: int) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        problem = f"{name} is {texts[row].as_py()!r}, not a time {expected}."
        raise DataError(path, problem, row=first_row + row, hint="Set `source.points.time_format`, or fix the row.")
