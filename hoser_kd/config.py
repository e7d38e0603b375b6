"""All settings of a city as one typed, frozen tree, read from `config/<city>.yaml`.

The line under each field is its documentation: it appears in the docs, in Dagster and in error messages.
An unknown or mistyped key is refused with the file, the line, the key and the nearest known one.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from hoser_kd.config_file import changed, expand_environment, explain, explain_change, read_tree
from hoser_kd.config_models import DistillConfig, StudentConfig, TeacherConfig
from hoser_kd.config_section import Section
from hoser_kd.errors import ConfigError

__all__ = ["Bounds", "CityConfig", "DistillConfig", "EvaluationConfig", "GenerationConfig", "GridConfig",
           "SourceConfig", "StudentConfig", "SyntheticConfig", "TeacherConfig", "ZonesConfig", "dump_config",
           "load_config", "with_changes"]


class SyntheticConfig(Section):
    """The made city of `hoser_kd.synthetic`."""

    seed: int = 0
    """Every number of the city and its trips follows from it."""
    num_trips: int = Field(3000, ge=30)
    """Trips in all splits together."""
    blocks: tuple[int, int] = (21, 21)
    """Crossings of the street grid, south-north and west-east."""


class SourceConfig(Section):
    """Where the road network and the trips come from."""

    kind: Literal["hoser", "synthetic", "huggingface"] = "hoser"
    """hoser: a folder in HOSER's format; synthetic: a city made here; huggingface: a data-set repository."""
    path: str | None = None
    """Folder in HOSER's format (kind hoser). `${NAME}` and `${NAME:-default}` stand for environment variables."""
    repo_id: str | None = None
    """Data-set repository (kind huggingface), such as caoji2001/HOSER-dataset."""
    revision: str | None = None
    """Commit, tag or branch of the repository; a commit makes the download repeatable."""
    subfolder: str | None = None
    """Folder inside the repository that holds roadmap.geo and the rest."""
    on_bad_row: Literal["refuse", "drop"] = "refuse"
    """A trip that cannot be used: refuse stops with file, row and reason; drop leaves it out and counts it."""
    synthetic: SyntheticConfig = SyntheticConfig()
    """Settings of the made city (kind synthetic)."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kind == "hoser" and not self.path:
            raise ValueError("kind hoser needs `path`, a folder in HOSER's format")
        if self.kind == "huggingface" and not self.repo_id:
            raise ValueError("kind huggingface needs `repo_id`, such as caoji2001/HOSER-dataset")
        return self


class ZonesConfig(Section):
    """The partition of the roads into zones."""

    count: int = Field(300, ge=1)
    """Zones asked of KaHIP, a quarter of the roads at the most; a data set's own partition is taken as it is."""
    method: Literal["kahip", "bisection"] = "kahip"
    """kahip: KaHIP's strong mode, as published; bisection: the map is halved again and again, for networks so large
    that KaHIP takes too long."""
    imbalance: float = Field(0.03, ge=0)
    """Allowed excess of a zone over the average size (kahip)."""
    seed: int = 0
    """Seed of KaHIP."""
    use_shipped: bool = True
    """Take `road_network_partition` and `zone_trans_mat.npy` where the data set ships them."""


class Bounds(Section):
    """A rectangle in degrees, EPSG:4326."""

    min_lat: float = Field(ge=-90, le=90)
    max_lat: float = Field(ge=-90, le=90)
    min_lng: float = Field(ge=-180, le=180)
    max_lng: float = Field(ge=-180, le=180)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_lat >= self.max_lat or self.min_lng >= self.max_lng:
            raise ValueError("each min must be below its max")
        return self


class GridConfig(Section):
    """The grid whose cells are the teacher's words. A checkpoint's own grid comes first where it carries one."""

    kind: Literal["cells", "roads"] = "cells"
    """cells: a token a grid cell; roads: a token a road, the limit of ever smaller cells."""
    bounds: Bounds | Literal["roads"] | None = None
    """Extent of the grid. `roads` takes the extent of the road centres: right only for a teacher trained here."""
    cell_size_m: float | None = Field(None, gt=0)
    """Side of a cell in metres; give this or both of cell_lat and cell_lng."""
    cell_lat: float | None = Field(None, gt=0)
    """Height of a cell in degrees."""
    cell_lng: float | None = Field(None, gt=0)
    """Width of a cell in degrees."""
    downsample_factor: int = Field(1, ge=1)
    """Merge this many cells along each axis."""
    vocabulary: Literal["all", "occupied"] = "all"
    """Cells with a token: all, as published, or only those that hold a road, which a teacher trained here can use."""
    min_share_inside: float = Field(0.9, ge=0, le=1)
    """Share of the roads that must lie inside the grid; below it, the graph stops at the grid."""

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        degrees = (self.cell_lat, self.cell_lng)
        if self.cell_size_m is not None and degrees != (None, None):
            raise ValueError("give cell_size_m or cell_lat and cell_lng, not both")
        if (self.cell_lat is None) != (self.cell_lng is None):
            raise ValueError("give both cell_lat and cell_lng")
        return self


