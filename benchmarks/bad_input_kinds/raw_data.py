"""GPS points and OpenStreetMap extracts that are damaged, of another kind, or in other units."""

from __future__ import annotations

import gzip
import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bad_input_kinds.base import BadInput, written

TABLE = "trip_id,time,lon,lat\n"
POINTS = [f"a,2013-07-01T08:00:{second:02}Z,{-8.6 + second / 100_000:.5f},41.15\n" for second in (0, 15, 30, 45)]
ECML = "TRIP_ID,TAXI_ID,TIMESTAMP,MISSING_DATA,POLYLINE\n"
GPX = (
    '<?xml version="1.0"?><gpx version="1.1" creator="x" xmlns="http://www.topografix.com/GPX/1/1"><trk><trkseg>'
    "{points}</trkseg></trk></gpx>"
)


def bad_points() -> Iterator[BadInput]:
    """Yield files of GPS points that are no such files, or hold other values."""
    good = TABLE + "".join(POINTS)
    same = ([1372665600.0, 1372665615.0, 1372665630.0, 1372665645.0], [-8.6, -8.59985, -8.5997, -8.59955], [41.15] * 4)

    def points(content: str | bytes, name: str = "p.csv", **settings: Any) -> Callable[[Path], Any]:
        raw = content if isinstance(content, bytes) else content.encode()
        return lambda folder: _read_points(written(folder / name, raw), **settings)

    yield BadInput("gps", "a valid table", points(good), same)
    yield BadInput("gps", "line ends of Windows", points(good.replace("\n", "\r\n")), same)
    yield BadInput("gps", "semicolons", points(good.replace(",", ";")), same)
    yield BadInput("gps", "compressed", points(gzip.compress(good.encode()), "p.csv.gz"), same)
    wrong: dict[str, str | bytes] = {
        "empty": "",
        "a header alone": TABLE,
        "zeros": bytes(300),
        "UTF-16": good.encode("utf-16"),
        "a row cut": good[:-20],
        "no time column": good.replace("time", "when"),
        "no trips or vehicles": good.replace("trip_id", "ride"),
        "a column twice": good.replace("lat\n", "lat,lat\n", 1).replace("41.15\n", "41.15,41.15\n"),
        "JSON": json.dumps({"points": [1]}),
        "latitude and longitude exchanged": TABLE
        + "".join(",".join((row.split(",")[0], row.split(",")[1], "100.5", "-98.6")) + "\n" for row in POINTS),
    }
    for label, content in wrong.items():
        yield BadInput("gps", label, points(content))
    yield BadInput("gps", "compressed under the name .csv", points(gzip.compress(good.encode())))
    yield BadInput("gps", "a .gz that is cut", points(gzip.compress(good.encode())[:-12], "p.csv.gz"))
    for column, value in (
        ("time", "x"),
        ("time", "2013-13-01T00:00:00Z"),
        ("time", ""),
        ("time", "08:00"),
        ("time", "1e300"),
        ("time", "-5"),
        ("lon", "x"),
        ("lon", "-8,6"),
        ("lon", "1e400"),
        ("lat", "4115"),
        ("lat", "nan"),
        ("lat", "0x29"),
    ):
        row = POINTS[0].strip().split(",")
        row[TABLE.strip().split(",").index(column)] = f'"{value}"'
        yield BadInput("gps", f"{column} = {value!r}", points(TABLE + ",".join(row) + "\n" + "".join(POINTS[1:])))
    for label, name in (("no Parquet", "p.parquet"), ("no known ending", "p.xlsx"), ("no GeoParquet", "p.geoparquet")):
        yield BadInput("gps", label, points(good, name))
    for name in ("t_drive", "didi", "gpx", "libcity_dyna", "ecml_pkdd"):
        ending = {"t_drive": "txt", "didi": "txt", "gpx": "gpx", "libcity_dyna": "dyna", "ecml_pkdd": "csv"}[name]
        for label, content in (
            ("a table of points", good.encode()),
            ("zeros", bytes(300)),
            ("random bytes", np.random.default_rng(0).bytes(300)),
            ("UTF-16", good.encode("utf-16")),
            ("HTML", b"<!DOCTYPE html><html><body>404</body></html>"),
        ):
            yield BadInput("gps", f"{name}: {label}", points(content, f"p.{ending}", format=name))
    for label, row in (
        ("TIMESTAMP is text", '1,2,x,False,"[[-8.6,41.1],[-8.61,41.1]]"'),
        ("TIMESTAMP in milliseconds", '1,2,1372636858000,False,"[[-8.6,41.1],[-8.61,41.1]]"'),
        ("POLYLINE with one number", '1,2,1372636858,False,"[[-8.6]]"'),
        ("POLYLINE with text", '1,2,1372636858,False,"[[a,b]]"'),
        ("POLYLINE without quotes", "1,2,1372636858,False,[[-8.6,41.1],[-8.61,41.1]]"),
        ("POLYLINE as [lat, lon]", '1,2,1372636858,False,"[[141.1,-98.6],[141.1,-98.61]]"'),
        ("an open quotation mark", '1,2,1372636858,False,"[[-8.6,41.1]'),
    ):
        yield BadInput("gps", f"ecml_pkdd: {label}", points(ECML + row + "\n", format="ecml_pkdd"))
    point = '<trkpt lat="{lat}" lon="{lon}">{time}</trkpt>'
    for label, values in (
        ("no times", {"lat": 41.1, "lon": -8.6, "time": ""}),
        ("a latitude of 4110", {"lat": 4110, "lon": -8.6, "time": "<time>2013-07-01T08:00:00Z</time>"}),
        ("a latitude that is text", {"lat": "x", "lon": -8.6, "time": "<time>2013-07-01T08:00:00Z</time>"}),
        ("a time that is text", {"lat": 41.1, "lon": -8.6, "time": "<time>yesterday</time>"}),
    ):
        text = GPX.format(points=point.format(**values) * 4)
        yield BadInput("gps", f"gpx: {label}", points(text, "p.gpx", format="gpx"))
    yield BadInput("gps", "gpx: cut", points(GPX.format(points=point)[:-30], "p.gpx", format="gpx"))
    bomb = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">' + "".join(
        f'<!ENTITY {chr(98 + k)} "{f"&{chr(97 + k)};" * 10}">' for k in range(9)
    )
    yield BadInput("gps", "gpx: an entity bomb", points(f"{bomb}]><gpx>&j;</gpx>", "p.gpx", format="gpx"))
    yield BadInput("gps", "an empty folder", _read_points)
    yield BadInput("gps", "no such file", lambda folder: _read_points(folder / "none.csv"))


