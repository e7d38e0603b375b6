"""Read and write HOSER checkpoints: published `.pth` files, and this project's folder of safetensors and JSON.

A published checkpoint is a bare state dict. It holds the graph features, but not the candidates of the network, the
scale of the predicted times and the variant of the candidate angle. This project's folder is complete.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from hoser_kd.common.errors import CheckpointError
from hoser_kd.common.files import atomic_path
from hoser_kd.common.tensor_files import read_tensors, require_real_numbers
from hoser_kd.hoser.batches import RoadTables, road_tables
from hoser_kd.hoser.config import HoserConfig
from hoser_kd.hoser.features import GraphFeatures, build_graph_features
from hoser_kd.hoser.model import HOSER

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

    from torch import Tensor

    from hoser_kd.common.arrays import Int64Array
    from hoser_kd.hoser.config import CandidateAngle, TimeIntervals
    from hoser_kd.network.road_network import RoadNetwork

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "model.json"
_TABLE_PREFIX = "tables."
_MASK_SUFFIX = ".attn.bias"
_FEATURE_PREFIX = "road_network_encoder."
_TEACHER_HINT = "For an LM-TAD checkpoint, call load_teacher(path)."
# features may differ by rounding only
_TOLERANCE = 1e-3
_MOST_MASK = 16_384
"""Side of the largest causal mask: 1 GiB per block."""


def load_checkpoint(
    path: str | PathLike[str],
    network: RoadNetwork,
    zones: Int64Array | None = None,
    *,
    log1p_mean: float | None = None,
    log1p_std: float | None = None,
    candidate_angle: CandidateAngle = "published",
    time_intervals: TimeIntervals = "published",
    num_heads: int | None = None,
) -> HOSER:
    """Load a published checkpoint (`.pth`, a state dict) for its network, in eval mode.

    Sizes are inferred from the weights. `zones` (N,) int64 is compared with the checkpoint's if given. `log1p_mean`
    and `log1p_std` scale the predicted times (`time_label_statistics` of the training trips); without them only the
    logits can be used. `num_heads` is checked if given. No code in the file is run.

    Raises CheckpointError if the file is missing, damaged, of another kind, or trained on another network.
    """
    state = _read_state_dict(Path(path))
    try:
        config = _infer_config(state, candidate_angle, time_intervals, log1p_mean, log1p_std)
        features = _features_of(state)
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"{path}: not a state dict of HOSER: {error}. Give a state dict with the published keys."
        ) from None
    if num_heads not in (None, config.num_heads):
        raise CheckpointError(
            f"{path}: its attention has {config.num_heads} heads, not {num_heads}. Leave num_heads out."
        )
    _check_network(Path(path), features, network)
    if zones is not None:
        _check_zones(Path(path), features, zones)
    model = _blank(config, features, road_tables(network, candidate_angle))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: keys or shapes are not those of HOSER: {error}") from None
    return model.eval()


def export_checkpoint(model: HOSER, path: str | PathLike[str]) -> None:
    """Write the published format: a state dict with all published keys, including unused ones."""
    with atomic_path(path) as beside:
        torch.save({key: value.detach().cpu() for key, value in model.state_dict().items()}, beside)


def save(model: HOSER, folder: str | PathLike[str]) -> None:
    """Write `model.safetensors` and `model.json`: weights, features, candidates and configuration."""
    tensors = {key: value for key, value in model.state_dict().items() if not key.endswith(_MASK_SUFFIX)}
    tensors |= {_TABLE_PREFIX + name: values for name, values in model.tables.arrays().items()}
    with atomic_path(Path(folder) / WEIGHTS_FILE) as beside:
        # save_file creates a file that only its owner can read
        beside.write_bytes(to_bytes({key: value.detach().cpu().contiguous() for key, value in tensors.items()}))
    with atomic_path(Path(folder) / CONFIG_FILE) as beside:
        beside.write_text(json.dumps({"model": "HOSER", **asdict(model.config)}, indent=2) + "\n", encoding="utf-8")


def load(folder: str | PathLike[str], network: RoadNetwork | None = None, zones: Int64Array | None = None) -> HOSER:
    """Load a folder written by `save`, in eval mode; `network` and `zones` are compared with the model's if given.

    Raises CheckpointError if a file is missing, damaged, or of another network.
    """
    source = Path(folder)
    try:
        settings = json.loads((source / CONFIG_FILE).read_text(encoding="utf-8"))
        tensors = load_file(source / WEIGHTS_FILE)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{error.filename or source / WEIGHTS_FILE}: no such file. Train the student first."
        ) from None
    except (json.JSONDecodeError, SafetensorError, OSError) as error:
        raise CheckpointError(f"{source}: {CONFIG_FILE} or {WEIGHTS_FILE} is damaged: {error}") from None
    known = {field.name for field in fields(HoserConfig)}
    try:
        config = HoserConfig(**{key: value for key, value in settings.items() if key in known})
        tables = {
            key.removeprefix(_TABLE_PREFIX): tensors.pop(key) for key in list(tensors) if key.startswith(_TABLE_PREFIX)
        }
        features = _features_of(tensors)
        if network is not None:
            _check_network(source, features, network)
        if zones is not None:
            _check_zones(source, features, zones)
        _check_sizes(config, features, tensors)
        model = _blank(config, features, tables)
        missing, unexpected = model.load_state_dict(tensors, strict=False)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{source}: not a student of this project: {error}") from None
    missing = [key for key in missing if not key.endswith(_MASK_SUFFIX)]
    if missing or unexpected:
        raise CheckpointError(f"{source}: keys are not those of HOSER: missing {missing}, unknown {unexpected}.")
    return model.eval()


def _check_sizes(config: HoserConfig, features: GraphFeatures, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError if the configuration has other sizes than the weights, before a model of its sizes is built."""
    block = "trajectory_encoder.transformer.h."
    layers = {key.removeprefix(block).split(".")[0] for key in tensors if key.startswith(block)}
    actual = {
        "num_roads": features.num_roads,
        "num_types": len(tensors[_FEATURE_PREFIX + "type_emb.weight"]),
        "num_zones": len(tensors[_FEATURE_PREFIX + "zone_id_emb.weight"]),
        "hidden_dim": tensors[_FEATURE_PREFIX + "zone_id_emb.weight"].shape[1],
        "road_id_dim": tensors[_FEATURE_PREFIX + "road_id_emb.weight"].shape[1],
        "num_layers": len(layers),
    }
    for name, size in actual.items():
        if getattr(config, name) != size:
            raise ValueError(f"{name} is {getattr(config, name)} in {CONFIG_FILE}, but {size} in the weights")
    if config.max_len > _MOST_MASK:
        raise ValueError(f"max_len is {config.max_len} in {CONFIG_FILE}; at most {_MOST_MASK} is supported")


