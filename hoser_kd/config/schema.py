"""Settings of a city as one typed, frozen tree, read from `config/<city>.yaml` by `hoser_kd.config.loading`.

The docstring under each field is its documentation; it appears in the docs, in Dagster and in error messages.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import AfterValidator, Field, field_validator, model_validator

from hoser_kd.config.bounds import Bounds
from hoser_kd.config.city_names import require_city_name
from hoser_kd.config.imported import FilesConfig
from hoser_kd.config.matching import MatchingSettings
from hoser_kd.config.off_path import OffPathConfig
from hoser_kd.config.pooled import PooledConfig, PoolMember
from hoser_kd.config.raw_data import MapConfig, PointsConfig, SplitConfig
from hoser_kd.config.section import (
    EXECUTION_ONLY,
    Section,
    Temperature,
    execution_only_fields,
    registered_in,
)
from hoser_kd.config.torchrun import TorchrunConfig
from hoser_kd.config.variants import DECODERS, SELECTION_RULES, SOURCE_KINDS


class SyntheticConfig(Section):
    """The synthetic city of `hoser_kd.network.synthetic.city`."""

    example: ClassVar[str] = "{num_trips: 3000}"

    seed: int = Field(0, ge=0, lt=2**63)
    """Random seed of the streets and trips."""
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


class ZonesConfig(Section):
    """The partition of the roads into zones."""

    example: ClassVar[str] = "{count: 300}"

    count: int = Field(300, ge=1)
    """Number of zones, at most a quarter of the number of roads; ignored where the dataset ships a partition."""
    method: Literal["kahip", "bisection"] = "kahip"
    """kahip: KaHIP in strong mode, as published; bisection: recursive halving of the map, for networks too large for
    KaHIP."""
    imbalance: float = Field(0.03, ge=0)
    """Allowed relative excess of a zone over the mean size (kahip)."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Random seed of KaHIP."""
    use_shipped: bool = True
    """Use `road_network_partition` and `zone_trans_mat.npy` where the dataset ships them."""


class GridConfig(Section):
    """The grid whose cells are the teacher's tokens. Values stored in a teacher checkpoint take precedence."""

    example: ClassVar[str] = "{bounds: roads, cell_size_m: 100}"
    smallest: ClassVar[float] = 0.0  # the message about too many cells says more

    kind: Literal["cells", "roads"] = "cells"
    """cells: one token per grid cell; roads: one token per road."""
    bounds: Bounds | Literal["roads"] | None = None
    """Extent of the grid. `roads`: the extent of the road centers, valid only for a teacher trained in the pipeline."""
    cell_size_m: float | None = Field(None, gt=0)
    """Side of a cell in meters; set either this or both cell_lat and cell_lng."""
    cell_lat: float | None = Field(None, gt=0)
    """Height of a cell in degrees."""
    cell_lng: float | None = Field(None, gt=0)
    """Width of a cell in degrees."""
    downsample_factor: int = Field(1, ge=1)
    """Number of cells merged along each axis."""
    vocabulary: Literal["all", "occupied"] = "all"
    """Cells that get a token. all: every cell, as published; occupied: only cells with a road, for a teacher trained in
    the pipeline."""
    min_share_inside: float = Field(0.9, ge=0, le=1)
    """Smallest share of roads inside the grid at which the check `roads_inside_grid` passes."""

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        degrees = (self.cell_lat, self.cell_lng)
        if self.cell_size_m is not None and degrees != (None, None):
            raise ValueError("set either cell_size_m, or cell_lat and cell_lng, not both")
        if (self.cell_lat is None) != (self.cell_lng is None):
            raise ValueError("set both cell_lat and cell_lng")
        return self


