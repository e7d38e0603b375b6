"""GPS points: the Parquet schema, the readers of all formats, times, and the cleaning."""

from __future__ import annotations

import gzip
from collections import Counter

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hoser_kd.common.calendar import utc_offset_s
from hoser_kd.common.errors import ConfigError, DataError
from hoser_kd.config.raw_data import POINT_FORMATS, PointsConfig
from hoser_kd.network.gcj02 import to_gcj02, to_wgs84
from hoser_kd.network.gps_cleaning import clean
from hoser_kd.network.gps_points import SCHEMA, GpsPoints, PointsFile, concatenate_points, write_points
from hoser_kd.network.gps_readers import READERS, read_points, trips_are_days

START = 1_372_636_858
"""2013-07-01 00:00:58 UTC, 01:00:58 in Lisbon."""
LON, LAT = -8.62, 41.15
METER = 1 / 111_195
"""Degrees of latitude."""


def settings(path, **values):
    return PointsConfig(**{"path": str(path), "time_zone": "Europe/Lisbon", **values})


def read(path, **values):
    """Return the trips of a file and what was counted."""
    counts = Counter()
    return concatenate_points(list(read_points(settings(path, **values), counts))), counts


def trip(t, meters, trip_ids=("a",), offsets=None):
    """Return trips to the north, with the points at these seconds and meters."""
    t, north = np.asarray(t, np.float64), np.asarray(meters, np.float64) * METER
    offsets = np.array([0, len(t)]) if offsets is None else np.asarray(offsets)
    ids = np.array(trip_ids, object)
    return GpsPoints(offsets, ids, np.full(len(ids), "v", object), START + t, np.full(len(t), LON), LAT + north)


def cleaned(points, **values):
    counts = Counter()
    given = {"min_points": 2, "min_length_m": 0, "standing_m": 0, **values}
    return clean(points, settings("x", **given), counts), counts


def seconds(points):
    """Return the seconds of each trip's points."""
    return [(points.t[a:b] - START).tolist() for a, b in zip(points.offsets[:-1], points.offsets[1:], strict=True)]


def test_points_survive_their_file_batch_by_batch(tmp_path):
    first = trip([0, 15.25, 30, 0, 15], [0, 100, 200, 0, 50], ("a", "a"), [0, 3, 5])
    second = trip([0, 9], [0, 9], ("b",))
    assert first.parts.tolist() == [0, 1]
    assert write_points(tmp_path / "points.parquet", [first, first.take(np.zeros(0, np.int64)), second]) == 3
    file = PointsFile(tmp_path / "points.parquet")
    assert len(file) == 2
    whole = file.all()
    assert pq.read_schema(tmp_path / "points.parquet").equals(SCHEMA)
    assert whole.trip_ids.tolist() == ["a", "a", "b"]
    assert file.batch(1).trip_ids.tolist() == ["b"]
    for name in ("offsets", "t", "lon", "lat"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(concatenate_points([first, second]), name))
    assert whole.start_times.tolist() == [START] * 3


def test_a_file_of_the_schema_needs_no_parts(tmp_path):
    pq.write_table(trip([0, 15], [0, 9]).to_table().drop(["part"]), tmp_path / "points.parquet")
    assert len(PointsFile(tmp_path / "points.parquet").all()) == 1
    pq.write_table(trip([0, 15], [0, 9]).to_table().drop(["lon"]), tmp_path / "points.parquet")
    with pytest.raises(DataError, match=r"column lon is missing"):
        PointsFile(tmp_path / "points.parquet")


ECML = """TRIP_ID,TAXI_ID,TIMESTAMP,MISSING_DATA,POLYLINE
T1,20000589,1372636858,False,"[[-8.618643,41.141412],[-8.618499, 41.141376]]"
T2,20000589,1372636900,False,"[]"
T3,20000589,1372636900,True,"[[-8.6,41.1],[-8.6,41.1]]"
T4,20000590,1372637000,False,"[[-8.7,41.2]]"
"""


