"""Sizes of a HOSER and the variants of its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from hoser_kd.config.student import StudentConfig
    from hoser_kd.hoser.features import GraphFeatures

CandidateAngle = Literal["published", "true_bearing"]
"""`published`: with longitude and latitude swapped, as in the published code. `true_bearing`: without the swap."""
TimeIntervals = Literal["published", "elapsed"]
"""`published`: difference of the minutes of the day, in float32. `elapsed`: difference of the times."""


@dataclass(frozen=True)
class HoserConfig:
    """Sizes of a HOSER and the variants of its inputs; the defaults are the published ones."""

    num_roads: int
    """N."""
    num_types: int
    """Road classes."""
    num_zones: int
    """Z."""
    hidden_dim: int = 128
    """h, width of road and zone vectors: the sum of the five widths below."""
    road_id_dim: int = 64
    """Width of the embedding of the road id."""
    length_dim: int = 16
    """Width of the embedding of the length."""
    type_dim: int = 16
    """Width of the embedding of the road class."""
    lon_dim: int = 16
    """Width of the embedding of the longitude."""
    lat_dim: int = 16
    """Width of the embedding of the latitude."""
    num_heads: int = 2
    """Attention heads."""
    num_layers: int = 2
    """Attention blocks."""
    dropout: float = 0.0
    """Dropout in the trajectory encoder."""
    max_len: int = 1024
    """Size of the causal mask stored in a published checkpoint; it does not limit the length of trips here."""
    candidate_angle: CandidateAngle = "published"
    """Whether the candidate angle swaps longitude and latitude."""
    time_intervals: TimeIntervals = "published"
    """Whether time intervals are differences of the minute of the day or of the times."""
    log1p_mean: float | None = None
    """Mean of log1p(seconds to the next road) over the training steps, which scales predicted times."""
    log1p_std: float | None = None
    """Standard deviation of log1p(seconds to the next road) over the training steps."""

    def __post_init__(self) -> None:
        """Validate the sizes."""
        parts = self.road_id_dim + self.length_dim + self.type_dim + self.lon_dim + self.lat_dim
        if parts != self.hidden_dim:
            raise ValueError(
                f"hidden_dim is {self.hidden_dim}, but road_id_dim, length_dim, type_dim, lon_dim and lat_dim "
                f"sum to {parts}"
            )
        if self.hidden_dim % 2 or (2 * self.hidden_dim) % self.num_heads:
            raise ValueError("hidden_dim must be even and 2 * hidden_dim a multiple of num_heads")

    @property
    def encoder_dim(self) -> int:
        """Width e of the trajectory encoder."""
        return 2 * self.hidden_dim

    @property
    def head_dim(self) -> int:
        """Width of an attention head."""
        return self.encoder_dim // self.num_heads

    @classmethod
    def from_student(cls, student: StudentConfig, features: GraphFeatures, num_zones: int, **more: Any) -> HoserConfig:
        """Build from the settings and the counts of the city; `more` overrides fields."""
        sizes: dict[str, Any] = {
            "num_roads": features.num_roads,
            "num_types": features.num_types,
            "num_zones": num_zones,
            "hidden_dim": student.hidden_dim,
            "road_id_dim": student.road_id_dim,
            **dict.fromkeys(("length_dim", "type_dim", "lon_dim", "lat_dim"), student.attribute_dim),
            "num_heads": student.num_heads,
            "num_layers": student.num_layers,
            "dropout": student.dropout,
            "candidate_angle": student.candidate_angle,
            "time_intervals": student.time_intervals,
        }
        return cls(**{**sizes, **more})
