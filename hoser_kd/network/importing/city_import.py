"""Import a city: roads and trips of other tools as a folder in HOSER's format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from hoser_kd.common.errors import DataError
from hoser_kd.network.importing.city_folder import require_empty, split_by_start, write_city
from hoser_kd.network.importing.roads import read_roads
from hoser_kd.network.importing.trips import read_imported_trips
from hoser_kd.network.trajectories import SPLITS


class ImportedCity(NamedTuple):
    """What `import_city` wrote."""

    folder: Path
    """In HOSER's format, with the map of road ids."""
    num_roads: int
    num_connections: int
    num_trips: dict[str, int]
    """Trips of each split."""


def import_city(
    folder: Path,
    roads: Path,
    trips: Path | Mapping[str, Path],
    *,
    connections: Path | None = None,
    time_zone: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> ImportedCity:
    """Read roads and trips, and write a folder in HOSER's format.

    Args:
        folder: new folder to write.
        roads: table of directed edges (see `read_roads`).
        trips: file of all trips, split by start time into 70, 10 and 20 %; or a file each of train, val and test (see
            `read_imported_trips`).
        connections: table of pairs of consecutive roads; None: roads that share a node follow each other.
        time_zone: the city's, such as Europe/Lisbon, for Unix times and times with an offset.
        columns: role to column name, where the usual names do not apply.

    Raises:
        DataError: a file, column or row cannot be used, or `folder` is not empty.
        ConfigError: an unknown time zone.
    """
    require_empty(folder)
    imported = read_roads(roads, connections, columns)
    if isinstance(trips, Path):
        every = read_imported_trips(trips, imported, time_zone, columns)
        if len(every) < len(SPLITS):
            hint = "Training, validation and test need a trip each."
            raise DataError(trips, f"{len(every)} trips are too few for {len(SPLITS)} sets.", hint=hint)
        splits = split_by_start(every)
    else:
        splits = {split: read_imported_trips(trips[split], imported, time_zone, columns) for split in SPLITS}
    write_city(folder, imported, splits)
    return ImportedCity(
        folder,
        imported.network.num_roads,
        len(imported.network.successors.indices),
        {split: len(part) for split, part in splits.items()},
    )


def find_city_files(folder: Path) -> tuple[Path, Path | None, dict[str, Path] | Path]:
    """Return roads, connections and trips of a folder that holds one LibCity data set or a nearly-HOSER city.

    Raises DataError naming what is missing or ambiguous.
    """
    roads = _only(folder, "*.geo", "roads")
    connections = next(iter(sorted(folder.glob("*.rel"))), None)
    splits = {split: folder / f"{split}.csv" for split in SPLITS}
    if all(path.is_file() for path in splits.values()):
        return roads, connections, splits
    named = {split: [*folder.glob(f"*_{split}.dyna")] for split in SPLITS}
    if all(len(paths) == 1 for paths in named.values()):
        return roads, connections, {split: paths[0] for split, paths in named.items()}
    return roads, connections, _only(folder, "*.dyna", "trips")


def _only(folder: Path, pattern: str, what: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise DataError(folder, f"needs one file {pattern} of {what}, not {names}.", hint="Use --roads and --trips.")
    return found[0]


def trips_by_split(paths: Mapping[str, Path | None], every: Path | None) -> dict[str, Path] | Path | None:
    """Return the trips that options name: one file, or one per split. Raises ValueError where they contradict."""
    given = {split: path for split, path in paths.items() if path is not None}
    if every is not None and given:
        raise ValueError("--trips and --train, --val, --test contradict each other. Give one of them.")
    if every is not None:
        return every
    if given and len(given) < len(SPLITS):
        missing = ", ".join(f"--{split}" for split in SPLITS if split not in given)
        raise ValueError(f"{missing} is missing. Give a file per set, or all trips with --trips.")
    return given or None
