"""Settings of the recipe `pooled`: which models are pooled into the target of the student, and its weight."""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

from pydantic import Field, field_validator

from hoser_kd.config.section import Section

PoolMember = Literal["teacher", "student", "markov"]
"""A model that the target is pooled from."""


class PooledConfig(Section):
    """Training on a log-linear pool of the teacher, the vanilla student and a Markov chain.

    Read if `distill.recipe` has `pooled` (docs/distillation.md).
    """

    example: ClassVar[str] = "{weight: 1.0}"

    weight: float = Field(1.0, gt=0)
    """Weight of the KL divergence to the pool in the loss."""
    members: tuple[PoolMember, ...] = ("teacher", "student", "markov")
    """Models of the pool. teacher: LM-TAD; student: the vanilla student of the same settings and seed; markov: a chain
    of training trips. Their exponents are fitted on validation trips. [student, markov] is the control without the
    teacher."""
    other_teachers: tuple[str, ...] = ()
    """Further LM-TAD checkpoints in the pool: files, or folders such as a `teacher` artifact of another city's YAML.
    Each takes its grid from its own checkpoint, and scores every batch during the training."""
    chain_trips: Literal["own", "all"] = "own"
    """Trips that the Markov chain counts: the student's own share of the training trips, or all of them, which the
    teacher has seen too."""
    leave_trip_out: bool = False
    """Whether the chain leaves a counted trip out where it predicts the steps of that trip. Its targets are then as
    uncertain on training trips as on the validation trips that the exponents are fitted on."""
    smoothing: float | None = Field(None, gt=0)
    """Added to the count of every candidate of the Markov chain. None: that of least NLL on validation trips."""

    @field_validator("other_teachers")
    @classmethod
    def _named_once(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        if repeated := sorted({path for path in paths if paths.count(path) > 1}):
            raise ValueError(f"other_teachers names {', '.join(repeated)} more than once")
        return paths

    @field_validator("members")
    @classmethod
    def _distinct(cls, members: tuple[PoolMember, ...]) -> tuple[PoolMember, ...]:
        if not members:
            raise ValueError("members is empty: name at least one")
        if len(set(members)) < len(members):
            raise ValueError(f"members names {', '.join(members)}: each at most once")
        # the order has no meaning, so that it must not change versions
        return tuple(name for name in get_args(PoolMember) if name in members)