class TeacherConfig(Section):
    """The LM-TAD teacher: imported from `distill.ckpt_path` if it is set, otherwise trained in the pipeline."""

    example: ClassVar[str] = "{preset: small}"

    preset: Literal["tiny", "small", "published"] = "small"
    """Model size. tiny: 2 layers of width 64; small: 4 of 256; published: 8 of 768 with 12 heads."""
    n_layer: int | None = Field(None, ge=1)
    """Number of layers; overrides the preset."""
    n_head: int | None = Field(None, ge=1)
    """Number of attention heads; overrides the preset."""
    n_embd: int | None = Field(None, ge=1)
    """Embedding width; overrides the preset."""
    block_size: int | None = Field(None, ge=4)
    """Maximum sequence length including special tokens. None: the longest trip of the corpus + 2."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Dropout rate."""
    max_epochs: int = Field(30, ge=1)
    """Maximum number of passes over the training trips."""
    patience: int = Field(5, ge=1)
    """Stop after this many epochs without an improvement of the validation loss."""
    batch_size: int = Field(32, ge=1)
    """Trips per optimizer step."""
    learning_rate: float = Field(3e-4, gt=0)
    """Peak learning rate of AdamW."""
    min_learning_rate: float = Field(3e-5, ge=0)
    """Learning rate at the end of the cosine schedule."""
    warmup_ratio: float = Field(0.08, ge=0, lt=1)
    """Share of the steps used for linear warm-up of the learning rate (published: 5,000 of 60,000)."""
    beta2: float = Field(0.99, gt=0, lt=1)
    """Second beta of AdamW (published: 0.99 or 0.9)."""
    weight_decay: float = Field(0.1, ge=0)
    """Weight decay, applied to matrices only."""
    max_norm: float = Field(1.0, gt=0)
    """Maximum gradient norm; larger gradients are clipped."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of training: auto takes bf16 on a GPU that has it, fp16 on an older one, fp32 on a CPU."""
    destination_prefix: bool = False
    """Begin every sequence with the token of its last road, so that labels and synthetic trips know the destination."""
    compile: bool = False
    """Compile the model with torch.compile."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Random seed of weight initialization, batch order and dropout."""
    num_processes: int = Field(1, ge=1, json_schema_extra={EXECUTION_ONLY: True})
    """Processes that train the teacher in parallel, one GPU each if GPUs are used; each batch is divided among them, so
    the result is equal up to rounding and the random numbers of dropout."""

    @property
    def frame(self) -> int:
        """Number of tokens of a sequence besides those of its trip: SOT, EOT and the destination."""
        return 3 if self.destination_prefix else 2


Recipe = Literal["kl", "sequence", "off_path", "pooled"]
"""A way in which the teacher trains the student."""


