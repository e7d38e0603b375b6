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
"""Trips drawn with od_source train where the settings give no number; the published evaluation uses 5,000."""
COLUMNS = ("origin", "destination", "start_time")
"""Columns of a file of ODs."""
_LAST_SECOND = 253_402_300_799
"""The end of the year 9999."""


@dataclass(frozen=True)
class OdPairs:
    """n trips asked for."""

    origins: Int64Array
    """(n,) int64 road ids."""
    start_times: Int64Array
    """(n,) int64 seconds since the epoch, UTC."""
    destinations: Int64Array
    """(n,) int64 road ids."""
    real_rows: Int64Array | None
    """(n,) int64: the test trip each one is the counterpart of; None where they are no test ODs."""

    def __len__(self) -> int:
        """Number of trips asked for."""
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
        """Return origin, destination, start_time (seconds) and, where there are real trips, test_row."""
        columns = {"origin": self.origins, "destination": self.destinations, "start_time": self.start_times}
        return pa.table(columns if self.real_rows is None else {**columns, "test_row": self.real_rows})


def select_od_pairs(
    config: GenerationConfig, train: Trajectories, test: Trajectories, num_roads: int | None = None
) -> OdPairs:
    """Choose the trips to generate.

    `test` takes test ODs with their own start times: all, or `num_trips` of them drawn without repetition. `train` is
    the published way: OD pairs drawn with the frequency they have in training, start times drawn independently from
    training trips. `file` takes those of `od_file`, like `test`; `num_roads` is needed to check them. Each is repeated
    `samples_per_od` times, one behind the other.
    """
    generator = np.random.default_rng(config.seed)
    if config.od_source == "train":
        count = config.num_trips or DEFAULT_TRAIN_TRIPS
        pairs = generator.integers(len(train), size=count)
        starts = generator.integers(len(train), size=count)
        asked = OdPairs(train.origins[pairs], train.start_times[starts], train.destinations[pairs], None)
    else:
        if config.od_source == "file":
            if config.od_file is None or num_roads is None:
                raise ValueError("a file of ODs needs od_file and num_roads")
            asked = read_ods(config.od_file, num_roads)
        else:
            asked = OdPairs(test.origins, test.start_times, test.destinations, np.arange(len(test)))
        if config.num_trips is not None and config.num_trips < len(asked):
            asked = asked.take(np.sort(generator.choice(len(asked), config.num_trips, replace=False)))
    return asked.take(np.repeat(np.arange(len(asked)), config.samples_per_od))


def read_ods(path: str | PathLike[str], num_roads: int) -> OdPairs:
    """Read a CSV or Parquet file of ODs: the columns of `COLUMNS`, others are passed over.

    Raises DataError naming the file and, where one is at fault, the row: a missing column, a road id that is none of
    0 … num_roads - 1, a time that does not read, no row at all.
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
            hint=f"Needed are {', '.join(COLUMNS)}; there are: {', '.join(names) or 'none'}.",
        )
    if twice := [name for name in COLUMNS if names.count(name) > 1]:
        raise DataError(file, f"column {', '.join(twice)} is there twice.")
    if table.empty:
        raise DataError(file, "no row.")
    table.columns = pd.Index(names)
    origins, destinations = (_road_ids(file, table[name], num_roads) for name in COLUMNS[:2])
    return OdPairs(origins, _seconds(file, table["start_time"]), destinations, None)


def _table(file: Path) -> pd.DataFrame:
    """Read all columns, those of a CSV as texts; every row must have as many values as the header."""
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
        frame = pd.DataFrame(columns=header)  # a header and nothing behind it
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
    # milliseconds would lie here in the year 40,000 and more
    bad = (whole.isna() & stamps.isna() | (whole.abs() > _LAST_SECOND)).to_numpy()
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
    """Return a value as a message has it, where it may be nothing at all or very long."""
    text = str(value).strip()[:60]
    return text if text and text.lower() not in {"nan", "none", "nat", "<na>"} else "(empty)"
