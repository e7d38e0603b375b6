"""A city in one object, for notebooks: the road network, its trips by split, and the zones that HOSER needs."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path

from hoser_kd.common.arguments import check_choice, check_kind, check_path
from hoser_kd.common.arrays import Int64Array
from hoser_kd.common.errors import DataError, DataWarning
from hoser_kd.config.zones import ZonesConfig
from hoser_kd.network import zones
from hoser_kd.network.consistency import network_problems
from hoser_kd.network.road_network import RoadNetwork, read_network
from hoser_kd.network.trajectories import ON_BAD_ROW, SPLITS, Trajectories, read_trips
from hoser_kd.network.trip_consistency import trip_problems

_USAGE = "read_city(folder, on_bad_row='drop')"


@dataclass(frozen=True)
class City:
    """A road network with the trips of the training, validation and test sets.

    Shapes: N roads, Z zones.
    """

    network: RoadNetwork
    """The roads and which road can follow which."""
    train: Trajectories
    """Training trips."""
    val: Trajectories
    """Validation trips."""
    test: Trajectories
    """Test trips."""
    zones_config: ZonesConfig = field(default_factory=ZonesConfig)
    """How the roads are partitioned where the data set ships no partition."""
    shipped: zones.Shipped | None = None
    """Zones that came with the data."""

    @cached_property
    def zones(self) -> Int64Array:
        """(N,) int64: zone of each road; KaHIP's partition unless the data set ships one."""
        return zones.partition(self.network, self.zones_config) if self.shipped is None else self.shipped.zones

    @cached_property
    def zone_transitions(self) -> Int64Array:
        """(Z, Z) int64: how often consecutive roads of training trips change from one zone to another."""
        if self.shipped is not None and self.shipped.transitions is not None:
            return self.shipped.transitions
        return zones.transitions(self.zones, self.train, int(self.zones.max()) + 1)


def read_city(folder: str | PathLike[str], zones_config: ZonesConfig | None = None, on_bad_row: str = "refuse") -> City:
    """Read a folder in HOSER's format: roadmap.geo, roadmap.rel, train.csv, val.csv, test.csv.

    `zones_config` sets how roads are partitioned into zones (default: that of `ZonesConfig`, which uses the data set's
    own partition where it ships one). `on_bad_row` is "refuse" or "drop", as for `read_trips`.

    Warns with DataWarning where all rows are valid but the data contradict themselves: lengths and lines, connections
    and ends of roads, splits that share trips, times without information.

    Raises:
        DataError: the folder or a file is missing, or a row cannot be used; the message names file, row and fix.
        TypeError, ValueError: an argument of the wrong kind.
    """
    check_path("folder", folder, _USAGE)
    if zones_config is not None:
        check_kind("zones_config", zones_config, ZonesConfig, _USAGE)
    check_choice("on_bad_row", on_bad_row, ON_BAD_ROW, _USAGE)
    place = Path(folder)
    if not place.is_dir():
        raise DataError(
            place, "no such folder.", hint="Give a folder in HOSER's format, such as read_city('raw/porto')."
        )
    config = zones_config or ZonesConfig()
    network = read_network(place)
    train, val, test = (read_trips(place / f"{split}.csv", network, on_bad_row) for split in SPLITS)
    shipped = zones.read_shipped(place, network) if config.use_shipped else None
    for problem in (*network_problems(network), *trip_problems({"train": train, "val": val, "test": test})):
        warnings.warn(f"{place}: {problem}", DataWarning, stacklevel=2)
    return City(network, train, val, test, config, shipped)
