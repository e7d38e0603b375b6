"""Settings of the metrics of generated trips."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from hoser_kd.config.section import Section


class EvaluationConfig(Section):
    """Metrics of generated trips."""

    example: ClassVar[str] = "{od_cell_m: 200}"

    od_cell_m: float = Field(200.0, gt=0)
    """Side of the OD cells within which real and generated trips are paired, in meters."""
    od_corner: tuple[float, float] | None = None
    """South-west corner (latitude, longitude) of the OD cells. None: the published corner in Beijing, Porto and San
    Francisco, otherwise that of the road centers."""
    edr_threshold_m: float = Field(100.0, gt=0)
    """Distance up to which two points match in EDR, in meters."""
    peak_hours: tuple[tuple[float, float], ...] = ((7.0, 10.0), (17.0, 20.0))
    """Peak hours of the day, [from, to), in the time zone of the trips' times."""
    center: tuple[float, float] | None = None
    """Center of the city (latitude, longitude). None: the median of the road centers."""
    center_radius_m: float | None = Field(None, gt=0)
    """Roads within this distance of `center` belong to the center, all others to the suburbs. None: the closest
    quarter of the roads belongs to the center."""

    @model_validator(mode="after")
    def _real_hours_and_places(self) -> Self:
        for low, high in self.peak_hours:
            if not 0 <= low < high <= 24:
                raise ValueError(
                    f"peak_hours are pairs [from, to) with 0 <= from < to <= 24, not [{low:g}, {high:g}]; "
                    "write hours across midnight as two pairs"
                )
        for name, place in (("od_corner", self.od_corner), ("center", self.center)):
            if place is not None and not (-90 <= place[0] <= 90 and -180 <= place[1] <= 180):
                raise ValueError(f"{name} is latitude, then longitude, in degrees")
        return self