@pytest.mark.parametrize("name", ["trips.csv", "trips.csv.gz"])
def test_the_ecml_challenge(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(ECML.encode()) if name.endswith("gz") else ECML.encode())
    points, counts = read(tmp_path / name, format="ecml_pkdd")
    assert points.trip_ids.tolist() == ["T1", "T4"]
    assert points.vehicle_ids.tolist() == ["20000589", "20000590"]
    assert points.t.tolist() == [1372636858, 1372636873, 1372637000]
    assert points.lon.tolist() == [-8.618643, -8.618499, -8.7]
    assert points.lat.tolist() == [41.141412, 41.141376, 41.2]
    assert (counts["trips_read"], counts["trips_with_missing_data"], counts["trips_without_points"]) == (4, 1, 1)
    assert read(tmp_path / name, format="ecml_pkdd", interval_s=10)[0].t[1] == 1372636868


@pytest.mark.parametrize("polyline", ["[[-8.6,41.1],[-8.6]]", "[[-8.6,north]]"])
def test_a_wrong_polyline_is_named_with_its_row(tmp_path, polyline):
    (tmp_path / "trips.csv").write_text(ECML + f'T5,1,1372637000,False,"{polyline}"\n')
    with pytest.raises(DataError, match=r"trips\.csv, row 4: POLYLINE is not a list"):
        read(tmp_path / "trips.csv", format="ecml_pkdd")


def frame(times):
    """Two trips whose rows are mixed, as a table."""
    return pd.DataFrame(
        {"ride": ["b", "a", "b", "a"], "cab": [7, 8, 7, 8], "ts": times, "x": [1.0, 2, 3, 4], "y": [5.0, 6, 7, 8]}
    )


NAMES = {"trip_id": "ride", "vehicle_id": "cab", "time": "ts", "lon": "x", "lat": "y"}
TIMES = {
    "seconds": ([START + k for k in (0, 1, 2, 3)], {}),
    "milliseconds": ([1000 * (START + k) for k in (0, 1, 2, 3)], {"time_unit": "ms"}),
    "with Z": ([f"2013-07-01T00:00:{58 + k}Z" if k < 2 else f"2013-07-01T00:01:0{k - 2}Z" for k in range(4)], {}),
    "with offset": (
        [
            "2013-07-01 01:00:58+01:00",
            "2013-07-01 01:00:59+01:00",
            "2013-07-01 01:01:00+01:00",
            "2013-07-01 02:01:01+02:00",
        ],
        {},
    ),
    "local": (["2013-07-01 01:00:58", "2013-07-01 01:00:59", "2013-07-01 01:01:00", "2013-07-01 01:01:01"], {}),
    "naive UTC": (
        ["2013-07-01 00:00:58", "2013-07-01T00:00:59", "2013-07-01 00:01:00.0", "2013-07-01 00:01:01"],
        {"naive_times": "utc"},
    ),
    "format": (
        ["01/07/2013 01:00:58", "01/07/2013 01:00:59", "01/07/2013 01:01:00", "01/07/2013 01:01:01"],
        {"time_format": "%d/%m/%Y %H:%M:%S"},
    ),
}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("kind", TIMES)
def test_tables_with_any_times_are_the_same_points(tmp_path, kind, suffix):
    times, given = TIMES[kind]
    table = frame(times)
    file = tmp_path / f"points{suffix}"
    table.to_csv(file, index=False) if suffix == ".csv" else table.to_parquet(file)
    points, counts = read(file, columns=NAMES, **given)
    assert points.trip_ids.tolist() == ["b", "a"]
    assert points.vehicle_ids.tolist() == ["7", "8"]
    assert points.t.tolist() == [START, START + 2, START + 1, START + 3]
    assert points.lon.tolist() == [1, 3, 2, 4]
    assert counts["points_read"] == 4


@pytest.mark.parametrize("zone", [None, "Europe/Lisbon"])
def test_timestamps_of_parquet_are_local_unless_they_have_a_zone(tmp_path, zone):
    stamps = pd.to_datetime([START + 3600 * (zone is None) + k for k in range(4)], unit="s", utc=zone is not None)
    frame(stamps if zone is None else stamps.tz_convert(zone)).to_parquet(tmp_path / "points.parquet")
    assert read(tmp_path / "points.parquet", columns=NAMES)[0].t.tolist() == [START, START + 2, START + 1, START + 3]


