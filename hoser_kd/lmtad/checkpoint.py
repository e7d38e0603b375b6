"""Read LM-TAD checkpoints of all known layouts, and write this project's own.

Published checkpoints are pickles, and a pickle can run code. They are read by torch's weights-only unpickler with an
allow-list of the names that published trainings write. The classes behind these names are stand-ins that only hold
fields, so no LM-TAD repository is needed and no code in the file is run. This project's checkpoints are a folder with
`model.safetensors` and `config.json`.
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from hoser_kd.common.errors import CheckpointError, ConfigError
from hoser_kd.common.files import atomic_path
from hoser_kd.common.tensor_files import check_archive, check_sizes, require_real_numbers
from hoser_kd.lmtad.model import LMTAD, NUM_SPECIALS, LMTADConfig

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"

_LARGEST_SIZE = 2**31
"""Larger sizes are no model; torch cannot represent them."""
_HEAD, _EMBEDDING = "lm_head.weight", "transformer.wte.weight"
_COMPILED_PREFIX = "_orig_mod."


@dataclass(frozen=True)
class LMTADCheckpoint:
    """A teacher and the dataset settings stored with it."""

    model: LMTAD
    """In eval mode, on the CPU."""
    config: LMTADConfig
    """Shape of the model."""
    dataset_config: dict[str, Any]
    """Dataset settings as the training wrote them: `grip_size` (H, W), and more depending on the training code."""


def load_checkpoint(path: str | PathLike[str]) -> LMTADCheckpoint:
    """Load a teacher: a training checkpoint, a weights-only file, or a folder written by `save`.

    Known layouts of a `torch.save` file: {'model': weights, 'model_config': LMTADConfig, 'dataset_config', …} as
    published trainings write it, with or without torch.compile's prefix, and {'state_dict', 'model_config': dict}.
    Warns for `integer_poe`. Raises CheckpointError if the file is missing, damaged, of another kind, or names anything
    that is not on the allow-list.
    """
    file = Path(path)
    if file.name in (WEIGHTS_FILE, CONFIG_FILE):
        file = file.parent
    if file.is_dir():
        return _load_folder(file)
    if not file.is_file():
        raise CheckpointError(
            f"{file}: no such file. Give the path of an LM-TAD checkpoint (in YAML: `distill.ckpt_path`)."
        )
    content = _unpickle(file)
    weights = content.get("model", content.get("state_dict")) if isinstance(content, dict) else None
    fields = _fields(content.get("model_config")) if isinstance(content, dict) else None
    if not isinstance(weights, Mapping) or fields is None:
        contents = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(
            f"{file}: not an LM-TAD checkpoint. It needs weights (`model` or `state_dict`) and "
            f"`model_config`; it holds {contents[:200]}."
        )
    check_sizes(file, weights)
    dataset_config = _fields(content.get("dataset_config")) or {}
    return _build(file, {str(key): value for key, value in weights.items()}, fields, dataset_config)


def save(checkpoint: LMTADCheckpoint, folder: str | PathLike[str]) -> None:
    """Write `model.safetensors` and `config.json` into a folder, each atomically.

    Both hold the sizes of the model, so the weights load even if the process is killed between the two writes.
    """
    target = Path(folder)
    shape = checkpoint.config.fields()
    weights = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in checkpoint.model.state_dict().items()
        if name != _HEAD
    }
    # before the weights: what JSON cannot hold must not leave weights without a config
    text = json.dumps({**shape, "dataset_config": checkpoint.dataset_config}, indent=1, allow_nan=False)
    with atomic_path(target / WEIGHTS_FILE) as file:
        file.touch()
        mode = file.stat().st_mode
        safetensors.torch.save_file(weights, file, metadata={"model_config": json.dumps(shape)})
        file.chmod(mode)  # save_file writes a file that only its owner can read
    with atomic_path(target / CONFIG_FILE) as file:
        file.write_text(text + "\n", encoding="utf-8")


def check_grid(vocab_size: int, shape: tuple[int, int]) -> None:
    """Raise CheckpointError if a grid of (H, W) cells has more cells than the vocabulary has labels.

    A smaller grid passes: published preprocessing leaves W + 1 labels unused, later trainings none.
    """
    height, width = shape
    if height * width > vocab_size - NUM_SPECIALS:
        raise CheckpointError(
            f"a grid of {height} × {width} = {height * width} cells does not fit the teacher's vocabulary of "
            f"{vocab_size} tokens, {vocab_size - NUM_SPECIALS} of them cells. Set `grid` to the teacher's training "
            "grid. Published checkpoints always state Porto's grid, whatever data they were trained on."
        )


class _Fields:
    """Stand-in for a class named in a checkpoint: it holds the fields and has no behavior."""

    fields: dict[str, Any]

    def __new__(cls) -> _Fields:  # noqa: PYI034  a stand-in has no subclasses
        # pickle creates objects without __init__, and calls __setstate__ only if there is a state
        stand_in = super().__new__(cls)
        stand_in.fields = {}
        return stand_in

    def __setstate__(self, state: object) -> None:
        self.fields = dict(state) if isinstance(state, Mapping) else {}


class _Dtype:
    """Stand-in for numpy.dtype: the code of a number type, such as `i8`."""

    def __init__(self, code: str, *_: object) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


def _scalar(dtype: _Dtype, data: bytes) -> bool | int | float:
    """Stand-in for the constructor of NumPy scalars; returns a plain number."""
    if not re.fullmatch(r"[biuf][1248]", dtype.code):
        raise pickle.UnpicklingError(f"a NumPy scalar of type {dtype.code!r}")
    kind = np.dtype(dtype.code).newbyteorder(">" if dtype.order == ">" else "<")
    value: bool | int | float = np.frombuffer(data, kind)[0].item()
    return value


_ALLOWED: list[Any] = [
    (_Fields, "models.LMTAD.LMTADConfig"),
    (_Fields, "models.LMTADConfig"),
    (_Fields, "datasets.PortoConfig"),
    (_Fields, "argparse.Namespace"),
    (_Dtype, "numpy.dtype"),
    (_scalar, "numpy.core.multiarray.scalar"),  # NumPy 1
    (_scalar, "numpy._core.multiarray.scalar"),  # NumPy 2
]


def _unpickle(path: Path) -> Any:
    zipped = zipfile.is_zipfile(path)
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}).") from None
    if start == b"PK" and not zipped:
        raise CheckpointError(f"{path}: truncated. Copy or download it again.")
    check_archive(path)
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            # With mmap, the optimizer state (two thirds of a training checkpoint) is never read.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # noqa: BLE001  a damaged pickle can raise anything
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused:
            raise CheckpointError(
                f"{path}: refused, because it names `{refused[1]}`, which no LM-TAD checkpoint needs. None of its "
                "code was run. Export the weights alone: {'state_dict': …, 'model_config': {…}}."
            ) from None
        detail = re.search(r"WeightsUnpickler error:\s*(.+)", str(error)) or re.search(
            r"(.+)", str(error) or repr(error)
        )
        reason = detail[1].strip()[:200] if detail else type(error).__name__
        raise CheckpointError(
            f"{path}: not a readable torch.save file ({reason}). It is damaged or of another format."
        ) from None


def _load_folder(folder: Path) -> LMTADCheckpoint:
    weights_path, config_path = folder / WEIGHTS_FILE, folder / CONFIG_FILE
    for file in (weights_path, config_path):
        if not file.is_file():
            raise CheckpointError(f"{file}: no such file. A teacher's folder holds {WEIGHTS_FILE} and {CONFIG_FILE}.")
    try:
        settings = json.loads(config_path.read_text(encoding="utf-8"))
        dataset_config = dict(settings.pop("dataset_config", {}))
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{config_path}: not readable as JSON settings ({error}).") from None
    try:
        with safetensors.safe_open(weights_path, "pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
            fields = json.loads((file.metadata() or {}).get("model_config", "null")) or settings
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{weights_path}: not a readable safetensors file ({error}).") from None
    # The published field is a tuple, which JSON stores as a list.
    sizes = {name: tuple(size) for name, size in dataset_config.items() if name == "grip_size" and size is not None}
    return _build(weights_path, weights, fields, {**dataset_config, **sizes})


def _build(
    path: Path, weights: dict[str, Any], fields: Mapping[str, Any], dataset_config: Mapping[str, Any]
) -> LMTADCheckpoint:
    state = _clean_weights(path, weights)
    config = _config(path, state, fields)
    try:
        with torch.device("meta"):
            model = LMTAD(config)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except RuntimeError as error:  # a product of sizes overflows
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: the sizes in `model_config` give no model ({reason}).") from None
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    actual = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name in sorted(expected.keys() | actual.keys()):
        if expected.get(name) != actual.get(name):
            raise CheckpointError(
                f"{path}: `{name}` has shape {actual.get(name, 'none: it is missing')}; the model's "
                f"config requires {expected.get(name, 'no such weights')}."
            )
    model.load_state_dict(state, assign=True)
    model.tie()
    settings = {str(key): _plain(value) for key, value in dataset_config.items()}
    for name, value in settings.items():
        _refuse_not_finite(path, name, value)
    return LMTADCheckpoint(model.eval(), config, settings)


def _refuse_not_finite(path: Path, name: str, value: Any) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        raise CheckpointError(
            f"{path}: `dataset_config` has a number that is not finite: {name} = {value}. Correct it in the file."
        ) from None


def _clean_weights(path: Path, weights: dict[str, Any]) -> dict[str, Tensor]:
    """Return float32 copies without torch.compile's prefix, with both names of the tied embedding."""
    state: dict[str, Tensor] = {}
    for key, value in weights.items():
        name = key.removeprefix(_COMPILED_PREFIX)
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: weight `{name}` is {type(value).__name__}, not a tensor.")
        require_real_numbers(path, name, value)
        # With torch before 2.0, the published model stores its causal mask among the weights.
        if not (name.endswith(".attn.bias") and value.dim() == 4):
            if not value.is_floating_point():
                raise CheckpointError(f"{path}: `{name}` holds {value.dtype}, not floating-point weights.")
            state[name] = value.detach().to(torch.float32, copy=True).contiguous()
    for name in (_HEAD, _EMBEDDING):
        if name not in state and (other := state.get(_HEAD if name == _EMBEDDING else _EMBEDDING)) is not None:
            state[name] = other
    if _HEAD not in state:
        raise CheckpointError(f"{path}: `{_EMBEDDING}` is missing, so these are not weights of LM-TAD.")
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{path}: `{name}` holds values that are not finite. The file is damaged, or the training diverged."
            )
    if not torch.equal(state[_HEAD], state[_EMBEDDING]):
        raise CheckpointError(f"{path}: `{_HEAD}` and `{_EMBEDDING}` differ; in LM-TAD they are one tensor.")
    return state


