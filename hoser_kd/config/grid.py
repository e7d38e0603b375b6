"""Settings of the teacher's grid."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from hoser_kd.config.bounds import Bounds
from hoser_kd.config.section import Section


class GridConfig(Section):
    """The grid whose cells are the teacher's tokens. Values stored in a teacher checkpoint take precedence."""

    example: ClassVar[str] = "{bounds: roads, cell_size_m: 100}"
    smallest: ClassVar[float] = 0.0  # the message about too many cells says more

    kind: Literal["cells", "roads"] = "cells"
    """cells: one token per grid cell; roads: one token per road."""
    bounds: Bounds | Literal["roads"] | None = None
    """Extent of the grid. `roads`: the extent of the road centers, valid only for a teacher trained in the pipeline."""
    cell_size_m: float | None = Field(None, gt=0)
    """Side of a cell in meters; set either this or both cell_lat and cell_lng."""
    cell_lat: float | None = Field(None, gt=0)
    """Height of a cell in degrees."""
    cell_lng: float | None = Field(None, gt=0)
    """Width of a cell in degrees."""
    downsample_factor: int = Field(1, ge=1)
    """Number of cells merged along each axis."""
    vocabulary: Literal["all", "occupied"] = "all"
    """Cells that get a token. all: every cell, as published; occupied: only cells with a road, for a teacher trained in
    the pipeline."""
    min_share_inside: float = Field(0.9, ge=0, le=1)
    """Smallest share of roads inside the grid at which the check `roads_inside_grid` passes, and inside the grid of
    each checkpoint of `distill.pooled.other_teachers`."""

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        degrees = (self.cell_lat, self.cell_lng)
        if self.cell_size_m is not None and degrees != (None, None):
            raise ValueError("set either cell_size_m, or cell_lat and cell_lng, not both")
        if (self.cell_lat is None) != (self.cell_lng is None):
            raise ValueError("set both cell_lat and cell_lng")
        return self
