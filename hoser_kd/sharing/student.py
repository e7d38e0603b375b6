"""A trained student with what its use outside the pipeline needs: the road network and where the student comes from.

Shapes: N roads, K steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from hoser_kd.common.arrays import BoolArray, Csr, Int64Array, ranges
from hoser_kd.hoser import HOSER, IncrementalHOSER
from hoser_kd.network.road_network import RoadNetwork

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd
    import torch

    from hoser_kd.sharing.snapping import RoadIndex

NO_NETWORK = 'Give the network: load_student(path, network="folder in HOSER\'s format").'


@dataclass(frozen=True, eq=False)
class Student:
    """A student as `load_student` returns it. Its weights must not change: what is derived from them is kept."""

    model: HOSER
    """The network, in eval mode."""
    network: RoadNetwork | None = None
    """Its roads; None for a folder of weights alone. Points, geometries and lengths need it."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What is known of it: city, stage, seed, version, license, time_convention, metrics, settings, lineage."""
    source_ids: pd.DataFrame | None = None
    """N rows: ids of the roads in their source, such as `geo_id` and OpenStreetMap's `u` and `v`; None if unknown."""

    def __post_init__(self) -> None:
        """Raise TypeError for parts of the wrong kind."""
        if not isinstance(self.model, HOSER):
            raise TypeError(
                f"model is of type {type(self.model).__name__}, not a HOSER. Load a student with load_student(path)."
            )
        if self.network is not None and not isinstance(self.network, RoadNetwork):
            raise TypeError(
                f"network is of type {type(self.network).__name__}, not a RoadNetwork. Call Student(model, network) "
                "with network = read_network(folder)."
            )

    def __repr__(self) -> str:
        """Name city, stage, seed and version, as far as known, and the number of roads."""
        known = [str(self.about[key]) for key in ("city", "stage") if self.about.get(key)]
        if self.about.get("seed") is not None:
            known.append(f"seed {self.about['seed']}")
        if self.about.get("version"):
            known.append(f"version {self.about['version']}")
        geometry = "" if self.network is not None else ", no road network"
        return f"Student({', '.join([*known, f'{self.num_roads} roads'])}{geometry})"

    @property
    def num_roads(self) -> int:
        """Number of roads, N."""
        return self.model.config.num_roads

    def to(self, device: torch.device | str) -> Student:
        """Return the student with its weights on a device, such as "cuda"; the weights move, they are not copied."""
        return Student(self.model.to(device), self.network, self.about, self.source_ids)

    @cached_property
    def decoder(self) -> IncrementalHOSER:
        """The model with all roads encoded, built at first use."""
        return IncrementalHOSER(self.model)

    @cached_property
    def _candidates(self) -> Csr:
        tables = self.model.tables
        return Csr(tables.successor_start.cpu().numpy(), tables.successor.cpu().numpy())

    def is_connected(self, roads: Int64Array, following: Int64Array) -> BoolArray:
        """Return (K,) whether a road is a candidate of the one before; both are (K,) int64 ids that exist."""
        indptr, indices = self._candidates
        degrees = indptr[roads + 1] - indptr[roads]
        step = np.repeat(np.arange(len(roads)), degrees)
        is_next = indices[ranges(indptr[roads], degrees)] == following[step]
        return np.bincount(step[is_next], minlength=len(roads)) > 0

    @cached_property
    def road_index(self) -> RoadIndex:
        """Index that finds the nearest road of a point. Raises ValueError without a road network."""
        from hoser_kd.sharing.snapping import RoadIndex

        return RoadIndex(self.require_network("Points are snapped to roads"))

    def require_network(self, purpose: str) -> RoadNetwork:
        """Return the road network. Raises ValueError, beginning with the purpose, if the student has none."""
        if self.network is None:
            raise ValueError(f"{purpose}, but this student was loaded without its road network. {NO_NETWORK}")
        return self.network

    def roads(self) -> gpd.GeoDataFrame:
        """Return road_id, highway, length_m, the ids of the source and the LineString, one row per road, EPSG:4326."""
        frame = self.require_network("The table of roads has geometries").roads_frame()
        if self.source_ids is None:
            return frame
        for place, name in enumerate(self.source_ids.columns):
            frame.insert(1 + place, name, self.source_ids[name].to_numpy())
        return frame


def student_of(value: object, call: str) -> Student:
    """Return the student, or that of a bare HOSER. Raises TypeError with the right call for another object."""
    if isinstance(value, Student):
        return value
    if isinstance(value, HOSER):
        return Student(value)
    raise TypeError(
        f"student is of type {type(value).__name__}, not a student. Call {call} with student = load_student(path)."
    )
