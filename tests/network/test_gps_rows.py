"""Tables of points that are larger than a batch: the same trips as of the whole file, in the same order."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from hoser_kd.common.errors import DataError
from hoser_kd.config.raw_data import PointsConfig
from hoser_kd.network import gps_rows, gps_tables
from hoser_kd.network.gps_points import concatenate_points
from hoser_kd.network.gps_readers import read_points
from hoser_kd.network.gps_rows import PointRows, whole_trips

ORDERS = ["grouped", "by time", "grouped, one comes back"]


def frame(order):
    """60 points of 12 trips in some order; the third trip is longer than a batch."""
    rng = np.random.default_rng(0)
    trip = np.sort(np.concatenate([rng.integers(0, 12, 40), np.full(20, 2)]))
    table = pd.DataFrame({"trip_id": [f"t{k}" for k in trip], "vehicle_id": [f"v{k % 3}" for k in trip]})
    table["time"] = 1_372_636_800 + np.arange(len(table))
    table["lon"], table["lat"] = -8.6 + 0.001 * rng.random(len(table)), 41.1 + 0.001 * rng.random(len(table))
    if order == "by time":
        table = table.sample(frac=1, random_state=1)
    if order == "grouped, one comes back":
        table = pd.concat([table, table[table["trip_id"] == "t1"]])
    return table.reset_index(drop=True)


def assert_equal(points, expected):
    assert points.trip_ids.tolist() == expected.trip_ids.tolist()
    assert points.vehicle_ids.tolist() == expected.vehicle_ids.tolist()
    for name in ("offsets", "t", "lon", "lat"):
        np.testing.assert_array_equal(getattr(points, name), getattr(expected, name))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", [1, 7, 25])
def test_batches_give_the_trips_of_the_whole(order, size, monkeypatch):
    monkeypatch.setattr(gps_rows, "BATCH_POINTS", 15)
    table = frame(order)
    rows = PointRows(*(table[name].to_numpy() for name in ("trip_id", "vehicle_id", "time", "lon", "lat")))
    whole, counts = list(whole_trips(lambda: iter([rows]), Counter())), Counter()
    parts = list(whole_trips(lambda: (rows.take(slice(k, k + size)) for k in range(0, len(table), size)), counts))
    assert len(whole) == 1
    assert_equal(concatenate_points(parts), whole[0])
    assert counts == {"points_read": len(table), "invalid_points": 0}
    # a batch, the largest trip, or a temporary file
    assert max(part.num_points for part in parts) <= max(size + 25, 45) < len(table)


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "parquet"])
@pytest.mark.parametrize("order", ORDERS)
def test_files_are_read_in_batches(order, suffix, tmp_path, monkeypatch):
    table, path = frame(order), tmp_path / f"points.{suffix}"
    table.to_parquet(path) if suffix == "parquet" else table.to_csv(path, index=False)
    settings = PointsConfig(path=str(path), time_zone="UTC", columns={"trip_id": "trip_id"})
    whole = concatenate_points(list(read_points(settings, Counter())))
    monkeypatch.setattr(gps_tables, "BLOCK_BYTES", 400)
    monkeypatch.setattr(gps_tables, "BATCH_ROWS", 9)
    monkeypatch.setattr("hoser_kd.network.gps_readers.BATCH_POINTS", 10)
    parts = list(read_points(settings, Counter()))
    assert len(parts) > 2 or order != "grouped"
    assert_equal(concatenate_points(parts), whole)


def test_semicolons_decimal_commas_and_blanks(tmp_path):
    table = frame("grouped")
    plain, other = tmp_path / "points.csv", tmp_path / "punkte.csv"
    table.to_csv(plain, index=False)
    table.rename(columns={"lon": " lon", "trip_id": "Fahrt"}).to_csv(other, index=False, sep=";", decimal=",")
    settings = [
        PointsConfig(path=str(path), time_zone="UTC", columns={"trip_id": name})
        for path, name in ((plain, "trip_id"), (other, "Fahrt"))
    ]
    expected, points = (concatenate_points(list(read_points(each, Counter()))) for each in settings)
    assert_equal(points, expected)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("t9;v;1372636800;east;41.1", r"points\.csv, row 60: lon is 'east', not a number"),
        ("t9;v;soon;-8.6;41.1", r"points\.csv, row 60: time is 'soon', not a time"),
        ("t9;v;1372636800", r"points\.csv: cannot be read as CSV: .*Expected 5 columns, got 3"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_row_in_the_file(line, message, tmp_path, monkeypatch):
    path = tmp_path / "points.csv"
    frame("grouped").to_csv(path, index=False, sep=";")
    path.write_text(path.read_text() + line + "\n")
    monkeypatch.setattr(gps_tables, "BLOCK_BYTES", 400)
    with pytest.raises(DataError, match=message):
        list(read_points(PointsConfig(path=str(path), time_zone="UTC", columns={"trip_id": "trip_id"}), Counter()))


def test_points_without_a_trip_are_counted(tmp_path):
    table = frame("grouped")
    table.loc[[3, 4], "trip_id"] = None
    table.to_csv(tmp_path / "points.csv", index=False)
    counts: Counter[str] = Counter()
    settings = PointsConfig(path=str(tmp_path / "points.csv"), time_zone="UTC", columns={"trip_id": "trip_id"})
    [points] = read_points(settings, counts)
    assert points.num_points == 58
    assert counts["invalid_points"] == 2
