"""The files of raw data: where they are, and digests of their content. Imports nothing heavy."""

from __future__ import annotations

import functools
from pathlib import Path

from hoser_kd.common.errors import DataError
from hoser_kd.common.hashing import digest_file, digest_json
from hoser_kd.config.raw_data import MapConfig, PointsConfig

SUFFIXES = {
    "table": (".csv", ".csv.gz", ".txt", ".txt.gz", ".parquet", ".geoparquet", ".pq"),
    "ecml_pkdd": (".csv", ".csv.gz"),
    "t_drive": (".txt", ".csv"),
    "gpx": (".gpx",),
    "libcity_dyna": (".dyna",),
}
"""Endings of the files that are read of a folder, by format; all files where the format has none."""


def map_files(settings: MapConfig) -> list[Path]:
    """Return the extract, and the polygon if there is one. Raises DataError if one is missing."""
    given = {"path": settings.path or "", "polygon": settings.polygon}
    files = {key: Path(name).expanduser() for key, name in given.items() if name is not None}
    for key, path in files.items():
        if not path.is_file():
            raise DataError(path, "no such file.", hint=f"It is the value of `source.map.{key}`: correct it.")
    return list(files.values())


def point_files(settings: PointsConfig, *, missing_ok: bool = False) -> list[Path]:
    """Return the files with the points, by name. Raises DataError if there are none, unless `missing_ok`."""
    path = Path(settings.path or "").expanduser()
    if path.is_file():
        return [path]
    hint = "It is the value of `source.points.path`: correct it."
    if not path.is_dir():
        if missing_ok:
            return []
        raise DataError(path, "no such file or folder.", hint=hint)
    endings = SUFFIXES.get(settings.format, ("",))
    files = [file for file in sorted(path.iterdir()) if file.is_file() and not file.name.startswith(".")]
    files = [file for file in files if file.name.endswith(endings)]
    if not files and not missing_ok:
        raise DataError(path, f"no files of the format {settings.format}.", hint=hint)
    return files


def digest_if_present(files: list[Path]) -> str:
    """Return a digest of names and contents of existing files; each is read once per content."""
    states = [(path, path.stat()) for path in files if path.is_file()]
    return digest_json([[path.name, _digest(str(path), state.st_size, state.st_mtime_ns)] for path, state in states])


@functools.lru_cache(maxsize=4096)
def _digest(path: str, size: int, modified_ns: int) -> str:
    del size, modified_ns  # keys of the cache
    return digest_file(path)
