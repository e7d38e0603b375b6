"""Figures for parts of the whole: trips by day, hour and place; next steps by hour, way to go and class of road.

A model that is good on the whole may be poor at night or towards the center; what a mean hides is told here.

Shapes: n trips, S steps of all trips together, N roads.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hoser_kd.common.calendar import SECONDS_PER_HOUR, hour_of_day, is_weekend, second_of_day
from hoser_kd.common.geodesy import great_circle_m
from hoser_kd.common.progress import Progress, silent
from hoser_kd.evaluation.memorization import copied
from hoser_kd.evaluation.metrics import evaluate
from hoser_kd.hoser import collate

if TYPE_CHECKING:
    from hoser_kd.common.arrays import BoolArray, Int64Array
    from hoser_kd.config.schema import EvaluationConfig
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
"""Scenarios and what belongs to them, by the origin, start time and destination asked for.

Weekday and weekend, peak and off-peak, center and suburb each share all trips out; within, to and from the center are
the parts of center."""
LEAST_TRIPS = 5
"""Scenarios with fewer real or fewer generated trips get no figures."""
_CENTER_SHARE = 0.25
_TO_GO_EDGES_KM = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)


def in_center(network: RoadNetwork, config: EvaluationConfig) -> BoolArray:
    """Return (N,) bool: whether a road's center lies in the center of the city, as the settings draw it."""
    middle = np.median(network.centroids, axis=0) if config.center is None else np.array(config.center)
    away_m = great_circle_m(network.centroids[:, 0], network.centroids[:, 1], middle[:1], middle[1:])
    radius_m = config.center_radius_m or np.quantile(away_m, _CENTER_SHARE)
    inside: BoolArray = away_m < radius_m
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
    asked: tuple[Int64Array, Int64Array, Int64Array],
    training: Trajectories | None = None,
    paired: bool = False,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return what `hoser_kd.evaluation.metrics.evaluate` says of each scenario that has trips enough.

    `asked`: (n,) int64 origins, start times and destinations that generated trips answer; `training` and `paired` as
    in `evaluate`.
    """
    copies = None if training is None else (copied(generated, training), copied(real, training))
    by_real = scenarios(real.origins, real.start_times, real.destinations, network, config)
    by_request = scenarios(*asked, network, config)
    found = {}
    for name in SCENARIOS:
        rows = np.flatnonzero(by_request[name])
        # a pair belongs where its request belongs
        real_rows = rows if paired else np.flatnonzero(by_real[name])
        if min(len(rows), len(real_rows)) >= LEAST_TRIPS:
            found[name] = evaluate(
                real.take(real_rows), generated.take(rows), network, config, destinations=asked[2][rows], paired=paired
            )
            if copies is not None:
                found[name]["training"] = {
                    "memorized_share": float(copies[0][rows].mean()),
                    "real_memorized_share": float(copies[1][real_rows].mean()),
                }
    return found


@torch.no_grad()
def next_step_by(
    model: HOSER,
    trips: Trajectories,
    network: RoadNetwork,
    config: EvaluationConfig | None = None,
    *,
    batch_size: int = 256,
    progress: Progress = silent,
) -> dict[str, dict[str, dict[str, float]]]:
    """Return figures of the prediction of the next step by `hour`, `to_go` (km left, great circle) and `road_class`.

    With `config` also by `scenario`, that of the trip.

    For each part that has steps: `accuracy`, `decision_accuracy` (steps with two candidates or more; left out where
    there is none), `nll`, `time_mae_s`, `steps`. The road of a step is the one it leaves; the hour that of entering it.
    """
    was_training = model.training
    model.eval()
    lengths = trips.lengths
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 1]
    found: list[Mapping[str, torch.Tensor]] = []
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = collate(trips, rows).to(model.device)
        output = model(batch)
        mask = output.step_mask
        log_p = output.logits[mask].log_softmax(1)
        label = output.label[mask]
        found.append(
            {
                "trip": batch.rows[:, None].expand_as(mask)[mask],
                "road": batch.road_ids[:, :-1][mask],
                "time": batch.times[:, :-1][mask],
                "goal": batch.destinations[:, None].expand_as(mask)[mask],
                "correct": log_p.argmax(1) == label,
                "decision": output.candidate_mask[mask].sum(1) > 1,
                "nll": -log_p.gather(1, label[:, None])[:, 0],
                "error_s": (model.time_scale.seconds(output.time_pred[mask]) - output.seconds[mask]).abs(),
            }
        )
        progress("next steps by hour, way and class", start + len(rows), len(order))
    model.train(was_training)
    if not found:
        return {}
    steps = {name: torch.cat([part[name] for part in found]).cpu().numpy() for name in found[0]}
    road, goal = network.centroids[steps["road"]], network.centroids[steps["goal"]]
    to_go_km = great_circle_m(road[:, 0], road[:, 1], goal[:, 0], goal[:, 1]) / 1000
    band = np.searchsorted(_TO_GO_EDGES_KM, to_go_km, side="right") - 1
    classes, of_class = np.unique(network.highway.astype(str)[steps["road"]], return_inverse=True)
    by_scenario = {} if config is None else _by_scenario(trips, network, config, steps)
    return {
        **({"scenario": by_scenario} if by_scenario else {}),
        "hour": _by(second_of_day(steps["time"]) // SECONDS_PER_HOUR, [f"{hour:02d}" for hour in range(24)], steps),
        "to_go": _by(band, _bands(), steps),
        "road_class": _by(of_class, classes.tolist(), steps),
    }


def _by_scenario(
    trips: Trajectories, network: RoadNetwork, config: EvaluationConfig, steps: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    """Return the figures of each scenario that has steps; a step belongs to several of them."""
    found: dict[str, dict[str, float]] = {}
    for name, belongs in scenarios(trips.origins, trips.start_times, trips.destinations, network, config).items():
        told = _by(np.where(belongs[steps["trip"]], 0, 1), [name, "rest"], steps)
        found |= {name: told[name]} if name in told else {}
    return found


def _bands() -> list[str]:
    edges = [f"{edge:g}" for edge in _TO_GO_EDGES_KM]
    return [f"{low}–{high} km" for low, high in pairwise(edges)] + [f"over {edges[-1]} km"]


def _by(group: Int64Array, names: list[str], steps: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the figures of each group that has steps, by its name."""
    count = np.bincount(group, minlength=len(names))
    decisions = np.bincount(group, steps["decision"], len(names))

    def mean(values: Any, over: Any) -> Any:
        return np.bincount(group, values, len(names)) / np.maximum(over, 1)

    columns = {
        "accuracy": mean(steps["correct"], count),
        "nll": mean(steps["nll"], count),
        "time_mae_s": mean(steps["error_s"], count),
        "steps": count.astype(float),
    }
    right = mean(steps["correct"] & steps["decision"], decisions)
    return {
        name: {figure: float(values[i]) for figure, values in columns.items()}
        | ({"decision_accuracy": float(right[i])} if decisions[i] else {})
        for i, name in enumerate(names)
        if count[i]
    }
