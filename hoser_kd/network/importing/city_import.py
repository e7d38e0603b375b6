"""Import a city: roads and trips of other tools as a folder in HOSER's format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hoser_kd.common.errors import DataError
from hoser_kd.config.raw_data import SplitConfig
from hoser_kd.network.importing.city_folder import require_empty, split_by_start, write_city
from hoser_kd.network.importing.roads import ImportedRoads, read_roads
from hoser_kd.network.importing.trips import read_imported_pieces, read_imported_trips
from hoser_kd.network.splits import DividedTrips, divide
from hoser_kd.network.trajectories import SPLITS


class ImportedCity(NamedTuple):
    """What `import_city` wrote."""

    folder: Path
    """In HOSER's format, with the map of road ids."""
    num_roads: int
    num_connections: int
    num_trips: dict[str, int]
    """Trips of each split."""
    copies_across_splits: int
    """Validation and test trips that equal a trip of an earlier split; 0 for trips that are split already, whose
    copies the checks of a folder count."""
    copies_removed: int
    """How many of them are left out."""


def import_city(
    folder: Path,
    roads: Path,
    trips: Path | Mapping[str, Path],
    *,
    connections: Path | None = None,
    time_zone: str | None = None,
    columns: Mapping[str, str] | None = None,
    split: SplitConfig | None = None,
    layout: str | None = None,
) -> ImportedCity:
    """Read roads and trips, and write a folder in HOSER's format.

    Args:
        folder: new folder to write.
        roads: table of directed edges (see `read_roads`).
        trips: file of all trips, or a file each of train, val and test (see `read_imported_trips`).
        connections: table of pairs of consecutive roads; None: roads that share a node follow each other.
        time_zone: the city's, such as Europe/Lisbon, for Unix times and times with an offset.
        columns: role to column name, where the usual names do not apply.
        split: how a file of all trips is divided; None: by start time into 70, 10 and 20 %.
        layout: one of `LAYOUTS` of `importing.trips` that the trips must have; None: found by their columns.

    Raises:
        DataError: a file, column or row cannot be used, or `folder` is not empty.
        ConfigError: an unknown time zone.
    """
    require_empty(folder)
    imported = read_roads(roads, connections, columns)
    if isinstance(trips, Path):
        splits = _divided(trips, imported, time_zone, columns, split, layout)
    else:
        parts = {name: read_imported_trips(trips[name], imported, time_zone, columns, layout) for name in SPLITS}
        splits = DividedTrips(parts, 0, 0)
    write_city(folder, imported, splits.parts)
    return ImportedCity(
        folder,
        imported.network.num_roads,
        len(imported.network.successors.indices),
        {name: len(part) for name, part in splits.parts.items()},
        splits.copies_across_splits,
        splits.copies_removed,
    )


def _divided(
    file: Path,
    roads: ImportedRoads,
    time_zone: str | None,
    columns: Mapping[str, str] | None,
    split: SplitConfig | None,
    layout: str | None,
) -> DividedTrips:
    """Read a file of all trips and divide them; the pieces of a trip that left the network stay together."""
    trips, of_trip = read_imported_pieces(file, roads, time_zone, columns, layout)
    if split is not None:
        return divide(trips, of_trip, trips.start_times, split, file)
    if len(np.unique(of_trip)) < len(SPLITS):
        hint = "Training, validation and test need a trip each."
        raise DataError(file, f"{len(np.unique(of_trip))} trips are too few for {len(SPLITS)} sets.", hint=hint)
    return DividedTrips(split_by_start(trips, of_trip), 0, 0)
