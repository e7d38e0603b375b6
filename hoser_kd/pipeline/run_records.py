"""Records of all trained students of a store, for `hoser_kd.report.runs`; read from the artifacts' records alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from hoser_kd.common.errors import StoreError
from hoser_kd.evaluation.metrics import flatten
from hoser_kd.evaluation.trip_values import stored_trip_values
from hoser_kd.pipeline.settings import SETTINGS
from hoser_kd.pipeline.store import RECORD, Artifact, read_artifact
from hoser_kd.report.runs import RunRecord

STUDENT_STAGES = {"vanilla_student": "vanilla", "distilled_student": "distilled"}
"""Kind of student by stage."""
_COSTS = ("seconds", "steps", "parameters", "peak_memory_mib")
"""Metrics of the section `cost`."""


def run_records(store: Path, cities: list[str] | None = None) -> list[RunRecord]:
    """Return a record per trained student of a local store, and one per evaluation of it with other settings.

    Raises:
        StoreError: the folder does not exist, or a record is damaged.
    """
    if not store.is_dir():
        raise StoreError(f"{store}: no such folder. Give an artifact store: a folder <store>/<city>/<stage>/<version>.")
    records: list[RunRecord] = []
    for city in sorted(path for path in store.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if cities is None or city.name in cities:
            records += _CityRecords(city).runs()
    return records


class _CityRecords:
    """The artifacts of one city, each read once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, Artifact | None] = {}

    def runs(self) -> Iterator[RunRecord]:
        """Yield the runs of all students: each evaluation, and students that are not evaluated."""
        evaluated: dict[tuple[str, int | None, str], dict[tuple[tuple[str, str], ...], RunRecord]] = {}
        for evaluation in sorted(self._all("trajectory_metrics"), key=lambda artifact: artifact.created_at):
            for run in self._evaluated(evaluation):
                # a later evaluation of the same student with the same settings replaces the earlier one
                key = run.student, run.seed, run.version
                evaluated.setdefault(key, {})[tuple(sorted(run.settings.items()))] = run
        for stage, kind in STUDENT_STAGES.items():
            for student in self._all(stage):
                if "epochs" not in student.summary:  # distillation is disabled
                    continue
                of_student = evaluated.get((kind, student.seed, student.version), {})
                yield from of_student.values() or [self._run(student)]

    def _evaluated(self, evaluation: Artifact) -> Iterator[RunRecord]:
        results = json.loads((evaluation.path / "metrics.json").read_text(encoding="utf-8"))
        steps = {name.partition("/")[0]: self._find(name, version) for name, version in evaluation.inputs.items()}
        generated = steps.get("generated_trajectories")
        for stage, kind in STUDENT_STAGES.items():
            student = steps.get(stage) or (self._input(generated, stage) if generated else None)
            if student is None or kind not in results:
                continue
            own = [each for each in (generated, evaluation) if each is not None]
            run = self._run(student)
            metrics = {
                **{f"next_step.{name}": value for name, value in results[kind]["next_step"].items()},
                **flatten(results[kind]["trips"]),
            }
            settings = {place: text for each in own for place, text in _settings(each).items()}
            code = {f"code version of {each.stage}": each.code_version for each in own}
            yield replace(
                run,
                settings={**run.settings, **settings},
                origin={**run.origin, **code},
                metrics={**run.metrics, **_numbers(metrics)},
                test_split=evaluation.inputs.get("trajectories", ""),
                trip_values=partial(stored_trip_values, evaluation.path, kind),
            )

    def _run(self, student: Artifact) -> RunRecord:
        lineage = list(self._lineage(student, set()))
        settings: dict[str, str] = {}
        for artifact in reversed(lineage):
            settings |= _settings(artifact)
        versions = {
            f"version of {name}": version
            for artifact in lineage
            for name, version in artifact.inputs.items()
            if "/" not in name
        }
        costs = {"seconds": student.seconds, **student.summary}
        metrics = {
            f"val.{name.removeprefix('val_')}": value
            for name, value in student.summary.items()
            if name.startswith("val_")
        } | {f"cost.{name}": costs[name] for name in _COSTS if name in costs}
        return RunRecord(
            student.city,
            STUDENT_STAGES[student.stage],
            student.seed or 0,
            student.version,
            student.created_at,
            settings,
            {f"code version of {student.stage}": student.code_version, **versions},
            _numbers(metrics),
            [_numbers(epoch) for epoch in student.summary["epochs"]],
        )

    def _lineage(self, artifact: Artifact, seen: set[str]) -> Iterator[Artifact]:
        """Yield an artifact and all that it depends on and that the store still has, each once."""
        yield artifact
        for name, version in artifact.inputs.items():
            if name not in seen and (upstream := self._find(name, version)) is not None:
                seen.add(name)
                yield from self._lineage(upstream, seen)

    def _all(self, stage: str) -> list[Artifact]:
        files = sorted((self._folder / stage).rglob(RECORD))
        return [read_artifact(file.parent) for file in files if not file.parent.name.startswith(".")]

    def _input(self, artifact: Artifact, stage: str) -> Artifact | None:
        found = (self._find(name, version) for name, version in artifact.inputs.items() if name.startswith(stage))
        return next(found, None)

    def _find(self, name: str, version: str) -> Artifact | None:
        place = f"{name}/{version}"
        if place not in self._read:
            folder = self._folder / place
            self._read[place] = read_artifact(folder) if (folder / RECORD).is_file() else None
        return self._read[place]


def _settings(artifact: Artifact) -> dict[str, str]:
    """Return the settings of an artifact as texts by their place in the YAML.

    A key that an older record lacks had the effect of today's default.
    """
    texts: dict[str, str] = {}
    for name, values in artifact.settings.items():
        section = SETTINGS.get(name)
        if section is None:
            texts |= _flat(values, name)
        else:
            texts |= {**_flat(section.defaults(), section.section), **_flat(values, section.section)}
    return texts


def _flat(values: Mapping[str, Any], place: str) -> dict[str, str]:
    texts: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            texts |= _flat(value, f"{place}.{name}")
        else:
            texts[f"{place}.{name}"] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return texts


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