@pytest.mark.parametrize(
    ("times", "given", "message"),
    [
        ([1000 * START] * 4, {}, r"row 0: ts is 1372636858000, which in s is no time.*time_unit"),
        (["2013-07-01 01:00:58", "yesterday", "x", "x"], {}, r"row 1: ts is 'yesterday', not a time in ISO 8601"),
        (["01.07.2013"] * 4, {"time_format": "%d/%m/%Y"}, r"row 0: ts is '01\.07\.2013', not a time in the format"),
        (["2013-07-01T00:00:58Z", "2013-07-01T00:00:58", "x", "x"], {}, r"row 2: ts is 'x'"),
        (["2013-07-01T00:00:58Z"] * 3 + ["2013-07-01T00:00:58"], {}, r"row 3: ts has no UTC offset, but other rows"),
    ],
)
def test_times_that_cannot_be_read_are_named_with_their_row(tmp_path, times, given, message):
    frame(times).to_csv(tmp_path / "points.csv", index=False)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "points.csv", columns=NAMES, **given)


def test_geoparquet_is_converted_to_wgs84(tmp_path):
    import geopandas

    places = geopandas.points_from_xy([LON, LON + 0.001], [LAT, LAT], crs="EPSG:4326").to_crs("EPSG:3857")
    geopandas.GeoDataFrame({"ride": ["a", "a"], "ts": [START, START + 15]}, geometry=places).to_parquet(
        tmp_path / "p.parquet"
    )
    points, _ = read(tmp_path / "p.parquet", columns={"trip_id": "ride", "time": "ts", "geometry": "geometry"})
    np.testing.assert_allclose(points.lon, [LON, LON + 0.001], atol=1e-9)
    assert points.vehicle_ids.tolist() == [""]


def test_without_trips_each_vehicle_and_local_day_is_one(tmp_path):
    midnight = START - 58 + 23 * 3600  # of Lisbon
    table = pd.DataFrame(
        {
            "vehicle_id": ["v"] * 4,
            "time": [midnight - 20, midnight - 5, midnight, midnight + 15],
            "lon": LON,
            "lat": LAT,
        }
    )
    table.to_csv(tmp_path / "points.csv", index=False)
    points, _ = read(tmp_path / "points.csv")
    assert points.trip_ids.tolist() == ["v/2013-07-01", "v/2013-07-02"]
    assert trips_are_days(settings("x"))
    assert not trips_are_days(settings("x", columns={"trip_id": "id"}))


TABLE = "trip_id,vehicle_id,time,lon,lat\n1,7,1372665600,-8.6,41.15\n1,7,1372665615,-8.59985,41.15\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "p.csv",
            TABLE.replace("lat\n", "lat,lat\n").replace("41.15\n", "41.15,41.15\n").encode(),
            "lat is there twice",
        ),
        ("p.csv", TABLE.encode("utf-16"), "is text in UTF-16"),
        ("p.csv", gzip.compress(TABLE.encode()), "is compressed with gzip"),
        ("p.csv.gz", gzip.compress(TABLE.encode() * 50)[:-12], "cannot be read"),
        ("p.parquet", TABLE.encode(), "cannot be read as Parquet"),
    ],
)
def test_damaged_tables_and_other_encodings_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / name, format="table")


def test_columns_that_are_missing_are_named(tmp_path):
    frame([START] * 4).to_csv(tmp_path / "points.csv", index=False)
    with pytest.raises(DataError, match=r"no column of trips or vehicles\. Columns: ride, cab, ts, x, y\..*columns"):
        read(tmp_path / "points.csv")
    with pytest.raises(DataError, match=r"column lon \(lon\), lat \(lat\) is missing\. Columns are ride"):
        read(tmp_path / "points.csv", columns={"trip_id": "ride", "time": "ts"})


def test_nyc_tlc_is_refused_by_name_and_by_its_columns(tmp_path):
    with pytest.raises(ConfigError, match=r"format`: trip records of NYC TLC hold only origin and destination"):
        PointsConfig(format="nyc_tlc")
    (tmp_path / "yellow.csv").write_text("tpep_pickup_datetime,PULocationID,DOLocationID\n2024-01-01,1,2\n")
    with pytest.raises(DataError, match="trip records of NYC TLC hold only origin and destination"):
        read(tmp_path / "yellow.csv", columns={"trip_id": "PULocationID"})


