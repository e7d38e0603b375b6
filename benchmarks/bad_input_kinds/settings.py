"""YAML files with one wrong value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

from bad_input_kinds.base import BadInput

NO_NUMBER = (
    "text",
    "[1, 2, 3, 4, 5]",
    "{a: 1}",
    "true",
    "off",
    ".nan",
    ".inf",
    "-.inf",
    "0x16",
    "0100",
    "1:30",
    "1_000",
    "2013-07-01",
    "1e-320",
    "1.0e+300",
    "-1.0e+40",
    "9" * 40,
    "0b11",
    "0o17",
    "!!python/name:os.system",
)
NO_TEXT = ("1", "1.5", "true", "[a]", "{a: 1}", "0x16", "1:30", "~a: b", "!!binary aGk=")


def bad_yaml() -> Iterator[BadInput]:
    """Yield YAML files with one wrong value, for every setting."""
    for place, values in _wrong_settings():
        for value in values:
            yield BadInput("yaml", f"{place}: {value[:40]}", _settings(place, value))
    for text in (
        "a: b: c",
        "[1, 2]",
        "text",
        "source: {path: x, path: y}",
        "sourse: {path: x}",
        "source: {path: ${NOT_SET_HERE}}",
        "\t- x",
        "source: *unknown",
        "source: {kind: other}",
        "- source",
        "{",
        "source: {path: 'x}",
    ):
        yield BadInput("yaml", text, lambda folder, text=text: _load_yaml(folder, text))
    for text, temperature in (("2.5", 2.5), ("'2'", 2.0), ("25e-1", 2.5), ("+2", 2.0), ("2.", 2.0), (".5", 0.5)):
        yield BadInput(
            "yaml",
            f"distill.temperature: {text}",
            lambda folder, text=text: (
                _load_yaml(folder, f"source: {{path: x}}\ndistill: {{temperature: {text}}}").distill.temperature
            ),
            temperature,
        )


def _wrong_settings() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield every setting as `section.key` with values that it cannot have."""
    from pydantic import BaseModel

    from hoser_kd.config.schema import CityConfig

    for name, field in CityConfig.model_fields.items():
        section = field.annotation
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            continue
        for key, setting in section.model_fields.items():
            kinds = _kinds(setting.annotation)
            if kinds & {int, float}:
                allowed = {"text"} if str in kinds and not _is_literal(setting.annotation) else set()
                # small cells are refused with their number, where the grid is built
                allowed |= {"1e-320"} if name == "grid" else set()
                yield f"{name}.{key}", tuple(value for value in NO_NUMBER if value not in allowed)
            elif kinds == {str} or kinds == {str, type(None)}:
                yield f"{name}.{key}", NO_TEXT


def _kinds(annotation: Any) -> set[Any]:
    if annotation in (int, float, str, bool, type(None)):
        return {annotation}
    parts = [part for part in get_args(annotation) if part is not Ellipsis]
    return set().union(*(_kinds(part) if not isinstance(part, str) else {str} for part in parts)) if parts else {object}


def _is_literal(annotation: Any) -> bool:
    return any(isinstance(part, str) for part in get_args(annotation)) or any(map(_is_literal, get_args(annotation)))


def _settings(place: str, value: str) -> Callable[[Path], Any]:
    section, key = place.split(".")
    path = "" if section == "source" else "source: {path: x}\n"
    more = "" if key == "path" or section != "source" else "  path: x\n"
    return lambda folder: _load_yaml(folder, f"{path}{section}:\n{more}  {key}: {value}\n")


def _load_yaml(folder: Path, text: str) -> Any:
    from hoser_kd.config.loading import load_config

    file = folder / "town.yaml"
    file.write_text(text, encoding="utf-8")
    return load_config(file)
