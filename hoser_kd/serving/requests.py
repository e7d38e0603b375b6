"""Requests and answers of the server. Anything that a request does not allow is refused with its place and value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hoser_kd.network.times import LAST_SECOND

Road = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1, description="Road id of the student's network.")]
Second = Annotated[int, Field(strict=True, ge=0, le=LAST_SECOND, description="Seconds since 1970, UTC.")]


@dataclass(frozen=True)
class Limits:
    """What one request, and the server, may use at most."""

    body_bytes: int = 2**20
    """Bytes of a request's body."""
    body_seconds: float = 10.0
    """Time in which the body must arrive."""
    trips: int = 256
    """Trips of a request."""
    expansions: int = 5000
    """Expansions per trip."""
    path_roads: int = 512
    """Roads of a path whose next road is predicted."""
    waiting: int = 64
    """Requests that wait for the model; further ones are refused with status 503."""
    batch: int = 256
    """Trips or paths that are computed together."""
    seconds: float = 120.0
    """Time after which a waiting request is refused with status 504."""


DEFAULT_EXPANSIONS = 1000
"""Expansions per trip where a request gives no number: a trip that needs more is rarely a good one."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TripRequest(_Strict):
    """A trip to generate."""

    origin: Road
    destination: Road
    start_time: Second


class GenerateRequest(_Strict):
    """Trips to generate with one decoder."""

    trips: tuple[TripRequest, ...] = Field(min_length=1, description="The requested trips.")
    decoder: str = Field("search", max_length=40, description="Name of a decoder, such as search or beam.")
    max_steps: int | None = Field(
        None,
        strict=True,
        ge=1,
        description="Expansions per trip after which it ends; by default 1000, or the server's limit if that is lower.",
    )
    seed: int = Field(0, strict=True, ge=0, le=2**31 - 1, description="Seed of the decoder `sampling`.")


class Trip(BaseModel):
    """A generated trip."""

    roads: list[int] = Field(description="Road ids.")
    times: list[int] = Field(description="Time of entry of each road, seconds since 1970, UTC.")
    reached: bool = Field(description="Whether the trip ends at its destination.")


class GenerateAnswer(BaseModel):
    """Generated trips in the order of the request."""

    trips: list[Trip]


class PathRequest(_Strict):
    """A path whose next road is predicted."""

    roads: tuple[Road, ...] = Field(min_length=1, description="Roads so far, the current one last.")
    times: tuple[Second, ...] = Field(min_length=1, description="Time of entry of each road; never decreasing.")
    destination: Road

    @model_validator(mode="after")
    def _consistent(self) -> PathRequest:
        if len(self.roads) != len(self.times):
            raise ValueError(f"{len(self.roads)} roads but {len(self.times)} times; give one time per road")
        if any(later < earlier for earlier, later in zip(self.times, self.times[1:], strict=False)):
            raise ValueError("times decrease; give the time of entry of each road")
        return self


class NextStepRequest(_Strict):
    """Paths whose next roads are predicted."""

    paths: tuple[PathRequest, ...] = Field(min_length=1)


class Candidate(BaseModel):
    """A road that can follow."""

    road: int
    probability: float = Field(description="Probability of this road among the successors.")
    seconds: float = Field(description="Predicted time until it is entered, in seconds.")


class NextStepAnswer(BaseModel):
    """Candidates of each path, the most probable first; empty at a dead end."""

    steps: list[list[Candidate]]


class Problem(BaseModel):
    """Why a request is refused."""

    error: str = Field(description="What is wrong, with the value, and how to fix it.")
    place: str = Field("", description="Place in the request's body, such as trips.0.origin.")
