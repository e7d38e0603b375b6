"""Times of other tools as HOSER's local times: Unix seconds or milliseconds, and ISO 8601 in its usual spellings."""

from __future__ import annotations

from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from hoser_kd.common.arrays import BoolArray, Float64Array, Int64Array
from hoser_kd.common.errors import ConfigError, DataError
from hoser_kd.network.times import LAST_SECOND

_NUMBER = r"^-?\d+(\.\d*)?$"
_WITH_OFFSET = r"(Z|[+-]\d\d:?\d\d)$"
_OUT_OF_RANGE = "is before 1970 or after the year 9999. Numbers are Unix seconds or milliseconds."
_FIRST_MILLISECONDS = 1e11
"""Numbers from here on are milliseconds: as seconds, they would be after the year 5138."""

_GIVE_ZONE = "Give the city's time zone with --time-zone, in YAML `source.files.time_zone`."


def local_seconds(path: Path, texts: pa.StringArray, rows: Int64Array, time_zone: str | None) -> Float64Array:
    """Return local times as seconds since 1970-01-01, (P,) float64.

    With a time zone, Unix times and times with `Z` or a UTC offset are converted to it once; times without an offset
    are local already. Without a time zone, times with `Z` and without an offset are taken as they are, as HOSER does,
    and times with another offset are refused, since their hour of the day would be ambiguous. Unix times are then UTC.

    `rows` is the row of each value, for messages. Raises DataError for the first value that is not a time, ConfigError
    for an unknown time zone.
    """
    zone = _zone(time_zone)
    is_number = np.asarray(pc.match_substring_regex(texts, _NUMBER))
    has_offset = np.asarray(pc.match_substring_regex(texts, _WITH_OFFSET)) & ~is_number
    seconds = np.full(len(texts), np.nan)
    numbers = np.asarray(pc.cast(pc.filter(texts, pa.array(is_number)), pa.float64()))
    seconds[is_number] = np.where(np.abs(numbers) >= _FIRST_MILLISECONDS, numbers / 1000, numbers)
    stamps = pd.to_datetime(
        pd.Series(pc.filter(texts, pa.array(~is_number)).to_pylist(), dtype=object),
        format="ISO8601",
        utc=True,
        errors="coerce",
    )
    seconds[~is_number] = np.where(stamps.isna(), np.nan, stamps.astype("int64") / _ticks_per_second(stamps))
    _refuse(path, texts, rows, np.isnan(seconds), "is not a time. Write 2013-07-01T00:01:15Z or Unix seconds.")
    _refuse(path, texts, rows, ~((seconds >= 0) & (seconds <= LAST_SECOND)), _OUT_OF_RANGE)
    if zone is None:
        shifted = has_offset & ~np.asarray(pc.match_substring_regex(texts, r"(Z|[+-]00:?00)$"))
        _refuse(path, texts, rows, shifted, f"has a UTC offset. {_GIVE_ZONE}")
        return seconds
    aware = is_number | has_offset
    seconds[aware] = _to_local(seconds[aware], zone)
    return seconds


def _zone(name: str | None) -> ZoneInfo | None:
    try:
        return None if name is None else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise ConfigError(f"{name} is not a time zone. Use a name such as Europe/Lisbon or Asia/Shanghai.") from None


def _ticks_per_second(stamps: pd.Series) -> int:
    return {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[stamps.dt.unit]


def _to_local(seconds: Float64Array, zone: ZoneInfo) -> Float64Array:
    whole = np.floor(seconds)
    local = pd.DatetimeIndex(whole.astype("datetime64[s]")).tz_localize("UTC").tz_convert(zone).tz_localize(None)
    shifted: Float64Array = local.to_numpy().astype("datetime64[s]").astype(np.int64) + (seconds - whole)
    return shifted


def _refuse(
    path: Path,
    texts: pa.StringArray,
    rows: Int64Array,
    bad: BoolArray,
    problem: str,
) -> None:
    if bad.any():
        at = int(np.argmax(bad))
        raise DataError(path, f"the time {texts[at].as_py()[:60]!r} {problem}", row=int(rows[at]))