def _read_points(path: Path, **settings: Any) -> Any:
    """Read and clean points as the stage `gps_points` does; returns the times, longitudes and latitudes."""
    from hoser_kd.common.errors import DataError, DataWarning
    from hoser_kd.config.raw_data import PointsConfig
    from hoser_kd.network.gps_cleaning import clean
    from hoser_kd.network.gps_points import concatenate_points
    from hoser_kd.network.gps_readers import read_points

    if settings.get("format", "table") == "table":
        settings = {"columns": {"trip_id": "trip_id"}, **settings}
    given = PointsConfig(path=str(path), time_zone="Etc/UTC", standing_m=0, min_length_m=0, min_points=2, **settings)
    counts: Counter[str] = Counter()
    points = concatenate_points([clean(each, given, counts) for each in read_points(given, counts)])
    if points.num_points == 0:  # as the stage does
        raise DataError(path, f"no trip is left after cleaning: {dict(counts)}.")
    if counts["invalid_points"]:  # the stage's summary has the number
        warnings.warn(f"{counts['invalid_points']} invalid points are left out", DataWarning, stacklevel=1)
    return points.t.tolist(), np.round(points.lon, 6).tolist(), np.round(points.lat, 6).tolist()


def bad_maps() -> Iterator[BadInput]:
    """Yield OpenStreetMap extracts that are no such files, or have no usable roads."""
    nodes = [{"type": "node", "id": i, "lon": -8.6 + 0.002 * i, "lat": 41.1} for i in range(1, 5)]
    way = {"type": "way", "id": 10, "nodes": [1, 2, 3, 4], "tags": {"highway": "residential"}}

    def overpass(*elements: Any, name: str = "m.json", **settings: Any) -> Callable[[Path], Any]:
        return file(json.dumps({"elements": list(elements)}).encode(), name, **settings)

    def file(content: bytes, name: str = "m.osm", **settings: Any) -> Callable[[Path], Any]:
        return lambda folder: _read_map(written(folder / name, content), **settings)

    yield BadInput("osm", "a valid answer", overpass(*nodes, way), [(1, 4), (4, 1)])
    for label, content, name in (
        ("empty", b"", "m.osm"),
        ("zeros", bytes(500), "m.osm.pbf"),
        ("zeros", bytes(500), "m.osm"),
        ("random bytes", np.random.default_rng(0).bytes(500), "m.osm.pbf"),
        ("HTML", b"<!DOCTYPE html><html><body>404</body></html>", "m.osm"),
        ("an error of Overpass", b'{"remark": "runtime error: timeout"}', "m.json"),
        ("a list", b"[1, 2]", "m.json"),
        ("a number", b"3", "m.json"),
        ("elements that are numbers", b'{"elements": [1, 2]}', "m.json"),
        ("elements that are null", b'{"elements": null}', "m.json"),
        ("XML cut", b'<?xml version="1.0"?><osm version="0.6"><node id="1" lon="1"', "m.osm"),
        ("a GeoJSON", b'{"type": "FeatureCollection", "features": []}', "m.json"),
        ("a shapefile", b"\x00\x00'\n", "m.shp"),
        ("no gzip", b'{"elements": []}', "m.json.gz"),
        ("XML as .pbf", b'<?xml version="1.0"?><osm version="0.6"></osm>', "m.osm.pbf"),
    ):
        yield BadInput("osm", f"{name}: {label}", file(content, name))
    for label, change in (
        ("no nodes", ()),
        ("a longitude of 181", ({**nodes[0], "lon": 181}, *nodes[1:])),
        ("a longitude of NaN", ({**nodes[0], "lon": float("nan")}, *nodes[1:])),
        ("a longitude that is text", ({**nodes[0], "lon": "west"}, *nodes[1:])),
        ("an id that is text", ({**nodes[0], "id": "x"}, *nodes[1:])),
        ("an id of 2^70", ({**nodes[0], "id": 2**70}, *nodes[1:])),
        ("a node without a place", ({"type": "node", "id": 1}, *nodes[1:])),
        ("a node twice at different places", (*nodes, {**nodes[0], "lon": 8.6})),
    ):
        yield BadInput("osm", label, overpass(*change, way))
    for label, values in (
        ("a way without nodes", {"nodes": []}),
        ("a way with one node", {"nodes": [1]}),
        ("a way with text as a node", {"nodes": [1, "x"]}),
        ("a way with unknown nodes", {"nodes": [91, 92]}),
        ("a way through one place", {"nodes": [1, 1, 1]}),
        ("tags as a list", {"tags": ["highway"]}),
        ("no tags", {"tags": {}}),
        ("a footway", {"tags": {"highway": "footway"}}),
        ("a class that is a number", {"tags": {"highway": 3}}),
    ):
        yield BadInput("osm", label, overpass(*nodes, {**way, **values}))
    far = {"min_lat": 0.0, "min_lng": 0.0, "max_lat": 1.0, "max_lng": 1.0}
    yield BadInput("osm", "bounds elsewhere", overpass(*nodes, way, bounds=far))
    for label, text in (
        ("no polygon", '{"type": "Point", "coordinates": [0, 0]}'),
        ("no JSON", "{"),
        ("a polygon elsewhere", '{"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]}'),
        ("a polygon of two points", '{"type": "Polygon", "coordinates": [[[0, 0], [1, 0]]]}'),
        ("an empty collection", '{"type": "FeatureCollection", "features": []}'),
    ):
        yield BadInput("osm", f"polygon: {label}", _with_polygon(overpass, (*nodes, way), text))
    yield BadInput("osm", "no such file", lambda folder: _read_map(folder / "none.osm.pbf"))


def _with_polygon(overpass: Any, elements: Any, text: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        area = written(folder / "area.geojson", text.encode())
        return overpass(*elements, polygon=str(area))(folder)

    return read


def _read_map(path: Path, **settings: Any) -> Any:
    from hoser_kd.config.raw_data import MapConfig
    from hoser_kd.network.osm.extract import read_osm
    from hoser_kd.network.osm.roads import build_roads

    roads = build_roads(read_osm(MapConfig(path=str(path), **settings)))
    return sorted(zip(roads.start_node.tolist(), roads.end_node.tolist(), strict=True))
