"""Metrics of subsets: trips by day, hour and place; next steps by hour, remaining distance and road class.

A model with good means may still be poor at night or toward the center.

Shapes: n trips, S steps of all trips together, N roads.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from hoser_kd.common.calendar import SECONDS_PER_HOUR, hour_of_day, is_weekend, second_of_day
from hoser_kd.common.geodesy import great_circle_m
from hoser_kd.common.progress import Progress, silent
from hoser_kd.evaluation.divergences import MIN_TRIPS_FOR_JSD, without_divergences
from hoser_kd.evaluation.memorization import copied
from hoser_kd.evaluation.metrics import evaluate
from hoser_kd.student.next_step_metrics import StepTable, step_table

if TYPE_CHECKING:
    from hoser_kd.common.arrays import BoolArray, Int64Array
    from hoser_kd.config.evaluation import EvaluationConfig
    from hoser_kd.hoser import HOSER
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories

SCENARIOS = {
    "weekday": "trips that start from Monday to Friday",
    "weekend": "trips that start on a Saturday or a Sunday",
    "peak": "trips that start in the peak hours (`evaluation.peak_hours`)",
    "off_peak": "trips that start outside the peak hours",
    "within_center": "trips from the center to the center",
    "to_center": "trips from the suburbs to the center",
    "from_center": "trips from the center to the suburbs",
    "center": "trips that start or end in the center (`evaluation.center`, `evaluation.center_radius_m`)",
    "suburb": "trips that start and end in the suburbs",
}
"""Scenarios and their trips, by the requested origin, start time and destination.

Weekday and weekend, peak and off-peak, center and suburb each divide all trips; within, to and from the center divide
those of center."""
LEAST_TRIPS = 5
"""Scenarios with fewer real or fewer generated trips get no metrics."""
_CENTER_SHARE = 0.25
_TO_GO_EDGES_KM = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)


def in_center(network: RoadNetwork, config: EvaluationConfig) -> BoolArray:
    """Return (N,) bool: whether the centroid of a road lies in the city center of the settings."""
    center = np.median(network.centroids, axis=0) if config.center is None else np.array(config.center)
    distance_m = great_circle_m(network.centroids[:, 0], network.centroids[:, 1], center[:1], center[1:])
    radius_m = config.center_radius_m or np.quantile(distance_m, _CENTER_SHARE)
    inside: BoolArray = distance_m < radius_m
    return inside


def scenarios(
    origins: Int64Array,
    start_times: Int64Array,
    destinations: Int64Array,
    network: RoadNetwork,
    config: EvaluationConfig,
) -> dict[str, BoolArray]:
    """Return which of n trips belong to each of `SCENARIOS`, (n,) bool each; arguments (n,) int64."""
    weekend, hour = is_weekend(start_times), hour_of_day(start_times)
    peak = np.zeros(len(origins), bool)
    for low, high in config.peak_hours:
        peak |= (hour >= low) & (hour < high)
    center = in_center(network, config)
    starts, ends = center[origins], center[destinations]
    return {
        "weekday": ~weekend,
        "weekend": weekend,
        "peak": peak,
        "off_peak": ~peak,
        "within_center": starts & ends,
        "to_center": ~starts & ends,
        "from_center": starts & ~ends,
        "center": starts | ends,
        "suburb": ~starts & ~ends,
    }


def evaluate_scenarios(
    real: Trajectories,
    generated: Trajectories,
    network: RoadNetwork,
    config: EvaluationConfig,
    *,
    requests: tuple[Int64Array, Int64Array, Int64Array],
    training: Trajectories | None = None,
    paired: bool = False,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the metrics of `hoser_kd.evaluation.metrics.evaluate` for each scenario with `LEAST_TRIPS` trips or more.

    Divergences are left out of scenarios with fewer than `MIN_TRIPS_FOR_JSD` trips on either side.
    `requests`: (n,) int64 origins, start times and destinations of the generated trips; `training` and `paired` as in
    `evaluate`.
    """
    copies = None if training is None else (copied(generated, training), copied(real, training))
    by_real = scenarios(real.origins, real.start_times, real.destinations, network, config)
    by_request = scenarios(*requests, network, config)
    results = {}
    for name in SCENARIOS:
        rows = np.flatnonzero(by_request[name])
        # a pair belongs to the scenario of its request
        real_rows = rows if paired else np.flatnonzero(by_real[name])
        if min(len(rows), len(real_rows)) >= LEAST_TRIPS:
            results[name] = evaluate(
                real.take(real_rows),
                generated.take(rows),
                network,
                config,
                destinations=requests[2][rows],
                paired=paired,
            )
            if min(len(rows), len(real_rows)) < MIN_TRIPS_FOR_JSD:
                results[name] = without_divergences(results[name])
            if copies is not None:
                results[name]["training"] = {
                    "memorized_share": float(copies[0][rows].mean()),
                    "real_memorized_share": float(copies[1][real_rows].mean()),
                }
    return results


