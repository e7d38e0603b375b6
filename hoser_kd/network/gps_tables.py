"""Tables of GPS points, one row per point, read in batches: CSV with any usual separator, gzip, Parquet, GeoParquet."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from hoser_kd.common.arrays import Float64Array
from hoser_kd.common.errors import DataError
from hoser_kd.config.raw_data import PointsConfig
from hoser_kd.network.csv_files import explained_errors, require_columns
from hoser_kd.network.gps_points import GpsPoints
from hoser_kd.network.gps_rows import PointRows, days_of_vehicles, texts, whole_trips
from hoser_kd.network.gps_times import utc_seconds

BLOCK_BYTES = 32 << 20
"""Bytes of text of a batch."""
BATCH_ROWS = 500_000
"""Rows of a batch of a Parquet file."""
_NYC_TLC = {"pulocationid", "dolocationid", "tpep_pickup_datetime", "lpep_pickup_datetime", "pickup_longitude"}
_SEPARATORS = ",;\t|"


class CsvFormat(NamedTuple):
    """How a text file is written."""

    names: list[str]
    """Columns as written in the header."""
    separator: str = ","
    decimal_point: str = "."
    has_header: bool = True


def csv_format(path: Path) -> CsvFormat:
    """Return the columns of a file and how its values are separated, from its first two lines."""
    opener = gzip.open if path.suffix == ".gz" else open
    with explained_errors(path), opener(path, "rt", newline="", encoding="utf-8-sig") as lines:
        header, row = lines.readline(), lines.readline()
    separator = max(_SEPARATORS, key=header.count)
    names, values = (next(csv.reader([line], delimiter=separator), []) for line in (header, row))
    has_commas = separator != "," and any(re.fullmatch(r"\s*-?\d{1,3},\d+\s*", value) for value in values)
    return CsvFormat(names, separator, "," if has_commas else ".")


def csv_batches(
    path: Path, style: CsvFormat, numbers: Sequence[str], others: Sequence[str]
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the first row and the columns of each batch; `numbers` as float64, the others as text.

    Raises DataError for a row with too few or too many values, and for a value that is not a number.
    """
    written = {name.strip(): name for name in style.names}
    wanted = [written[name] for name in (*others, *numbers)]
    types = {written[name]: pa.float64() if name in numbers else pa.string() for name in (*others, *numbers)}
    row = 0
    try:
        for batch in _open(path, style, types, wanted):
            yield row, batch.rename_columns([*others, *numbers])
            row += len(batch)
    except (pa.ArrowInvalid, OSError) as error:
        _reject_value(path, style, [written[name] for name in numbers], wanted)
        raise DataError(path, f"cannot be read as CSV: {error}.") from None


def _open(path: Path, style: CsvFormat, types: dict[str, pa.DataType], wanted: list[str]) -> Iterator[pa.RecordBatch]:
    options = pa.csv.ConvertOptions(
        column_types=types, include_columns=wanted, strings_can_be_null=True, decimal_point=style.decimal_point
    )
    read = pa.csv.ReadOptions(
        block_size=BLOCK_BYTES, use_threads=False, column_names=None if style.has_header else style.names
    )
    parse = pa.csv.ParseOptions(delimiter=style.separator)
    try:
        reader = pa.csv.open_csv(str(path), read, parse, options)
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            return
        raise
    with reader:
        yield from reader


def _reject_value(path: Path, style: CsvFormat, numbers: list[str], wanted: list[str]) -> None:
    """Raise DataError for the first value that should be a number; called on invalid files only."""
    row = 0
    try:
        for batch in _open(path, style, dict.fromkeys(wanted, pa.string()), wanted):
            for name in numbers:
                values = batch[name].to_pandas()
                plain = values.str.replace(style.decimal_point, ".", regex=False)
                bad = pd.to_numeric(plain, errors="coerce").isna() & values.notna()
                if bad.any():
                    at = int(np.argmax(bad))
                    raise DataError(path, f"{name.strip()} is {values[at]!r}, not a number.", row=row + at)
            row += len(batch)
    except (pa.ArrowInvalid, OSError):
        return


@contextmanager
def _explained_parquet_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(path, f"cannot be read as Parquet: {error}.", hint="Copy or download it again.") from None


