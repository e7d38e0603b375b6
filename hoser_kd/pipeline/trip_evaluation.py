"""Metrics of the trips of any generator for a city, beside those of the students and the baselines."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hoser_kd.common.errors import ConfigError, StoreError
from hoser_kd.common.progress import Progress, silent
from hoser_kd.config.schema import CityConfig
from hoser_kd.evaluation import metrics
from hoser_kd.evaluation.file_metrics import cautions, evaluate_matched
from hoser_kd.evaluation.metric_registry import METRICS
from hoser_kd.evaluation.trip_matching import TripMatch, match_test_trips
from hoser_kd.evaluation.trip_values import TripValues, values_by_test_trip
from hoser_kd.generation.baselines import BASELINES
from hoser_kd.generation.trip_files import read_trips, require_file
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.pipeline.plan import Step, StepKey, plan
from hoser_kd.pipeline.report_evidence import common_requests
from hoser_kd.pipeline.run import find_step, make, make_steps
from hoser_kd.pipeline.stage import Stage, StageRun
from hoser_kd.pipeline.stages.baselines import BaselineMetrics
from hoser_kd.pipeline.stages.report import report_data
from hoser_kd.pipeline.store import Artifact, Store
from hoser_kd.report import ReportData, write_report
from hoser_kd.report.baselines import PRIMARY_TRIP_METRIC

STUDENTS = ("vanilla", "distilled")


@dataclass(frozen=True)
class TripFileMetrics:
    """Metrics of a file of trips, and of the students and baselines of the city."""

    name: str
    """Name of the generator."""
    layout: str
    """Layout of the file, as `TripFile.layout`."""
    match: TripMatch
    """How the trips were paired with test trips."""
    trips: Trajectories
    """The trips of the file."""
    metrics: Mapping[str, Mapping[str, Any]]
    """Result of `hoser_kd.evaluation.metrics.evaluate` for the file's trips."""
    beside: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Metrics by `section.metric` of each student and baseline."""
    students_message: str = ""
    """Why there are no students, if so; a sentence."""
    trip_cautions: tuple[str, ...] = ()
    """What makes the metrics of the file incomparable (`hoser_kd.evaluation.file_metrics.cautions`); sentences."""

    @property
    def caution(self) -> str:
        """Why the columns do not compare, if so; sentences."""
        own = self.metrics["counts"]["real"]
        others = {values["counts.real"] for values in self.beside.values()} - {own, self.match.num_trips}
        if not others:
            return " ".join(self.trip_cautions)
        counts = " and ".join(f"{count:,.0f}" for count in sorted(others))
        different = (
            f"{self.name} is compared with {own:,.0f} test trips, the other columns with {counts}: differences between "
            "the columns can come from the choice of trips."
        )
        return " ".join((*self.trip_cautions, different))

    @property
    def column(self) -> str:
        """Heading of the file's column: its name, and how many test trips it answers unless it answers all."""
        match = self.match
        return self.name if match.is_complete else f"{self.name} ({match.num_covered:,} of {match.num_test:,} trips)"

    @property
    def columns(self) -> dict[str, Mapping[str, float]]:
        """Metrics by `section.metric` of students, baselines and the file."""
        return {**self.beside, self.column: metrics.flatten(self.metrics)}

    @property
    def metric_names(self) -> list[str]:
        """Names of the metrics that any column has, in the order of the registry."""
        present = {name for values in self.columns.values() for name in values}
        return [name for name in METRICS if name in present]

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "name": self.name,
            "layout": self.layout,
            "num_trips": self.match.num_trips,
            "num_matched": self.match.num_matched,
            "paired": self.match.test_rows is not None,
            "matching": self.match.message,
            "num_covered": self.match.num_covered,
            "num_test": self.match.num_test,
            **({"caution": self.caution} if self.caution else {}),
            "metrics": self.metrics,
            "beside": self.beside,
            **({"students": self.students_message} if self.students_message else {}),
        }


def evaluate_trip_file(
    file: Path,
    config: CityConfig,
    store: Store,
    *,
    name: str | None = None,
    seed: int = 0,
    progress: Progress = silent,
    on_stage: Callable[[Stage], object] = lambda _: None,
    on_warning: Callable[[str], object] = lambda _: None,
) -> TripFileMetrics:
    """Evaluate the trips of a file with the metrics of the students' trips; `name` defaults to the file's name.

    `on_warning` is called with the messages of failed checks of the city that do not stop.

    Prepares the city and its baselines where the store lacks them. Trains nothing: metrics of the students are those in
    the store.

    Raises:
        DataError: the file is not a valid file of trips on the city's road network.
        ConfigError: the name is that of a student or baseline.
    """
    require_file(file)
    label = name or file.name.partition(".")[0]
    if label in {*STUDENTS, *(BASELINES[each].label for each in BASELINES)}:
        raise ConfigError(f"--name {label}: this is the name of a student or baseline. Give the trips another name.")
    steps = plan(["baseline_trips"], seed, config=config)
    artifacts = make_steps(steps[:-1], config, store, progress, on_stage=on_stage, on_warning=on_warning)
    network = RoadNetwork.load(artifacts["road_network", None].path)
    folder = artifacts["trajectories", None].path
    trips = {split: Trajectories.load(folder / f"{split}.arrow") for split in ("train", "test")}
    trip_file = read_trips(file, network)  # before the baselines, which can take minutes
    artifacts |= _with_baselines(steps[-1], artifacts, config, store, progress, on_stage)
    baselines = BaselineMetrics.read(artifacts["baseline_trips", None].path).trips
    students, message = _students(config, store, seed, artifacts)
    match = match_test_trips(trip_file.trips, trips["test"], trip_file.origins, trip_file.destinations)
    generated, test = trip_file.trips, trips["test"]
    result = evaluate_matched(
        generated,
        match,
        test,
        network,
        config.evaluation,
        destinations=trip_file.destinations,
        training=trips["train"],
    )
    warnings = tuple(cautions(label, generated, match, test))
    beside = {**students, **baselines}
    return TripFileMetrics(label, trip_file.layout, match, generated, result, beside, message, warnings)


