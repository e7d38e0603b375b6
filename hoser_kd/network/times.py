"""Times in files: one rule for trips and ODs.

A time is local time, written as `2013-07-01T00:01:15Z` (or with a blank in place of `T`) and read without conversion.
An offset such as `+08:00` is refused: converting it would shift the hour of the day, and ignoring it could too.
Fractions of a second, dates without a time and times without `Z` are refused as well.
"""

from __future__ import annotations

import re
from os import PathLike

import pyarrow as pa
import pyarrow.compute as pc

from hoser_kd.common.errors import DataError

TIME_FORMAT = "YYYY-MM-DDTHH:MM:SSZ"
"""The format, as messages name it."""
LAST_SECOND = 253_402_300_799
"""The end of the year 9999. Later times are milliseconds, read as seconds."""
_SECONDS = pa.timestamp("s", tz="UTC")
_PATTERN = r"^\d{4}-\d\d-\d\d[T ]([01]\d|2[0-3]):[0-5]\d:[0-5]\dZ$"


def parse_times(texts: pa.StringArray) -> pa.Int64Array:
    """Return seconds since 1970-01-01, int64, null where a text is not a time of the format."""
    # Arrow accepts more than the format allows: a UTC offset would shift the time, a date alone would be midnight
    is_format = pc.and_(pc.equal(pc.binary_length(texts), 20), pc.ends_with(texts, "Z"))
    candidates = pc.if_else(is_format, texts, None)
    try:
        stamps = pc.cast(candidates, _SECONDS)
    except pa.ArrowInvalid:
        stamps = _cast_one_by_one(pc.if_else(pc.match_substring_regex(candidates, _PATTERN), candidates, None))
    return pc.cast(stamps, pa.int64())


def describe_time(text: str) -> str:
    """Return what a text is that is not a time of the format, and the fix, after a space; empty if it is not known."""
    if re.fullmatch(r"-?\d{9,}(\.\d+)?", text):
        return f" It is a number of seconds or milliseconds: write the local time as {TIME_FORMAT}."
    if re.search(r"\d[+-]\d\d:?\d\d$", text):
        return " It has a UTC offset: write the local time with Z in place of the offset."
    if re.search(r":\d\d[.,]\d+Z?$", text):
        return " It has a fraction of a second: round to whole seconds."
    if re.fullmatch(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d", text):
        return " It has no Z at its end: add it."
    if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        return " It is a date without a time of day."
    return ""


def require_utc(path: str | PathLike[str], name: str, kind: pa.DataType) -> None:
    """Raise DataError for a column of timestamps in another time zone than UTC, by the same rule as for texts."""
    if getattr(kind, "tz", None) not in {None, "", "UTC", "+00:00", "Etc/UTC", "Z"}:
        problem = f"column {name} has timestamps in the time zone {kind.tz}."
        hint = "Store the local time without a time zone, for example with pandas `.dt.tz_localize(None)`."
        raise DataError(path, problem, hint=hint)


def _cast_one_by_one(texts: pa.Array) -> pa.Array:
    """Cast with null for invalid values; called on invalid files only, since the pattern accepts 30 February."""
    try:
        return pc.cast(texts, _SECONDS)
    except pa.ArrowInvalid:

        def one(text: pa.Scalar) -> pa.Scalar:
            try:
                return text.cast(_SECONDS)
            except pa.ArrowInvalid:
                return pa.scalar(None, _SECONDS)

        return pa.array([one(text) for text in texts], _SECONDS)
