"""A bundle: one folder with all that a student needs on a machine without the store.

    manifest.json         format, version, and the SHA-256 digest of each file
    student.json          city, time convention, metrics, settings, lineage, license
    model.safetensors     weights, graph features and candidates
    model.json            sizes of the network
    roads.parquet         GeoParquet: road_id, the ids of the source, highway, length_m, LineString (EPSG:4326)
    connections.parquet   which road can follow which
    README.md             model card; not part of the version, so it may be edited

All files are data: nothing in them is executed. The version is a digest of the digests, so equal content has an equal
version, and a changed file is refused.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from hoser_kd.common.arguments import check_kind, check_path
from hoser_kd.common.arrays import Csr
from hoser_kd.common.errors import CheckpointError
from hoser_kd.common.files import write_json
from hoser_kd.common.hashing import digest_file, digest_json
from hoser_kd.hoser import checkpoint
from hoser_kd.hoser.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from hoser_kd.network.road_network import CONNECTIONS_FILE, ROADS_FILE, RoadNetwork
from hoser_kd.sharing.model_card import model_card
from hoser_kd.sharing.student import Student

MANIFEST_FILE = "manifest.json"
ABOUT_FILE = "student.json"
CARD_FILE = "README.md"
CONTENT_FILES = (ABOUT_FILE, WEIGHTS_FILE, CONFIG_FILE, ROADS_FILE, CONNECTIONS_FILE)
"""Files that make up the version."""
BUNDLE_FILES = (MANIFEST_FILE, *CONTENT_FILES, CARD_FILE)
"""All files; others are neither written, published nor downloaded."""
FORMAT = "hoser-kd student"
FORMAT_VERSION = 1
"""Raised when a reader of an older release could not load a new bundle; older bundles must stay readable."""
UNKNOWN_LICENSE = "unknown"
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_OWN_COLUMNS = ("road_id", "highway", "length_m", "geometry")
_CALL = 'write_bundle(student, "folder", license="cc-by-4.0")'


def is_bundle(folder: Path) -> bool:
    """Return whether a folder has the manifest of a bundle."""
    return (folder / MANIFEST_FILE).is_file()


def write_bundle(
    student: Student,
    folder: str | PathLike[str],
    license: str = UNKNOWN_LICENSE,  # noqa: A002  the name of the field in a model card
) -> Path:
    """Write a student as a bundle and return its folder; a bundle that is there is replaced in one step.

    `license` is an identifier of Hugging Face's list, such as "cc-by-4.0": the license of the weights, which must suit
    the training trips and the roads. The student needs its road network.

    Raises TypeError or ValueError for wrong arguments, CheckpointError if the folder holds something else.
    """
    check_kind("student", student, Student, _CALL)
    check_path("folder", folder, _CALL)
    if not isinstance(license, str) or not _LICENSE.fullmatch(license):
        raise ValueError(f"license is {license!r}, not an identifier such as 'cc-by-4.0'. Call {_CALL}.")
    target = Path(folder)
    if target.exists() and not is_bundle(target) and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(f"{target}: exists and is not a bundle. Give a new folder.")
    student.require_network("A bundle holds the roads")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as beside:
        new = Path(beside) / "new"
        new.mkdir()
        _write_content(student, new, license)
        if target.exists():
            target.rename(Path(beside) / "old")
        new.rename(target)
    return target


def _write_content(student: Student, folder: Path, license_id: str) -> None:
    checkpoint.save(student.model, folder)
    _write_roads(student, folder)
    about = {key: value for key, value in student.about.items() if key not in ("version", "source")}
    about |= {"license": license_id, "num_roads": student.num_roads}
    write_json(folder / ABOUT_FILE, about)
    files = {name: _entry(folder / name) for name in CONTENT_FILES}
    version = content_version(files)
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "version": version,
        "files": files,
    }
    write_json(folder / MANIFEST_FILE, manifest)
    (folder / CARD_FILE).write_text(model_card({**about, "version": version}), encoding="utf-8")


def _entry(file: Path) -> dict[str, Any]:
    return {"sha256": digest_file(file), "bytes": file.stat().st_size}


def content_version(files: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the version, 16 hex digits, of the manifest's entries by file name."""
    return digest_json({name: entry["sha256"] for name, entry in files.items()})[:16]


def _write_roads(student: Student, folder: Path) -> None:
    """Write the network, with the ids of the source as further columns of the road table."""
    network = student.require_network("A bundle holds the roads")
    network.save(folder)
    roads = student.roads()
    if "geo_id" not in roads:
        roads.insert(1, "geo_id", roads["road_id"].to_numpy())
    roads.to_parquet(folder / ROADS_FILE, compression="zstd")


