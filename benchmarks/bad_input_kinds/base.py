"""An input, and values that are no road id, no length, no line, no road class and no time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class BadInput:
    """One input: how it is written into an empty folder, and how it is read."""

    kind: str
    label: str
    read: Callable[[Path], Any]
    """Writes the input into the folder and reads it; returns what was read."""
    same_as: Any = None
    """What reading it must return; None: it must be refused or warned about."""


def written(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file


NO_ID = (
    "",
    "x",
    "0x1",
    "1.0",
    "1.5",
    "1e0",
    "-1",
    "999",
    "99999999999999999999",
    "nan",
    "np.int64(1)",
    "１",
    "1_0",
    "+1",
)
NO_LENGTH = ("", "x", "-1", "nan", "inf", "-inf", "1e300", "1e400", "4.1e7", "0x10", "1,5", "5 m", "1_000", "９")
NO_LINE = (
    "",
    "x",
    "[]",
    "[[]]",
    "[[-8.6, 41.1]]",
    "[[-8.6, 41.1], []]",
    "[[-8.6, 41.1], [-8.6]]",
    "[[-8.6, 41.1, 3], [-8.6, 41.1, 3]]",
    "[[nan, 41.1], [-8.6, 41.2]]",
    "[[inf, 41.1], [-8.6, 41.2]]",
    "[[1e300, 41.1], [-8.6, 41.2]]",
    "[[-8.6, 91], [-8.6, 41.2]]",
    "[[181, 41.1], [-8.6, 41.2]]",
    "[[-8.6 41.1], [-8.6 41.2]]",
    "[(-8.6, 41.1), (-8.6, 41.2)]",
    "LINESTRING (-8.6 41.1, -8.6 41.2)",
    '{"type": "LineString"}',
    "[[-8.6; 41.1], [-8.6; 41.2]]",
    "[['-8.6', '41.1'], ['-8.6', '41.2']]",
    "[[179.99, 0], [-179.99, 0]]",
    "[[0, 0], [-8.6, 41.2]]",
    "[[0x8, 41.1], [-8.6, 41.2]]",
    "[[-8,6, 41,1], [-8,6, 41,2]]",
    "[[-8.6, 41.1], [-8.6, 41.2]",
)
NO_CLASS = ("", "   ", "[]", "[1", "[__import__('os')]", "[[]", "NA")
NO_TIME = (
    "",
    "x",
    "2013-07-01",
    "2013-07-01T00:00:00",
    "2013-07-01T00:00:00+08:00",
    "2013-07-01T00:00:00-0300",
    "2013-07-01T00:00:00+00:00",
    "2013-07-01T00:00:00.5Z",
    "2013-07-01T00:00:00,5Z",
    "2013-02-30T00:00:00Z",
    "2013-13-01T00:00:00Z",
    "2013-07-01T24:00:00Z",
    "2013-07-01T23:59:60Z",
    "1372636800",
    "1372636800000",
    "01.07.2013 00:00:00",
    "07/01/2013 00:00:00",
    "20130701T000000Z",
    "2013-07-01T00:00Z",
    "2013-07-01t00:00:00z",
    "1969-12-31T23:59:59Z",
    "0000-00-00T00:00:00Z",
    "NaT",
    "2013-07-01T00:00:00ZZ",
    "2013-07-01T00:00:00 Z",
    "-2013-07-01T00:00:0Z",
)
