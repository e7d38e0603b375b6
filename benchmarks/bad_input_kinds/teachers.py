"""Teachers with one wrong field or tensor, and damaged files."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bad_input_kinds.base import BadInput


def bad_teachers() -> Iterator[BadInput]:
    """Yield teachers with one wrong field or tensor, and damaged files."""
    import torch

    from hoser_kd.lmtad.model import LMTAD, LMTADConfig

    torch.manual_seed(0)
    config = LMTADConfig(vocab_size=23, n_layer=1, n_head=2, n_embd=8, block_size=16)
    model = LMTAD(config)
    fields = {
        "vocab_size": 23,
        "n_layer": 1,
        "n_head": 2,
        "n_embd": 8,
        "block_size": 16,
        "dropout": 0.0,
        "bias": config.bias,
        "integer_poe": config.integer_poe,
    }
    head = "transformer.h.0.attn.c_attn.weight"

    def teacher(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
        def read(folder: Path) -> Any:
            content: dict[str, Any] = {
                "model": {name: tensor.clone() for name, tensor in model.state_dict().items()},
                "model_config": dict(fields),
                "dataset_config": {"grip_size": (4, 5)},
            }
            changed = change(content)
            torch.save(content if changed is None else changed, folder / "t.pt")
            return _load_teacher(folder / "t.pt")

        return read

    for name in ("n_head", "n_layer", "n_embd", "block_size", "vocab_size"):
        for value in (2.7, "2", True, -1, 0, 10**9, float("nan"), float("inf"), [2], {}, 2j, "two", 10**30):
            yield BadInput("teachers", f"{name} = {value!r}", teacher(_setting_field(name, value)))
    for name, values in {
        "dropout": ("0", True, -1.0, 2.0, float("nan"), [0], 1j),
        "bias": ("False", 2, [], 0.5),
        "integer_poe": ("False", 2, [1]),
    }.items():
        for value in values:
            yield BadInput("teachers", f"{name} = {value!r}", teacher(_setting_field(name, value)))
    tensors: dict[str, Callable[[Any], Any]] = {
        "complex": lambda tensor: tensor.to(torch.complex64),
        "of whole numbers": lambda tensor: tensor.to(torch.int64),
        "of truth values": lambda tensor: tensor > 0,
        "sparse": lambda tensor: tensor.to_sparse(),
        "with NaN": lambda tensor: tensor * float("nan"),
        "with infinity": lambda tensor: tensor / 0,
        "transposed": lambda tensor: tensor.T.contiguous(),
        "of another shape": lambda tensor: tensor[:-1],
        "empty": lambda tensor: tensor[:0],
        "with one axis": lambda tensor: tensor.flatten(),
        "a list": lambda tensor: tensor.tolist(),
        "text": lambda _: "weights",
        "a number": lambda _: 1.0,
        "None": lambda _: None,
    }
    for label, change in tensors.items():
        yield BadInput(
            "teachers",
            f"a weight {label}",
            teacher(lambda content, change=change: content["model"].update({head: change(content["model"][head])})),
        )
    wrong: dict[str, Callable[[dict[str, Any]], Any]] = {
        "a weight missing": _without("model", head),
        "a weight too many": lambda content: content["model"].update({"more": torch.zeros(2)}),
        "no weights": _without("model"),
        "no config": _without("model_config"),
        "no n_head": _without("model_config", "n_head"),
        "weights as a list": lambda content: content.update(model=[1, 2]),
        "config as a list": lambda content: content.update(model_config=[1, 2]),
        "another head": _other_head,
        "a list": lambda _: [1, 2, 3],
        "a tensor": lambda _: torch.zeros(3),
        "another model": lambda _: {"model": {"layer.weight": torch.zeros(2, 2)}, "model_config": {}},
    }
    for label, change in wrong.items():
        yield BadInput("teachers", label, teacher(change))
    yield from _damaged_teachers(teacher)
    yield from _bad_teacher_folders(model)


def _without(*keys: str) -> Callable[[dict[str, Any]], None]:
    """Return a function that removes a part of a checkpoint."""

    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return change


def _other_head(content: dict[str, Any]) -> None:
    content["model"]["lm_head.weight"] = content["model"]["lm_head.weight"] + 1


def _setting_field(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["model_config"].update({name: value})


def _damaged_teachers(teacher: Callable[[Any], Callable[[Path], Any]]) -> Iterator[BadInput]:
    def damaged(change: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
        def read(folder: Path) -> Any:
            teacher(lambda _: None)(folder)
            file = folder / "t.pt"
            file.write_bytes(change(file.read_bytes()))
            return _load_teacher(file)

        return read

    for tenth in range(10):
        yield BadInput(
            "teachers", f"cut after {tenth} tenths", damaged(lambda data, tenth=tenth: data[: len(data) * tenth // 10])
        )
    yield BadInput("teachers", "random bytes", damaged(lambda data: random.Random(0).randbytes(len(data))))
    yield BadInput("teachers", "zeros", damaged(lambda data: bytes(len(data))))
    yield BadInput("teachers", "text", damaged(lambda _: b"weights"))
    yield BadInput("teachers", "code in a pickle", damaged(lambda _: b"cos\nsystem\n(S'true'\ntR."))
    yield BadInput("teachers", "no such file", lambda folder: _load_teacher(folder / "none.pt"))


def _bad_teacher_folders(model: Any) -> Iterator[BadInput]:
    from hoser_kd.lmtad.checkpoint import CONFIG_FILE, WEIGHTS_FILE, LMTADCheckpoint, save

    def stored(change: Callable[[Path], Any]) -> Callable[[Path], Any]:
        def read(folder: Path) -> Any:
            save(LMTADCheckpoint(model.eval(), model.config, {"grip_size": (4, 5)}), folder)
            change(folder)
            return _load_teacher(folder)

        return read

    texts = {
        "empty": "",
        "no JSON": "{",
        "a list": "[1]",
        "a number": "3",
        "null": "null",
        "dataset_config a list": '{"dataset_config": 3}',
        "bytes": "\udcff",
    }
    for label, text in texts.items():
        yield BadInput(
            "teachers",
            f"folder: {CONFIG_FILE} {label}",
            stored(
                lambda folder, text=text: (folder / CONFIG_FILE).write_bytes(text.encode("utf-8", "surrogateescape"))
            ),
        )
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        yield BadInput("teachers", f"folder: no {name}", stored(lambda folder, name=name: (folder / name).unlink()))
    for share in (0, 1, 5, 9):
        yield BadInput(
            "teachers",
            f"folder: weights cut after {share} tenths",
            stored(lambda folder, share=share: _cut(folder / WEIGHTS_FILE, share)),
        )


def _cut(file: Path, tenths: int) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) * tenths // 10])


def _load_teacher(path: Path) -> Any:
    from hoser_kd.lmtad.checkpoint import load_checkpoint

    return load_checkpoint(path).config