def read_bundle(folder: Path) -> Student:
    """Load a bundle after its digests are checked; `about` has its version.

    Raises CheckpointError for a bundle that is incomplete, changed, inconsistent, or of a newer format.
    """
    manifest = check_bundle(folder)
    try:
        about = dict(json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8")))
        network = _read_network(folder)
        ids = _source_ids(folder)
    except (OSError, ValueError, TypeError, KeyError, LookupError, ArithmeticError, AttributeError) as error:
        raise CheckpointError(f"{folder}: not a usable bundle: {_first_line(error)}. {_AGAIN}") from None
    model = checkpoint.load(folder, network)
    tables = model.tables
    for name, expected in (("successor_start", network.successors.indptr), ("successor", network.successors.indices)):
        if not np.array_equal(getattr(tables, name).numpy(), expected):
            raise CheckpointError(f"{folder}: the candidates in {WEIGHTS_FILE} are not those of {CONNECTIONS_FILE}.")
    return Student(model, network, {**about, "version": manifest["version"]}, ids)


_AGAIN = "Copy or download it again."


def check_bundle(folder: Path) -> dict[str, Any]:
    """Return the manifest of a bundle whose files are those that it names.

    Raises CheckpointError for a file that is missing or changed, for a manifest that cannot be read, and for a format
    that this release does not know.
    """
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        known, number, version = manifest["format"], manifest["format_version"], manifest["version"]
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder}: not a bundle: it has no {MANIFEST_FILE}. Write one with `hoser-kd bundle`."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / MANIFEST_FILE}: damaged: {_first_line(error)}. {_AGAIN}") from None
    if known != FORMAT or not isinstance(number, int):
        raise CheckpointError(f"{folder / MANIFEST_FILE}: its format is {known!r} {number!r}, not {FORMAT!r}.")
    if number > FORMAT_VERSION:
        raise CheckpointError(
            f"{folder}: a bundle of format {number}; this release reads {FORMAT_VERSION} and older. "
            "Install a newer hoser-kd."
        )
    if problem := _changed_file(folder, manifest.get("files"), version):
        raise CheckpointError(f"{folder}: damaged: {problem}. {_AGAIN}")
    return dict(manifest)


def _changed_file(folder: Path, files: Any, version: object) -> str | None:
    """Return what differs from the manifest; None if nothing does. Only the files of a bundle are opened."""
    if not isinstance(files, dict) or not set(CONTENT_FILES) <= set(files):
        return f"{MANIFEST_FILE} does not name all files"
    for name in CONTENT_FILES:
        file, entry = folder / name, files[name]
        if not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str):
            return f"{MANIFEST_FILE} has no digest of {name}"
        if not file.is_file():
            return f"{name} is missing"
        if (size := file.stat().st_size) != entry.get("bytes"):
            return f"{name} has {size} bytes, not {entry.get('bytes')}"
        if digest_file(file) != entry["sha256"]:
            return f"{name} has another content than when the bundle was written"
    own = content_version(
        {name: files[name] for name in files if isinstance(files[name], dict) and "sha256" in files[name]}
    )
    return None if own == version else f"its version is {own}, {MANIFEST_FILE} has {version}"


def _read_network(folder: Path) -> RoadNetwork:
    """Return the network. Raises ValueError unless ids and connections are consistent."""
    network = RoadNetwork.load(folder)
    indptr, indices = network.successors
    if not len(indptr) == network.num_roads + 1 == len(network.coord_offsets):
        raise ValueError(f"{CONNECTIONS_FILE} names roads that {ROADS_FILE} lacks")
    if len(indices) != indptr[-1] or ((indices < 0) | (indices >= network.num_roads)).any():
        raise ValueError(f"{CONNECTIONS_FILE} names roads that {ROADS_FILE} lacks")
    if (np.diff(network.coord_offsets) < 2).any() or not np.isfinite(network.coords).all():
        raise ValueError(f"{ROADS_FILE} has a line without coordinates")
    return RoadNetwork(
        network.coord_offsets,
        network.coords,
        network.length_m,
        network.highway,
        Csr(indptr, np.asarray(indices, np.int64)),
    )


def _source_ids(folder: Path) -> Any:
    """Return the columns of the road table with ids of the source, geo_id first."""
    import pyarrow.parquet as pq

    file = folder / ROADS_FILE
    names = [name for name in pq.read_schema(file).names if name not in _OWN_COLUMNS]
    return pq.read_table(file, columns=names).to_pandas() if names else None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
