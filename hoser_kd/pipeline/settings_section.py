"""A part of a city's settings that stages depend on, and which of its values differ from the defaults.

Artifacts record all values. Versions hash only those that differ from the defaults, so that a new key leaves finished
artifacts fresh as long as it has its default. A changed default value therefore needs a raised `Stage.code_version`;
the snapshot `tests/pipeline/stage_defaults.json` makes sure of it. Settings marked `EXECUTION_ONLY` change no result;
neither records nor versions have them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel

from hoser_kd.config.schema import CityConfig
from hoser_kd.config.section import execution_only_fields


@dataclass(frozen=True)
class SettingsSection:
    """A part of a city's settings that changes independently: only the stages that name it depend on it."""

    section: str
    """Section of `CityConfig` that the values come from."""
    description: str
    """What the values are, as Dagster's UI shows it; Markdown."""
    read: Callable[[CityConfig], dict[str, Any]]
    """Returns all values, defaults included, as JSON."""

    @property
    def _model(self) -> type[BaseModel]:
        return next(_models_in(CityConfig.model_fields[self.section].annotation))

    def __call__(self, config: CityConfig) -> dict[str, Any]:
        """Return all values that can change a result, defaults included, as JSON; recorded with each artifact."""
        return _without_execution_only(self._model, self.read(config))

    def changed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of the values that differ from the defaults, in nested sections too; hashed by versions."""
        return _without_defaults(self._model, _without_execution_only(self._model, values))

    def defaults(self) -> dict[str, Any]:
        """Return the values of a city that sets nothing, as JSON; required keys are left out."""
        section = self._model.model_construct()
        other = {name: field.get_default(call_default_factory=True) for name, field in CityConfig.model_fields.items()}
        return self(CityConfig.model_construct(**{**other, self.section: section}))


def _without_defaults(model: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    defaults, fields = _defaults_of(model), model.model_fields
    changed = {
        key: _nested(_without_defaults, fields[key].annotation, value) if key in fields else value
        for key, value in values.items()
        if value != defaults.get(key)
    }
    # a section of which only a part is read; `{}` in place of None is a change
    return {key: value for key, value in changed.items() if value != {} or not defaults.get(key)}


def _without_execution_only(model: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    unused, fields = execution_only_fields(model), model.model_fields
    return {
        key: _nested(_without_execution_only, fields[key].annotation, value) if key in fields else value
        for key, value in values.items()
        if key not in unused
    }


_Reduce = Callable[[type[BaseModel], Mapping[str, Any]], dict[str, Any]]


def _nested(reduce: _Reduce, annotation: Any, value: Any) -> Any:
    """Apply `reduce` to the sections inside a value; the model of a section is the first that has all its keys."""
    if isinstance(value, list):
        return [_nested(reduce, annotation, item) for item in value]
    if isinstance(value, Mapping):
        for model in _models_in(annotation):
            if value.keys() <= model.model_fields.keys():
                return reduce(model, value)
    return value


@functools.cache
def _defaults_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return the defaults of a section as JSON; required keys are left out."""
    return model.model_construct().model_dump(mode="json")


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the pydantic models in a type such as `Bounds | None` or `tuple[Term, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