class DistillConfig(Section):
    """Teacher labels and the distillation of the student. The first eight keys are those of the original section."""

    example: ClassVar[str] = "{lambda_kl: 0.1}"

    enabled: bool = True
    """Train a distilled student."""
    repo_path: str | None = Field(None, json_schema_extra={EXECUTION_ONLY: True})
    """Accepted and ignored: no LM-TAD repository is used."""
    ckpt_path: str | None = None
    """LM-TAD checkpoint to import as the teacher. None: a teacher is trained in the pipeline."""
    lambda_kl: float = Field(0.1, ge=0)
    """Weight of the distillation term. The original default, 0.01, has almost no effect; 0.1 was better on validation
    wherever both were tried."""
    temperature: Temperature = 2.0
    """Temperature of the teacher's and the student's distributions."""
    window: Literal["full"] | int = "full"
    """History given to the teacher at each step: full, or the last W tokens."""
    sample_steps_per_trace: Literal["all"] | int = "all"
    """Distilled steps per trajectory and epoch: all, or this many sampled at random."""
    teacher_fp16: bool = True
    """Run the teacher in half precision on a GPU; a CPU always uses float32."""
    recipe: tuple[Recipe, ...] = ("kl",)
    """Ways in which the teacher trains the student, in any combination. kl: the KL divergence to the teacher on the
    student's own steps, as in the original; sequence: training on trips sampled from the teacher; off_path: fine-tuning
    on states off any real trip; pooled: the KL divergence to a pool of the teacher, the vanilla student and a Markov
    chain."""
    off_path: OffPathConfig = OffPathConfig()
    """Fine-tuning on states off any real trip."""
    pooled: PooledConfig = PooledConfig()
    """Training on a pool of teacher, vanilla student and Markov chain."""
    synthetic_weight: float = Field(1.0, gt=0)
    """Weight of the steps of synthetic trips in the next-step loss (recipe `sequence`); that of the student's own is 1.
    """
    synthetic_per_epoch: int | None = Field(None, ge=1)
    """Synthetic trips of an epoch (recipe `sequence`): each epoch takes the next ones, so that it has fresh trips until
    all `synthetic_trips.count` have been used, then from the first again. None: all of them in every epoch."""
    time_loss_mean: Literal["all_steps", "own_steps"] = "all_steps"
    """Steps that the time loss is a mean over (recipe `sequence`). Steps of synthetic trips have no observed time and
    count as zero. all_steps: they are part of the mean, so that the loss is weak where most trips are synthetic;
    own_steps: they are not, which is better for times and no worse for next steps (docs/student.md)."""
    shared_cells: Literal["replicate", "split", "aggregate"] = "replicate"
    """Candidates that share a cell. replicate: each gets the probability of the cell; split: they divide it; aggregate:
    the loss compares cells."""
    scale_by_temperature_squared: bool = False
    """Multiply the term by temperature² (Hinton et al. 2015, section 2.1)."""
    labels: Literal["stored", "online"] = "stored"
    """stored: labels are computed once, before training; online: the teacher scores every batch of every epoch, which
    needs no disk space for labels. The loss is the same."""
    label_processes: int = Field(1, ge=1, json_schema_extra={EXECUTION_ONLY: True})
    """Processes that compute stored labels in parallel, one GPU each if GPUs are used."""
    store_outside_mass: bool = False
    """Store for each step the teacher's probability outside the cells of the candidates (4 bytes per step); requires
    scoring the whole vocabulary."""

    @model_validator(mode="after")
    def _positive(self) -> Self:
        if isinstance(self.window, int) and self.window < 1:
            raise ValueError("window must be `full` or a whole number of at least 1")
        if isinstance(self.sample_steps_per_trace, int) and self.sample_steps_per_trace < 1:
            raise ValueError("sample_steps_per_trace must be `all` or a whole number of at least 1")
        if self.store_outside_mass and self.labels == "online":
            raise ValueError("store_outside_mass needs `labels: stored`; `online` stores no labels")
        if self.asks_teacher_off_path and self.labels == "stored":
            raise ValueError(
                "off_path.teacher_weight above 0, and off_path.costs other than markov, need `labels: online`, because "
                "no trip is known beforehand; or set off_path.labels: stored"
            )
        if self.pools("teacher") and "sequence" in self.recipe and self.labels == "stored":
            raise ValueError(
                "recipe [sequence, pooled] needs `labels: online`, because stored labels have no synthetic trips; or "
                "remove `teacher` from pooled.members"
            )
        return self

    @field_validator("recipe")
    @classmethod
    def _distinct(cls, recipe: tuple[Recipe, ...]) -> tuple[Recipe, ...]:
        if not recipe:
            raise ValueError("recipe is empty: name at least one, or set `enabled: false`")
        if len(set(recipe)) < len(recipe):
            raise ValueError(f"recipe names {', '.join(recipe)}: each at most once")
        # the order has no meaning, so that it must not change versions
        return tuple(name for name in get_args(Recipe) if name in recipe)

    @property
    def trains_student(self) -> bool:
        """Whether the training of the distilled student differs from that of the vanilla one."""
        return self.uses_kl or self.recipe != ("kl",)

    @property
    def uses_kl(self) -> bool:
        """Whether the KL divergence is a part of the loss."""
        return "kl" in self.recipe and self.lambda_kl > 0

    @property
    def uses_pooled(self) -> bool:
        """Whether the KL divergence to a pool is a part of the loss."""
        return "pooled" in self.recipe

    def pools(self, member: PoolMember) -> bool:
        """Return whether a model is a member of the pool that the student is trained on."""
        return self.uses_pooled and member in self.pooled.members

    def num_synthetic(self, count: int) -> int:
        """Return how many of `count` synthetic trips an epoch has."""
        return count if self.synthetic_per_epoch is None else min(count, self.synthetic_per_epoch)

    @property
    def uses_off_path(self) -> bool:
        """Whether the student is fine-tuned on states off any real trip."""
        return "off_path" in self.recipe

    @property
    def stores_off_path_labels(self) -> bool:
        """Whether the states off any real trip, and their targets, are computed once, before the training."""
        return self.uses_off_path and self.off_path.stores_labels

    @property
    def averages_histories(self) -> bool:
        """Whether costs of connections are LM-TAD's, means over the histories of trips."""
        return self.uses_off_path and self.off_path.weight > 0 and self.off_path.costs != "markov"

    @property
    def asks_teacher_off_path(self) -> bool:
        """Whether LM-TAD scores states off any real trip during the training."""
        return self.uses_off_path and self.off_path.reads_teacher and not self.off_path.stores_labels


