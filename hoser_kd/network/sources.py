"""Data sources: each kind provides a folder in HOSER's format and a digest of its content.

A kind is a subclass of `SourceKind`, registered in `SOURCE_KINDS` under the name that `source.kind` uses. Everything
that depends on the kind is defined by its class. This module loads with the settings, so it imports nothing heavy.
"""

from __future__ import annotations

import hashlib
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from hoser_kd.common.errors import DataError
from hoser_kd.common.hashing import digest_file, digest_json
from hoser_kd.common.progress import Progress, silent
from hoser_kd.config.imported import PATH_KEYS
from hoser_kd.config.raw_data import RAW_SECTIONS
from hoser_kd.config.source import HANDLING_KEYS
from hoser_kd.config.variants import SOURCE_KINDS
from hoser_kd.network.csv_files import FOLDER_HINT
from hoser_kd.network.importing.city_files import files_of, present_files
from hoser_kd.network.raw_files import digest_if_present, map_files, point_files
from hoser_kd.network.trajectories import SPLITS
from hoser_kd.network.zones import PARTITION_FILE, TRANSITIONS_FILE

if TYPE_CHECKING:
    from tqdm import tqdm

    from hoser_kd.config.source import SourceConfig

REQUIRED_FILES = ("roadmap.geo", "roadmap.rel", *(f"{split}.csv" for split in SPLITS))
OPTIONAL_FILES = (PARTITION_FILE, TRANSITIONS_FILE)


class SourceKind(ABC):
    """One kind of data source. The defaults suit a kind that writes its files into the folder it is given."""

    is_external = False
    """The raw files stay outside the artifact store, where they can change at any time."""
    versioned_by_content = True
    """The version of `source_files` is the digest of the files; False: of the settings, which determine the files."""
    is_raw = False
    """The files are a map and GPS points, not a folder in HOSER's format: the stages `osm_extract`, `gps_points` and
    `matched_trips` turn them into roads and trips, and `fetch` is not called."""
    files_in_settings = False
    """Settings sections hold digests of the raw files in place of their names, so a changed file changes them."""
    downloads = False
    """Fetching transfers data over the network, so it starts only on a user's request."""

    def validate_settings(self, source: SourceConfig) -> None:  # noqa: B027
        """Raise ValueError where a setting that this kind needs is missing or wrong."""

    @abstractmethod
    def fetch(self, source: SourceConfig, folder: Path, progress: Progress) -> Path:
        """Return a complete folder in HOSER's format, `folder` itself or a folder inside it unless `is_external`.

        Raises DataError where files are missing or cannot be obtained.
        """

    def raw_files(self, source: SourceConfig) -> list[Path]:
        """Return the raw files outside the store; none unless `is_external`."""
        return hoser_files(self.fetch(source, Path(), silent)) if self.is_external else []

    def raw_version(self, source: SourceConfig, names: Sequence[str]) -> str:
        """Return a digest (sha256, hex) that identifies the raw files with these names."""
        if not self.is_external:
            return digest_json(self.settings(source))
        return digest_json([[path.name, digest_file(path)] for path in self.raw_files_for(source, names)])

    def settings(self, source: SourceConfig) -> dict[str, Any]:
        """Return the settings that `source_files` depends on, as JSON."""
        return source.model_dump(mode="json", exclude={*HANDLING_KEYS, *RAW_SECTIONS, "files"})

    def raw_files_for(self, source: SourceConfig, names: Sequence[str]) -> list[Path]:
        """Return the raw files that provide what these files of HOSER's format hold."""
        return [path for path in self.raw_files(source) if path.name in names]

    def content(self, source: SourceConfig) -> str:
        """Return the digest of the content of external files, which is the version of `source_files`."""
        return content_digest(self.fetch(source, Path(), silent))

    def describe(self, source: SourceConfig) -> dict[str, Any]:
        """Return what the UI shows of the source where there are no raw files to list; JSON values."""
        return {"kind": source.kind}


