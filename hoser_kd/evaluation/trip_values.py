"""Metrics trip by trip, for intervals and tests over the test trips.

Shapes: n test trips, K steps of all trips together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from hoser_kd.common.files import atomic_path
from hoser_kd.evaluation.context import EvaluationContext
from hoser_kd.evaluation.trip_measures import trip_minutes

if TYPE_CHECKING:
    from os import PathLike

    from hoser_kd.common.arrays import Float64Array, Int64Array
    from hoser_kd.config.evaluation import EvaluationConfig
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories

_STEP_METRICS = {
    "accuracy": ("correct", "steps"),
    "decision_accuracy": ("decision_correct", "decision"),
    "top_3": ("in_top_3", "steps"),
    "nll": ("nll", "steps"),
    "time_mae_s": ("error_s", "steps"),
    "time_mape": ("relative_error", "steps"),
    "time_log_mape": ("log_error", "steps"),
}
"""Column with the sum over the steps of a trip, and column with their number, by next-step metric."""
_SHAPES = ("hausdorff", "dtw", "edr", "hausdorff_per_road", "dtw_per_road", "edit_similarity", "jaccard")
_OF_REQUESTS = (
    *(f"paired.{name}" for name in (*_SHAPES, "identical_share")),
    "requests.reached_share",
    "paired_duration.mae_min",
    "paired_duration.mape",
)
PER_TRIP_METRICS = frozenset((*(f"next_step.{name}" for name in _STEP_METRICS), *_OF_REQUESTS))
"""Metrics that each test trip has a value of, by `section.metric`."""
STEP_SUMS = "{kind}_step_sums.parquet"
"""File of `trajectory_metrics` with the step results of a student by test trip."""
REQUEST_VALUES = "{kind}_request_values.parquet"
"""File of `trajectory_metrics` with the metrics of a student's generated trips by test trip."""


class TripValues(NamedTuple):
    """A metric as a sum and a count for each trip: its value over all trips is the ratio of the two sums."""

    totals: Float64Array
    """(n,) float64: sum over the steps of each trip, or its value."""
    counts: Float64Array
    """(n,) float64: number of values in each sum; 0 where the trip has none."""

    @property
    def mean(self) -> float:
        """The metric over all trips."""
        return float(self.totals.sum() / self.counts.sum())

    @property
    def per_trip(self) -> Float64Array:
        """(n,) float64: the metric of each trip; NaN where it has no value."""
        values = np.full(len(self.totals), np.nan)
        np.divide(self.totals, self.counts, out=values, where=self.counts > 0)
        return values


def write_step_sums(path: str | PathLike[str], results: Mapping[str, npt.NDArray[Any]], num_trips: int) -> None:
    """Write the sums of step results by test trip: one row per trip, in the order of the trips.

    `results`: columns (S,) by name, `trip` with the row of the trip; a model without times has no columns of times.
    """
    names = sorted({column for pair in _STEP_METRICS.values() for column in pair} & results.keys())
    trip = results["trip"].astype(np.int64)
    columns = {name: np.bincount(trip, results[name].astype(np.float64), num_trips) for name in names}
    columns["steps"] = np.bincount(trip, minlength=num_trips).astype(np.float64)
    with atomic_path(path) as beside:
        pq.write_table(pa.table(columns), beside, compression="zstd")


def read_step_values(path: str | PathLike[str]) -> dict[str, TripValues]:
    """Return the next-step metrics of each test trip, by `section.metric`; empty if the file does not exist."""
    if not Path(path).is_file():
        return {}
    table = pq.read_table(path)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    return {
        f"next_step.{metric}": TripValues(columns[total], columns[count])
        for metric, (total, count) in _STEP_METRICS.items()
        if total in columns
    }