def _blank(config: HoserConfig, features: GraphFeatures, tables: dict[str, Tensor]) -> HOSER:
    """Build a model whose weights will be replaced, without advancing the caller's random generator."""
    with torch.random.fork_rng(devices=[]):
        return HOSER(config, features, RoadTables(tables, time_intervals=config.time_intervals))


def _read_state_dict(file: Path) -> dict[str, Tensor]:
    try:
        state = read_tensors(file)
    except CheckpointError as error:
        raise CheckpointError(f"{error}{f' {_TEACHER_HINT}' if file.is_file() else ''}") from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise CheckpointError(
            f"{file}: not a bare state dict. Give the file as HOSER's training writes it. {_TEACHER_HINT}"
        )
    for key, value in state.items():
        require_real_numbers(file, str(key), value)
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{file}: `{key}` holds values that are not finite. The file is damaged.")
    return {str(key).removeprefix("_orig_mod."): value for key, value in state.items()}


def _infer_config(
    state: dict[str, Tensor],
    candidate_angle: CandidateAngle,
    time_intervals: TimeIntervals,
    log1p_mean: float | None,
    log1p_std: float | None,
) -> HoserConfig:
    encoder, block = _FEATURE_PREFIX, "trajectory_encoder.transformer.h."
    num_roads, road_id_dim = state[encoder + "road_id_emb.weight"].shape
    num_types, type_dim = state[encoder + "type_emb.weight"].shape
    num_zones, hidden_dim = state[encoder + "zone_id_emb.weight"].shape
    return HoserConfig(
        num_roads=num_roads,
        num_types=num_types,
        num_zones=num_zones,
        hidden_dim=hidden_dim,
        road_id_dim=road_id_dim,
        type_dim=type_dim,
        length_dim=len(state[encoder + "len_emb.weight"]),
        lon_dim=len(state[encoder + "lon_emb.weight"]),
        lat_dim=len(state[encoder + "lat_emb.weight"]),
        num_heads=2 * hidden_dim // len(state[block + "0.attn.relative_position_emb_k.weight"]),
        num_layers=len({key.removeprefix(block).split(".")[0] for key in state if key.startswith(block)}),
        max_len=state[block + "0.attn.bias"].shape[-1],
        candidate_angle=candidate_angle,
        time_intervals=time_intervals,
        log1p_mean=log1p_mean,
        log1p_std=log1p_std,
    )


def _features_of(state: dict[str, Tensor]) -> GraphFeatures:
    def array(name: str) -> Any:
        return state[name if name == "road2zone" else _FEATURE_PREFIX + name].numpy()

    return GraphFeatures(**{field.name: array(field.name) for field in fields(GraphFeatures)})


def _check_network(file: Path, features: GraphFeatures, network: RoadNetwork) -> None:
    """Raise CheckpointError if the features in a checkpoint are not those of the network.

    Road classes are not compared: the published code numbers them by city, and the weights belong to the checkpoint's
    own numbering.
    """
    if features.num_roads != network.num_roads:
        raise CheckpointError(
            f"{file}: trained on {features.num_roads} roads, the network has {network.num_roads}. "
            "Give the network it was trained on."
        )
    no_zones = np.zeros(network.num_roads, np.int64)
    own = build_graph_features(network, no_zones, np.zeros((1, 1), np.int64))
    for name, what in (
        ("road_attr_len", "lengths"),
        ("road_attr_lon", "longitudes"),
        ("road_attr_lat", "latitudes"),
        ("road_edge_index", "neighbors"),
        ("intersection_attr", "connections or angles"),
    ):
        stored, expected = getattr(features, name), getattr(own, name)
        if stored.shape != expected.shape or not np.allclose(stored, expected, atol=_TOLERANCE, rtol=0):
            raise CheckpointError(
                f"{file}: trained on another network: {what} of the roads differ ({name}). "
                "Give the network it was trained on."
            )


def _check_zones(file: Path, features: GraphFeatures, zones: Int64Array) -> None:
    """Raise CheckpointError if the zones in a checkpoint are others."""
    if np.shape(zones) != features.road2zone.shape:
        raise CheckpointError(
            f"{file}: trained on {features.num_roads} roads, `zones` has the shape {np.shape(zones)}. "
            "Give the zone of each road, (N,)."
        )
    if not np.array_equal(features.road2zone, zones):
        differ = int((features.road2zone != zones).sum())
        raise CheckpointError(
            f"{file}: trained with other zones: {differ} roads are in another zone. Give the zones it was trained with."
        )
