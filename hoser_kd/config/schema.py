"""All settings of a city as one typed, frozen tree, read from `config/<city>.yaml` by `hoser_kd.config.loading`.

The line under each field is its documentation: it appears in the docs, in Dagster and in error messages.
An unknown or mistyped key is refused with the file, the line, the key and the nearest known one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from hoser_kd.common.errors import ConfigError
from hoser_kd.common.registry import Registry
from hoser_kd.config.variants import DECODERS, SELECTION_RULES, SOURCE_KINDS


class Section(BaseModel):
    """A section; the line under each field is its documentation."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false where a number is asked for: they would pass as 1 and 0."""
        asked = cls.model_fields[str(info.field_name)].annotation
        if _holds_truth(value) and _holds_number(asked):
            raise ValueError("a number is asked for, not true or false (which yes, no, on and off are in YAML too)")
        return value


def _holds_truth(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, list | tuple) and any(map(_holds_truth, value)))


def _holds_number(annotation: Any) -> bool:
    return annotation in (int, float) or any(map(_holds_number, get_args(annotation)))


_EXECUTION_ONLY = "execution_only"
"""Marks a setting that says how a stage runs and never changes its result, so that versions leave it out."""


def execution_only_fields(model: type[BaseModel]) -> frozenset[str]:
    """Return the settings of a section that never change a result; its subsections are not searched."""
    return frozenset(
        name
        for name, field in model.model_fields.items()
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get(_EXECUTION_ONLY)
    )


def _registered_in(registry: Registry[Any]) -> Callable[[str], str]:
    """Return a validator for a setting that names a variant; it loads the registry only when a value is given."""

    def known(name: str) -> str:
        try:
            registry[name]
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return name

    return known


class SyntheticConfig(Section):
    """The made city of `hoser_kd.network.synthetic.city`."""

    seed: int = 0
    """Every number of the city and its trips follows from it."""
    num_trips: int = Field(3000, ge=30)
    """Trips in all splits together."""
    blocks: tuple[int, int] = (21, 21)
    """Crossings of the street grid, south-north and west-east."""


class SourceConfig(Section):
    """Where the road network and the trips come from."""

    kind: Annotated[str, AfterValidator(_registered_in(SOURCE_KINDS))] = "hoser"
    """hoser: a folder in HOSER's format; synthetic: a generated city; huggingface: a dataset repository. Further kinds
    are registered in `SOURCE_KINDS` (docs/network.md)."""
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
        SOURCE_KINDS[self.kind].validate_settings(self)
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
    """Extent of the grid. `roads` takes the extent of the road centers: right only for a teacher trained here."""
    cell_size_m: float | None = Field(None, gt=0)
    """Side of a cell in meters; give this or both of cell_lat and cell_lng."""
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


class TeacherConfig(Section):
    """LM-TAD: imported where `distill.ckpt_path` names a checkpoint, trained in the graph otherwise."""

    preset: Literal["tiny", "small", "published"] = "small"
    """Size of the model: tiny 2 layers of 64, small 4 of 256, published 8 of 768 with 12 heads."""
    n_layer: int | None = Field(None, ge=1)
    """Layers, where they differ from the preset's."""
    n_head: int | None = Field(None, ge=1)
    """Attention heads, where they differ from the preset's."""
    n_embd: int | None = Field(None, ge=1)
    """Width, where it differs from the preset's."""
    block_size: int | None = Field(None, ge=4)
    """Longest sequence with its special tokens; the longest trip of the corpus + 2 where it is not given."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Dropout in training."""
    max_epochs: int = Field(30, ge=1)
    """Passes over the training trips at the most."""
    patience: int = Field(5, ge=1)
    """Stop after this many epochs without a better validation loss."""
    batch_size: int = Field(32, ge=1)
    """Trips a step."""
    learning_rate: float = Field(3e-4, gt=0)
    """Peak learning rate of AdamW."""
    min_learning_rate: float = Field(3e-5, ge=0)
    """Learning rate at the end of the cosine."""
    warmup_ratio: float = Field(0.08, ge=0, lt=1)
    """Share of the steps in which the learning rate rises (published: 5,000 of 60,000)."""
    beta2: float = Field(0.99, gt=0, lt=1)
    """Second beta of AdamW (published: 0.99 or 0.9)."""
    weight_decay: float = Field(0.1, ge=0)
    """Weight decay, on matrices only."""
    max_norm: float = Field(1.0, gt=0)
    """Gradient norm at which it is clipped."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of training: auto takes bf16 on a GPU that has it, fp16 on an older one, fp32 on a CPU."""
    compile: bool = False
    """Use torch.compile."""
    seed: int = 0
    """Seed of weights, order and dropout."""