class HoserFolder(SourceKind):
    """Kind `hoser`: an existing folder in HOSER's format, used in place."""

    is_external = True

    def validate_settings(self, source: SourceConfig) -> None:
        if not source.path:
            raise ValueError("kind hoser needs `path`, a folder in HOSER's format")

    def fetch(self, source: SourceConfig, folder: Path, progress: Progress) -> Path:  # noqa: ARG002
        place = Path(source.path or "").expanduser()
        if not place.is_dir():
            raise DataError(place, "no such folder.", hint=FOLDER_HINT)
        require_files(place, f"Add them. {FOLDER_HINT}")
        return place


class RawData(SourceKind):
    """Kind `raw`: an OpenStreetMap extract and GPS points, used in place."""

    is_external = True
    is_raw = True
    files_in_settings = True

    def validate_settings(self, source: SourceConfig) -> None:
        if not source.map.path:
            raise ValueError("kind raw needs `map: {path: …}`, an OpenStreetMap extract")
        if not source.points.path:
            raise ValueError("kind raw needs `points: {path: …}`, a file or folder with GPS points")
        if not source.points.time_zone:
            raise ValueError(
                "kind raw needs `points: {time_zone: …}`, such as Europe/Lisbon, for the local times of trips"
            )

    def fetch(self, source: SourceConfig, folder: Path, progress: Progress) -> Path:  # noqa: ARG002
        path = source.map.path or ""
        raise DataError(
            path, "raw data is not a folder in HOSER's format.", hint="Use the stages osm_extract, gps_points."
        )

    def raw_files(self, source: SourceConfig) -> list[Path]:
        return [*self.raw_files_for(source, ["roadmap.geo"]), *self.raw_files_for(source, ["train.csv"])]

    def raw_files_for(self, source: SourceConfig, names: Sequence[str]) -> list[Path]:
        files: list[Path] = []
        if "roadmap.geo" in names:
            files += map_files(source.map)
        if "train.csv" in names:
            files += point_files(source.points)
        return files

    def content(self, source: SourceConfig) -> str:
        return digest_json([[path.name, digest_file(path)] for path in self.raw_files(source)])


class ImportedFiles(SourceKind):
    """Kinds `import`, `fmm`, …: roads and trips of other tools, written in HOSER's format with the map of ids."""

    versioned_by_content = False
    files_in_settings = True

    def __init__(self, roads: tuple[str, ...] | None = None, layout: str | None = None) -> None:
        """Expect a file of roads with one of these endings, and trips with a layout of `LAYOUTS`; None: any."""
        self.roads = roads
        self.layout = layout

    def validate_settings(self, source: SourceConfig) -> None:
        files = source.files
        if not files.is_complete:
            raise ValueError(
                f"kind {source.kind} needs `files: {{roads: …, trips: …}}`, with train, val and test in place of trips "
                "if they are divided already"
            )
        if self.roads and not (files.roads or "").endswith(self.roads):
            raise ValueError(
                f"kind {source.kind} reads roads of {', '.join(self.roads)}, not {files.roads}; kind import reads all"
            )

    def fetch(self, source: SourceConfig, folder: Path, progress: Progress) -> Path:
        import shutil

        from hoser_kd.network.importing.city_import import import_city

        files, settings = files_of(source.files), source.files
        shutil.rmtree(folder, ignore_errors=True)  # of an interrupted run
        progress("import", 0, 1)
        import_city(
            folder,
            files.roads,
            files.trips,
            connections=files.connections,
            time_zone=settings.time_zone,
            columns={str(role): name for role, name in settings.columns.items()},
            split=source.split,
            layout=self.layout,
        )
        return folder

    def settings(self, source: SourceConfig) -> dict[str, Any]:
        files = source.files.model_dump(mode="json")
        for key in PATH_KEYS:
            if files[key] is not None:
                files[key] = digest_if_present(present_files(key, files[key]))
        split = {} if source.files.trips is None else {"split": source.split.model_dump(mode="json")}
        return {**super().settings(source), "files": files, **split}

    def raw_files(self, source: SourceConfig) -> list[Path]:
        files = files_of(source.files)
        return [*files.of_roads, *files.of_trips]

    def raw_version(self, source: SourceConfig, names: Sequence[str]) -> str:
        return digest_json([[path.name, digest_file(path)] for path in self.raw_files_for(source, names)])

    def raw_files_for(self, source: SourceConfig, names: Sequence[str]) -> list[Path]:
        files = files_of(source.files)
        roads, trips = "roadmap.geo" in names, "train.csv" in names
        return [*(files.of_roads if roads else []), *(files.of_trips if trips else [])]