class SyntheticTripsConfig(Section):
    """Trips sampled from the teacher for the recipe `sequence` of `distill.recipe`; unused without it."""

    example: ClassVar[str] = "{temperature: 1.0}"

    count: int | None = Field(None, ge=1)
    """Number of trips. None: the number of training trips."""
    temperature: Temperature = 1.0
    """Sampling temperature: above 1 more diverse, below 1 more likely trips."""
    max_steps: int | None = Field(None, ge=2)
    """Maximum number of roads of a trip; longer ones are dropped. None: the longest that fits the teacher's context."""
    length_correction: Literal["auto", "none", "acceptance", "temperature"] = "auto"
    """Correction of the lengths of the trips. acceptance: reject trips of lengths that are too frequent; temperature:
    the best of some factors of the temperature; auto: the one of these, or none, with lengths closest to those of the
    validation trips."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Random seed of sampling."""


_VALIDATION_ODS = 200


class StudentConfig(Section):
    """The HOSER student and its training; defaults are the published values, except candidate_angle and select_by."""

    example: ClassVar[str] = "{max_epochs: 25}"

    hidden_dim: int = Field(128, ge=1)
    """Width of road and zone embeddings, of each attention head and of the navigator."""
    road_id_dim: int = Field(64, ge=1)
    """Width of the road id embedding, a part of the road embedding."""
    attribute_dim: int = Field(16, ge=1)
    """Width of each of the embeddings of length, type, longitude and latitude."""
    num_heads: int = Field(2, ge=1)
    """Number of attention heads in the trajectory encoder."""
    num_layers: int = Field(2, ge=1)
    """Number of layers in the trajectory encoder."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout rate in the trajectory encoder."""
    candidate_angle: Literal["published", "true_bearing"] = "true_bearing"
    """Angle feature of a candidate. published: latitude and longitude swapped, needed by published checkpoints;
    true_bearing: equally good after a full training and better after a short one."""
    time_intervals: Literal["published", "elapsed"] = "published"
    """Time intervals in the attention. published: from the minute of the day (23:59 to 00:01 counts as 5 min);
    elapsed: true intervals."""
    max_epochs: int = Field(25, ge=1)
    """Number of passes over the training trips."""
    min_steps: int | None = Field(None, ge=1)
    """Minimum number of optimizer steps: the number of epochs is raised above max_epochs where these have fewer, so
    that every train_fraction gets the same number of steps. The learning-rate schedule covers all epochs. None: off."""
    patience: int | None = Field(None, ge=1)
    """Stop after this many epochs without a better epoch by select_by, but not before min_steps. The learning-rate
    schedule still covers all epochs. None: train all epochs."""
    batch_size: int = Field(256, ge=1)
    """Trips per optimizer step."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Trips per forward pass; gradients are accumulated up to batch_size. None: batch_size."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of AdamW."""
    weight_decay: float = Field(0.1, ge=0)
    """Weight decay of AdamW."""
    warmup_ratio: float = Field(0.1, ge=0, lt=1)
    """Share of the steps used for linear warm-up of the learning rate."""
    max_norm: float = Field(1.0, gt=0)
    """Maximum gradient norm; larger gradients are clipped."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the next-step label that is spread evenly over the candidates, a control for distillation; 0: none."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of training: auto takes fp32 on a CPU and where a GPU replays CUDA graphs (cuda_graphs), which need
    it; otherwise bf16 on a GPU that has it, fp16 on an older one."""
    select_by: Annotated[str, AfterValidator(registered_in(SELECTION_RULES))] = "nll"
    """Metric on the validation trips that selects the epoch to keep. nll: next-step negative log-likelihood; accuracy:
    next-step accuracy, as published, the lower NLL of equals; arrival_rate: share of generated trips that reach their
    destination; generation: arrival, distributions and shape of generated trips combined (docs/selection.md). Further
    rules are registered in `SELECTION_RULES`."""
    select_num_ods: int | None = Field(None, ge=1)
    """Number of validation ODs for which trips are generated after each epoch, the same in all epochs and trainings;
    their metrics are logged for any select_by. None: 200 if select_by is arrival_rate or generation, otherwise 0."""
    select_max_steps: int = Field(1000, ge=1)
    """Maximum number of node expansions per validation trip."""
    train_fraction: float = Field(1.0, gt=0, le=1)
    """Share of the training trips used by the student, sampled by the seed; the teacher uses all. Below 1, the
    student's zone graph counts only these trips, also where the dataset ships `zone_trans_mat.npy`."""
    num_processes: int = Field(1, ge=1, json_schema_extra={EXECUTION_ONLY: True})
    """Processes that train a student in parallel, one GPU each if GPUs are used; each batch is divided among them, so
    the result is equal up to rounding."""
    cuda_graphs: bool = Field(True, json_schema_extra={EXECUTION_ONLY: True})
    """Whether a GPU replays the steps of a training from CUDA graphs, which start all kernels at once: up to four times
    the speed, equal up to rounding. Only with precision fp32 or auto, in one process, and without micro_batch_size and
    road_updates: touched_rows."""
    road_updates: Literal["dense", "touched_rows"] = "dense"
    """Update of the embeddings of road ids. dense: a step changes all of them, which takes seconds with millions of
    roads; touched_rows: it changes those that its batch reads, the others when they are next read, which is equal up to
    rounding. Processes then exchange gradients of these rows only. Not with precision fp16."""

    @model_validator(mode="after")
    def _widths(self) -> Self:
        if self.road_id_dim + 4 * self.attribute_dim != self.hidden_dim:
            parts = self.road_id_dim + 4 * self.attribute_dim
            raise ValueError(
                f"road_id_dim + 4 * attribute_dim must equal hidden_dim: {self.road_id_dim} + 4 * {self.attribute_dim} "
                f"is {parts}, not {self.hidden_dim}"
            )
        if self.hidden_dim % 2 or 2 * self.hidden_dim % self.num_heads:
            raise ValueError(
                f"hidden_dim ({self.hidden_dim}) must be even, and 2 * hidden_dim a multiple of num_heads "
                f"({self.num_heads})"
            )
        return self

    @property
    def num_validation_ods(self) -> int:
        """Number of validation ODs for which trips are generated after each epoch."""
        if self.select_num_ods is not None:
            return self.select_num_ods
        return _VALIDATION_ODS if SELECTION_RULES[self.select_by].needs_generated_trips else 0

    def of_the_result(self) -> dict[str, Any]:
        """Return the settings that determine the trained student and its metrics.

        Settings of generated validation trips are included only where trips are generated.
        """
        unused = set(execution_only_fields(type(self)))
        if not self.num_validation_ods:
            unused |= {"select_num_ods", "select_max_steps"}
        if not self.label_smoothing:
            unused.add("label_smoothing")
        if self.road_updates == "dense":
            unused.add("road_updates")
        return self.model_dump(mode="json", exclude=unused)