def test_t_drive(tmp_path):
    (tmp_path / "10.txt").write_text(
        "10,2008-02-02 15:36:08,116.51172,39.92123\n10,2008-02-03 00:36:08,116.51135,39.93883\n"
    )
    (tmp_path / "2.txt").write_text("2,2008-02-02 15:36:08,116.5,39.9\n")
    (tmp_path / "3.txt").write_text("")
    points, counts = read(tmp_path, format="t_drive", time_zone="Asia/Shanghai")
    assert points.trip_ids.tolist() == ["10/2008-02-02", "10/2008-02-03", "2/2008-02-02"]
    assert points.t[0] == pd.Timestamp("2008-02-02T15:36:08+08:00").timestamp()
    assert counts["points_read"] == 3


def test_didi_is_converted_from_gcj02(tmp_path):
    lon, lat = to_gcj02(np.array([104.06]), np.array([30.67]))
    (tmp_path / "gps_20161101").write_text(f"d,o,1477969147,{lon[0]},{lat[0]}\nd,o,1477969150,{lon[0]},{lat[0]}\n")
    points, _ = read(tmp_path / "gps_20161101", format="didi", time_zone="Asia/Shanghai")
    np.testing.assert_allclose([points.lon[0], points.lat[0]], [104.06, 30.67], atol=1e-8)
    assert (points.trip_ids.tolist(), points.vehicle_ids.tolist()) == (["o"], ["d"])
    shifted, _ = read(tmp_path / "gps_20161101", format="didi", time_zone="Asia/Shanghai", coordinates="wgs84")
    assert shifted.lon[0] == lon[0]


def test_gcj02_has_its_known_values_and_an_inverse():
    lon, lat = to_gcj02(np.array([116.404]), np.array([39.915]))
    np.testing.assert_allclose([lon[0], lat[0]], [116.41024449916938, 39.91640428150164], atol=1e-9)
    np.testing.assert_allclose(np.ravel(to_wgs84(lon, lat)), [116.404, 39.915], atol=1e-9)


def test_libcity_dyna(tmp_path):
    rows = [
        '0,trajectory,2013-07-01T00:00:58Z,5,0,"[-8.62,41.15]"',
        '1,trajectory,2013-07-01T00:01:13Z,5,0,"[-8.63, 41.16]"',
    ]
    rows.append('2,trajectory,2013-07-01T00:00:58Z,5,1,"[-8.62,41.15]"')
    (tmp_path / "city.dyna").write_text("dyna_id,type,time,entity_id,traj_id,coordinates\n" + "\n".join(rows) + "\n")
    points, _ = read(tmp_path / "city.dyna", format="libcity_dyna")
    assert points.trip_ids.tolist() == ["5/0", "5/1"]
    assert points.t.tolist() == [START, START + 15, START]
    assert points.lat.tolist() == [41.15, 41.16, 41.15]
    (tmp_path / "city.dyna").write_text("dyna_id,type,time,entity_id,location\n0,trajectory,2013-07-01T00:00:58Z,5,7\n")
    with pytest.raises(DataError, match=r"column coordinates is missing.*holds roads"):
        read(tmp_path / "city.dyna", format="libcity_dyna")


GPX = """<?xml version="1.0"?><gpx version="1.1" creator="t" xmlns="http://www.topografix.com/GPX/1/1"><trk>
<trkseg><trkpt lat="41.15" lon="-8.62"><time>2013-07-01T00:00:58Z</time></trkpt>
<trkpt lat="41.16" lon="-8.62"><time>2013-07-01T00:01:13.5Z</time></trkpt>
<trkpt lat="41.17" lon="-8.62"></trkpt></trkseg>
<trkseg><trkpt lat="41.18" lon="-8.62"><time>2013-07-01T02:00:58+02:00</time></trkpt></trkseg></trk></gpx>"""


def test_gpx(tmp_path):
    (tmp_path / "ride.gpx").write_text(GPX)
    points, counts = read(tmp_path, format="gpx")
    assert points.trip_ids.tolist() == ["ride/0/0", "ride/0/1"]
    assert points.t.tolist() == [START, START + 15.5, START]
    assert points.lat.tolist() == [41.15, 41.16, 41.18]
    assert counts["invalid_points"] == 1
    (tmp_path / "ride.gpx").write_text("no")
    with pytest.raises(DataError, match="cannot be read as GPX"):
        read(tmp_path, format="gpx")


