"""Readers of GPS points: one function per format, which yields batches of trips.

A reader gets a file and the settings, and yields trips in the order of the file. Batches hold whole trips; where the
format allows it, a file is read block by block. To add a format, add a function to `READERS`, its name to
`POINT_FORMATS` in `hoser_kd.config.raw_data`, and its endings to `SUFFIXES` in `hoser_kd.network.raw_files`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from hoser_kd.common.arrays import Float64Array, Int64Array, offsets_of, ranges
from hoser_kd.common.calendar import SECONDS_PER_DAY, utc_offset_s
from hoser_kd.common.errors import DataError
from hoser_kd.config.raw_data import PointsConfig
from hoser_kd.network.csv_files import csv_header, read_csv_columns, require_readable_rows
from hoser_kd.network.gcj02 import to_wgs84
from hoser_kd.network.gps_points import GpsPoints, concatenate_points
from hoser_kd.network.gps_times import utc_seconds
from hoser_kd.network.raw_files import point_files

Counts = Counter[str]
Reader = Callable[[Path, PointsConfig, Counts], Iterator[GpsPoints]]
BATCH_POINTS = 500_000
"""Small files are read together until they have this many points."""
_BLOCK_BYTES = 32 << 20
_NYC_TLC = {"pulocationid", "dolocationid", "tpep_pickup_datetime", "lpep_pickup_datetime", "pickup_longitude"}


def read_points(settings: PointsConfig, counts: Counts) -> Iterator[GpsPoints]:
    """Yield the trips of all files of `source.points`, in WGS 84 and UTC; adds to `counts` what is left out.

    Raises DataError for a file that cannot be read, with the row and the fix.
    """
    read = READERS[settings.format]
    shifted = settings.coordinates == "gcj02" or (settings.coordinates is None and settings.format == "didi")
    pending: list[GpsPoints] = []
    for file in point_files(settings):
        for points in read(file, settings, counts):
            pending.append(_unshifted(points) if shifted else points)
            if sum(each.num_points for each in pending) >= BATCH_POINTS:
                yield concatenate_points(pending)
                pending = []
    if pending:
        yield concatenate_points(pending)


def trips_are_days(settings: PointsConfig) -> bool:
    """Return whether the format has no trips, so that each vehicle and local day becomes one."""
    return settings.format == "t_drive" or (settings.format == "table" and "trip_id" not in settings.columns)


def _unshifted(points: GpsPoints) -> GpsPoints:
    lon, lat = to_wgs84(points.lon, points.lat)
    return GpsPoints(points.offsets, points.trip_ids, points.vehicle_ids, points.t, lon, lat)


def _grouped(trip: Any, vehicle: Any, t: Float64Array, lon: Float64Array, lat: Float64Array) -> GpsPoints:
    """Return rows of points as trips, in the order in which the trips and their points appear."""
    code, names = pd.factorize(np.asarray(trip, dtype=object))
    order = np.argsort(code, kind="stable")
    offsets = offsets_of(np.bincount(code, minlength=len(names)))
    first = order[offsets[:-1]]
    vehicles = np.asarray(vehicle, dtype=object)[first].astype(str).astype(object)
    return GpsPoints(offsets, names.astype(str).astype(object), vehicles, t[order], lon[order], lat[order])


def _by_day(vehicle: Any, t: Float64Array, lon: Float64Array, lat: Float64Array, settings: PointsConfig) -> GpsPoints:
    """Return rows of points as trips: the points of a vehicle on one local day."""
    known = np.isfinite(t)
    seconds = np.where(known, t, 0).astype(np.int64)
    day = (seconds + utc_offset_s(seconds, str(settings.time_zone))) // SECONDS_PER_DAY
    date = day.astype("datetime64[D]").astype(str).astype(object)
    names = np.asarray(vehicle, dtype=object).astype(str).astype(object)
    return _grouped(names + "/" + date, names, t, lon, lat)


# ECML/PKDD 2015


_ECML_COLUMNS = {
    "TRIP_ID": pa.string(),
    "TAXI_ID": pa.string(),
    "TIMESTAMP": pa.int64(),
    "MISSING_DATA": pa.string(),
    "POLYLINE": pa.string(),
}


def read_ecml_pkdd(path: Path, settings: PointsConfig, counts: Counts) -> Iterator[GpsPoints]:
    """Yield the trips of a CSV of the ECML/PKDD 2015 challenge, block by block.

    Rows with MISSING_DATA are left out, since the times after a missing point are unknown, and rows without points.
    """
    missing = [name for name in _ECML_COLUMNS if name not in csv_header(path)]
    if missing:
        raise DataError(path, f"column {', '.join(missing)} is missing.", hint="Use another `source.points.format`.")
    convert = pa.csv.ConvertOptions(column_types=_ECML_COLUMNS, include_columns=list(_ECML_COLUMNS))
    # a trip is one line, and a line break inside the quotes of POLYLINE is not allowed
    try:
        with pa.csv.open_csv(str(path), pa.csv.ReadOptions(block_size=_BLOCK_BYTES), convert_options=convert) as blocks:
            row = 0
            for block in blocks:
                yield _ecml_trips(path, block, row, settings, counts)
                row += len(block)
    except pa.ArrowInvalid as error:
        require_readable_rows(path, _ECML_COLUMNS)
        raise DataError(path, f"cannot be read as CSV: {error}.") from None


def _ecml_trips(path: Path, block: pa.RecordBatch, row: int, settings: PointsConfig, counts: Counts) -> GpsPoints:
    texts = pc.replace_substring_regex(block["POLYLINE"], r"[\[\]\s]", "")
    complete = np.asarray(pc.not_equal(pc.utf8_lower(block["MISSING_DATA"]), "true"))
    filled = np.asarray(pc.greater(pc.binary_length(texts), 0))
    counts["trips_read"] += len(block)
    counts["trips_with_missing_data"] += int((~complete).sum())
    counts["trips_without_points"] += int((complete & ~filled).sum())
    at = np.flatnonzero(complete & filled)
    pieces = pc.split_pattern(texts.take(pa.array(at)), ",")
    lengths = np.asarray(pc.list_value_length(pieces)).astype(np.int64)
    numbers = pd.to_numeric(pieces.flatten().to_pandas(), errors="coerce").to_numpy(np.float64)
    odd = np.flatnonzero((lengths % 2 != 0) | _any_nan(numbers, lengths))
    if len(odd):
        fix = 'Write it as "[[lon, lat], [lon, lat]]", or remove the row.'
        raise DataError(path, "POLYLINE is not a list of [lon, lat] pairs.", row=row + int(at[odd[0]]), hint=fix)
    counts_of_trips = lengths // 2
    offsets = offsets_of(counts_of_trips)
    start = np.repeat(block["TIMESTAMP"].to_numpy(zero_copy_only=False)[at].astype(np.float64), counts_of_trips)
    step = ranges(np.zeros_like(counts_of_trips), counts_of_trips)
    trips, vehicles = (np.asarray(block[name].to_pandas(), dtype=object)[at] for name in ("TRIP_ID", "TAXI_ID"))
    return GpsPoints(offsets, trips, vehicles, start + settings.interval_s * step, numbers[0::2], numbers[1::2])


def _any_nan(numbers: Float64Array, lengths: Int64Array) -> Any:
    """(rows,) bool: whether a row of a ragged array, none of them empty, has a NaN."""
    if len(lengths) == 0:
        return np.zeros(0, bool)
    return np.logical_or.reduceat(np.isnan(numbers), offsets_of(lengths)[:-1])


# tables


def read_table(path: Path, settings: PointsConfig, counts: Counts) -> Iterator[GpsPoints]:
    """Yield the trips of a CSV, Parquet or GeoParquet file with one row per point."""
    if path.name.endswith((".csv", ".csv.gz", ".txt", ".txt.gz")):
        names = csv_header(path)
    elif path.suffix in (".parquet", ".geoparquet", ".pq"):
        names = _parquet_columns(path)
    else:
        raise DataError(path, "is neither CSV nor Parquet.", hint="Rename it to .csv, .csv.gz or .parquet.")
    columns = _columns(path, names, settings)
    is_csv = not path.suffix.endswith(("parquet", "pq"))
    table = _csv(path, columns) if is_csv else pa.parquet.read_table(path, columns=list(columns.values()))
    t = utc_seconds(path, table[columns["time"]], columns["time"], settings)
    lon, lat = _places(path, table, columns, settings)
    counts["points_read"] += len(t)
    vehicle = table[columns["vehicle_id"]].to_pandas() if "vehicle_id" in columns else np.full(len(t), "", object)
    if "trip_id" in columns:
        yield _grouped(table[columns["trip_id"]].to_pandas(), vehicle, t, lon, lat)
    else:
        yield _by_day(vehicle, t, lon, lat, settings)


def _parquet_columns(path: Path) -> list[str]:
    try:
        names: list[str] = pa.parquet.read_schema(path).names
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(path, f"cannot be read as Parquet: {error}.", hint="Copy or download it again.") from None
    return names


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
    return {str(role): name for role, name in columns.items()}


def _csv(path: Path, columns: dict[str, str]) -> pa.Table:
    types = {name: pa.float64() if role in ("lon", "lat") else pa.string() for role, name in columns.items()}
    return read_csv_columns(path, types)


def _places(
    path: Path, table: pa.Table, columns: dict[str, str], settings: PointsConfig
) -> tuple[Float64Array, Float64Array]:
    """Return lon and lat in degrees; those of a geometry column are converted to WGS 84."""
    if "geometry" not in columns:
        lon, lat = (table[columns[name]].to_numpy().astype(np.float64) for name in ("lon", "lat"))
        return lon, lat
    import geopandas as gpd

    frame = gpd.read_parquet(path, columns=[columns["geometry"]])
    points = frame.geometry
    if not (points.geom_type == "Point").all():
        raise DataError(
            path, f"{columns['geometry']} holds other geometries than points.", hint="Use one row per point."
        )
    if points.crs is not None and settings.coordinates is None:
        points = points.to_crs("EPSG:4326")
    return points.x.to_numpy(), points.y.to_numpy()


# formats of single data sets


def _lines(path: Path, names: list[str], counts: Counts) -> pa.Table:
    """Return the lines of a file without a header; all columns are text."""
    options = pa.csv.ReadOptions(column_names=names, block_size=_BLOCK_BYTES)
    if path.stat().st_size == 0:  # some files of T-Drive
        return pa.table({name: pa.array([], pa.string()) for name in names})
    try:
        convert = pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
        table = pa.csv.read_csv(str(path), options, convert_options=convert)
    except pa.ArrowInvalid as error:
        raise DataError(path, f"cannot be read: {error}.", hint=f"Each line is {', '.join(names)}.") from None
    counts["points_read"] += len(table)
    return table


def _numbers(path: Path, table: pa.Table, name: str) -> Float64Array:
    numbers: Float64Array = pd.to_numeric(table[name].to_pandas(), errors="coerce").to_numpy(np.float64)
    if np.isnan(numbers).any():
        row = int(np.argmax(np.isnan(numbers)))
        raise DataError(path, f"{name} is {table[name][row].as_py()!r}, not a number.", row=row)
    return numbers


def read_t_drive(path: Path, settings: PointsConfig, counts: Counts) -> Iterator[GpsPoints]:
    """Yield the days of the taxis in a file of T-Drive: lines of taxi, local time, longitude, latitude."""
    table = _lines(path, ["taxi", "time", "lon", "lat"], counts)
    if len(table):
        t = utc_seconds(path, table["time"], "time", settings)
        lon, lat = _numbers(path, table, "lon"), _numbers(path, table, "lat")
        yield _by_day(table["taxi"].to_pandas(), t, lon, lat, settings)


def read_didi(path: Path, settings: PointsConfig, counts: Counts) -> Iterator[GpsPoints]:
    """Yield the orders of a file of DiDi GAIA: lines of driver, order, Unix time, longitude, latitude."""
    del settings
    table = _lines(path, ["driver", "order", "time", "lon", "lat"], counts)
    if len(table):
        t, lon, lat = (_numbers(path, table, name) for name in ("time", "lon", "lat"))
        yield _grouped(table["order"].to_pandas(), table["driver"].to_pandas(), t, lon, lat)


def read_libcity_dyna(path: Path, settings: PointsConfig, counts: Counts) -> Iterator[GpsPoints]:
    """Yield the trips of LibCity's `.dyna` with coordinates; a trip is a traj_id of an entity_id."""
    names = csv_header(path)
    if "coordinates" not in names:
        hint = "A `.dyna` with `location` holds roads, not points: import it as matched trips."
        raise DataError(path, "column coordinates is missing.", hint=hint)
    wanted = [name for name in ("entity_id", "traj_id", "time", "coordinates") if name in names]
    table = read_csv_columns(path, dict.fromkeys(wanted, pa.string()))
    counts["points_read"] += len(table)
    pairs = pc.split_pattern(pc.replace_substring_regex(table["coordinates"], r"[\[\]\s]", ""), ",")
    lengths = np.asarray(pc.list_value_length(pairs))
    if (lengths != 2).any():
        row = int(np.argmax(lengths != 2))
        raise DataError(path, "coordinates is not a pair [lon, lat].", row=row, hint='Write it as "[lon,lat]".')
    places = pa.table({"coordinates": pc.list_flatten(pairs)})
    numbers = _numbers(path, places, "coordinates")
    t = utc_seconds(path, table["time"], "time", settings)
    entity = table["entity_id"].to_pandas().astype(str)
    if "traj_id" in names:
        yield _grouped(entity + "/" + table["traj_id"].to_pandas().astype(str), entity, t, numbers[0::2], numbers[1::2])
    else:
        yield _by_day(entity, t, numbers[0::2], numbers[1::2], settings)


