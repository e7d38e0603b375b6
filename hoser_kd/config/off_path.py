"""Settings of the recipe `off_path`: states off any real trip, their targets, and the fine-tuning on them."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from hoser_kd.config.section import MAX_TEMPERATURE, MIN_TEMPERATURE, Section


class OffPathConfig(Section):
    """Fine-tuning on states that the student itself visits, with a destination-conditioned target.

    Read if `distill.recipe` has `off_path` (docs/distillation.md).
    """

    example: ClassVar[str] = "{weight: 1.0}"

    weight: float = Field(1.0, ge=0)
    """Weight of the term. 0: the same epochs without it, as a control."""
    epochs: int = Field(1, ge=1)
    """Epochs after the training, from its best epoch; the last one is kept. Each has its own sampled trips."""
    learning_rate: float = Field(3e-4, gt=0)
    """Learning rate of AdamW, constant."""
    batch_size: int = Field(32, ge=1)
    """Real trips per optimizer step; to each belongs a sampled trip per temperature."""
    temperatures: tuple[float, ...] = Field((1.0, 2.5), min_length=1)
    """Temperatures at which trips are sampled, one trip each per training trip; above 1, more states are off real
    trips."""
    states: Literal["sampled", "expanded"] = "sampled"
    """States that the student is trained on. sampled: those of trips that it samples; expanded: those that its search
    expands, on a random path of the search tree per training trip and temperature (its logits are divided by it)."""
    max_steps: int = Field(120, ge=1)
    """Maximum number of roads of a sampled trip, or of expansions of a search."""
    smoothing: float | None = Field(3.0, gt=0)
    """Added to the count of every candidate of the Markov chain, which is fitted on the student's training trips. None:
    that of least NLL on validation trips, which tends to be too small for whole trips."""
    costs: Literal["markov", "lmtad", "pool"] = "markov"
    """Costs of the steps and of the way to the destination, minus log-probabilities. markov: of the chain; lmtad: of
    LM-TAD's mean probability over the histories in the student's own and in synthetic trips, the chain's on roads
    without a history; pool: of their log-linear pool, fitted on validation trips. Other than markov needs `labels:
    online`, unless the labels of this section are stored."""
    teacher_weight: float = Field(0.0, ge=0, le=1)
    """Weight of LM-TAD's log-probability of the next road given the history, against that of `costs` (1 minus it). The
    costs to go are always those of `costs`. Above 0 needs `labels: online`, unless the labels of this section are
    stored."""
    labels: Literal["online", "stored"] = "online"
    """online: states and targets are new in each epoch, from the student in training; stored: they are computed once,
    from the vanilla student of the same settings and seed (stage `off_path_labels`), and are the same in each epoch.
    """
    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = "forward_kl"
    """Divergence between the teacher's and the student's distribution (GKD, Agarwal et al. 2024)."""
    jsd_beta: float = Field(0.5, gt=0, lt=1)
    """Weight of the teacher in the mixture of `jsd`."""

    @field_validator("temperatures")
    @classmethod
    def _possible_temperatures(cls, temperatures: tuple[float, ...]) -> tuple[float, ...]:
        if not all(MIN_TEMPERATURE <= temperature <= MAX_TEMPERATURE for temperature in temperatures):
            given = ", ".join(f"{value:g}" for value in temperatures)
            raise ValueError(f"temperatures are above 0 ({MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}), not {given}")
        return temperatures

    @property
    def reads_teacher(self) -> bool:
        """Whether LM-TAD has a part in the targets."""
        return self.weight > 0 and (self.costs != "markov" or self.teacher_weight > 0)

    @property
    def stores_labels(self) -> bool:
        """Whether states and targets are computed once, before the training; without a weight there are none."""
        return self.labels == "stored" and self.weight > 0