def next_step_by(
    steps: StepTable | HOSER,
    trips: Trajectories,
    network: RoadNetwork,
    config: EvaluationConfig | None = None,
    *,
    batch_size: int = 256,
    progress: Progress = silent,
) -> dict[str, dict[str, dict[str, float]]]:
    """Return next-step metrics by `hour`, `to_go` (great-circle distance to the destination) and `road_class`.

    With `config` also by `scenario` of the trip. `steps`: the table of these trips
    (`hoser_kd.student.next_step_metrics.step_table`), or a model to compute it with.

    For each group that has steps: `accuracy`, `decision_accuracy` (steps with two candidates or more; omitted if there
    are none), `nll` (nats), `time_mae_s`, `steps`. The road of a step is the road it leaves; its hour is the hour at
    which that road was entered.
    """
    table = (
        steps if isinstance(steps, StepTable) else step_table(steps, trips, batch_size=batch_size, progress=progress)
    )
    if not len(table):
        return {}
    road, destination = network.centroids[table["road"]], network.centroids[table["destination"]]
    to_go_km = great_circle_m(road[:, 0], road[:, 1], destination[:, 0], destination[:, 1]) / 1000
    band = np.searchsorted(_TO_GO_EDGES_KM, to_go_km, side="right") - 1
    classes, class_index = np.unique(network.highway.astype(str)[table["road"]], return_inverse=True)
    by_scenario = {} if config is None else _by_scenario(trips, network, config, table)
    return {
        **({"scenario": by_scenario} if by_scenario else {}),
        "hour": _by(second_of_day(table["time"]) // SECONDS_PER_HOUR, [f"{hour:02d}" for hour in range(24)], table),
        "to_go": _by(band, _bands(), table),
        "road_class": _by(class_index, classes.tolist(), table),
    }


def _by_scenario(
    trips: Trajectories, network: RoadNetwork, config: EvaluationConfig, table: StepTable
) -> dict[str, dict[str, float]]:
    """Return the metrics of each scenario that has steps; a step belongs to several scenarios."""
    metrics: dict[str, dict[str, float]] = {}
    for name, belongs in scenarios(trips.origins, trips.start_times, trips.destinations, network, config).items():
        groups = _by(np.where(belongs[table["trip"]], 0, 1), [name, "rest"], table)
        metrics |= {name: groups[name]} if name in groups else {}
    return metrics


def _bands() -> list[str]:
    edges = [f"{edge:g}" for edge in _TO_GO_EDGES_KM]
    return [f"{low}–{high} km" for low, high in pairwise(edges)] + [f"over {edges[-1]} km"]


def _by(group: Int64Array, names: list[str], table: StepTable) -> dict[str, dict[str, float]]:
    """Return the metrics of each group that has steps, by its name; `group` (S,) indexes `names`."""
    count = np.bincount(group, minlength=len(names))
    decisions = np.bincount(group, table["decision"], len(names))

    def mean(values: Any, over: Any) -> Any:
        return np.bincount(group, values, len(names)) / np.maximum(over, 1)

    columns = {
        "accuracy": mean(table["correct"], count),
        "nll": mean(table["nll"], count),
        "time_mae_s": mean(table["error_s"], count),
        "steps": count.astype(float),
    }
    decision_accuracy = mean(table["decision_correct"], decisions)
    return {
        name: {metric: float(values[i]) for metric, values in columns.items()}
        | ({"decision_accuracy": float(decision_accuracy[i])} if decisions[i] else {})
        for i, name in enumerate(names)
        if count[i]
    }