class DistillConfig(Section):
    """Labels and the distillation term of the loss. The first eight keys are those of the original section."""

    enabled: bool = True
    """Train a distilled student."""
    repo_path: str | None = Field(None, json_schema_extra={_EXECUTION_ONLY: True})
    """Accepted and ignored: no LM-TAD repository is used."""
    ckpt_path: str | None = None
    """An LM-TAD checkpoint to import as the teacher; none: one is trained in the graph."""
    lambda_kl: float = Field(0.1, ge=0)
    """Weight of the distillation term. The original default, 0.01, has hardly an effect; a tenth was better on
    validation wherever both were tried."""
    temperature: float = Field(2.0, gt=0)
    """Temperature of both distributions."""
    window: Literal["full"] | int = "full"
    """Tokens of history the teacher sees at each step: full, or the last W of them."""
    sample_steps_per_trace: Literal["all"] | int = "all"
    """Distilled steps of a trajectory in each epoch: all, or this many drawn at random."""
    teacher_fp16: bool = True
    """Half precision for the teacher's pass on a GPU; a CPU always uses float32."""
    shared_cells: Literal["replicate", "split", "aggregate"] = "replicate"
    """Candidates in one cell: each gets the cell's mass, they divide it, or cells are compared."""
    scale_by_temperature_squared: bool = False
    """Multiply the term by temperature² (Hinton et al. 2015, section 2.1)."""
    labels: Literal["stored", "online"] = "stored"
    """stored: made once, before any training; online: the teacher is asked about every batch of every epoch, for those
    who cannot store labels. The loss is the same."""
    label_processes: int = Field(1, ge=1, json_schema_extra={_EXECUTION_ONLY: True})
    """Processes of this machine that make stored labels together, a GPU each where there are any."""
    store_outside_mass: bool = False
    """Keep with each step's labels the teacher's probability outside the cells of its candidates, 4 bytes a step; it
    costs the scores of the whole vocabulary."""

    @model_validator(mode="after")
    def _positive(self) -> Self:
        if isinstance(self.window, int) and self.window < 1:
            raise ValueError("window is `full` or a whole number from 1")
        if isinstance(self.sample_steps_per_trace, int) and self.sample_steps_per_trace < 1:
            raise ValueError("sample_steps_per_trace is `all` or a whole number from 1")
        if self.store_outside_mass and self.labels == "online":
            raise ValueError("store_outside_mass needs `labels: stored`: with online nothing is stored")
        return self


_VALIDATION_ODS = 200