class SyntheticCity(SourceKind):
    """Kind `synthetic`: roads and trips generated by `hoser_kd.network.synthetic.city`."""

    versioned_by_content = False

    def fetch(self, source: SourceConfig, folder: Path, progress: Progress) -> Path:
        from hoser_kd.network.synthetic.city import make_synthetic_city

        return make_synthetic_city(folder, source.synthetic, progress)


class HuggingFaceDataset(SourceKind):
    """Kind `huggingface`: a dataset repository on Hugging Face; an interrupted download resumes."""

    downloads = True

    def validate_settings(self, source: SourceConfig) -> None:
        if not source.repo_id:
            raise ValueError("kind huggingface needs `repo_id`, such as caoji2001/HOSER-dataset")

    def fetch(self, source: SourceConfig, folder: Path, progress: Progress) -> Path:
        prefix = f"{source.subfolder.strip('/')}/" if source.subfolder else ""
        _download(source, folder, [prefix + name for name in (*REQUIRED_FILES, *OPTIONAL_FILES)], progress)
        place = folder / prefix
        require_files(place, f"`source.subfolder` must name the folder of {source.repo_id} that holds them.")
        return place


def check_source_kind(name: str, kind: object) -> None:
    """Validate a source kind before it is registered. Raises TypeError with the right call."""
    if isinstance(kind, SourceKind):
        return
    if isinstance(kind, type) and issubclass(kind, SourceKind):
        raise TypeError(
            f"source kind {name!r} is the class {kind.__name__}. Register an instance: "
            f"SOURCE_KINDS.register({name!r}, {kind.__name__}())."
        )
    raise TypeError(
        f"source kind {name!r} is {kind!r}, not a SourceKind. Register an instance of a subclass of SourceKind: "
        f"SOURCE_KINDS.register({name!r}, MyKind())."
    )


SOURCE_KINDS.register("hoser", HoserFolder())
SOURCE_KINDS.register("raw", RawData())
SOURCE_KINDS.register("import", ImportedFiles())
for _tool in ("fmm", "valhalla", "libcity", "start"):
    SOURCE_KINDS.register(_tool, ImportedFiles(layout=_tool))
SOURCE_KINDS.register("osmnx", ImportedFiles((".graphml", ".gpkg")))
SOURCE_KINDS.register("geopandas", ImportedFiles((".parquet", ".geoparquet", ".gpkg", ".geojson", ".shp", ".fgb")))
SOURCE_KINDS.register("synthetic", SyntheticCity())
SOURCE_KINDS.register("huggingface", HuggingFaceDataset())


def kind_of(source: SourceConfig) -> SourceKind:
    """Return the registered kind of a source. Raises ConfigError where there is none of that name."""
    kind: SourceKind = SOURCE_KINDS[source.kind]
    return kind


def fetch(source: SourceConfig, folder: str | PathLike[str], progress: Progress = silent) -> Path:
    """Return a folder in HOSER's format: an existing one, or one generated or downloaded into `folder`.

    Kind hoser returns `source.path` without copying. Raises DataError where files are missing or cannot be downloaded.
    """
    return kind_of(source).fetch(source, Path(folder), progress)


def hoser_files(folder: str | PathLike[str]) -> list[Path]:
    """Return the existing files of HOSER's format in a folder, in a fixed order."""
    paths = [Path(folder) / name for name in (*REQUIRED_FILES, *OPTIONAL_FILES)]
    return [path for path in paths if path.is_file()]


