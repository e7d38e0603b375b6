"""A rectangle on the map, which several sections of the settings have."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from hoser_kd.config.section import Section


class Bounds(Section):
    """A rectangle in degrees, EPSG:4326."""

    example: ClassVar[str] = "{min_lat: 41.1, max_lat: 41.2, min_lng: -8.7, max_lng: -8.5}"

    min_lat: float = Field(ge=-90, le=90)
    max_lat: float = Field(ge=-90, le=90)
    min_lng: float = Field(ge=-180, le=180)
    max_lng: float = Field(ge=-180, le=180)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_lat >= self.max_lat or self.min_lng >= self.max_lng:
            raise ValueError("min_lat must be below max_lat, and min_lng below max_lng")
        return self
