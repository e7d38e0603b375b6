"""Stage of the baselines: their trips for the requests of the students, and their metrics."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from hoser_kd.common.files import atomic_path, write_json
from hoser_kd.evaluation import metrics
from hoser_kd.evaluation.baseline_settings import baseline_settings
from hoser_kd.evaluation.comparison import headline_rows
from hoser_kd.evaluation.scenarios import evaluate_scenarios
from hoser_kd.evaluation.trip_values import STEP_SUMS, write_step_sums
from hoser_kd.generation.baselines import BASELINES, TripBaseline, fit_baselines
from hoser_kd.generation.od_pairs import OdPairs, select_od_pairs
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.pipeline.stage import StageRun
from hoser_kd.pipeline.stages.network import load_network, load_trips
from hoser_kd.pipeline.store import Artifact
from hoser_kd.report.baselines import PRIMARY_TRIP_METRIC
from hoser_kd.student.next_step_baselines import counting_models, next_step_baselines

REQUESTS_FILE = "requests.parquet"
METRICS_FILE = "metrics.json"
NEXT_STEP_LABELS = {
    "frequency": "Frequency",
    "markov_1": "Markov chain, order 1",
    "markov_2": "Markov chain, order 2",
}
"""Names of the next-step baselines in tables."""


def baseline_trips(run: StageRun) -> dict[str, Any]:
    """Fit the baselines, generate their trips for the requests, and evaluate them; writes Parquet and JSON."""
    network, test = load_network(run), load_trips(run, "test")
    train, val = load_trips(run, "train"), load_trips(run, "val")
    requests = select_od_pairs(run.config.generation, train, test, network.num_roads)
    pq.write_table(requests.to_table(), run.folder / REQUESTS_FILE, compression="zstd")
    total = len(BASELINES.names()) + 2
    run.progress("baselines", 0, total)
    started = time.perf_counter()
    fitted = fit_baselines(train, val, network, baseline_settings(network, run.config.evaluation))
    summary: dict[str, Any] = {
        "num_trips": len(requests),
        "od_source": run.config.generation.od_source,
        "fit_seconds": round(time.perf_counter() - started, 3),
    }
    results: dict[str, dict[str, Any]] = {}
    for number, (name, baseline) in enumerate(fitted.items(), 1):
        run.progress("baselines", number, total)
        results[name], values = _evaluated(run, name, baseline, requests, network, train, test)
        summary |= {f"{name}_{key}": value for key, value in values.items()}
    run.progress("baselines", total - 1, total)
    next_step = next_step_baselines(
        counting_models(train, val, network),
        test,
        network,
        lambda name, steps: write_step_sums(run.folder / STEP_SUMS.format(kind=name), steps, len(test)),
    )
    write_json(run.folder / METRICS_FILE, {"trips": results, "next_step": next_step})
    run.progress("baselines", total, total)
    measured = BaselineMetrics.read(run.folder)
    return summary | {
        "comparison": beside_students({}, measured.trips),
        "next_step": beside_students({}, measured.next_step),
    }


def _evaluated(
    run: StageRun,
    name: str,
    baseline: TripBaseline,
    requests: OdPairs,
    network: RoadNetwork,
    train: Trajectories,
    test: Trajectories,
) -> tuple[dict[str, Any], dict[str, float]]:
    """Write the trips of a baseline; return its metrics, as `trajectory_metrics` those of a student, and a summary."""
    started = time.perf_counter()
    trips = baseline.generate(requests)
    seconds = time.perf_counter() - started
    with atomic_path(run.folder / f"{name}.parquet") as beside:
        pq.write_table(trips.to_table(), beside, compression="zstd")
    real = test if requests.real_rows is None else test.take(requests.real_rows)
    paired, settings = requests.real_rows is not None, run.config.evaluation
    result = {
        "trips": metrics.evaluate(
            real,
            trips,
            network,
            settings,
            destinations=requests.destinations,
            training=train,
            paired=paired,
        ),
        "scenarios": evaluate_scenarios(
            real,
            trips,
            network,
            settings,
            requests=(requests.origins, requests.start_times, requests.destinations),
            training=train,
            paired=paired,
        ),
    }
    return result, {
        **baseline.summary(requests),
        "reached": float(trips.reached.mean()),
        "seconds": round(seconds, 3),
    }


@dataclass(frozen=True)
class BaselineMetrics:
    """Metrics of the baselines by `section.metric`; keys are the names in tables."""

    trips: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Metrics of the generated trips, by baseline."""
    scenarios: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    """The same by baseline and scenario."""
    next_step: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Next-step metrics, by counting model."""

    @classmethod
    def read(cls, folder: Path) -> BaselineMetrics:
        """Read the metrics of a `baseline_trips` artifact."""
        stored = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
        return cls(
            {BASELINES[name].label: metrics.flatten(result["trips"]) for name, result in stored["trips"].items()},
            {
                BASELINES[name].label: {key: metrics.flatten(values) for key, values in result["scenarios"].items()}
                for name, result in stored["trips"].items()
            },
            {
                NEXT_STEP_LABELS[name]: {f"next_step.{key}": value for key, value in values.items()}
                for name, values in stored["next_step"].items()
            },
        )


def answers_same_requests(baselines: Artifact, generated: Artifact) -> bool:
    """Return whether the baselines' trips and the students' answer the same requests in the same order."""
    tables = [pq.read_table(artifact.path / REQUESTS_FILE) for artifact in (baselines, generated)]
    names = ("origin", "start_time", "destination")
    return all(np.array_equal(*(table[name].to_numpy() for table in tables)) for name in names)


def mean_over_seeds(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each metric that all runs have."""
    shared = [name for name in next(iter(runs), {}) if all(name in run for run in runs)]
    return {name: float(np.mean([run[name] for run in runs])) for name in shared}


def beside_students(
    students: Mapping[str, Mapping[str, float]], baselines: Mapping[str, Mapping[str, float]]
) -> list[dict[str, float | str]]:
    """Return the short comparison: headline metrics and the primary one, a column per student and baseline.

    Arguments are metrics by `section.metric`, by column. A row has a metric that all columns have.
    """
    columns = {**students, **baselines}
    rows = headline_rows(columns)
    if all(PRIMARY_TRIP_METRIC in values for values in columns.values()):
        primary = {name: values[PRIMARY_TRIP_METRIC] for name, values in columns.items()}
        rows.insert(0, {"metric": PRIMARY_TRIP_METRIC, **primary})
    return rows
