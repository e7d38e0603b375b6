"""Readers of GPS points: one function per format, which yields batches of trips.

A reader gets a file and the settings, and yields trips in the order of the file, in batches of whole trips. Files are
read block by block, except GPX, whose files are small. To add a format, add a function to `READERS`, its name to
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
from hoser_kd.common.errors import DataError
from hoser_kd.config.raw_data import PointsConfig
from hoser_kd.network.csv_files import csv_header, require_columns, require_readable_rows
from hoser_kd.network.gcj02 import to_wgs84
from hoser_kd.network.gps_points import GpsPoints, concatenate_points
from hoser_kd.network.gps_rows import BATCH_POINTS, PointRows, days_of_vehicles, grouped, texts, whole_trips
from hoser_kd.network.gps_tables import BLOCK_BYTES, CsvFormat, csv_batches, csv_format, read_table
from hoser_kd.network.gps_times import utc_seconds
from hoser_kd.network.raw_files import point_files

Counts = Counter[str]
Reader = Callable[[Path, PointsConfig, Counts], Iterator[GpsPoints]]


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
        with pa.csv.open_csv(str(path), pa.csv.ReadOptions(block_size=BLOCK_BYTES), convert_options=convert) as blocks:
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


# formats of single data sets


def _lines(path: Path, names: list[str], numbers: list[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the lines of a file without a header, in batches."""
    if path.stat().st_size == 0:  # some files of T-Drive
        return
    try:
        others = [name for name in names if name not in numbers]
        yield from csv_batches(path, CsvFormat(names, has_header=False), numbers, others)
    except DataError as error:
        if error.row is not None:
            raise
        raise DataError(path, f"cannot be read: each line is {', '.join(names)}.", hint=str(error)) from None


def read_t_drive(path: Path, settings: PointsConfig, counts: Counts) -> Iterator[GpsPoints]:
    """Yield the days of the taxis in a file of T-Drive: lines of taxi, local time, longitude, latitude."""

    def rows() -> Iterator[PointRows]:
        for row, batch in _lines(path, ["taxi", "time", "lon", "lat"], ["lon", "lat"]):
            t = utc_seconds(path, pa.chunked_array([batch["time"]]), "time", settings, row)
            taxi = texts(batch["taxi"].to_pandas())
            yield PointRows(
                days_of_vehicles(taxi, t, settings), taxi, t, batch["lon"].to_numpy(), batch["lat"].to_numpy()
            )

    yield from whole_trips(rows, counts)


def read_didi(path: Path, settings: PointsConfig, counts: Counts) -> Iterator[GpsPoints]:
    """Yield the orders of a file of DiDi GAIA: lines of driver, order, Unix time, longitude, latitude."""
    del settings

    def rows() -> Iterator[PointRows]:
        for _, batch in _lines(path, ["driver", "order", "time", "lon", "lat"], ["time", "lon", "lat"]):
            order, driver = (texts(batch[name].to_pandas()) for name in ("order", "driver"))
            yield PointRows(order, driver, *(batch[name].to_numpy() for name in ("time", "lon", "lat")))

    yield from whole_trips(rows, counts)


def read_libcity_dyna(path: Path, settings: PointsConfig, counts: Counts) -> Iterator[GpsPoints]:
    """Yield the trips of LibCity's `.dyna` with coordinates; a trip is a traj_id of an entity_id."""
    style = csv_format(path)
    names = [name.strip() for name in style.names]
    if "coordinates" not in names:
        hint = "A `.dyna` with `location` holds roads, not points: import it as matched trips."
        raise DataError(path, "column coordinates is missing.", hint=hint)
    require_columns(path, names, ["entity_id", "time"])
    wanted = [name for name in ("entity_id", "traj_id", "time", "coordinates") if name in names]

    def rows() -> Iterator[PointRows]:
        for row, batch in csv_batches(path, style, [], wanted):
            lon, lat = _pairs(path, batch["coordinates"], row)
            t = utc_seconds(path, pa.chunked_array([batch["time"]]), "time", settings, row)
            entity = texts(batch["entity_id"].to_pandas()).astype(str).astype(object)
            if "traj_id" in wanted:
                trip = entity + "/" + texts(batch["traj_id"].to_pandas()).astype(str).astype(object)
            else:
                trip = days_of_vehicles(entity, t, settings)
            yield PointRows(trip, entity, t, lon, lat)

    yield from whole_trips(rows, counts)


def _pairs(path: Path, column: pa.Array, row: int) -> tuple[Float64Array, Float64Array]:
    """Return lon and lat of texts `[lon,lat]`."""
    pairs = pc.split_pattern(pc.replace_substring_regex(column, r"[\[\]\s]", ""), ",")
    lengths = np.asarray(pc.fill_null(pc.list_value_length(pairs), 0))
    if (lengths != 2).any():
        at = int(np.argmax(lengths != 2))
        raise DataError(path, "coordinates is not a pair [lon, lat].", row=row + at, hint='Write it as "[lon,lat]".')
    numbers = pd.to_numeric(pc.list_flatten(pairs).to_pandas(), errors="coerce").to_numpy(np.float64)
    if np.isnan(numbers).any():
        at = int(np.argmax(np.isnan(numbers))) // 2
        raise DataError(path, f"coordinates is {column[at].as_py()!r}, not two numbers.", row=row + at)
    return numbers[0::2], numbers[1::2]


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
        yield grouped(PointRows(texts(names), vehicle, t, timed.geometry.x.to_numpy(), timed.geometry.y.to_numpy()))


READERS: dict[str, Reader] = {
    "table": read_table,
    "ecml_pkdd": read_ecml_pkdd,
    "t_drive": read_t_drive,
    "didi": read_didi,
    "gpx": read_gpx,
    "libcity_dyna": read_libcity_dyna,
}
"""Readers by the names of `source.points.format`."""