def write_report_with(path: Path, result: TripFileMetrics, config: CityConfig, store: Store, *, seed: int = 0) -> None:
    """Write the report of a seed with a column for the trips of a file; nothing is trained.

    Raises:
        StoreError: the store lacks an artifact that the report shows.
    """
    steps = plan(["distillation_report"], seed, config=config)
    first = make_steps(plan(["source_files"]), config, store)
    found = find_steps(steps[:-1], config, store, first)
    if missing := sorted({step.stage.name for step in steps[:-1] if step.key not in found}):
        raise StoreError(
            f"the report shows the trips beside the students of seed {seed}, and {', '.join(missing)} of {config.city} "
            f"is not materialized. Run `hoser-kd report --dataset {config.city} --seed {seed}` first."
        )
    with tempfile.TemporaryDirectory() as folder:
        data = report_data(StageRun(steps[-1].stage, config, None, steps[-1].inputs(found), Path(folder)))
    columns = {**data.baselines.trips, result.column: metrics.flatten(result.metrics)}
    note = " ".join(filter(None, (data.baselines.note, f"{result.name}: {result.match.message}", result.caution)))
    data = replace(
        data,
        baselines=replace(data.baselines, trips=columns, note=note),
        trip_values={**data.trip_values, result.column: _trip_values(result, data, config)},
        files=(),  # their addresses are relative to the report's place in the store
    )
    write_report(path, data)


def _trip_values(result: TripFileMetrics, data: ReportData, config: CityConfig) -> dict[str, TripValues]:
    """Return the metrics of each test trip; empty where the file answers other test trips than the students."""
    answered, requested = result.match.test_rows, common_requests(data)
    if answered is None or requested is None or not np.array_equal(np.unique(answered), np.unique(requested)):
        return {}
    return values_by_test_trip(data.real, result.trips, answered, data.network, config.evaluation)[1]


def _with_baselines(
    step: Step,
    artifacts: Mapping[StepKey, Artifact],
    config: CityConfig,
    store: Store,
    progress: Progress,
    on_stage: Callable[[Stage], object],
) -> dict[StepKey, Artifact]:
    """Return the artifact of the baselines, computed where the store lacks it."""
    if find_step(step, config, store, artifacts) is None:
        on_stage(step.stage)
    return {step.key: make(step.stage, config, store, step.inputs(artifacts), progress=progress)}


def _students(
    config: CityConfig, store: Store, seed: int, artifacts: Mapping[StepKey, Artifact]
) -> tuple[dict[str, dict[str, float]], str]:
    """Return the trip metrics of the students of a seed, if the store has them, and why not otherwise."""
    found = find_steps(plan(["trajectory_metrics"], seed, config=config), config, store, artifacts)
    if ("trajectory_metrics", seed) not in found:
        return {}, (
            f"The students of seed {seed} are not evaluated with the current settings, so they are not shown; "
            f"`hoser-kd evaluate --dataset {config.city} --seed {seed}` trains and evaluates them."
        )
    return _student_metrics(found["trajectory_metrics", seed])[0], ""


def find_steps(
    steps: Sequence[Step], config: CityConfig, store: Store, artifacts: Mapping[StepKey, Artifact]
) -> dict[StepKey, Artifact]:
    """Return `artifacts` with those of the steps that the store has; nothing is computed."""
    found = dict(artifacts)
    for step in steps:
        if step.key in found or not step.dependencies <= found.keys():
            continue
        if (artifact := find_step(step, config, store, found)) is not None:
            found[step.key] = artifact
    return found


def _student_metrics(artifact: Artifact) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Return the metrics by `section.metric` of each student: of its trips, and of next steps."""
    stored = json.loads((artifact.path / "metrics.json").read_text(encoding="utf-8"))
    return (
        {kind: metrics.flatten(result["trips"]) for kind, result in stored.items()},
        {kind: metrics.flatten({"next_step": result["next_step"]}) for kind, result in stored.items()},
    )


def short_tables(students: Artifact, baselines: Artifact) -> list[tuple[dict[str, Mapping[str, float]], list[str]]]:
    """Return the short comparison of `trajectory_metrics` with `baseline_trips`: next steps, then trips.

    Each table is the metrics by column, and the names of its rows.
    """
    measured = BaselineMetrics.read(baselines.path)
    trips, next_step = _student_metrics(students)
    names = [row["metric"] for row in students.summary["comparison"]]
    primary = [PRIMARY_TRIP_METRIC] if all(PRIMARY_TRIP_METRIC in values for values in trips.values()) else []
    return [
        ({**next_step, **measured.next_step}, [name for name in names if name in next_step["vanilla"]]),
        ({**trips, **measured.trips}, primary + [name for name in names if name in trips["vanilla"]]),
    ]