class PriorConfig(Section):
    """Weighted costs of a step from the student, a Markov chain and road lengths; by default the student's alone."""

    example: ClassVar[str] = "{markov_weight: 0.5}"

    markov_weight: float = Field(0.0, ge=0, le=1)
    """Weight of the Markov chain's negative log-probability; the student's weight is 1 minus it."""
    smoothing: float = Field(3.0, gt=0)
    """Added to the count of every candidate of the Markov chain, which is fitted on the student's training trips."""
    temperature: Temperature = 1.0
    """Temperature of the student's probabilities: above 1 flatter, below 1 sharper."""
    cost_per_km: float = Field(0.0, ge=0)
    """Cost of the length of the entered road, nats per km."""
    tune: bool = False
    """Choose `markov_weight`, `temperature` and `cost_per_km` for each student on validation trips, by EDR of the same
    request (docs/generation.md)."""

    @property
    def is_on(self) -> bool:
        """Whether any result depends on the section."""
        return self.tune or (self.markov_weight, self.temperature, self.cost_per_km) != (0.0, 1.0, 0.0)

    @model_validator(mode="after")
    def _tuned_or_given(self) -> Self:
        if self.tune and (self.markov_weight, self.temperature, self.cost_per_km) != (0.0, 1.0, 0.0):
            raise ValueError(
                "tune chooses markov_weight, temperature and cost_per_km on validation trips: remove them, or tune"
            )
        return self