class StudentConfig(Section):
    """HOSER and its training; the defaults are the published ones."""

    hidden_dim: int = Field(128, ge=1)
    """Width of road and zone vectors, of an attention head and of the navigator."""
    road_id_dim: int = Field(64, ge=1)
    """Width of the road id embedding, a part of the road vector."""
    attribute_dim: int = Field(16, ge=1)
    """Width of each of the parts for length, type, longitude and latitude."""
    num_heads: int = Field(2, ge=1)
    """Attention heads of the trajectory encoder."""
    num_layers: int = Field(2, ge=1)
    """Layers of the trajectory encoder."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout in the trajectory encoder."""
    candidate_angle: Literal["published", "true_bearing"] = "true_bearing"
    """Angle of a candidate: published swaps latitude and longitude, as published checkpoints need; the true bearing is
    as good after a whole training and better after a short one."""
    time_intervals: Literal["published", "elapsed"] = "published"
    """Intervals in the attention: from the minute of the day (23:59 to 00:01 counts as 5 min), or true ones."""
    max_epochs: int = Field(25, ge=1)
    """Passes over the training trips."""
    batch_size: int = Field(256, ge=1)
    """Trips an optimizer step."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Trips a forward pass; gradients are accumulated up to batch_size. None: the whole batch."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of AdamW."""
    weight_decay: float = Field(0.1, ge=0)
    """Weight decay of AdamW."""
    warmup_ratio: float = Field(0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    max_norm: float = Field(1.0, gt=0)
    """Gradient norm at which it is clipped."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of training: auto takes bf16 on a GPU that has it, fp16 on an older one, fp32 on a CPU."""
    select_by: Annotated[str, AfterValidator(_registered_in(SELECTION_RULES))] = "accuracy"
    """Metric on the validation trips that selects the epoch to keep. accuracy: next-step accuracy, as published; nll:
    next-step negative log-likelihood; arrival_rate: share of generated trips that reach their destination; generation:
    arrival, distributions and shape of generated trips combined (docs/selection.md). Further rules are registered in
    `SELECTION_RULES`."""
    select_num_ods: int | None = Field(None, ge=1)
    """Validation ODs, the same ones in every epoch and training, that trips are generated for after each epoch; the
    metrics are logged whatever selects. None: 200 where select_by is arrival_rate or generation, none otherwise."""
    select_max_steps: int = Field(1000, ge=1)
    """Expansions after which the search for one of these trips ends."""
    train_fraction: float = Field(1.0, gt=0, le=1)
    """Share of the training trips the student sees, chosen by the seed; the teacher sees all."""
    num_processes: int = Field(1, ge=1, json_schema_extra={_EXECUTION_ONLY: True})
    """Processes of this machine that train a student together, a GPU each where there are any; the batch is divided
    among them, so the student stays the same to the rounding of sums."""

    @model_validator(mode="after")
    def _widths(self) -> Self:
        if self.road_id_dim + 4 * self.attribute_dim != self.hidden_dim:
            raise ValueError("road_id_dim + 4 * attribute_dim must equal hidden_dim")
        return self

    @property
    def num_validation_ods(self) -> int:
        """Validation ODs that trips are generated for after each epoch; 0: none."""
        if self.select_num_ods is not None:
            return self.select_num_ods
        return _VALIDATION_ODS if self.select_by in ("arrival_rate", "generation") else 0

    def of_the_result(self) -> dict[str, Any]:
        """Return the settings that determine the trained student and its metrics.

        Settings of the epoch selection are included only where they differ from the published ones.
        """
        unused = set(execution_only_fields(type(self)))
        if not self.num_validation_ods:
            unused |= {"select_num_ods", "select_max_steps"}
            unused |= {"select_by"} if self.select_by == "accuracy" else set()
        return self.model_dump(mode="json", exclude=unused)


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
    decoder: Annotated[str, AfterValidator(_registered_in(DECODERS))] = "search"
    """search: the published uniform-cost search; beam: the beam_width most likely paths of each length; sampling: each
    next road sampled from its distribution. Further decoders are registered in `DECODERS` (docs/generation.md)."""
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
    San Francisco, that of the road centers elsewhere."""
    edr_threshold_m: float = Field(100.0, gt=0)
    """Distance up to which two points match in EDR."""
    peak_hours: tuple[tuple[float, float], ...] = ((7.0, 10.0), (17.0, 20.0))
    """Hours of the day [from, to) that count as peak; hours as the trips' times have them."""
    center: tuple[float, float] | None = None
    """Middle of the city (latitude, longitude); None: the median of the road centers."""
    center_radius_m: float | None = Field(None, gt=0)
    """Roads closer to it than this lie in the center, the others in the suburbs; None: the closest quarter of them."""

    @model_validator(mode="after")
    def _real_hours_and_places(self) -> Self:
        for low, high in self.peak_hours:
            if not 0 <= low < high <= 24:
                raise ValueError(
                    f"peak_hours are pairs [from, to) with 0 <= from < to <= 24, not [{low:g}, {high:g}]; "
                    "write hours across midnight as two pairs"
                )
        for name, place in (("od_corner", self.od_corner), ("center", self.center)):
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
