"""Load a trained student from this project's folder or from a published checkpoint."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hoser_kd.common.errors import CheckpointError
from hoser_kd.hoser.checkpoint import CONFIG_FILE, WEIGHTS_FILE, load, load_checkpoint
from hoser_kd.hoser.features import zone_graph
from hoser_kd.network.road_network import RoadNetwork, read_network
from hoser_kd.network.zones import read_shipped

if TYPE_CHECKING:
    from hoser_kd.common.arrays import Int64Array
    from hoser_kd.hoser.model import HOSER

PUBLISHED_OPTIONS = ("log1p_mean", "log1p_std", "candidate_angle", "time_intervals", "num_heads")
"""What a published checkpoint does not hold; keyword arguments of `load_checkpoint`."""
_WEIGHT_TOLERANCE = 1e-3


def load_student(
    path: str | PathLike[str],
    network: RoadNetwork | str | PathLike[str] | None = None,
    *,
    zones: Int64Array | None = None,
    zone_transitions: Any = None,
    **config: Any,
) -> HOSER:
    """Load a student in eval mode, on the CPU.

    `path` is the folder of a trained student (`model.safetensors` and `model.json`), which is complete, or a published
    `.pth` state dict, which needs its road network. `network` is a `RoadNetwork`, or a folder in HOSER's format; then
    the zones and zone transitions in that folder are read, too. The student is checked against all that is given:
    `network`, `zones` (N,) int64 and `zone_transitions` (Z, Z) counts, dense or SciPy sparse.

    `config` is for a `.pth` only: `log1p_mean` and `log1p_std`, without which it predicts no times (see
    `time_label_statistics`), `candidate_angle`, `time_intervals` and `num_heads`.

    Raises TypeError for arguments that do not belong together, CheckpointError if the file is missing, damaged, of
    another kind or of another network, DataError if the network's folder cannot be read.
    """
    if not isinstance(path, str | PathLike):
        raise TypeError(f"path is of type {type(path).__name__}, not a path. Call load_student(path, network).")
    source = Path(path)
    if source.name in (WEIGHTS_FILE, CONFIG_FILE):
        source = source.parent
    is_folder = source.is_dir()
    if not is_folder and not source.is_file():
        raise CheckpointError(f"{source}: no such file or folder. Give a student's folder or a published .pth file.")
    _refuse_options(source, is_folder, config)
    _refuse_other_arrays(zones, zone_transitions)
    if network is not None and not isinstance(network, RoadNetwork):
        network, zones, zone_transitions = read_network_with_zones(network, zones, zone_transitions)
    if is_folder:
        require_student_folder(source)
        model = load(source, network, zones)
    elif network is None:
        raise TypeError(
            f"{source}: a published .pth holds no road network. Call "
            f'load_student("{source.name}", network=hoser_kd.read_network(folder), zones=...), '
            f'or load_student("{source.name}", network=folder). For an LM-TAD checkpoint, call load_teacher(path).'
        )
    else:
        model = load_checkpoint(source, network, zones, **config)
    if zone_transitions is not None:
        _check_transitions(source, model, zone_transitions)
    return model


def _refuse_options(source: Path, is_folder: bool, config: dict[str, Any]) -> None:
    unknown = [name for name in config if name not in PUBLISHED_OPTIONS]
    if unknown:
        raise TypeError(
            f"load_student has no argument `{unknown[0]}`. It takes path, network, zones, zone_transitions, and for a "
            f"published .pth {', '.join(PUBLISHED_OPTIONS)}."
        )
    if is_folder and config:
        raise TypeError(
            f"{source}: a student's folder holds its own configuration. Leave out {', '.join(config)}: "
            f'load_student("{source}").'
        )


def _refuse_other_arrays(zones: Any, zone_transitions: Any) -> None:
    """Raise TypeError or ValueError unless zones are integers and transitions a square matrix, where they are given."""
    call = "Call load_student(path, network, zones=city.zones, zone_transitions=city.zone_transitions)."
    if zones is not None and (np.ndim(zones) != 1 or np.asarray(zones).dtype.kind not in "iu"):
        raise TypeError(f"zones is of type {type(zones).__name__}, not (N,) integers, the zone of each road. {call}")
    if zone_transitions is None:
        return
    matrix = zone_transitions if hasattr(zone_transitions, "tocoo") else np.asarray(zone_transitions)
    if matrix.dtype.kind not in "iuf":
        raise TypeError(
            f"zone_transitions is of type {type(zone_transitions).__name__}, not a matrix of counts. {call}"
        )
    if len(matrix.shape) != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"zone_transitions has shape {matrix.shape}, not (Z, Z). {call}")


def require_student_folder(source: Path) -> Path:
    """Return the folder of a student. Raises CheckpointError for anything else, with what it probably is."""
    if source.name in (WEIGHTS_FILE, CONFIG_FILE):
        source = source.parent
    if source.is_file():
        raise CheckpointError(f"{source}: a file, not the folder of a student ({CONFIG_FILE}, {WEIGHTS_FILE}).")
    if not source.is_dir():
        raise CheckpointError(f"{source}: no such file or folder. Give the folder of a student's artifact.")
    if (source / CONFIG_FILE).is_file() or ((source / WEIGHTS_FILE).is_file() and not _is_teacher(source)):
        return source
    hint = "Give the folder that holds them, or a published .pth file."
    if _is_teacher(source):
        hint = f'It looks like a teacher: load_teacher("{source}").'
    elif (source / "roadmap.geo").is_file():
        hint = f'It is a road network: load_student(path, network="{source}").'
    raise CheckpointError(f"{source}: no {CONFIG_FILE} and {WEIGHTS_FILE} in this folder. {hint}")


def _is_teacher(source: Path) -> bool:
    return (source / "config.json").is_file()


def read_network_with_zones(
    folder: object, zones: Int64Array | None, zone_transitions: Any
) -> tuple[RoadNetwork, Int64Array | None, Any]:
    """Read a network, and from its folder the zones and transitions that the caller does not give."""
    if not isinstance(folder, str | PathLike):
        raise TypeError(
            f"network is of type {type(folder).__name__}, not a RoadNetwork or a folder. Call "
            "load_student(path, network=hoser_kd.read_network(folder))."
        )
    network = read_network(folder)
    shipped = read_shipped(folder, network) if zones is None else None
    if shipped is None:
        return network, zones, zone_transitions
    return network, shipped.zones, shipped.transitions if zone_transitions is None else zone_transitions


def _check_transitions(source: Path, model: HOSER, zone_transitions: Any) -> None:
    edges, weights = zone_graph(zone_transitions)
    encoder = model.road_network_encoder
    own_edges, own_weights = encoder.zone_edge_index.numpy(), encoder.zone_edge_weight.numpy()
    if not np.array_equal(own_edges, edges) or not np.allclose(own_weights, weights, atol=_WEIGHT_TOLERANCE, rtol=0):
        raise CheckpointError(
            f"{source}: trained with other zone transitions ({own_edges.shape[1]} pairs of zones with traffic, here "
            f"{edges.shape[1]}). Give the counts of its training trips, or leave zone_transitions out."
        )
