"""Weekdays and times of day of timestamps, for NumPy arrays and torch tensors alike.

Timestamps are int64 seconds since 1970-01-01 00:00:00, a Thursday. No time zone is applied: hours and weekdays follow
the times of the trips as given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from hoser_kd.common.arrays import BoolArray, Float64Array, Int64Array

SECONDS_PER_MINUTE = 60
SECONDS_PER_HOUR = 3_600
SECONDS_PER_DAY = 86_400
MINUTES_PER_DAY = 1_440

_MONDAY_OFFSET_DAYS = 3
"""Days from a Monday to the Thursday at which timestamps start."""


@overload
def second_of_day(seconds: Int64Array) -> Int64Array: ...
@overload
def second_of_day(seconds: Tensor) -> Tensor: ...
def second_of_day(seconds: Any) -> Any:
    """Return the seconds since midnight, 0 … 86399, with the shape and dtype of `seconds`."""
    return seconds % SECONDS_PER_DAY


def hour_of_day(seconds: Int64Array) -> Float64Array:
    """Return the hours since midnight with their fraction, float64 in [0, 24); NumPy only."""
    hours: Float64Array = second_of_day(seconds) / SECONDS_PER_HOUR
    return hours


def utc_offset_s(seconds_utc: Int64Array, time_zone: str) -> Int64Array:
    """Return what to add to UTC times for the local times of an IANA time zone, int64 seconds; NumPy only."""
    import pyarrow as pa
    import pyarrow.compute as pc

    utc = pa.array(np.asarray(seconds_utc, np.int64)).cast(pa.timestamp("s", tz=time_zone))
    local: Int64Array = pc.local_timestamp(utc).cast(pa.int64()).to_numpy()
    return local - seconds_utc


@overload
def is_weekend(seconds: Int64Array) -> BoolArray: ...
@overload
def is_weekend(seconds: Tensor) -> Tensor: ...
def is_weekend(seconds: Any) -> Any:
    """Return whether each timestamp is on a Saturday or a Sunday, bool with the shape of `seconds`."""
    return (seconds // SECONDS_PER_DAY + _MONDAY_OFFSET_DAYS) % 7 >= 5
