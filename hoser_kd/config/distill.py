"""Settings of distillation: labels, recipes, and the loss terms of the student."""

from __future__ import annotations

from typing import ClassVar, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from hoser_kd.config.off_path import OffPathConfig
from hoser_kd.config.pooled import PooledConfig, PoolMember
from hoser_kd.config.section import EXECUTION_ONLY, Section, Temperature

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
