"""Settings of the models: teacher, labels and distillation, student. They are read with `hoser_kd.config`."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from hoser_kd.config_section import Section


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
    repo_path: str | None = None
    """Accepted and not needed: no LM-TAD repository is used."""
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
    label_processes: int = Field(1, ge=1)
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
    """Trips an optimiser step."""
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
    select_by: Literal["accuracy", "nll", "arrival", "generation"] = "accuracy"
    """What the epoch that is kept is best by on the validation trips: accuracy of the next step, as published; its nll;
    arrival, the share of generated trips that reach their destination; generation, arrival, distributions and shape of
    generated trips together (docs/selection.md)."""
    select_num_ods: int | None = Field(None, ge=1)
    """Validation ODs, the same ones in every epoch and training, that trips are generated for after each epoch; the
    figures are logged whatever selects. None: 200 where select_by is arrival or generation, none otherwise."""
    select_max_steps: int = Field(1000, ge=1)
    """Expansions after which the search for one of these trips ends."""
    train_fraction: float = Field(1.0, gt=0, le=1)
    """Share of the training trips the student sees, chosen by the seed; the teacher sees all."""
    num_processes: int = Field(1, ge=1)
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
        return _VALIDATION_ODS if self.select_by in ("arrival", "generation") else 0

    def of_the_result(self) -> dict[str, Any]:
        """Return the settings that the student and its figures follow from.

        The number of processes changes neither; how an epoch is chosen counts where it is not as published.
        """
        unused = {"num_processes"}
        if not self.num_validation_ods:
            unused |= {"select_num_ods", "select_max_steps"}
            unused |= {"select_by"} if self.select_by == "accuracy" else set()
        return self.model_dump(mode="json", exclude=unused)
