"""The sections of the settings as stages read them: without keys of other stages, with digests in place of files.

This module imports no heavy library, because Dagster's definitions load it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hoser_kd.common.errors import CheckpointError, DataError
from hoser_kd.common.hashing import digest_file, digest_json
from hoser_kd.config.generation import PriorConfig
from hoser_kd.config.off_path import OffPathConfig
from hoser_kd.config.pooled import PooledConfig
from hoser_kd.config.schema import CityConfig
from hoser_kd.config.source import SourceConfig
from hoser_kd.network.raw_files import digest_if_present, point_files
from hoser_kd.network.sources import kind_of
from hoser_kd.pipeline.settings_section import SettingsSection


def _teacher_settings(config: CityConfig) -> dict[str, Any]:
    return {**config.teacher.model_dump(mode="json"), "checkpoint": _checkpoint(config)}


def _checkpoint(config: CityConfig) -> str | None:
    """Return a digest of the checkpoint's content: a new file of the same name is another teacher."""
    if config.distill.ckpt_path is None:
        return None
    hint = "It is the value of `distill.ckpt_path`: correct it, or remove it to train a teacher in the graph."
    return _checkpoint_digest(config.distill.ckpt_path, hint)


def _checkpoint_digest(name: str, hint: str) -> str:
    path = Path(name)
    files = sorted(path.glob("*.safetensors")) + sorted(path.glob("config.json")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise CheckpointError(f"{path}: no such file. {hint}")
    return digest_json([digest_file(file) for file in files])


_LABEL_KEYS = {"window", "teacher_fp16", "labels", "store_outside_mass"}


def _label_settings(config: CityConfig) -> dict[str, Any]:
    return config.distill.model_dump(mode="json", include=_LABEL_KEYS)


def _student_settings(config: CityConfig) -> dict[str, Any]:
    """Return the section; an unused key has its default."""
    settings = config.student.model_dump(mode="json")
    if not config.student.num_validation_ods:
        settings["select_max_steps"] = type(config.student).model_fields["select_max_steps"].default
    return settings


def _distillation_settings(config: CityConfig) -> dict[str, Any]:
    """Return the section without the keys of labels; the settings of an unused recipe are its defaults."""
    settings = config.distill.model_dump(mode="json", exclude=_LABEL_KEYS | {"ckpt_path"})
    if not config.distill.uses_off_path:
        settings["off_path"] = OffPathConfig().model_dump(mode="json")
    if not config.distill.uses_pooled:
        settings["pooled"] = PooledConfig().model_dump(mode="json")
    hint = "`distill.pooled.other_teachers` names it: correct it, or remove it."
    settings["pooled"]["other_teachers"] = [
        _checkpoint_digest(path, hint) for path in settings["pooled"]["other_teachers"]
    ]
    return settings


_OFF_PATH_LABEL_KEYS = {"temperatures", "states", "max_steps", "smoothing", "costs", "teacher_weight", "labels"}


def _off_path_label_settings(config: CityConfig) -> dict[str, Any]:
    """Return the keys of states and targets; the defaults alone where none are stored."""
    stored = config.stores_off_path_labels
    section = config.distill.off_path if stored else OffPathConfig()
    settings: dict[str, Any] = {"off_path": section.model_dump(mode="json", include=_OFF_PATH_LABEL_KEYS)}
    if stored and section.reads_teacher:
        settings |= config.distill.model_dump(mode="json", include={"window", "teacher_fp16"})
    return settings


def _synthetic_trip_settings(config: CityConfig) -> dict[str, Any]:
    """Return the section and how labels encode histories; the defaults alone where the trips are not used."""
    if not config.uses_synthetic_trips:
        return type(config.synthetic_trips)().model_dump(mode="json")
    histories = config.distill.model_dump(mode="json", include={"window", "teacher_fp16"})
    return {**config.synthetic_trips.model_dump(mode="json"), "used": True, **histories}


_REQUEST_KEYS = {"od_source", "od_file", "num_trips", "samples_per_od", "seed"}


def _generation_settings(config: CityConfig) -> dict[str, Any]:
    """Return the section with the digest of the OD file's content in place of its name; an unused prior is left out."""
    settings = config.generation.model_dump(mode="json")
    if not config.generation.prior.is_on:
        settings["prior"] = PriorConfig().model_dump(mode="json")
    if config.generation.od_file is not None:
        file = Path(config.generation.od_file)
        if not file.is_file():
            raise DataError(file, "no such file.", hint="It is the value of `generation.od_file`: correct it.")
        settings["od_file"] = digest_file(file)
    return settings


def _source_settings(config: CityConfig) -> dict[str, Any]:
    """Return what `source_files` reads: without sections that other stages read, with digests in place of files."""
    settings: dict[str, Any] = kind_of(config.source).settings(config.source)
    return settings


def _raw(config: CityConfig) -> SourceConfig:
    """Return the source; for a city that is not of raw data, with the defaults, which its versions leave out."""
    return config.source if config.is_raw else type(config.source).model_construct()


def _map_settings(config: CityConfig) -> dict[str, Any]:
    """Return `source.map` with digests of the content in place of the names of its files."""
    source = _raw(config)
    settings = source.map.model_dump(mode="json")
    for key in ("path", "polygon"):
        if settings[key] is not None:
            settings[key] = digest_if_present([Path(settings[key]).expanduser()])
    return {"map": settings}


def _point_settings(config: CityConfig) -> dict[str, Any]:
    """Return `source.points` with a digest of the content in place of the name of the file or folder."""
    source = _raw(config)
    settings = source.points.model_dump(mode="json")
    if settings["path"] is not None:
        settings["path"] = digest_if_present(point_files(source.points, missing_ok=True))
    return {"points": settings}


def _matching_settings(config: CityConfig) -> dict[str, Any]:
    """Return `source.matching`, and the time zone in which trips have their times."""
    zone = _raw(config).points.model_dump(mode="json", include={"time_zone"})
    return {"matching": _raw(config).matching.model_dump(mode="json"), "points": zone}


SETTINGS: dict[str, SettingsSection] = {
    "source": SettingsSection("source", "Source of the city's data: `source`.", _source_settings),
    "map": SettingsSection(
        "source", "The OpenStreetMap extract: `source.map`, and the content of its files.", _map_settings
    ),
    "points": SettingsSection(
        "source", "The GPS points: `source.points`, and the content of their files.", _point_settings
    ),
    "matching": SettingsSection(
        "source", "Map matching: `source.matching`, and the time zone of `source.points`.", _matching_settings
    ),
    "split": SettingsSection(
        "source",
        "Division of matched trips: `source.split`.",
        lambda config: {"split": _raw(config).split.model_dump(mode="json")},
    ),
    "rows": SettingsSection(
        "source",
        "Handling of invalid trips: `source.on_bad_row`.",
        lambda config: config.source.model_dump(mode="json", include={"on_bad_row"}),
    ),
    "connections": SettingsSection(
        "source",
        "Handling of repeated connections: `source.on_duplicate_connection`.",
        lambda config: config.source.model_dump(mode="json", include={"on_duplicate_connection"}),
    ),
    "zones": SettingsSection(
        "zones", "Partition of the roads into zones: `zones`.", lambda config: config.zones.model_dump(mode="json")
    ),
    "grid": SettingsSection(
        "grid",
        "The teacher's grid: `grid`, and the content of the checkpoint if one is named.",
        lambda config: {**config.grid.model_dump(mode="json"), "checkpoint": _checkpoint(config)},
    ),
    "teacher": SettingsSection(
        "teacher",
        "Size and training of the teacher: `teacher`, and the content of the checkpoint if one is named.",
        _teacher_settings,
    ),
    "labels": SettingsSection(
        "distill",
        "Labeling by the teacher: `window`, `teacher_fp16`, `labels` and `store_outside_mass` of `distill`.",
        _label_settings,
    ),
    "synthetic_trips": SettingsSection(
        "synthetic_trips",
        "Sampling of trips from the teacher: `synthetic_trips`, and `window` and `teacher_fp16` of `distill`; the "
        "defaults where neither `sequence` in `distill.recipe` nor `distill.off_path.costs` needs them.",
        _synthetic_trip_settings,
    ),
    "student": SettingsSection("student", "HOSER and its training: `student`.", _student_settings),
    "distillation": SettingsSection(
        "distill",
        "How the student learns from the teacher: `distill.recipe` and the keys of its parts, without those for the "
        "teacher and its labels.",
        _distillation_settings,
    ),
    "off_path_labels": SettingsSection(
        "distill",
        "States off any real trip that are labeled before the training: keys of `distill.off_path`.",
        _off_path_label_settings,
    ),
    "generation": SettingsSection("generation", "Generation of trips: `generation`.", _generation_settings),
    "requests": SettingsSection(
        "generation",
        "Requested trips: `od_source`, `od_file`, `num_trips`, `samples_per_od` and `seed` of `generation`.",
        lambda config: {key: value for key, value in _generation_settings(config).items() if key in _REQUEST_KEYS},
    ),
    "evaluation": SettingsSection(
        "evaluation",
        "Metrics of generated trips: `evaluation`.",
        lambda config: config.evaluation.model_dump(mode="json"),
    ),
}
"""Sections of the settings as stages read them, by name; each is a Dagster asset in the group `settings`."""


def changed_settings(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return those of a stage's settings that differ from the defaults; sections without any are left out."""
    changed = {name: SETTINGS[name].changed(values) for name, values in settings.items()}
    return {name: values for name, values in changed.items() if values}
