"""Settings of map matching: from GPS points to roads with entry times (`hoser_kd.network.matching`)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from hoser_kd.config.section import EXECUTION_ONLY, Section


class MatchingSettings(Section):
    """The hidden Markov model of the map matching (Newson and Krumm 2009), and where trips are split."""

    example: ClassVar[str] = "{sigma_m: 12, max_gap_s: 180}"

    candidates: int = Field(16, ge=1, le=64)
    """Number of nearest roads that each point can belong to; the two directions of a street are two roads."""
    radius_m: float = Field(60.0, gt=0)
    """Largest distance between a point and its road, in meters. Points without a road within it are left out."""
    sigma_m: float = Field(12.0, gt=0)
    """Standard deviation of the GPS error, in meters (section 4.1)."""
    beta_m: float = Field(20.0, gt=0)
    """Mean difference between the driven and the straight distance of consecutive points, in meters (section 4.2)."""
    max_gap_s: float = Field(180.0, gt=0)
    """Longest time between consecutive points of a piece, in seconds; a trip is split at longer ones."""
    max_speed_m_s: float = Field(50.0, gt=0)
    """Highest speed, in meters per second; paths that would need a higher one are impossible."""
    max_detour_m: float = Field(1000.0, ge=0)
    """How much longer than the straight line the path between consecutive points can be, in meters."""
    backward_m: float = Field(60.0, ge=0)
    """How far a point can lie behind the previous one on the same road, in meters, because of GPS noise."""
    end_m: float = Field(15.0, ge=0)
    """The first and the last road of a piece are left out if no more than this is driven on them, in meters."""
    min_roads: int = Field(2, ge=2)
    """Fewest roads of a piece; shorter pieces are left out and counted."""
    u_turns: Literal["dead_ends", "as_mapped"] = "dead_ends"
    """Turns onto the opposite direction of the same street. dead_ends: only where no other road follows; as_mapped:
    wherever the network has the connection."""
    cache_mb: int = Field(64, ge=1, json_schema_extra={EXECUTION_ONLY: True})
    """Memory for shortest paths that each process keeps, in MB; a larger cache is faster on a large map."""
    processes: int = Field(1, ge=1, json_schema_extra={EXECUTION_ONLY: True})
    """Number of processes that match trips."""
