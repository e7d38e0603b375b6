"""Settings of the data source: kind, place, and handling of invalid rows."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from hoser_kd.config.imported import FilesConfig
from hoser_kd.config.matching import MatchingSettings
from hoser_kd.config.raw_data import MapConfig, PointsConfig, SplitConfig
from hoser_kd.config.section import Section, registered_in
from hoser_kd.config.variants import SOURCE_KINDS


class SyntheticConfig(Section):
    """The synthetic city of `hoser_kd.network.synthetic.city`."""

    example: ClassVar[str] = "{num_trips: 3000}"

    seed: int = Field(0, ge=0, lt=2**63)
    """Random seed of the streets and trips."""
    trip_seed: int | None = Field(None, ge=0, lt=2**63)
    """Random seed of the trips alone. Cities that differ only in it have the same streets, drivers and demand, but
    other trips, like two periods of one city. None: the trips follow from `seed`."""
    num_trips: int = Field(3000, ge=30)
    """Number of trips in all splits together."""
    blocks: tuple[int, int] = (21, 21)
    """Number of crossings of the street grid, south-north and west-east; at least 5 each."""


HANDLING_KEYS = ("on_bad_row", "on_duplicate_connection")
"""Settings of `source` that change how rows are read, not which files."""


class SourceConfig(Section):
    """Source of the road network and the trips."""

    example: ClassVar[str] = "{kind: hoser, path: raw/porto}"

    kind: Annotated[str, AfterValidator(registered_in(SOURCE_KINDS))] = "hoser"
    """hoser: a folder in HOSER's format; raw: an OpenStreetMap extract and GPS points (`map`, `points`); import: roads
    and matched trips of other tools (`files`), also as fmm, valhalla, libcity, start, osmnx and geopandas, which expect
    files of that tool; synthetic: a generated city; huggingface: a dataset repository. Further kinds are registered in
    `SOURCE_KINDS` (docs/network.md)."""
    path: str | None = None
    """Folder in HOSER's format (kind hoser). `${NAME}` and `${NAME:-default}` stand for environment variables."""
    repo_id: str | None = None
    """Dataset repository (kind huggingface), such as caoji2001/HOSER-dataset."""
    revision: str | None = None
    """Commit, tag or branch of the repository; only a commit pins the content."""
    subfolder: str | None = None
    """Folder inside the repository that contains roadmap.geo and the other files."""
    on_bad_row: Literal["refuse", "drop"] = "refuse"
    """Handling of invalid trips. refuse: stop with file, row and reason; drop: skip and count them."""
    on_duplicate_connection: Literal["refuse", "drop"] = "refuse"
    """Handling of rows of roadmap.rel that repeat a connection. refuse: stop with file and row; drop: keep the first
    and count the others."""
    synthetic: SyntheticConfig = SyntheticConfig()
    """Settings of the synthetic city (kind synthetic)."""
    map: MapConfig = MapConfig()
    """The OpenStreetMap extract (kind raw)."""
    points: PointsConfig = PointsConfig()
    """The GPS points and their cleaning (kind raw)."""
    matching: MatchingSettings = MatchingSettings()
    """Map matching: from points to roads (kind raw)."""
    split: SplitConfig = SplitConfig()
    """Training, validation and test trips (kind raw, and `files.trips`)."""
    files: FilesConfig = FilesConfig()
    """Roads and matched trips of another tool (kind import and its kin)."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        SOURCE_KINDS[self.kind].validate_settings(self)
        return self