def _config(path: Path, state: Mapping[str, Tensor], fields: Mapping[str, Any]) -> LMTADConfig:
    """Build the config from its stored fields; missing ones are inferred from the shapes of the weights."""
    layers = {name.split(".")[2] for name in state if name.startswith("transformer.h.")}
    positions = state.get("transformer.wpe.weight")
    inferred: dict[str, Any] = {
        "vocab_size": len(state[_EMBEDDING]),
        "n_embd": state[_EMBEDDING].shape[-1],
        "n_layer": len(layers),
        "block_size": None if positions is None else len(positions),
        "bias": "transformer.ln_f.bias" in state,
        "integer_poe": "transformer.wpe.pe" in state,
        "dropout": 0.0,
        "destination_prefix": False,
        "n_head": None,
    }
    values = {name: fields[name] if fields.get(name) is not None else value for name, value in inferred.items()}
    for name in ("n_head", "block_size"):
        if values[name] is None:
            raise CheckpointError(
                f"{path}: `model_config` has no `{name}`, and it cannot be inferred from the weights."
            )
    kinds: dict[str, Callable[[str, Any], Any]] = dict.fromkeys(values, _whole)
    kinds |= {"dropout": _real, "bias": _truth, "integer_poe": _truth, "destination_prefix": _truth}
    try:
        checked = {name: kinds[name](name, value) for name, value in values.items()}
        config = LMTADConfig(**checked)
    except (ConfigError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{path}: `model_config` cannot be used: {error}") from None
    if not 0 <= config.dropout < 1:
        raise CheckpointError(f"{path}: `model_config` has dropout {config.dropout}; it is at least 0 and below 1.")
    if config.n_layer != len(layers):
        raise CheckpointError(f"{path}: `model_config` states {config.n_layer} layers, the weights have {len(layers)}.")
    pad = fields.get("pad_token")
    if pad is not None and pad != config.pad_token:
        warnings.warn(
            f"{path}: pad_token is {pad}, but PAD of a vocabulary of {config.vocab_size} is "
            f"{config.pad_token}; {config.pad_token} is used.",
            stacklevel=4,
        )
    return config


def _whole(name: str, value: Any) -> int:
    """Return a whole number; int() would cut 2.7 to 2 and take True for 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise ValueError(f"{name} is {value!r}, not a whole number.")
    if abs(value) > _LARGEST_SIZE:
        raise ValueError(f"{name} is {value!r}, too large for a model.")
    return int(value)


def _real(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"{name} is {value!r}, not a number from 0 to 1.")
    return float(value)


def _truth(name: str, value: Any) -> bool:
    """Return a truth value; bool() would take the text "False" for true."""
    if not isinstance(value, bool | int) or value not in {0, 1}:
        raise ValueError(f"{name} is {value!r}, not true or false.")
    return bool(value)


def _fields(value: object) -> dict[str, Any] | None:
    """Return the fields of a mapping or a stand-in, None for anything else."""
    if isinstance(value, _Fields):
        return value.fields
    return dict(value) if isinstance(value, Mapping) else None


def _plain(value: Any) -> Any:
    """Return the value as JSON can store it."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(entry) for entry in value)
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, _Fields):
        return _plain(value.fields)
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.item()
    return str(value)
