"""Settings of generated trips and of the prior of their costs."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from hoser_kd.config.section import Section, Temperature, registered_in
from hoser_kd.config.variants import DECODERS


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