class GenerationConfig(Section):
    """Generation of trips by the students."""

    od_source: Literal["test", "train", "file"] = "test"
    """test: real test ODs with their own start times; train: drawn from the training counts, as published; file: your
    own, from `od_file`."""
    od_file: str | None = None
    """CSV or Parquet with the columns origin and destination (road ids) and start_time (2013-07-01T08:30:00Z, or whole
    seconds since 1970 UTC)."""
    num_trips: int | None = Field(None, ge=1)
    """ODs to generate trips for; None: all of the test split or of the file (5,000 with od_source train)."""
    decoder: Literal["search", "beam", "sampling"] = "search"
    """search: the published uniform-cost search; beam: the beam_width likeliest paths of each length; sampling: every
    next road drawn by its probability."""
    beam_width: int = Field(8, ge=1)
    """Paths that go on from each length (decoder beam)."""
    temperature: float = Field(1.0, gt=0)
    """Of the draws (decoder sampling): above 1 more varied trips, below 1 likelier ones."""
    samples_per_od: int = Field(1, ge=1)
    """Trips drawn for each OD (decoder sampling)."""
    max_steps: int = Field(5000, ge=1)
    """Expansions after which the answer is the path that came closest."""
    seed: int = 0
    """Seed of the choice of ODs and of the draws."""

    @model_validator(mode="after")
    def _complete_generation(self) -> Self:
        if (self.od_source == "file") != (self.od_file is not None):
            raise ValueError("od_source file and od_file go together")
        if self.samples_per_od > 1 and self.decoder != "sampling":
            raise ValueError("samples_per_od above 1 needs decoder sampling: the others give one trip for an OD")
        return self


class EvaluationConfig(Section):
    """Metrics of generated trips."""

    od_cell_m: float = Field(200.0, gt=0)
    """Side of the OD cells within which real and generated trips are paired."""
    od_corner: tuple[float, float] | None = None
    """South-west corner (latitude, longitude) the OD cells count from; None: the published one in Beijing, Porto and
    San Francisco, that of the road centres elsewhere."""
    edr_threshold_m: float = Field(100.0, gt=0)
    """Distance up to which two points match in EDR."""
    peak_hours: tuple[tuple[float, float], ...] = ((7.0, 10.0), (17.0, 20.0))
    """Hours of the day [from, to) that count as peak; hours as the trips' times have them."""
    centre: tuple[float, float] | None = None
    """Middle of the city (latitude, longitude); None: the median of the road centres."""
    centre_radius_m: float | None = Field(None, gt=0)
    """Roads closer to it than this lie in the centre, the others in the suburbs; None: the closest quarter of them."""

    @model_validator(mode="after")
    def _real_hours_and_places(self) -> Self:
        for low, high in self.peak_hours:
            if not 0 <= low < high <= 24:
                raise ValueError(f"peak_hours are pairs [from, to) with 0 <= from < to <= 24, not [{low:g}, {high:g}]; "
                                 "write hours across midnight as two pairs")
        for name, place in (("od_corner", self.od_corner), ("centre", self.centre)):
            if place is not None and not (-90 <= place[0] <= 90 and -180 <= place[1] <= 180):
                raise ValueError(f"{name} is latitude, then longitude, in degrees")
        return self


class CityConfig(Section):
    """Everything about a city; one YAML file each, the file's name is the city's."""

    city: str = Field(pattern=r"^[A-Za-z0-9_]+$")
    """Name of the city: the file's name without `.yaml`."""
    description: str = ""
    """A line for people."""
    source: SourceConfig
    """Where the data come from."""
    zones: ZonesConfig = ZonesConfig()
    """The partition into zones."""
    grid: GridConfig = GridConfig()
    """The teacher's grid."""
    teacher: TeacherConfig = TeacherConfig()
    """LM-TAD."""
    distill: DistillConfig = DistillConfig()
    """Labels and distillation."""
    student: StudentConfig = StudentConfig()
    """HOSER."""
    generation: GenerationConfig = GenerationConfig()
    """Generated trips."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Metrics."""


def load_config(path: str | PathLike[str]) -> CityConfig:
    """Read and check `config/<city>.yaml`.

    Raises ConfigError naming the file, the line, the key, what is wrong and the nearest known key.
    """
    file = Path(path)
    tree, root = read_tree(file)
    if tree.setdefault("city", file.stem) != file.stem:
        raise ConfigError(f"{file}: `city: {tree['city']}` does not match the file's name. Rename one of the two.")
    try:
        return CityConfig.model_validate(expand_environment(tree, file))
    except ValidationError as error:
        told = dict.fromkeys(explain(file, root, problem, CityConfig) for problem in error.errors())
        raise ConfigError("\n".join(told)) from None


def with_changes(config: CityConfig, changes: Mapping[str, Any]) -> CityConfig:
    """Return the settings with some changed, given as `{"distill.lambda_kl": 0.1}`.

    Raises ConfigError for a value the YAML could not have either.
    """
    try:
        return CityConfig.model_validate(changed(config.model_dump(), changes))
    except ValidationError as error:
        raise ConfigError("for this run: " + "; ".join(map(explain_change, error.errors()))) from None


def dump_config(config: CityConfig) -> str:
    """Return the whole tree, defaults included, as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
