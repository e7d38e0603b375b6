"""Settings of a city whose roads and matched trips are files of another tool (`source.kind: import` and its kin)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from hoser_kd.config.raw_data import known_zone
from hoser_kd.config.section import Section

SPLIT_KEYS = ("train", "val", "test")
PATH_KEYS = ("folder", "roads", "connections", "trips", *SPLIT_KEYS)
"""Settings that name a file or folder."""
ColumnRole = Literal[
    "road_id",
    "geometry",
    "highway",
    "length",
    "from",
    "to",
    "origin",
    "destination",
    "roads",
    "times",
    "trip_id",
    "point_roads",
    "offset",
    "entity",
    "location",
    "time",
]


class FilesConfig(Section):
    """The roads and matched trips of another tool (docs/importing.md)."""

    example: ClassVar[str] = "{roads: edges.gpkg, trips: matched.csv, time_zone: Europe/Lisbon}"

    folder: str | None = None
    """Folder with one LibCity data set, in place of roads, connections and trips."""
    roads: str | None = None
    """Directed edges: `.geo`, CSV (also `.gz`), Parquet, GeoParquet, GeoPackage, GeoJSON, GraphML."""
    connections: str | None = None
    """Pairs of consecutive roads, such as `.rel`. None: roads that share a node follow each other."""
    trips: str | None = None
    """All trips, divided as `source.split` says."""
    train: str | None = None
    """Training trips; in place of trips, with val and test."""
    val: str | None = None
    """Validation trips."""
    test: str | None = None
    """Test trips."""
    time_zone: Annotated[str | None, AfterValidator(known_zone)] = None
    """Time zone of the city, such as Europe/Lisbon: Unix times and times with an offset become local times. None: they
    stay as they are."""
    columns: dict[ColumnRole, str] = Field(default_factory=dict)
    """Names of columns where they are unusual, by role: `{road_id: link, times: entered}`."""

    @model_validator(mode="after")
    def _one_way_to_name_files(self) -> Self:
        given = {key for key in PATH_KEYS if getattr(self, key) is not None}
        splits = given & set(SPLIT_KEYS)
        if "folder" in given and len(given) > 1:
            raise ValueError("set either folder, or roads and trips, not both")
        if "trips" in given and splits:
            raise ValueError("set either trips, or train, val and test, not both")
        if splits and len(splits) < len(SPLIT_KEYS):
            missing = ", ".join(key for key in SPLIT_KEYS if key not in splits)
            raise ValueError(f"{missing} is missing: set train, val and test, or trips")
        return self

    @property
    def is_complete(self) -> bool:
        """Whether roads and trips are named."""
        return self.folder is not None or (self.roads is not None and (self.trips or self.test) is not None)