class GenerationConfig(Section):
    """Generation of trips by the students."""

    example: ClassVar[str] = "{decoder: search}"

    od_source: Literal["test", "train", "file"] = "test"
    """test: ODs and start times of the test trips; train: sampled from the frequencies in training, as published; file:
    read from `od_file`."""
    od_file: str | None = None
    """CSV or Parquet file with the columns origin and destination (road ids) and start_time (2013-07-01T08:30:00Z, or
    whole seconds since 1970-01-01), local time like that of trips."""
    num_trips: int | None = Field(None, ge=1)
    """Number of ODs. None: all of the test split or of the file; 5,000 with od_source train."""
    decoder: Annotated[str, AfterValidator(registered_in(DECODERS))] = "search"
    """search: the published uniform-cost search; beam: the beam_width most likely paths of each length; sampling: each
    next road sampled from its distribution. Further decoders are registered in `DECODERS` (docs/generation.md)."""
    beam_width: int = Field(8, ge=1)
    """Paths kept per length (decoder beam)."""
    temperature: Temperature = 1.0
    """Sampling temperature (decoder sampling): above 1 more diverse, below 1 more likely trips."""
    samples_per_od: int = Field(1, ge=1)
    """Trips sampled per OD (decoder sampling)."""
    max_steps: int = Field(5000, ge=1)
    """Maximum number of node expansions per trip; then the path that ends closest to the destination is returned. With
    a prior, decoder search finishes the trip instead (docs/generation.md)."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Random seed of the selection of ODs and of sampling."""
    prior: PriorConfig = PriorConfig()
    """Prior of the costs of steps, for all decoders."""

    @model_validator(mode="after")
    def _complete_generation(self) -> Self:
        if (self.od_source == "file") != (self.od_file is not None):
            raise ValueError("od_source file and od_file must be set together")
        if self.samples_per_od > 1 and not DECODERS[self.decoder].allows_samples:
            sampling = ", ".join(name for name in DECODERS if DECODERS[name].allows_samples)
            raise ValueError(f"samples_per_od above 1 needs decoder {sampling}: {self.decoder} gives one trip per OD")
        return self


