"""Load a student from wherever it is: the store, a bundle, Hugging Face, or a published checkpoint."""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hoser_kd.common.errors import CheckpointError
from hoser_kd.hoser.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from hoser_kd.hoser.loading import load_student as load_model
from hoser_kd.hoser.loading import read_network_with_zones
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.pipeline.store import RECORD
from hoser_kd.sharing import bundle, store_student
from hoser_kd.sharing.student import Student

if TYPE_CHECKING:
    from hoser_kd.common.arrays import Int64Array

_REPOSITORY = re.compile(r"(hf://)?[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w.-]+)?")
_CALL = "load_student(path, network)"


def load_student(
    path: str | PathLike[str],
    network: RoadNetwork | str | PathLike[str] | None = None,
    *,
    zones: Int64Array | None = None,
    zone_transitions: Any = None,
    **config: Any,
) -> Student:
    """Load a student in eval mode, on the CPU.

    `path` is one of

    - a student's folder in the store, `<store>/<city>/vanilla_student/seed-0/<version>`, whose road network is read
      from the store;
    - a bundle: a folder of `hoser-kd bundle`, which needs nothing else;
    - a bundle on Hugging Face, "user/name" or "user/name@version", which is downloaded once (see `pull`), or its
      address, "file://…";
    - a folder with `model.safetensors` and `model.json`, such as that of `train_student`;
    - a published `.pth` state dict, with its `network`.

    `network` is a `RoadNetwork`, or a folder in HOSER's format. The student is compared with all that is given:
    `network`, `zones` (N,) int64, `zone_transitions` (Z, Z). `config` is for a `.pth` only: `log1p_mean` and
    `log1p_std`, without which it predicts no times, `candidate_angle`, `time_intervals`, `num_heads`. No code in a file
    is run.

    Raises TypeError for arguments that do not belong together, CheckpointError if the student is missing, damaged or of
    another network, DataError if the network's folder cannot be read.
    """
    if not isinstance(path, str | PathLike):
        raise TypeError(f"path is of type {type(path).__name__}, not a path. Call {_CALL}.")
    source = _local(path)
    student: Student | None = None
    if bundle.is_bundle(source):
        _refuse_config(source, "bundle", config)
        student = bundle.read_bundle(source)
    elif (source / RECORD).is_file():
        student = store_student.read_student(source)
    else:
        _refuse_bundle_without_manifest(source)
        _explain_store_folder(source)
    if isinstance(network, str | PathLike) and source.exists():
        network, zones, zone_transitions = read_network_with_zones(network, zones, zone_transitions)
    if student is None or any(given is not None for given in (network, zones, zone_transitions, config or None)):
        model = load_model(source, network, zones=zones, zone_transitions=zone_transitions, **config)
        student = student or Student(model)
    if student.network is None and isinstance(network, RoadNetwork):
        return Student(student.model, network, student.about)
    return student


def _local(path: str | PathLike[str]) -> Path:
    """Return the local path, after a download where the path is an address or names a repository."""
    text = str(path)
    if isinstance(path, str) and (text.startswith(("hf://", "file://")) or _is_repository(text)):
        from hoser_kd.sharing.hub import pull

        return pull(text)
    source = Path(path)
    return source.parent if source.name in (WEIGHTS_FILE, CONFIG_FILE, bundle.MANIFEST_FILE) else source


def _is_repository(text: str) -> bool:
    """Return whether this is `user/name` or `user/name@version`, and no local file, folder or part of a path."""
    if not _REPOSITORY.fullmatch(text) or Path(text).exists() or Path(text).suffix in (".pth", ".pt", ".safetensors"):
        return False
    return not Path(text).parent.is_dir()


def _refuse_config(source: Path, kind: str, config: dict[str, Any]) -> None:
    if config:
        raise TypeError(
            f'{source}: a {kind} holds its own configuration. Leave out {", ".join(config)}: load_student("{source}").'
        )


def _refuse_bundle_without_manifest(source: Path) -> None:
    """Raise CheckpointError for a bundle that lost its manifest: its files cannot be verified."""
    if (source / bundle.ABOUT_FILE).is_file() and (source / WEIGHTS_FILE).is_file():
        raise CheckpointError(
            f"{source}: a bundle without its {bundle.MANIFEST_FILE}, so its files cannot be verified. Copy or download "
            f"it again. To use the weights alone, copy {WEIGHTS_FILE} and {CONFIG_FILE} into a new folder."
        )


def _explain_store_folder(source: Path) -> None:
    """Raise CheckpointError for a folder above students in the store, with the students below it."""
    if not source.is_dir() or (source / WEIGHTS_FILE).is_file():
        return
    below = sorted(file.parent for level in ("*", "*/*", "*/*/*") for file in source.glob(f"{level}/{WEIGHTS_FILE}"))
    students = [folder for folder in below if (folder / RECORD).is_file() and "student" in str(folder)]
    if students:
        names = ", ".join(str(folder) for folder in students[:5]) + (" …" if len(students) > 5 else "")
        raise CheckpointError(f"{source}: a folder of students, not a student. Give one of {names}.")
