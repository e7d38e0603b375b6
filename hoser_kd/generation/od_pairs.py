"""Which trips to generate: origins, start times and destinations."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hoser_kd.common.arrays import Int64Array
from hoser_kd.common.errors import DataError
from hoser_kd.config.generation import GenerationConfig
from hoser_kd.network.csv_files import describe_number, read_csv_columns, require_columns
from hoser_kd.network.times import LAST_SECOND, describe_time, parse_times, require_utc
from hoser_kd.network.trajectories import Trajectories

DEFAULT_TRAIN_TRIPS = 5000
"""Trips drawn with od_source train by default; the published evaluation uses 5,000."""
COLUMNS = ("origin", "destination", "start_time")
"""Required columns of an OD file."""


@dataclass(frozen=True)
class OdPairs:
    """n requested trips."""

    origins: Int64Array
    """(n,) int64 road ids."""
    start_times: Int64Array
    """(n,) int64 seconds since the epoch, UTC."""
    destinations: Int64Array
    """(n,) int64 road ids."""
    real_rows: Int64Array | None
    """(n,) int64: row of the corresponding test trip; None if the requests are not test OD pairs."""

    def __len__(self) -> int:
        """Number of requested trips."""
        return len(self.origins)

    def take(self, rows: Int64Array) -> OdPairs:
        """Return these rows, in this order."""
        return OdPairs(
            self.origins[rows],
            self.start_times[rows],
            self.destinations[rows],
            None if self.real_rows is None else self.real_rows[rows],
        )

    def to_table(self) -> pa.Table:
        """Return a table with origin, destination, start_time (seconds) and, for test OD pairs, test_row."""
        columns = {"origin": self.origins, "destination": self.destinations, "start_time": self.start_times}
        return pa.table(columns if self.real_rows is None else {**columns, "test_row": self.real_rows})


def select_od_pairs(
    config: GenerationConfig, train: Trajectories, test: Trajectories, num_roads: int | None = None
) -> OdPairs:
    """Select the trips to generate.

    `test`: test OD pairs with their own start times, all or a sample of `num_trips` without replacement. `train`:
    published; OD pairs drawn with their frequency in training, start times drawn independently from training trips.
    `file`: those of `od_file`, sampled like `test`; requires `num_roads` to check them. Each is repeated
    `samples_per_od` times in a row.

    Raises TypeError or ValueError for wrong arguments and DataError as `read_ods`.
    """
    if not isinstance(config, GenerationConfig):
        raise TypeError(
            f"config is of type {type(config).__name__}, not a GenerationConfig. Call "
            "select_od_pairs(config.generation, train, test, num_roads=network.num_roads)."
        )
    generator = np.random.default_rng(config.seed)
    if config.od_source == "train":
        _check_trips("train", train)
        count = config.num_trips or DEFAULT_TRAIN_TRIPS
        pairs = generator.integers(len(train), size=count)
        starts = generator.integers(len(train), size=count)
        requests = OdPairs(train.origins[pairs], train.start_times[starts], train.destinations[pairs], None)
    else:
        requests = _candidates(config, test, num_roads)
        if config.num_trips is not None and config.num_trips < len(requests):
            requests = requests.take(np.sort(generator.choice(len(requests), config.num_trips, replace=False)))
    return requests.take(np.repeat(np.arange(len(requests)), config.samples_per_od))


def _candidates(config: GenerationConfig, test: Trajectories, num_roads: int | None) -> OdPairs:
    """Return all requests of the OD file or of the test trips."""
    if config.od_source == "file":
        if config.od_file is None or num_roads is None:
            raise ValueError(
                "od_source file requires od_file in the settings and the number of roads: "
                "select_od_pairs(config, train, test, num_roads=network.num_roads)."
            )
        return read_ods(config.od_file, num_roads)
    _check_trips("test", test)
    return OdPairs(test.origins, test.start_times, test.destinations, np.arange(len(test)))


def _check_trips(name: str, trips: Trajectories) -> None:
    if not isinstance(trips, Trajectories):
        raise TypeError(
            f"{name} is of type {type(trips).__name__}, not a Trajectories. Call select_od_pairs(config, train, test)."
        )
    if len(trips) == 0:
        raise ValueError(f"{name} has no trips: there are no OD pairs to select from with od_source {name}.")


def read_ods(path: str | PathLike[str], num_roads: int) -> OdPairs:
    """Read a CSV or Parquet file of OD pairs: the columns of `COLUMNS`; other columns are ignored.

    A time is written as in trips, local time as `2013-07-01T08:30:00Z`, or as whole seconds since 1970-01-01, which are
    read as the same local time. Timestamps of Parquet have no time zone, or UTC.

    Raises DataError with the file and, if applicable, the row: a missing or repeated column, a road id outside
    0 … num_roads - 1, a time that is invalid or before 1970, an empty file.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(file, "no such file.")
    table = _read_parquet(file) if file.suffix.lower() in {".parquet", ".pq"} else _read_csv(file)
    if table.num_rows == 0:
        raise DataError(file, "no row.")
    origins, destinations = (_road_ids(file, name, table[name], num_roads) for name in COLUMNS[:2])
    return OdPairs(origins, _seconds(file, table["start_time"]), destinations, None)