def test_files_that_are_missing_or_of_another_kind_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no such file or folder.*source\.points\.path"):
        read(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match="no files of the format gpx"):
        read(tmp_path, format="gpx")
    (tmp_path / "points.shp").write_text("")
    with pytest.raises(DataError, match="neither CSV nor Parquet"):
        read(tmp_path / "points.shp")
    with pytest.raises(ConfigError, match=r"unknown format 'gps'\. Known: table, ecml_pkdd"):
        PointsConfig(format="gps")
    with pytest.raises(ConfigError, match="not a time zone"):
        PointsConfig(time_zone="Lisbon")


def test_every_format_has_a_reader():
    assert list(READERS) == list(POINT_FORMATS)


def test_local_times_follow_the_zone_through_clock_changes():
    changes = np.array([1364691599, 1364691600], np.int64)  # 31 March 2013, 01:00 UTC
    assert utc_offset_s(changes, "Europe/Lisbon").tolist() == [0, 3600]


def test_duplicates_order_and_invalid_points_are_counted():
    points = trip([0, 30, 15, 15, 45, 60], [0, 30, 15, 15, 45, 60])
    points.lat[4] = np.nan
    points.lon[5] = points.lat[5] = 0
    kept, counts = cleaned(points)
    assert seconds(kept) == [[0, 15, 30]]
    expected = {"invalid_points": 2, "points_out_of_order": 1, "duplicate_points": 1}
    assert {key: counts[key] for key in expected} == expected


@pytest.mark.parametrize("at", [0, 2, 5])
def test_a_jump_is_removed_wherever_it_is(at):
    meters = np.arange(6) * 100.0
    meters[at] += 5000
    kept, counts = cleaned(trip(np.arange(6) * 15, meters))
    assert seconds(kept) == [[15.0 * k for k in range(6) if k != at]]
    assert counts["jumps_removed"] == 1


def test_a_trip_is_cut_at_a_leap_that_does_not_return_and_at_gaps():
    kept, counts = cleaned(trip(np.arange(6) * 15, [0, 100, 200, 9000, 9100, 9200]))
    assert seconds(kept) == [[0, 15, 30], [45, 60, 75]]
    assert kept.trip_ids.tolist() == ["a", "a"]
    assert kept.parts.tolist() == [0, 1]
    assert counts["cuts_at_jumps"] == 1
    kept, counts = cleaned(trip([0, 15, 1000, 1015], [0, 100, 200, 300]))
    assert seconds(kept) == [[0, 15], [1000, 1015]]
    assert counts["cuts_at_gaps"] == 1


def test_standing_ends_keep_the_point_next_to_the_drive():
    meters = [0, 5, 3, 100, 200, 300, 305, 302]
    kept, counts = cleaned(trip(np.arange(8) * 15, meters), standing_m=20)
    assert seconds(kept) == [[30, 45, 60, 75]]
    assert counts["standing_points"] == 4


def test_days_of_a_vehicle_are_cut_at_stops():
    t = [0, 15, 30, 300, 700, 715, 730]
    meters = [0, 100, 200, 205, 203, 300, 400]
    kept, counts = cleaned(trip(t, meters), standing_m=20, max_stop_s=600, max_gap_s=900)
    assert seconds(kept) == [[0, 15, 30], [700, 715, 730]]
    assert (counts["cuts_at_stops"], counts["points_in_stops"]) == (1, 1)
    given = settings("x", min_points=2, min_length_m=0, max_gap_s=900)
    assert len(clean(trip(t, meters), given, Counter())) == 1
    assert len(clean(trip(t, meters), given, Counter(), by_day=True)) == 2


def test_trips_that_are_too_short_are_left_out():
    points = trip([0, 15, 30, 0, 15, 30], [0, 300, 600, 0, 30, 60], ("a", "b"), [0, 3, 6])
    kept, counts = cleaned(points, min_length_m=200)
    assert kept.trip_ids.tolist() == ["a"]
    assert counts["trips_too_short"] == 1
    assert len(cleaned(points, min_points=4)[0]) == 0


def test_nothing_is_lost_of_no_points():
    empty = trip([0, 15], [0, 9]).take(np.zeros(0, np.int64))
    kept, _ = cleaned(empty, standing_m=20, max_stop_s=100)
    assert len(kept) == 0
    assert pa.types.is_timestamp(kept.to_table().schema.field("t").type)
