"""Lists of road ids and times as text: parsing, and the reasons for which a trip is rejected.

Shapes: n trips, P points (roads) of all trips.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hoser_kd.common.arrays import BoolArray, Int64Array, row_of_value
from hoser_kd.common.errors import DataError
from hoser_kd.network.csv_files import describe_number
from hoser_kd.network.times import LAST_SECOND, TIME_FORMAT, describe_time, parse_times

if TYPE_CHECKING:
    from hoser_kd.network.road_network import RoadNetwork

NO_VALUE = np.iinfo(np.int64).min
"""Stands for a value that cannot be read."""
_AROUND_VALUES = " \t[]'\""
_NUMPY_INTEGER = r"^(?:np|numpy)\.u?int(?:8|16|32|64)\((-?\d{1,18})\)$"
_SHOWN_CANDIDATES = 8


class TripLayout(NamedTuple):
    """Columns of a table of trips, and what its rows must hold."""

    roads: str = "rid_list"
    """Column with the lists of road ids."""
    times: str = "time_list"
    """Column with the lists of times."""
    shortest: int = 2
    """Minimum number of roads of a trip."""
    numpy_spelling: bool = False
    """Whether `np.int64(5)` is a road id too."""
    ids: str | None = None
    """Column with the ids of trips, read where it exists; None: ids are not read."""
    hint: str = "Fix the row, or set `source.on_bad_row: drop` to skip and count invalid rows."
    """The fix that the message about an invalid row names."""


class Lists(NamedTuple):
    """A ragged array of a file."""

    offsets: Int64Array
    """(n + 1,) int64."""
    values: Int64Array
    """(P,) int64; `NO_VALUE` where a value cannot be read."""
    texts: pa.StringArray | None = None
    """(n,) lists as written, separated by commas; None: the source has no text."""

    def text(self, position: int) -> str:
        """Return a value as it is written, at most 60 characters."""
        if self.texts is None:
            return str(int(self.values[position]))
        row = int(np.searchsorted(self.offsets, position, side="right")) - 1
        item = position - int(self.offsets[row])
        return str((self.texts[row].as_py() or "").split(",")[item].strip(_AROUND_VALUES)[:60])

    def shown(self, position: int) -> str:
        """Return a value as an error message shows it."""
        return self.text(position) if self.texts is None else repr(self.text(position))


class Fault(NamedTuple):
    """A reason to reject rows."""

    reason: str
    rows: BoolArray
    """(n,) bool."""
    column: str = ""
    """Column with the invalid values; empty where the fault is one of the row."""
    positions: Int64Array = np.zeros(0, np.int64)
    """Flat positions of the invalid values, ascending."""


def parse_roads(texts: pa.StringArray, *, numpy_spelling: bool = False) -> Lists:
    """Parse `[1, 2]` or `1,2` for all rows at once; road ids are decimal digits."""
    offsets, values = _split(texts)
    if numpy_spelling:
        values = pc.replace_substring_regex(values, _NUMPY_INTEGER, r"\1")
    # Arrow's conversion accepts hexadecimal numbers
    if pc.any(pc.match_substring(values, "x", ignore_case=True)).as_py():
        values = pc.if_else(pc.match_substring_regex(values, r"^-?\d{1,18}$"), values, None)
    try:
        numbers = pc.cast(values, pa.int64())
    except pa.ArrowInvalid:
        numbers = pc.cast(pc.if_else(pc.match_substring_regex(values, r"^-?\d{1,18}$"), values, None), pa.int64())
    return Lists(offsets, _integers(numbers), texts)


def parse_time_lists(texts: pa.StringArray) -> Lists:
    """Parse lists of times, as `parse_times` does for all rows at once."""
    offsets, values = _split(texts)
    return Lists(offsets, _integers(parse_times(values)), texts)


def _split(texts: pa.StringArray) -> tuple[Int64Array, pa.StringArray]:
    lists = pc.split_pattern(pc.fill_null(texts, ""), ",")
    return lists.offsets.to_numpy().astype(np.int64), pc.ascii_trim(lists.flatten(), _AROUND_VALUES)


def _integers(numbers: pa.Int64Array) -> Int64Array:
    filled = pc.fill_null(numbers, NO_VALUE)
    values: Int64Array = filled.to_numpy(zero_copy_only=False).astype(np.int64)
    return values


def find_faults(roads: Lists, times: Lists, network: RoadNetwork, layout: TripLayout) -> list[Fault]:
    """Return the faults in the order in which they are reported."""
    lengths = np.diff(roads.offsets)
    row, time_row = row_of_value(roads.offsets), row_of_value(times.offsets)

    def values(reason: str, column: str, positions: Int64Array) -> Fault:
        rows = (row if column == layout.roads else time_row)[positions]
        return Fault(reason, np.bincount(rows, minlength=len(lengths)).astype(bool), column, positions)

    outside = (roads.values < 0) | (roads.values >= network.num_roads)
    backwards = (np.diff(times.values) < 0) & (time_row[1:] == time_row[:-1])
    at = np.flatnonzero((row[1:] == row[:-1]) & ~outside[1:] & ~outside[:-1])
    broken = at[network.candidate_index(roads.values[at], roads.values[at + 1]) < 0]
    missing = times.values == NO_VALUE
    beyond = ~missing & ((times.values < 0) | (times.values > LAST_SECOND))
    return [
        Fault(f"{layout.roads} and {layout.times} differ in length", lengths != np.diff(times.offsets)),
        Fault(f"fewer than {layout.shortest} roads", lengths < layout.shortest),
        values("a road id is not in roadmap.geo", layout.roads, np.flatnonzero(outside)),
        values(f"a time is not formatted as {TIME_FORMAT}", layout.times, np.flatnonzero(missing)),
        values("a time is before 1970 or after the year 9999", layout.times, np.flatnonzero(beyond)),
        values("a time is earlier than the previous one", layout.times, np.flatnonzero(backwards) + 1),
        values("a road is not connected to the previous one in roadmap.rel", layout.roads, broken + 1),
    ]


class Refusal(NamedTuple):
    """What is wrong with the first invalid row."""

    row: int
    """Number of the row."""
    problem: str
    """The fault with the column, the value and the position, where one is to blame."""
    note: str
    """What the value is, after a space; empty if that is not known."""


def refuse(
    path: Path,
    bad: BoolArray,
    faults: list[Fault],
    lists: tuple[Lists, Lists],
    network: RoadNetwork,
    layout: TripLayout,
) -> NoReturn:
    """Raise DataError for the first invalid row, with the column, the value and what it is where one is to blame."""
    first = describe_row(int(np.argmax(bad)), faults, lists, network, layout)
    refuse_rows(path, first, int(bad.sum()), len(bad), layout)


def refuse_rows(path: Path, first: Refusal, num_bad: int, num_rows: int, layout: TripLayout) -> NoReturn:
    """Raise DataError for the first of `num_bad` invalid rows of a file."""
    # dropping is no fix where nothing would be left
    hint = "Fix the file: no row is valid." if num_bad == num_rows and "drop" in layout.hint else layout.hint
    problem = f"{first.problem}; {num_bad} of {num_rows} rows are invalid.{first.note}"
    raise DataError(path, problem, row=first.row, hint=hint)


def describe_row(
    row: int, faults: list[Fault], lists: tuple[Lists, Lists], network: RoadNetwork, layout: TripLayout
) -> Refusal:
    """Return what is wrong with an invalid row of these lists."""
    fault = next(fault for fault in faults if fault.rows[row])
    value = note = ""
    if fault.column:
        part = lists[0] if fault.column == layout.roads else lists[1]
        position = int(fault.positions[np.searchsorted(fault.positions, part.offsets[row])])
        value = f" ({fault.column}, item {position - int(part.offsets[row])}: {part.shown(position)})"
        note = _note(fault, part, position, network, is_road=fault.column == layout.roads)
    elif lists[0].texts is not None:
        counts = [int(np.diff(part.offsets)[row]) for part in lists]
        value = f" ({layout.roads}: {counts[0]}, {layout.times}: {counts[1]})"
    return Refusal(row, f"{fault.reason}{value}", note)


def _note(fault: Fault, part: Lists, position: int, network: RoadNetwork, *, is_road: bool) -> str:
    """Return a sentence about an invalid value: what it is, or what stands before it."""
    if "not connected" in fault.reason:
        return _note_of_step(int(part.values[position - 1]), int(part.values[position]), network)
    if "earlier" in fault.reason:
        previous = part.shown(position - 1) if part.texts is not None else part.text(position - 1)
        return f" The previous time is {previous}."
    if part.texts is None:
        return ""
    text = part.text(position)
    return (describe_number(text) or _note_of_id(text, network)) if is_road else describe_time(text)


def _note_of_id(text: str, network: RoadNetwork) -> str:
    return f" Road ids are 0 to {network.num_roads - 1}." if text.lstrip("-").isdecimal() else ""


def _note_of_step(road: int, following: int, network: RoadNetwork) -> str:
    candidates = network.successors.row(road).tolist()
    shown = ", ".join(map(str, candidates[:_SHOWN_CANDIDATES]))
    shown += f" and {len(candidates) - _SHOWN_CANDIDATES} more" if len(candidates) > _SHOWN_CANDIDATES else ""
    again = " (it repeats the road)" if road == following else ""
    return f" Road {road} is followed by {shown or 'none'}, not by road {following}{again}."
