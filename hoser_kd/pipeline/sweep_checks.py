"""What is checked about a study before its first trial: stage, metric, seeds, and whether the searched keys matter."""

from __future__ import annotations

from itertools import islice, product
from typing import TYPE_CHECKING, Any

from hoser_kd.common.errors import ConfigError, HoserKdError
from hoser_kd.common.hashing import digest_json
from hoser_kd.config.compared_seeds import compared_seeds
from hoser_kd.config.loading import with_changes
from hoser_kd.config.messages import nearest
from hoser_kd.config.study import Range, StudyConfig
from hoser_kd.config.without_effect import unread_keys
from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.plan import plan
from hoser_kd.pipeline.run import settings_of
from hoser_kd.pipeline.settings import changed_settings
from hoser_kd.pipeline.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from hoser_kd.config.schema import CityConfig

STUDENTS = ("vanilla_student", "distilled_student")
_OF_NEXT_STEPS = (
    "accuracy",
    "decision_accuracy",
    "nll",
    "top_3",
    "calibration_error",
    "time_mae_s",
    "time_log_mape",
)
STUDENT_METRICS = (*(f"val_{name}" for name in _OF_NEXT_STEPS), "best_epoch", "steps", "parameters", "train_trips")
"""Numbers that the summary of every student has."""
OF_SOME_STUDENTS = ("val_generation_", "pool_", "off_path_", "before_off_path_", "frequency_", "synthetic_")
"""Beginnings of further names, which depend on settings and registered rules."""
_MAX_CONTEXTS = 16
"""Combinations of the other searched keys in which a key is tried."""


def check_sweep(name: str, study: StudyConfig, config: CityConfig) -> None:
    """Raise ConfigError where a study does not fit the city or the stage, or cannot find anything."""
    study.check(config)
    stage = STAGES.get(study.stage)
    if stage is None or not stage.per_seed:
        known = ", ".join(each.name for each in STAGES.values() if each.per_seed)
        raise ConfigError(f"study {name}: stage {study.stage} has no artifact per seed. Known: {known}.")
    _check_metric(name, study, config)
    if compared := sorted(set(study.seeds) & set(compared_seeds())):
        last = compared_seeds()[-1]
        raise ConfigError(
            f"study {name}: seed {compared[0]} is one of the compared seeds, 0 to {last}: the best trial would be "
            f"chosen for it. Use seeds from {max(100, last + 1)}."
        )
    for key in study.search:
        _check_effect(name, key, study, config)


def _check_metric(name: str, study: StudyConfig, config: CityConfig) -> None:
    """Raise ConfigError for a number that the summary of a student never has, or not under these settings."""
    metric = study.metric
    if study.stage not in STUDENTS or metric in STUDENT_METRICS:
        return
    if not metric.startswith(OF_SOME_STUDENTS):
        known = ", ".join(STUDENT_METRICS)
        raise ConfigError(
            f"study {name}: {study.stage} has no number `{metric}`.{nearest(metric, STUDENT_METRICS)} Known: {known}; "
            "and with generated validation trips, val_generation_score."
        )
    generates = with_changes(config, study.settings).student.num_validation_ods > 0
    if metric.startswith("val_generation_") and not generates and not any("student.select_" in x for x in study.search):
        raise ConfigError(
            f"study {name}: `{metric}` is measured on generated validation trips, and these settings generate none. "
            "Add `student.select_num_ods: 200` to `settings`."
        )


def _check_effect(name: str, key: str, study: StudyConfig, config: CityConfig) -> None:
    """Raise ConfigError where no value of a searched key changes the artifact that is judged.

    With other searched keys, one combination of their values in which it does is enough.
    """
    values = _ends(study.search[key])
    if key.startswith("source.") or len(values) < 2:  # the version of raw files is that of their content
        return
    readers: dict[str, None] = {}
    reasons: dict[str, None] = {}
    for context in _contexts(key, study):
        cities = list(_cities(config, ({**study.settings, **context, key: value} for value in values)))
        digests = [_digest(plan_stages(study.stage, city), city) for city in cities]
        if len(cities) < 2 or None in digests or len(set(digests)) > 1:
            return
        readers |= dict.fromkeys(_readers(cities))
        reasons |= dict.fromkeys(
            why for place, why in unread_keys(cities[0]).items() if f"{key}.".startswith(f"{place}.")
        )
    raise ConfigError(
        f"study {name}: {key} has no effect on {study.stage}, so that all its values give the same "
        f"{study.metric}. {_advice(readers, reasons)}"
    )


def plan_stages(stage: str, config: CityConfig) -> list[Stage]:
    """Return a stage and all that it depends on under these settings."""
    return [step.stage for step in plan([stage], config=config)]


def _advice(readers: Iterable[str], reasons: Iterable[str]) -> str:
    judged = [reader for reader in readers if STAGES[reader].per_seed]
    if judged:
        return f"It is read by {', '.join(judged)}: judge one of these (`stage`), or remove it from `search`."
    why = "".join(f": {reason}" for reason in islice(reasons, 1))
    return f"No stage reads it under these settings{why}. Remove it from `search`, or set what makes it matter."


def _readers(cities: list[CityConfig]) -> Iterator[str]:
    """Yield the stages whose own settings differ between the cities."""
    for stage in STAGES.values():
        digests = [_digest([stage], city) for city in cities]
        if None not in digests and len(set(digests)) > 1:
            yield stage.name


def _ends(values: tuple[Any, ...] | Range) -> tuple[Any, ...]:
    return (values.low, values.high) if isinstance(values, Range) else values


def _contexts(key: str, study: StudyConfig) -> Iterator[Mapping[str, Any]]:
    """Yield combinations of values of the other searched keys."""
    others = {other: _ends(values) for other, values in study.search.items() if other != key}
    for combination in islice(product(*others.values()), _MAX_CONTEXTS):
        yield dict(zip(others, combination, strict=True))


def _cities(config: CityConfig, changes: Iterable[Mapping[str, Any]]) -> Iterator[CityConfig]:
    """Yield the settings with each of the changes; those that contradict each other are left out."""
    for each in changes:
        try:
            yield with_changes(config, each)
        except ConfigError:
            continue


def _drop_unread(distillation: dict[str, Any], config: CityConfig) -> None:
    """Remove the keys that the recipe does not read, in place."""
    for place in unread_keys(config):
        *sections, key = place.split(".")[1:]
        section = distillation
        for each in sections:
            section = section[each]
        section.pop(key, None)


def _digest(stages: Iterable[Stage], config: CityConfig) -> str | None:
    """Return a digest of the settings that stages read; None where they name a file that does not exist.

    It is what settings change in their versions, without keys that the recipe does not read.
    """
    content: dict[str, Any] = {}
    try:
        for stage in stages:
            settings = settings_of(stage, config)
            if "distillation" in settings:
                _drop_unread(settings["distillation"], config)
            content[stage.name] = changed_settings(settings)
    except HoserKdError:
        return None
    return digest_json(content)