def _read_csv(file: Path) -> pa.Table:
    """Read the columns of a CSV file as text without blanks around it, null where empty."""
    table = read_csv_columns(file, dict.fromkeys(COLUMNS, pa.string()))
    texts = {name: pc.ascii_trim(table[name], " \t").combine_chunks() for name in COLUMNS}
    return pa.table({name: pc.if_else(pc.equal(text, ""), None, text) for name, text in texts.items()})


def _read_parquet(file: Path) -> pa.Table:
    try:
        schema = pq.read_schema(file)
        header = [name.strip() for name in schema.names]
        require_columns(file, header, COLUMNS)
        table = pq.read_table(file).rename_columns(header).select(list(COLUMNS))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(file, f"not readable as a table ({error}).") from None
    return pa.table({name: table[name].combine_chunks() for name in COLUMNS})


def _road_ids(file: Path, name: str, column: pa.Array, num_roads: int) -> Int64Array:
    column = pc.cast(column, pa.string()) if pa.types.is_large_string(column.type) else column
    ids = _whole_numbers(column)
    bad = pc.fill_null(ids, -1).to_numpy(zero_copy_only=False)
    invalid = (bad < 0) | (bad >= num_roads)
    if invalid.any():
        row = int(np.argmax(invalid))
        raise DataError(
            file,
            f"{name} {_shown(column, row)} is not a road.{describe_number(_text(column, row))}",
            row=row,
            hint=f"Road ids run from 0 to {num_roads - 1}.",
        )
    numbers: Int64Array = ids.to_numpy(zero_copy_only=False).astype(np.int64)
    return numbers


def _whole_numbers(column: pa.Array) -> pa.Array:
    """Return int64, null where a value is no whole number; spreadsheets and pandas write whole numbers as `4.0`."""
    none = pa.nulls(len(column), pa.int64())
    if pa.types.is_string(column.type):
        text = pc.replace_substring_regex(column, r"\.0*$", "")
        return pc.cast(pc.if_else(pc.match_substring_regex(text, r"^-?\d{1,18}$"), text, None), pa.int64())
    if pa.types.is_integer(column.type):
        small = pc.less(column, pa.scalar(2**31, pa.int64()).cast(column.type)) if column.type.bit_width == 64 else True
        return pc.cast(pc.if_else(small, column, None), pa.int64())
    if pa.types.is_floating(column.type):
        whole = pc.and_(pc.less(pc.abs(column), 2.0**53), pc.equal(pc.floor(column), column))
        return pc.cast(pc.if_else(whole, column, None), pa.int64())
    return none


def _seconds(file: Path, column: pa.Array) -> Int64Array:
    column = pc.cast(column, pa.string()) if pa.types.is_large_string(column.type) else column
    if pa.types.is_timestamp(column.type):
        seconds = _stored_seconds(file, column)
    else:
        seconds = _whole_numbers(column)
        if pa.types.is_string(column.type):
            seconds = pc.coalesce(seconds, parse_times(column))
    early = pc.fill_null(pc.less(seconds, 0), False).to_numpy(zero_copy_only=False)
    if early.any():
        row = int(np.argmax(early))
        hint = "Write a time from 1970 on: 2013-07-01T08:30:00Z, or whole seconds since 1970."
        raise DataError(file, f"start_time {_shown(column, row)} is before 1970.", row=row, hint=hint)
    # refuses times in milliseconds, which would be later than the year 9999
    bad = pc.fill_null(pc.greater(seconds, LAST_SECOND), True).to_numpy(zero_copy_only=False)
    if bad.any():
        row = int(np.argmax(bad))
        note = describe_time(_text(column, row))
        hint = "Write 2013-07-01T08:30:00Z, or whole seconds since 1970."
        raise DataError(file, f"start_time {_shown(column, row)} is not a time.{note}", row=row, hint=hint)
    numbers: Int64Array = seconds.to_numpy(zero_copy_only=False).astype(np.int64)
    return numbers


def _stored_seconds(file: Path, column: pa.Array) -> pa.Array:
    """Return the seconds of timestamps. Raises DataError for another time zone than UTC and for fractions."""
    require_utc(file, "start_time", column.type)
    try:
        return pc.cast(pc.cast(column, pa.timestamp("s", tz=column.type.tz)), pa.int64())
    except pa.ArrowInvalid as error:
        raise DataError(file, f"start_time has fractions of a second: {error}.", hint="Round it.") from None


def _text(column: pa.Array, row: int) -> str:
    return str(column[row].as_py()).strip()


def _shown(column: pa.Array, row: int) -> str:
    """Return a value for an error message: at most 60 characters, or "(empty)"."""
    return "(empty)" if column[row].as_py() in (None, "") else _text(column, row)[:60]