def require_files(folder: Path, hint: str) -> None:
    """Raise DataError with this hint, naming the required files that the folder lacks."""
    missing = [name for name in REQUIRED_FILES if not (folder / name).is_file()]
    if missing:
        packed = [f"{name}.gz" for name in missing if (folder / f"{name}.gz").is_file()]
        unpack = f"Unpack {', '.join(packed)} with gunzip. " if packed else ""
        verb = "is" if len(missing) == 1 else "are"
        raise DataError(folder, f"{', '.join(missing)} {verb} missing.", hint=unpack + hint)


def content_digest(folder: str | PathLike[str]) -> str:
    """Return the sha256 (hex) over names and contents of the files of HOSER's format; other files are ignored."""
    total = hashlib.sha256()
    for path in hoser_files(folder):
        total.update(f"{path.name} {digest_file(path)}\n".encode())
    return total.hexdigest()


def raw_files_of(source: SourceConfig) -> list[Path]:
    """Return the raw files outside the store; none for a source whose files lie inside it.

    Raises DataError where an external folder is missing or incomplete.
    """
    return kind_of(source).raw_files(source)


def raw_version(source: SourceConfig, names: Sequence[str]) -> str:
    """Return the sha256 (hex) over the existing raw files with these names.

    For a generated or downloaded source, the digest of its settings. Raises DataError where an external folder is
    missing or incomplete.
    """
    return kind_of(source).raw_version(source, names)


def raw_signature(source: SourceConfig) -> str | None:
    """Return a digest of sizes and modification times of the raw files, cheap enough for polling.

    None where files of an external source are missing.
    """
    try:
        states = [(path, path.stat()) for path in raw_files_of(source)]
    except (DataError, FileNotFoundError):
        return None
    return digest_json([[str(path), state.st_size, state.st_mtime_ns] for path, state in states])


def _download(source: SourceConfig, folder: Path, patterns: list[str], progress: Progress) -> None:
    from huggingface_hub import errors, snapshot_download

    address = f"Hugging Face dataset {source.repo_id}"
    try:
        snapshot_download(
            str(source.repo_id),
            repo_type="dataset",
            revision=source.revision,
            local_dir=folder,
            allow_patterns=patterns,
            endpoint=os.environ.get("HF_ENDPOINT") or None,
            tqdm_class=_reporting_bar(progress),
        )
    except errors.RevisionNotFoundError as error:
        raise DataError(
            address,
            f"it has no revision {source.revision}.",
            hint="Correct the config's `source.revision`, or remove it.",
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise DataError(
            address,
            "no such repository, or it is private.",
            hint="Correct the config's `source.repo_id`, or log in with `hf auth login`.",
        ) from error
    except Exception as error:  # each version of the client raises its HTTP library's own errors
        raise DataError(
            address,
            f"cannot be downloaded: {type(error).__name__}: {str(error).strip().splitlines()[0].rstrip('.')}.",
            hint="Check the connection (HF_HUB_OFFLINE, HF_ENDPOINT), or download it elsewhere and use "
            "`source.kind: hoser` with its `path`.",
        ) from error


def _reporting_bar(progress: Progress) -> type[tqdm[Any]]:
    """Return a tqdm class that draws nothing and reports the number of files and the megabytes so far."""
    from tqdm import tqdm

    lock = Lock()
    state = {"files": 0, "total": 0, "mb": 0.0}

    class ReportingBar(tqdm):  # type: ignore[misc]
        monitor_interval = 0

        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*args, **{**options, "file": io.StringIO(), "disable": False})

        def display(self, *_: Any, **__: Any) -> bool:
            return True

        def update(self, n: float | None = 1) -> bool:
            shown = bool(super().update(n))
            with lock:
                if self.unit == "B":
                    state["mb"] = max(state["mb"], self.n / 1e6)
                else:
                    state["files"], state["total"] = int(self.n), int(self.total or 0)
                progress("download", int(state["files"]), int(state["total"]), {"MB": state["mb"]})
            return shown

    return ReportingBar
