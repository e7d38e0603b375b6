"""Settings of the partition of the roads into zones."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from hoser_kd.config.section import Section


class ZonesConfig(Section):
    """The partition of the roads into zones."""

    example: ClassVar[str] = "{count: 300}"

    count: int = Field(300, ge=1)
    """Number of zones, at most a quarter of the number of roads; ignored where the dataset ships a partition."""
    method: Literal["kahip", "bisection"] = "kahip"
    """kahip: KaHIP in strong mode, as published; bisection: recursive halving of the map, for networks too large for
    KaHIP."""
    imbalance: float = Field(0.03, ge=0)
    """Allowed relative excess of a zone over the mean size (kahip)."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Random seed of KaHIP."""
    use_shipped: bool = True
    """Use `road_network_partition` and `zone_trans_mat.npy` where the dataset ships them."""
