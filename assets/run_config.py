"""Settings that can be overridden for a single run, a short list per stage; by default the city's YAML applies.

An override is validated as in the YAML and is part of the version of the result.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
from pydantic import BaseModel, Field, create_model
from pydantic.fields import FieldInfo

from hoser_kd.config.schema import CityConfig


class RunStage(dg.Config):
    """How to run a stage. The defaults suit a normal run."""

    force: bool = Field(default=False, description="Recompute the result even if this version exists.")
    device: str = Field(
        default="auto", description="`auto` uses a GPU if there is one; `cpu`, `cuda` or `cuda:<n>` select a device."
    )


OVERRIDABLE = {
    "teacher": ("teacher.max_epochs", "teacher.learning_rate"),
    "vanilla_student": ("student.max_epochs", "student.learning_rate"),
    "distilled_student": ("distill.lambda_kl", "distill.temperature", "student.max_epochs", "student.learning_rate"),
    "generated_trajectories": ("generation.num_trips", "generation.max_steps"),
}
"""Settings that a run can override, by stage, as `section.key` of the YAML."""

YAML_TAG = "hoser_kd/yaml"
"""Run tag: the YAML's values with which the launchpad was filled in, as JSON."""

YAML_ERROR_TAG = "hoser_kd/yaml_error"
"""Run tag: why the launchpad could not be filled in."""


def run_config_of(stage: str) -> type[RunStage]:
    """Return the run config class of a stage: `RunStage` with an optional field per overridable setting."""
    fields: dict[str, Any] = {}
    for path in OVERRIDABLE.get(stage, ()):
        section, name = path.split(".")
        setting = _setting(section, name)
        description = f"{setting.description}{_range(setting)} For this run only; default: `{path}` of the city's YAML."
        fields[name] = (_optional(setting.annotation), Field(default=None, description=description))
    return create_model(f"Run_{stage}", __base__=RunStage, **fields) if fields else RunStage


def defaults_from_yaml(stage: str, settings: CityConfig) -> dict[str, Any]:
    """Return the city's values of a stage's overridable settings by `section.key`, without those that are None."""
    values = {path: _value(settings, path) for path in OVERRIDABLE.get(stage, ())}
    return {path: value for path, value in values.items() if value is not None}


def changes(stage: str, config: RunStage, settings: CityConfig, tags: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings that a run overrides, by `section.key`.

    A value equal to the YAML's is no override. Neither is a value equal to the one that the launchpad was filled in
    with (`YAML_TAG`): a run that is re-executed after an edit of the YAML uses the edited value.
    """
    current, filled_in = defaults_from_yaml(stage, settings), _filled_in(tags)
    return {
        path: value
        for path, value in _given(stage, config).items()
        if value not in (None, current.get(path), filled_in.get(path))
    }


def stale_overrides(stage: str, config: RunStage, settings: CityConfig, tags: Mapping[str, str]) -> Iterator[str]:
    """Yield a message per value that the launchpad was filled in with and that the YAML has replaced since."""
    current, filled_in = defaults_from_yaml(stage, settings), _filled_in(tags)
    for path, value in _given(stage, config).items():
        if value is not None and value == filled_in.get(path) != current.get(path):
            now = current.get(path, "none")
            yield f"{path}: filled in with {value} from a YAML that was edited since; this run uses {now}."


def _given(stage: str, config: RunStage) -> dict[str, Any]:
    return {path: getattr(config, path.split(".")[1]) for path in OVERRIDABLE.get(stage, ())}


def _filled_in(tags: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(tags.get(YAML_TAG, "{}"))
    return values


def _value(settings: CityConfig, path: str) -> Any:
    section, name = path.split(".")
    return getattr(getattr(settings, section), name)


def _setting(section: str, name: str) -> FieldInfo:
    model = CityConfig.model_fields[section].annotation
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise TypeError(f"{section} is not a section of the settings")
    return model.model_fields[name]


_BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


def _range(setting: FieldInfo) -> str:
    """Return the sentence about the allowed values after a space, from the bounds that the YAML is checked against."""
    bounds = [
        f"{word} {getattr(entry, name)}"
        for entry in setting.metadata
        for name, word in _BOUNDS.items()
        if getattr(entry, name, None) is not None
    ]
    return f" Allowed: {' and '.join(bounds)}." if bounds else ""


def _optional(annotation: Any) -> Any:
    """All overridable settings are numbers, so float and int are the only types."""
    return float | None if annotation is float else int | None
