"""Which trips to generate: origins, start times and destinations."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from hoser_kd.common.arrays import Int64Array
from hoser_kd.common.errors import DataError
from hoser_kd.config.schema import GenerationConfig
from hoser_kd.network.csv_files import csv_header
from hoser_kd.network.trajectories import Trajectories

DEFAULT_TRAIN_TRIPS = 5000
"""Trips drawn with od_source train by default; the published evaluation uses 5,000."""
COLUMNS = ("origin", "destination", "start_time")
"""Required columns of an OD file."""
LAST_SECOND = 253_402_300_799
"""The end of the year 9999."""


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

    Raises DataError with the file and, if applicable, the row: a missing or repeated column, a road id outside
    0 … num_roads - 1, a time that is invalid or before 1970, an empty file.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(file, "no such file.")
    try:
        table = _table(file)
    except (pa.ArrowInvalid, csv.Error, UnicodeDecodeError) as error:
        raise DataError(file, f"not readable as a table ({error}).") from None
    names = [str(name).strip() for name in table.columns]
    if missing := [name for name in COLUMNS if name not in names]:
        raise DataError(
            file,
            f"no column {', '.join(missing)}.",
            hint=f"Required are {', '.join(COLUMNS)}; there are: {', '.join(names) or 'none'}.",
        )
    if twice := [name for name in COLUMNS if names.count(name) > 1]:
        raise DataError(file, f"column {', '.join(twice)} is there twice.")
    if table.empty:
        raise DataError(file, "no row.")
    table.columns = pd.Index(names)
    origins, destinations = (_road_ids(file, table[name], num_roads) for name in COLUMNS[:2])
    return OdPairs(origins, _seconds(file, table["start_time"]), destinations, None)


def _table(file: Path) -> pd.DataFrame:
    """Read all columns, those of a CSV as text; every row must have as many values as the header."""
    frame: pd.DataFrame
    if file.suffix.lower() in {".parquet", ".pq"}:
        frame = pq.read_table(file).to_pandas().reset_index(drop=True)
        return frame
    header = csv_header(file)
    texts = pa.csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=False)
    try:
        frame = pa.csv.read_csv(file, pa.csv.ReadOptions(use_threads=False), convert_options=texts).to_pandas()
    except pa.ArrowInvalid as error:
        if "Empty CSV" not in str(error):
            raise
        frame = pd.DataFrame(columns=header)  # a header without rows
    return frame


def _road_ids(file: Path, column: pd.Series, num_roads: int) -> Int64Array:
    ids = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
    bad = ~((ids >= 0) & (ids < num_roads) & (ids == np.floor(ids)))
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(
            file,
            f"{column.name} {_shown(column.iloc[row])} is not a road.",
            row=row,
            hint=f"Road ids run from 0 to {num_roads - 1}.",
        )
    return ids.astype(np.int64)


def _seconds(file: Path, column: pd.Series) -> Int64Array:
    is_time = pd.api.types.is_datetime64_any_dtype(column)
    whole = pd.Series(np.nan, column.index) if is_time else pd.to_numeric(column, errors="coerce")
    written = None if is_time else "ISO8601"
    stamps = pd.to_datetime(column.where(whole.isna()), utc=True, errors="coerce", format=written)
    early = ((whole < 0) | (stamps < pd.Timestamp(0, tz="UTC"))).to_numpy()
    if early.any():
        row = int(np.argmax(early))
        raise DataError(
            file,
            f"start_time {_shown(column.iloc[row])} is before 1970.",
            row=row,
            hint="Write a time from 1970 on: 2013-07-01T08:30:00Z, or whole seconds since 1970 UTC.",
        )
    # refuses times in milliseconds, which would be later than the year 40,000
    bad = (whole.isna() & stamps.isna() | (whole.abs() > LAST_SECOND)).to_numpy()
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(
            file,
            f"start_time {_shown(column.iloc[row])} does not read.",
            row=row,
            hint="Write 2013-07-01T08:30:00Z, or whole seconds since 1970 UTC.",
        )
    read = stamps.dt.tz_localize(None).to_numpy().astype("datetime64[s]").astype(np.int64)
    return np.where(whole.isna(), read, whole.fillna(0)).astype(np.int64)


def _shown(value: object) -> str:
    """Return a value for an error message: at most 60 characters, or "(empty)"."""
    text = str(value).strip()[:60]
    return text if text and text.lower() not in {"nan", "none", "nat", "<na>"} else "(empty)"