class EvaluationConfig(Section):
    """Metrics of generated trips."""

    example: ClassVar[str] = "{od_cell_m: 200}"

    od_cell_m: float = Field(200.0, gt=0)
    """Side of the OD cells within which real and generated trips are paired, in meters."""
    od_corner: tuple[float, float] | None = None
    """South-west corner (latitude, longitude) of the OD cells. None: the published corner in Beijing, Porto and San
    Francisco, otherwise that of the road centers."""
    edr_threshold_m: float = Field(100.0, gt=0)
    """Distance up to which two points match in EDR, in meters."""
    peak_hours: tuple[tuple[float, float], ...] = ((7.0, 10.0), (17.0, 20.0))
    """Peak hours of the day, [from, to), in the time zone of the trips' times."""
    center: tuple[float, float] | None = None
    """Center of the city (latitude, longitude). None: the median of the road centers."""
    center_radius_m: float | None = Field(None, gt=0)
    """Roads within this distance of `center` belong to the center, all others to the suburbs. None: the closest
    quarter of the roads belongs to the center."""

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
    """All settings of a city, read from one YAML file named after it."""

    city: Annotated[str, AfterValidator(require_city_name)]
    """Name of the city: the file name without `.yaml`."""
    description: str = ""
    """One-line description."""
    source: SourceConfig
    """Data source."""
    zones: ZonesConfig = ZonesConfig()
    """Partition of the roads into zones."""
    grid: GridConfig = GridConfig()
    """The teacher's grid."""
    teacher: TeacherConfig = TeacherConfig()
    """LM-TAD."""
    distill: DistillConfig = DistillConfig()
    """Teacher labels and distillation."""
    synthetic_trips: SyntheticTripsConfig = SyntheticTripsConfig()
    """Trips sampled from the teacher."""
    student: StudentConfig = StudentConfig()
    """HOSER."""
    generation: GenerationConfig = GenerationConfig()
    """Generation of trips."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Metrics of generated trips."""
    torchrun: TorchrunConfig = TorchrunConfig()
    """Machines that train together."""

    @model_validator(mode="after")
    def _window_holds_the_destination(self) -> Self:
        window = self.distill.window
        if self.teacher.destination_prefix and window != "full" and window < 3:
            raise ValueError(
                f"distill.window is {window}; with teacher.destination_prefix it needs at least 3 tokens: SOT, the "
                "destination and a road"
            )
        return self

    @property
    def is_raw(self) -> bool:
        """Whether roads and trips are made of an OpenStreetMap extract and GPS points."""
        return bool(SOURCE_KINDS[self.source.kind].is_raw)

    @property
    def uses_synthetic_trips(self) -> bool:
        """Whether trips are sampled from the teacher: a student trains on them, or they are histories of its costs."""
        return self.distill.enabled and ("sequence" in self.distill.recipe or self.distill.averages_histories)

    @property
    def reads_vanilla_student(self) -> bool:
        """Whether the distilled student needs the vanilla one: in its pool, or for its off-path labels."""
        return self.pools_vanilla_student or self.stores_off_path_labels

    @property
    def student_reads_synthetic_trips(self) -> bool:
        """Whether the distilled student reads them; it does not where the off-path labels are stored."""
        reads_costs = self.distill.averages_histories and not self.distill.stores_off_path_labels
        return self.distill.enabled and ("sequence" in self.distill.recipe or reads_costs)

    @property
    def stores_off_path_labels(self) -> bool:
        """Whether the stage `off_path_labels` has labels."""
        return self.distill.enabled and self.distill.stores_off_path_labels

    @property
    def pools_vanilla_student(self) -> bool:
        """Whether the distilled student is trained on a pool with the vanilla student."""
        return self.distill.enabled and self.distill.pools("student")