def read_table(path: Path, settings: PointsConfig, counts: Counter[str]) -> Iterator[GpsPoints]:
    """Yield the trips of a CSV, Parquet or GeoParquet file with one row per point."""
    if path.name.endswith((".csv", ".csv.gz", ".txt", ".txt.gz")):
        style = csv_format(path)
        columns = _columns(path, [name.strip() for name in style.names], settings)
        read = partial(_csv_rows, path, style, columns, settings)
    elif path.suffix in (".parquet", ".geoparquet", ".pq"):
        with _explained_parquet_errors(path):
            names = pq.read_schema(path).names
        columns = _columns(path, names, settings)
        read = partial(_parquet_rows, path, columns, settings)
    else:
        raise DataError(path, "is neither CSV nor Parquet.", hint="Rename it to .csv, .csv.gz or .parquet.")
    yield from whole_trips(read, counts)


def _columns(path: Path, names: list[str], settings: PointsConfig) -> dict[str, str]:
    """Return the columns of the file by their roles; roles that are not given have their own name where it exists."""
    if _NYC_TLC & {name.lower() for name in names}:
        raise DataError(
            path,
            "trip records of NYC TLC hold only origin and destination, so no route can be matched.",
            hint="Use a data set with points along the trips; origins and destinations are `generation.od_file`.",
        )
    columns = dict(settings.columns)
    roles = ("vehicle_id", "time", *(() if "geometry" in columns else ("lon", "lat")))
    for role in roles:
        if role not in columns and (role in names or role != "vehicle_id"):
            columns[role] = role
    if not {"trip_id", "vehicle_id"} & set(columns):
        fix = "Name one of them: `source.points.columns: {trip_id: …}` or `{vehicle_id: …}`."
        raise DataError(path, f"no column of trips or vehicles. Columns: {', '.join(names)}.", hint=fix)
    missing = [f"{name} ({role})" for role, name in columns.items() if name not in names]
    if missing:
        fix = f"Columns are {', '.join(names)}. Name them in `source.points.columns`."
        raise DataError(path, f"column {', '.join(missing)} is missing.", hint=fix)
    require_columns(path, names, list(columns.values()))
    return {str(role): name for role, name in columns.items()}


def _csv_rows(path: Path, style: CsvFormat, columns: dict[str, str], settings: PointsConfig) -> Iterator[PointRows]:
    numbers = [columns[role] for role in ("lon", "lat") if role in columns]
    others = [name for name in columns.values() if name not in numbers]
    for row, batch in csv_batches(path, style, numbers, others):
        lon, lat = (batch[columns[role]].to_numpy(zero_copy_only=False) for role in ("lon", "lat"))
        yield _rows(path, batch, row, columns, settings, (lon, lat))


def _parquet_rows(path: Path, columns: dict[str, str], settings: PointsConfig) -> Iterator[PointRows]:
    row = 0
    with _explained_parquet_errors(path), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=list(columns.values())):
            yield _rows(path, batch, row, columns, settings, _places(path, file, batch, columns, settings))
            row += len(batch)


def _rows(
    path: Path,
    batch: pa.RecordBatch,
    row: int,
    columns: dict[str, str],
    settings: PointsConfig,
    places: tuple[Float64Array, Float64Array],
) -> PointRows:
    name = columns["time"]
    t = utc_seconds(path, pa.chunked_array([batch[name]]), name, settings, row)
    vehicle = (
        texts(batch[columns["vehicle_id"]].to_pandas()) if "vehicle_id" in columns else np.full(len(t), "", object)
    )
    trip = texts(batch[columns["trip_id"]].to_pandas()) if "trip_id" in columns else None
    lon, lat = (np.asarray(values, np.float64) for values in places)
    return PointRows(days_of_vehicles(vehicle, t, settings) if trip is None else trip, vehicle, t, lon, lat)


def _places(
    path: Path, file: pq.ParquetFile, batch: pa.RecordBatch, columns: dict[str, str], settings: PointsConfig
) -> tuple[Any, Any]:
    """Return lon and lat in degrees; those of a geometry column are converted to WGS 84."""
    if "geometry" not in columns:
        return batch[columns["lon"]].to_pandas(), batch[columns["lat"]].to_pandas()
    import geopandas as gpd

    name = columns["geometry"]
    described = json.loads((file.schema_arrow.metadata or {}).get(b"geo", b"{}")).get("columns", {}).get(name, {})
    if described.get("encoding") != "WKB":
        hint = "Write it with geopandas: GeoDataFrame.to_parquet."
        raise DataError(path, f"{name} is not a geometry of GeoParquet in the encoding WKB.", hint=hint)
    points = gpd.GeoSeries.from_wkb(batch[name].to_pandas(), crs=described.get("crs", "OGC:CRS84"))
    if not (points.geom_type == "Point").all():
        raise DataError(path, f"{name} holds other geometries than points.", hint="Use one row per point.")
    if points.crs is not None and settings.coordinates is None:
        points = points.to_crs("EPSG:4326")
    return points.x, points.y
