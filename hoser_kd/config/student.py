"""Settings of the HOSER student and its training."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from hoser_kd.config.section import EXECUTION_ONLY, Section, execution_only_fields, registered_in
from hoser_kd.config.variants import SELECTION_RULES

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
