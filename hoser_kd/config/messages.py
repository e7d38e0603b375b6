"""Messages about wrong settings, with the key, the problem, the value and the closest known key.

They replace pydantic's own, for settings from YAML and for sections built in Python.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


def explain(
    error: ValidationError, top: type[BaseModel], place: str = "", line_of: Callable[[list[str]], str] | None = None
) -> list[str]:
    """Return a line for each problem of the model `top`, with place, key, value and fix.

    `line_of` returns the text that follows `place` for a key, such as its line in the file.
    """
    problems = error.errors()
    # a section where words are allowed too: the problem is inside the section
    problems = [each for each in problems if each["type"] != "literal_error" or not isinstance(each["input"], dict)]
    lines = [_line(problem, top, place, line_of) for problem in problems or error.errors()]
    return list(dict.fromkeys(lines))


def _line(
    problem: Mapping[str, Any], top: type[BaseModel], place: str, line_of: Callable[[list[str]], str] | None
) -> str:
    keys = [str(part) for part in problem["loc"]]
    known, model = _known_part(keys, top)
    name = f"`{'.'.join(known)}`"
    line = line_of(known) if line_of is not None and known else ""
    where = ": ".join(filter(None, [f"{place}{line}", name if known else ""]))
    if problem["type"] == "extra_forbidden":
        return f"{where} is not a known setting.{_suggest(known[-1], model, top)}"
    if problem["type"] == "missing" and known[-1] == keys[-1]:
        field = model.model_fields[known[-1]]
        section = _section_of(field.annotation)
        return f"{where} is missing. {field.description or ''}".rstrip() + (
            "" if section is None else f" It is {_shape(known[-1], section)}."
        )
    value = problem.get("input")
    if problem["type"] in ("model_type", "dict_type") and known:
        section = _section_of(model.model_fields[known[-1]].annotation)
        if section is not None:
            given = "is empty" if value is None else f"is {value!r}"
            return f"{where} {given}. Give {_shape(known[-1], section)}, or remove the key."
    if problem["type"] in ("tuple_type", "list_type") and isinstance(value, str | int | float) and known:
        return f"{where}: write a list, `[{value}]` (given: {value!r})."
    message = str(problem["msg"]).removeprefix("Value error, ")
    given = "" if isinstance(value, dict) or repr(value) in message else f" (given: {value!r})"
    stop = "" if not given and message.endswith((".", "?")) else "."
    return f"{where}: {message[:1].lower()}{message[1:]}{given}{stop}{_meant(problem)}".removeprefix(": ")


def _meant(problem: Mapping[str, Any]) -> str:
    """Return the question whether the closest of the allowed words is meant; empty where the problem is another."""
    if problem["type"] != "literal_error" or not isinstance(problem.get("input"), str):
        return ""
    return nearest(problem["input"], re.findall(r"'([^']*)'", problem["ctx"]["expected"]))


def nearest(key: str, known: Any) -> str:
    """Return the question whether the closest of the known names is meant, after a space; empty if none is close."""
    near = difflib.get_close_matches(key, list(known), n=1)
    return f" Did you mean `{near[0]}`?" if near else ""


def _known_part(keys: list[str], top: type[BaseModel]) -> tuple[list[str], type[BaseModel]]:
    """Return the keys down to the first that is no section, and the section that holds it.

    Pydantic adds positions in lists, and the name of the section where a setting allows other values too.
    """
    model, known, rest = top, keys[:1], keys[1:]
    while rest and known[-1] in model.model_fields:
        annotation = model.model_fields[known[-1]].annotation
        section = _section_of(annotation)
        if section is None or (annotation is not section and section.__name__ not in rest[0]):
            break
        rest = rest if annotation is section else rest[1:]
        if not rest:
            break
        model, known, rest = section, [*known, rest[0]], rest[1:]
    return known, model


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section of a setting, also of one that allows other values."""
    if isinstance(annotation, type):
        return annotation if issubclass(annotation, BaseModel) else None
    return next(filter(None, map(_section_of, get_args(annotation))), None)


def _shape(key: str, section: type[BaseModel]) -> str:
    """Return what a section looks like: its keys and an example."""
    example = getattr(section, "example", "") or "{}"
    return f"a section with the keys {', '.join(section.model_fields)}, such as `{key}: {example}`"


def _suggest(key: str, model: type[BaseModel], top: type[BaseModel]) -> str:
    here = nearest(key, model.model_fields)
    if here:
        return here
    elsewhere = {name: path for path, name in _all_keys(top)}
    near = difflib.get_close_matches(key, elsewhere, n=1)
    if near:
        return f" Did you mean `{elsewhere[near[0]]}`?"
    return f" Known here: {', '.join(model.model_fields)}."


def _all_keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        yield prefix + name, name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _all_keys(field.annotation, f"{prefix}{name}.")
