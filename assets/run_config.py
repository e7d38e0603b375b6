"""What a person may change for one run, a short list a stage; nothing given means what the city's YAML says.

A changed value is checked as in the YAML, and it is part of the version of what is made with it.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
from pydantic import Field, create_model

from hoser_kd.config.schema import CityConfig


class RunStage(dg.Config):
    """How to run a stage; the defaults are right."""

    force: bool = Field(default=False, description="Make it again even if this version is there.")
    device: str = Field(
        default="auto", description="auto takes a GPU where there is one; cpu, cuda or cuda:<n> say which."
    )


KNOBS = {
    "teacher": ("teacher.max_epochs", "teacher.learning_rate"),
    "vanilla_student": ("student.max_epochs", "student.learning_rate"),
    "distilled_student": ("distill.lambda_kl", "distill.temperature", "student.max_epochs", "student.learning_rate"),
    "generated_trajectories": ("generation.num_trips", "generation.max_steps"),
}
"""Settings that a run may change, by stage."""


def run_config_of(stage: str) -> type[RunStage]:
    """Return the run config of a stage: `RunStage`, and a field for each of its knobs."""
    fields: dict[str, Any] = {}
    for knob in KNOBS.get(stage, ()):
        section, name = knob.split(".")
        setting = CityConfig.model_fields[section].annotation.model_fields[name]
        said = f"{setting.description} For this run only; not given: `{knob}` of the city's YAML."
        fields[name] = (_optional(setting.annotation), Field(default=None, description=said))
    return create_model(f"Run_{stage}", __base__=RunStage, **fields) if fields else RunStage


YAML_TAG = "hoser_kd/yaml"
"""Carried by the runs whose launchpad a city has filled in: what it was filled in with."""


YAML_ERROR_TAG = "hoser_kd/yaml_error"
"""Why a launchpad could not be filled in."""


def defaults_from_yaml(stage: str, settings: CityConfig) -> dict[str, Any]:
    """Return what a city's YAML says of the knobs of a stage, by their place in it; without those it leaves open."""
    said = {knob: getattr(getattr(settings, knob.split(".")[0]), knob.split(".")[1]) for knob in KNOBS.get(stage, ())}
    return {knob: value for knob, value in said.items() if value is not None}


def changes(stage: str, config: RunStage, settings: CityConfig, tags: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings that a run changes, by their place in the YAML.

    What the YAML says changes nothing. Neither does what it said when the launchpad was filled in, which the run's tags
    tell: whoever edits the YAML and executes a failed run again means the YAML.
    """
    given = {knob: getattr(config, knob.split(".")[1]) for knob in KNOBS.get(stage, ())}
    now, then = defaults_from_yaml(stage, settings), json.loads(tags.get(YAML_TAG, "{}"))
    return {knob: value for knob, value in given.items() if value not in (None, now.get(knob), then.get(knob))}


def stale_overrides(stage: str, config: RunStage, settings: CityConfig, tags: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence for each knob left as the launchpad was filled in, while the YAML was edited since."""
    now, then = defaults_from_yaml(stage, settings), json.loads(tags.get(YAML_TAG, "{}"))
    for knob in KNOBS.get(stage, ()):
        given = getattr(config, knob.split(".")[1])
        if given is not None and given == then.get(knob) != now.get(knob):
            yield (
                f"{knob}: the launchpad was filled in with {given}; the YAML says {now.get(knob, 'nothing')} by "
                "now, and that counts."
            )


def _optional(annotation: Any) -> Any:
    """Numbers alone are knobs, so the two kinds of number are all there is."""
    return float | None if annotation is float else int | None