def request_values(
    real: Trajectories, generated: Trajectories, network: RoadNetwork, config: EvaluationConfig
) -> dict[str, TripValues]:
    """Return the metrics of each request, by `section.metric`; generated trip i answers the request of real trip i."""
    context = EvaluationContext(real, generated, network, config, real.destinations, None, paired=True)
    shapes = context.request_shapes
    reached = generated.destinations == real.destinations
    values = {
        **{f"paired.{name}": _of_all(shapes[name]) for name in _SHAPES},
        "paired.identical_share": _of_all((shapes["edit_similarity"] == 1).astype(np.float64)),
        "requests.reached_share": _of_all(reached.astype(np.float64)),
    }
    if not context.has_times:
        return values
    real_min = trip_minutes(real)
    errors = np.abs(trip_minutes(generated) - real_min)
    moving = reached & (real_min > 0)
    relative = np.divide(errors, real_min, out=np.zeros(len(real)), where=moving)
    values["paired_duration.mae_min"] = TripValues(np.where(reached, errors, 0.0), reached.astype(np.float64))
    values["paired_duration.mape"] = TripValues(relative, moving.astype(np.float64))
    return values


def values_by_test_trip(
    real: Trajectories, generated: Trajectories, rows: Int64Array, network: RoadNetwork, config: EvaluationConfig
) -> tuple[Int64Array, dict[str, TripValues]]:
    """Return the requested test trips, sorted, and `request_values` added up over the requests of each.

    `real`: all test trips; `rows`: (n,) int64, the test trip of each request. Samples of one request are not
    independent, so they are one trip of the bootstrap.
    """
    used, place = np.unique(rows, return_inverse=True)
    return used, {
        name: TripValues(*(np.asarray(np.bincount(place, each, len(used)), np.float64) for each in values))
        for name, values in request_values(real.take(rows), generated, network, config).items()
    }


def write_request_values(path: str | PathLike[str], used: Int64Array, values: Mapping[str, TripValues]) -> None:
    """Write what `values_by_test_trip` returns: a row per requested test trip."""
    columns = {"test_row": used}
    columns |= {f"{name}:{part}": getattr(each, part) for name, each in values.items() for part in TripValues._fields}
    with atomic_path(path) as beside:
        pq.write_table(pa.table(columns), beside, compression="zstd")


def read_request_values(path: str | PathLike[str], num_test: int) -> dict[str, TripValues]:
    """Return the metrics of the requests for all `num_test` test trips, by `section.metric`.

    Trips that were not requested have counts of 0. Empty if the file does not exist.
    """
    if not Path(path).is_file():
        return {}
    table = pq.read_table(path)
    used = table["test_row"].to_numpy()

    def of_all_trips(name: str) -> Float64Array:
        whole = np.zeros(num_test)
        whole[used] = table[name].to_numpy()
        return whole

    names = [name.removesuffix(":totals") for name in table.column_names if name.endswith(":totals")]
    return {name: TripValues(*(of_all_trips(f"{name}:{part}") for part in TripValues._fields)) for name in names}


def stored_trip_values(folder: Path, kind: str) -> dict[str, TripValues]:
    """Return the metrics of each test trip that an artifact of `trajectory_metrics` has of a student.

    Empty without the step results; only these where the requests are not those of test trips, or the artifact is of an
    older release.
    """
    steps = read_step_values(folder / STEP_SUMS.format(kind=kind))
    if not steps:
        return {}
    num_test = len(next(iter(steps.values())).totals)
    return steps | read_request_values(folder / REQUEST_VALUES.format(kind=kind), num_test)


def mean_of_seeds(runs: Sequence[Mapping[str, TripValues]]) -> dict[str, TripValues]:
    """Return the mean over the seeds of each trip's totals and counts, for the metrics that all seeds have."""
    shared = [name for name in next(iter(runs), {}) if all(name in run for run in runs)]
    return {
        name: TripValues(
            np.mean([run[name].totals for run in runs], axis=0), np.mean([run[name].counts for run in runs], axis=0)
        )
        for name in shared
    }


def _of_all(values: Float64Array) -> TripValues:
    return TripValues(values, np.ones(len(values)))
