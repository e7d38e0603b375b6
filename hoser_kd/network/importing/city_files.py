"""Where the roads and trips of an import are. Imports nothing heavy, so that settings and sensors can use it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from hoser_kd.common.errors import DataError
from hoser_kd.config.imported import FilesConfig
from hoser_kd.network.trajectories import SPLITS

IDS_FILE = "road_ids.csv"
"""The map of ids: geo_id (this project's) and old_id (the source's)."""
_SHAPEFILE_PARTS = (".dbf", ".shx", ".prj", ".cpg")


class CityFiles(NamedTuple):
    """The files of one city."""

    roads: Path
    connections: Path | None
    trips: Path | dict[str, Path]
    """All trips, or those of each split."""

    @property
    def of_roads(self) -> list[Path]:
        """Files that the road network is made of."""
        return [*_with_parts(self.roads), *([] if self.connections is None else [self.connections])]

    @property
    def of_trips(self) -> list[Path]:
        """Files that the trips are made of."""
        return list(self.trips.values()) if isinstance(self.trips, dict) else [self.trips]


def files_of(settings: FilesConfig) -> CityFiles:
    """Return the files that `source.files` names. Raises DataError if one is missing."""
    if settings.folder is not None:
        return find_city_files(_existing("folder", settings.folder))
    roads = _existing("roads", settings.roads or "")
    connections = None if settings.connections is None else _existing("connections", settings.connections)
    if settings.trips is not None:
        return CityFiles(roads, connections, _existing("trips", settings.trips))
    return CityFiles(roads, connections, {split: _existing(split, getattr(settings, split) or "") for split in SPLITS})


def present_files(key: str, name: str) -> list[Path]:
    """Return the existing files behind one setting of `source.files`; none where they are missing or ambiguous."""
    path = Path(name).expanduser()
    if key != "folder":
        return _with_parts(path)
    try:
        files = find_city_files(path)
    except DataError:
        return []
    return [*files.of_roads, *files.of_trips]


def _with_parts(path: Path) -> list[Path]:
    """Return a file and, for a shapefile, the files beside it that belong to it."""
    parts = [path.with_suffix(suffix) for suffix in _SHAPEFILE_PARTS if path.suffix == ".shp"]
    return [path, *(part for part in parts if part.is_file())]


def _existing(key: str, name: str) -> Path:
    path = Path(name).expanduser()
    if not (path.is_dir() if key == "folder" else path.is_file()):
        what = "folder" if key == "folder" else "file"
        raise DataError(path, f"no such {what}.", hint=f"It is the value of `source.files.{key}`: correct it.")
    return path


def find_city_files(folder: Path) -> CityFiles:
    """Return roads, connections and trips of a folder that holds one LibCity data set or a nearly-HOSER city.

    Raises DataError naming what is missing or ambiguous.
    """
    roads = _only(folder, "*.geo", "roads")
    connections = next(iter(sorted(folder.glob("*.rel"))), None)
    splits = {split: folder / f"{split}.csv" for split in SPLITS}
    if all(path.is_file() for path in splits.values()):
        return CityFiles(roads, connections, splits)
    named = {split: [*folder.glob(f"*_{split}.dyna")] for split in SPLITS}
    if all(len(paths) == 1 for paths in named.values()):
        return CityFiles(roads, connections, {split: paths[0] for split, paths in named.items()})
    return CityFiles(roads, connections, _only(folder, "*.dyna", "trips"))


def _only(folder: Path, pattern: str, what: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        hint = "Name the files: --roads and --trips, in YAML `source.files.roads` and `trips`."
        raise DataError(folder, f"needs one file {pattern} of {what}, not {names}.", hint=hint)
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
