"""Metrics trip by trip, for intervals and tests over the test trips.

Shapes: n test trips, K steps of all trips together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hoser_kd.common.files import atomic_path
from hoser_kd.evaluation.context import EvaluationContext
from hoser_kd.evaluation.trip_measures import trip_minutes

if TYPE_CHECKING:
    from os import PathLike

    from hoser_kd.common.arrays import Float64Array
    from hoser_kd.config.evaluation import EvaluationConfig
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories
    from hoser_kd.student.next_step_metrics import StepTable

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


def write_step_sums(path: str | PathLike[str], table: StepTable, num_trips: int) -> None:
    """Write the sums of a student's step results by test trip: one row per trip, in the order of the trips."""
    names = sorted({column for pair in _STEP_METRICS.values() for column in pair} - {"steps"})
    trip = table["trip"]
    columns = {name: np.bincount(trip, table[name].astype(np.float64), num_trips) for name in names}
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