def read_gpx(path: Path, settings: PointsConfig, counts: Counts) -> Iterator[GpsPoints]:
    """Yield the track segments of a GPX file; points without a time are left out."""
    import pyogrio

    try:
        # fids of tracks and segments are columns of GDAL's layer of track points
        frame = pyogrio.read_dataframe(path, layer="track_points", columns=["track_fid", "track_seg_id", "time"])
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise DataError(path, f"cannot be read as GPX ({error}).", hint="Export tracks, not waypoints.") from None
    counts["points_read"] += len(frame)
    timed = frame[frame["time"].notna()]
    counts["invalid_points"] += len(frame) - len(timed)
    if len(timed):
        t = utc_seconds(path, pa.chunked_array([pa.array(timed["time"])]), "time", settings)
        names = path.stem + "/" + timed["track_fid"].astype(str) + "/" + timed["track_seg_id"].astype(str)
        vehicle = np.full(len(timed), path.stem, object)
        yield _grouped(names, vehicle, t, timed.geometry.x.to_numpy(), timed.geometry.y.to_numpy())


READERS: dict[str, Reader] = {
    "table": read_table,
    "ecml_pkdd": read_ecml_pkdd,
    "t_drive": read_t_drive,
    "didi": read_didi,
    "gpx": read_gpx,
    "libcity_dyna": read_libcity_dyna,
}
"""Readers by the names of `source.points.format`."""
