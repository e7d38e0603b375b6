"""Settings of a study: which settings of a city a sweep varies, over which values, and by which metric it judges them.

A study is a YAML file, such as those in `config/studies/`. Its name is the file name without `.yaml`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from hoser_kd.common.errors import ConfigError
from hoser_kd.config.loading import read_tree, with_changes
from hoser_kd.config.messages import explain, nearest
from hoser_kd.config.section import Section

if TYPE_CHECKING:
    from os import PathLike

    from hoser_kd.config.schema import CityConfig

STUDIES = "studies"
"""Folder of the studies in the folder of the cities' YAML files."""


class Range(Section):
    """Numbers from low to high; whole numbers if all bounds are written without a decimal point."""

    example: ClassVar[str] = "{low: 0.0, high: 1.0, step: 0.1}"

    low: int | float
    """Smallest value."""
    high: int | float
    """Largest value."""
    step: int | float | None = Field(None, gt=0)
    """Distance between two values. None: any number; 1 for whole numbers."""
    log: bool = False
    """Sample the logarithm evenly, for values over several orders of magnitude; not with `step`."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs a low above 0, not {self.low:g}")
        if self.log and self.step is not None:
            raise ValueError("log and step exclude each other")
        if self.step is not None and self.step > self.high - self.low:
            raise ValueError(f"step ({self.step:g}) is larger than the range from {self.low:g} to {self.high:g}")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether the values are whole numbers."""
        return all(isinstance(value, int) for value in (self.low, self.high, self.step or 1))


class StudyConfig(Section):
    """A study over settings of a city (docs/sweeps.md)."""

    example: ClassVar[str] = "{search: {distill.lambda_kl: [0.1, 0.3, 1.0]}}"

    description: str = ""
    """What the study is for."""
    stage: str = "distilled_student"
    """Stage whose artifact is judged. It must have one artifact per seed."""
    metric: str = "val_nll"
    """Number of the artifact's summary that judges a trial, a metric of validation trips."""
    direction: Literal["minimize", "maximize"] = "minimize"
    """Whether a lower or a higher metric is better."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """tpe: values near those of good trials (Bergstra et al. 2011); random: independent of earlier trials; grid: all
    combinations of listed values, which ignores `trials`."""
    trials: int = Field(20, ge=1)
    """Number of trials, those of earlier runs and of other workers included. It can be raised later."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((100,), min_length=1)
    """Seeds that a trial trains with; it is judged by their mean. Use other seeds than in the comparison."""
    sampler_seed: int = Field(0, ge=0)
    """Random seed of the sampler."""
    settings: Mapping[str, Any] = {}
    """Settings that hold in all trials, by key such as `student.train_fraction`."""
    search: Mapping[str, tuple[Any, ...] | Range] = Field(min_length=1)
    """Settings that are varied: a list of values, or a range."""

    @field_validator("search", mode="before")
    @classmethod
    def _lists_or_ranges(cls, search: Any) -> Any:
        """Read ranges here: pydantic would name both what a list and what a range needs."""
        if not isinstance(search, Mapping):
            return search
        return {key: _list_or_range(str(key), values) for key, values in search.items()}

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if empty := [key for key, values in self.search.items() if isinstance(values, tuple) and not values]:
            raise ValueError(f"{empty[0]} has no values")
        listed = {key: list(values) for key, values in self.search.items() if isinstance(values, tuple)}
        for key, values in {**listed, "seeds": list(self.seeds)}.items():
            if twice := [value for value in values if values.count(value) > 1]:
                raise ValueError(f"{key} has the value {twice[0]} twice")
        if fixed := sorted(set(self.search) & set(self.settings)):
            raise ValueError(f"{fixed[0]} is in both settings and search: remove one")
        if self.sampler == "grid" and (ranges := [key for key in self.search if isinstance(self.search[key], Range)]):
            raise ValueError(f"sampler grid needs lists of values, but {ranges[0]} is a range")
        return self

    def check(self, config: CityConfig) -> None:
        """Raise ConfigError where a key is no setting of a city, or a value is none that it can have."""
        known = [key for key in _keys(config.model_dump()) if "." in key]
        for key in (*self.settings, *self.search):
            if key not in known:
                raise ConfigError(f"study: {key} is no setting.{nearest(key, known)} See docs/settings.md.")
        config = with_changes(config, self.settings)
        for combination in self._first_combinations():
            with_changes(config, combination)

    def _first_combinations(self) -> Iterator[dict[str, Any]]:
        """Yield the values of one varied setting at a time; with several of them a value can need those of others."""
        if len(self.search) == 1:
            [(key, values)] = self.search.items()
            for value in (values.low, values.high) if isinstance(values, Range) else values:
                yield {key: value}


def _list_or_range(key: str, values: Any) -> Any:
    """Return the values of a searched key, a range as such. Raises ValueError with the key."""
    if isinstance(values, Mapping):
        try:
            return Range.model_validate(values)
        except ValidationError as error:
            raise ValueError(f"{key}: {' '.join(explain(error, Range))}") from None
    if isinstance(values, list | tuple | Range):
        return values
    raise ValueError(f"{key} is {values!r}: write a list of values, or a range such as {Range.example}")


def load_study(path: str | PathLike[str]) -> StudyConfig:
    """Read and validate a study. Raises ConfigError with the file, the key and the problem."""
    file = Path(path)
    if not re.fullmatch(r"[A-Za-z0-9_]+", file.stem):
        raise ConfigError(f"{file}: the name of a study has letters, digits and _ only. Rename the file.")
    tree, root = read_tree(file)
    try:
        return StudyConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error, StudyConfig, str(file), partial(_line, root)))) from None


def find_study(name: str, folder: Path) -> Path:
    """Return the file of a study by its name in `folder`, or by its path. Raises ConfigError if there is none."""
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    file = folder / STUDIES / f"{name}.yaml"
    if not file.is_file():
        known = sorted(path.stem for path in file.parent.glob("*.yaml"))
        raise ConfigError(
            f"{name}: no such study.{nearest(name, known)} Studies in {file.parent}: {', '.join(known) or 'none'}. Or "
            "give the path of a YAML file."
        )
    return file


def patch_of(settings: Mapping[str, Any]) -> str:
    """Return settings by key, such as `distill.lambda_kl`, as the sections of a city's YAML."""
    tree: dict[str, Any] = {}
    for place, value in settings.items():
        *sections, key = place.split(".")
        section = tree
        for name in sections:
            section = section.setdefault(name, {})
        section[key] = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _keys(tree: Mapping[str, Any], place: str = "") -> list[str]:
    """Return the keys of all settings, sections included, such as `distill` and `distill.lambda_kl`."""
    keys = []
    for name, value in tree.items():
        keys.append(f"{place}{name}")
        if isinstance(value, Mapping):
            keys += _keys(value, f"{place}{name}.")
    return keys


def _line(root: yaml.Node | None, keys: list[str]) -> str:
    """Return `, line 7` for the line of the first key; the others can hold points."""
    if isinstance(root, yaml.MappingNode) and keys:
        for key_node, _ in root.value:
            if key_node.value == keys[0]:
                return f", line {key_node.start_mark.line + 1}"
    return ""
