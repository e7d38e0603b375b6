"""Settings of the trips sampled from the teacher."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from hoser_kd.config.section import Section, Temperature


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
