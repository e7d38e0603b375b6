"""Settings of a city that is made of raw data: an OpenStreetMap extract and GPS points (`source.kind: raw`)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self
from zoneinfo import available_timezones

from pydantic import AfterValidator, Field, model_validator

from hoser_kd.config.bounds import Bounds
from hoser_kd.config.section import Section

RAW_SECTIONS = ("map", "points", "matching", "split")
"""Sections of `source` that kind raw reads; the other kinds do not depend on them."""

DRIVABLE = (
    "motorway",
    "motorway_link",
    "trunk",
    "trunk_link",
    "primary",
    "primary_link",
    "secondary",
    "secondary_link",
    "tertiary",
    "tertiary_link",
    "unclassified",
    "residential",
    "living_street",
)
"""Classes of OpenStreetMap that cars drive on, without service ways and tracks."""


class MapConfig(Section):
    """The OpenStreetMap extract, and which of its ways become roads."""

    example: ClassVar[str] = "{path: raw/porto.osm.pbf}"

    path: str | None = None
    """OpenStreetMap extract: `.osm.pbf`, `.osm` (also `.gz`, `.bz2`), or an Overpass answer (`.json`, `.json.gz`)."""
    highways: tuple[str, ...] = DRIVABLE
    """Values of `highway` that become roads. `service` adds driveways and parking lots."""
    excluded_access: tuple[str, ...] = ("no", "private", "agricultural", "forestry")
    """Values of `motorcar`, `motor_vehicle`, `vehicle` or `access` (the first that a way has) that exclude a way."""
    bounds: Bounds | None = None
    """Rectangle to which the roads are clipped. None: the whole extract."""
    polygon: str | None = None
    """GeoJSON file with a polygon to which the roads are clipped, in EPSG:4326."""

    @model_validator(mode="after")
    def _one_area(self) -> Self:
        if self.bounds is not None and self.polygon is not None:
            raise ValueError("set either bounds or polygon, not both")
        if not self.highways:
            raise ValueError("highways is empty, so no way becomes a road")
        return self


def _known_format(name: str) -> str:
    if name.lower().replace("-", "_") in ("nyc_tlc", "nyctlc", "tlc"):
        raise ValueError(
            "trip records of NYC TLC hold only origin and destination, no points between them, so no route can be "
            "matched. Use them as requests: `generation.od_source: file`"
        )
    if name not in POINT_FORMATS:
        raise ValueError(f"unknown format {name!r}. Known: {', '.join(POINT_FORMATS)}")
    return name


def known_zone(name: str | None) -> str | None:
    """Return the name of a time zone. Raises ValueError if it is unknown."""
    if name is not None and name not in available_timezones():
        raise ValueError("not a time zone. Write it as Europe/Lisbon or Asia/Shanghai (IANA names)")
    return name


POINT_FORMATS = {
    "table": "CSV, Parquet or GeoParquet with one row per point, described by `columns`",
    "ecml_pkdd": "the CSV of the ECML/PKDD 2015 challenge (Porto): one row per trip, one point every 15 s",
    "t_drive": "T-Drive (Beijing): lines of taxi, time, longitude, latitude",
    "didi": "DiDi GAIA (Chengdu, Xi'an): lines of driver, order, Unix time, longitude, latitude, in GCJ-02",
    "gpx": "GPX: each track segment is a trip",
    "libcity_dyna": "LibCity's `.dyna` with a column `coordinates`, one row per point",
}
"""Names of `source.points.format`, with what they read."""


class PointsConfig(Section):
    """The GPS points, and how they are cleaned."""

    example: ClassVar[str] = "{path: raw/trips.csv.gz, format: ecml_pkdd, time_zone: Europe/Lisbon}"

    path: str | None = None
    """File with the points, or a folder whose files are read in the order of their names."""
    format: Annotated[str, AfterValidator(_known_format)] = "table"
    """table: CSV, Parquet or GeoParquet described by `columns`; ecml_pkdd, t_drive, didi, gpx, libcity_dyna: the data
    sets and formats of these names (docs/your_data.md)."""
    time_zone: Annotated[str | None, AfterValidator(known_zone)] = None
    """Time zone of the city, such as Europe/Lisbon. Trips have local times, as in HOSER; points are stored in UTC."""
    columns: dict[Literal["trip_id", "vehicle_id", "time", "lon", "lat", "geometry"], str] = Field(default_factory=dict)
    """Names of the columns of a table, where they differ: `{trip_id: ride, time: ts, lon: x, lat: y}`. `geometry` is a
    column of GeoParquet points, in place of lon and lat. Without trip_id, each vehicle and local day is a trip."""
    time_unit: Literal["s", "ms", "us"] = "s"
    """Unit of times that are numbers, since 1970-01-01 UTC."""
    time_format: str | None = None
    """Format of times that are text, such as `%d/%m/%Y %H:%M:%S`. None: ISO 8601."""
    naive_times: Literal["local", "utc"] = "local"
    """Meaning of times without a UTC offset: local times of `time_zone`, or UTC."""
    coordinates: Literal["wgs84", "gcj02"] | None = None
    """Datum of the coordinates. gcj02, of Chinese maps, is converted to WGS 84. None: gcj02 for didi, otherwise wgs84
    (GeoParquet: that of the file)."""
    interval_s: float = Field(15.0, gt=0)
    """Seconds between consecutive points (ecml_pkdd, which has no times of points)."""
    max_speed_m_s: float = Field(55.0, gt=0)
    """Points that a vehicle could reach only faster than this are removed as jumps, in meters per second."""
    max_gap_s: float = Field(600.0, gt=0)
    """A trip is cut where consecutive points are further apart in time, in seconds."""
    standing_m: float = Field(20.0, ge=0)
    """Points within this distance of the first or last point are removed from the ends of a trip, except one. 0: all
    points are kept."""
    max_stop_s: float | None = Field(None, gt=0)
    """A trip is cut where the vehicle stays within `standing_m` longer than this, in seconds. None: 600 where trips are
    days of a vehicle, otherwise never."""
    min_points: int = Field(3, ge=2)
    """Fewest points of a trip; shorter ones are left out."""
    min_length_m: float = Field(200.0, ge=0)
    """Smallest extent of a trip (diagonal of its bounding box), in meters; smaller ones are left out."""

    @model_validator(mode="after")
    def _columns_of_a_table(self) -> Self:
        if self.columns and self.format != "table":
            raise ValueError(f"columns describes a table, and format is {self.format}: remove it, or set format: table")
        return self


class SplitConfig(Section):
    """The division of matched trips into training, validation and test trips."""

    example: ClassVar[str] = "{by: date, shares: [0.7, 0.1, 0.2]}"

    by: Literal["date", "trip"] = "date"
    """date: whole local days, the first ones for training and the last ones for test; trip: at random, for data of
    fewer than three days. The pieces of one GPS trip stay together."""
    shares: tuple[float, float, float] = (0.7, 0.1, 0.2)
    """Shares of training, validation and test trips; with whole days they are met as closely as possible."""
    seed: int = 0
    """Random seed (by trip)."""
    remove_copies: bool = False
    """Remove validation and test trips that equal a trip of an earlier split in roads and times. They are counted in
    any case."""

    @model_validator(mode="after")
    def _positive_shares(self) -> Self:
        if min(self.shares) <= 0 or abs(sum(self.shares) - 1) > 1e-6:
            raise ValueError("shares are three positive numbers with sum 1")
        return self
