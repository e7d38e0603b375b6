"""Measurements on test, and the rows of docs/results.md from them: means, both kinds of interval, tests.

An interval over seeds (Student's t) describes the randomness of training on the given test trips; one over test trips
(bootstrap) the choice of test trips for the given students, with the value of a trip its mean over the seeds.

Shapes: n test trips, S steps, K candidates of all steps together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from experiment_runs import Run
from scipy.stats import ttest_rel

from hoser_kd.common.arrays import row_of_value
from hoser_kd.common.errors import ConfigError
from hoser_kd.evaluation.ceilings import CEILING, CONTROL, Splits, measure_ceilings
from hoser_kd.evaluation.metrics import flatten
from hoser_kd.evaluation.statistics import (
    PRIMARY_NEXT_STEP,
    PRIMARY_TRIP,
    bootstrap_difference,
    bootstrap_over_trips,
    holm,
    interval_over_seeds,
    paired_difference,
    paired_trip_test,
)
from hoser_kd.evaluation.trip_values import TripValues
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.student.pools import (
    PoolWeights,
    StepProbabilities,
    pool,
    share_of_gap_closed,
    temperature_scaled_nll,
)

SHAPES = ("edr", "hausdorff", "dtw")
ROW_METRICS = (
    PRIMARY_NEXT_STEP,
    "next_step.nll_scaled",
    "next_step.decision_accuracy",
    "next_step.calibration_error",
    PRIMARY_TRIP,
    "paired.hausdorff",
    "paired.dtw",
    "paired.identical_share",
    "distance.jsd",
    "duration.jsd",
    "requests.reached_share",
)
"""Metrics of the rows. The two primary ones were named before measuring; the p-values of the others are adjusted."""
OTHER_METRICS = ("cost.", "prior.")
"""Prefixes of further metrics of a row, which have no interval."""
ROUNDED = (PRIMARY_NEXT_STEP, "next_step.nll_scaled", "paired.hausdorff", "paired.dtw")
"""Metrics whose values of trips a run has to 7 digits (float32), which halves the committed files. The ends of
intervals change by some 1e-8. EDR is exact: differences of trips are often equal, and rounding would break these ties
in the permutation tests."""
PRIMARY = (PRIMARY_NEXT_STEP, PRIMARY_TRIP)
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """Metrics of one student or baseline, and what intervals over test trips need."""

    metrics: dict[str, float]
    """By `section.metric`."""
    trips: dict[str, Floats]
    """(n,) value of each test trip, by metric of generated trips."""
    log_p: dict[str, Floats]
    """(K,) log-probabilities of the candidates on `val` and `test`; empty for a baseline."""

    @classmethod
    def of(
        cls,
        measured: Mapping[str, float],
        real: Trajectories,
        generated: Trajectories,
        result: Mapping[str, Any],
        val: StepProbabilities | None = None,
        test: StepProbabilities | None = None,
    ) -> Self:
        """Collect the measurements; `result` is that of `evaluate` with details for trips of the test requests."""
        paired = result["details"]["paired"]
        trips = {f"paired.{name}": np.array(paired[name], np.float64) for name in SHAPES}
        trips["paired.identical_share"] = (np.array(paired["edit_similarity"]) == 1).astype(np.float64)
        trips["requests.reached_share"] = (generated.destinations == real.destinations).astype(np.float64)
        metrics = {**flatten(result), **measured}
        log_p = {}
        if val is not None and test is not None:
            log_p = {"val": val.log_p, "test": test.log_p}
            scaled = temperature_scaled_nll(val, test)
            metrics |= {"next_step.nll_scaled": scaled.nll, "next_step.temperature": scaled.temperature}
        return cls(metrics, trips, log_p)

    def save(self, file: Path) -> None:
        """Write everything to one file, at once."""
        arrays = {f"trips/{name}": values for name, values in self.trips.items()}
        arrays |= {f"log_p/{name}": values for name, values in self.log_p.items()}
        beside = file.with_suffix(".tmp.npz")
        np.savez_compressed(beside, metrics=np.array(json.dumps(self.metrics)), **arrays)  # type: ignore[arg-type]
        beside.rename(file)

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read what `save` wrote."""
        with np.load(file) as stored:
            groups: dict[str, dict[str, Any]] = {"trips": {}, "log_p": {}}
            for name in stored.files:
                if "/" in name:
                    group, key = name.split("/", 1)
                    groups[group][key] = stored[name]
            return cls(json.loads(str(stored["metrics"])), groups["trips"], groups["log_p"])


class City(NamedTuple):
    """What the steps of the students' probabilities are."""

    network: RoadNetwork
    val: Trajectories
    test: Trajectories

    def splits(self, measured: Measured) -> Splits:
        """Return the probabilities of a student on validation and test."""
        return Splits(
            *(
                StepProbabilities.of(measured.log_p[split], trips, self.network)
                for split, trips in (("val", self.val), ("test", self.test))
            )
        )


def run_of(measured: Measured, city: City) -> Run:
    """Return what rows need of the measurements of a student or baseline."""
    metrics = {
        name: value
        for name, value in measured.metrics.items()
        if value is not None and (name in ROW_METRICS or name.startswith(OTHER_METRICS))
    }
    trips = {
        name: TripValues(each.totals.astype(np.float32).astype(np.float64), each.counts) if name in ROUNDED else each
        for name, each in trip_values(measured, city).items()
    }
    return Run(metrics, trips)


def trip_values(measured: Measured, city: City) -> dict[str, TripValues]:
    """Return the metrics of `ROW_METRICS` that are means over trips or steps, by test trip."""
    values = {name: TripValues(each, np.ones(len(each))) for name, each in measured.trips.items()}
    if not measured.log_p:
        return values
    test, num_trips = city.splits(measured).test, len(city.test)
    scaled = pool([test], PoolWeights("log_linear", (1 / measured.metrics["next_step.temperature"],)))
    return {
        **values,
        "next_step.nll": _values(*test.trip_totals(), num_trips),
        "next_step.nll_scaled": _values(*scaled.trip_totals(), num_trips),
        "next_step.decision_accuracy": _decisions(test, num_trips),
    }


def _values(totals: npt.NDArray[Any], counts: npt.NDArray[Any], num_trips: int) -> TripValues:
    """Return totals and counts of all trips; they end with the last trip that has a step."""
    padding = (0, num_trips - len(totals))
    return TripValues(*(np.pad(each.astype(np.float64), padding) for each in (totals, counts)))


def _decisions(steps: StepProbabilities, num_trips: int) -> TripValues:
    """Return the correct steps of each trip among those with two candidates or more."""
    best = np.maximum.reduceat(steps.log_p, steps.offsets[:-1])
    is_best = steps.log_p >= best[row_of_value(steps.offsets)] - 1e-9
    correct = is_best[steps.taken] / np.add.reduceat(is_best.astype(np.float64), steps.offsets[:-1])
    decision = np.diff(steps.offsets) > 1
    return _values(np.bincount(steps.trip, correct * decision), np.bincount(steps.trip, decision), num_trips)


def row_of(runs: Mapping[int, Run]) -> dict[str, Any]:
    """Return a row of a model: each metric with its mean, its values by seed, and both intervals."""
    trips = _mean_values([each.trips for each in runs.values()])
    result: dict[str, Any] = {}
    for name in ROW_METRICS:
        if not all(name in each.metrics for each in runs.values()):
            continue
        by_seed = [each.metrics[name] for each in runs.values()]
        over_trips = bootstrap_over_trips(*trips[name]) if name in trips else None
        result[name] = {
            "mean": float(np.mean(by_seed)),
            "by_seed": by_seed,
            "seeds": _ends(interval_over_seeds(by_seed)),
            "trips": _ends(over_trips),
        }
    return {"seeds": list(runs), "metrics": result, "cost": _costs(runs.values())}


def difference_of(runs: Mapping[int, Run], others: Mapping[int, Run], *, baseline: bool = False) -> dict[str, Any]:
    """Return each metric of a model minus that of another, over their common seeds, with intervals and tests.

    `baseline`: the other has no seeds and stands beside each seed. `p` is that of a permutation test over the test
    trips, or of a paired t-test over the seeds for metrics that no single trip has (`p_over`); `p_holm` adjusts
    the metrics that are not primary.
    """
    seeds = list(runs) if baseline else [seed for seed in runs if seed in others]
    [only, *_] = others.values()
    pairs = [(runs[seed], only if baseline else others[seed]) for seed in seeds]
    sides = [_mean_values([pair[side].trips for pair in pairs]) for side in (0, 1)]
    result: dict[str, Any] = {}
    for name in ROW_METRICS:
        if not all(name in each.metrics for pair in pairs for each in pair):
            continue
        a, b = ([pair[side].metrics[name] for pair in pairs] for side in (0, 1))
        over_seeds = paired_difference(a, b)
        row: dict[str, Any] = {"mean": over_seeds.mean, "seeds": _ends(over_seeds), "trips": None}
        if name in sides[0] and name in sides[1]:
            first, second = sides[0][name], sides[1][name]
            row["trips"] = _ends(bootstrap_difference(first.totals, second.totals, first.counts))
            row["p"] = paired_trip_test(first.totals, second.totals, first.counts).p_value
            row["p_over"] = "trips"
        elif len(seeds) > 1 and np.ptp(np.subtract(a, b)) > 0:
            row |= {"p": float(ttest_rel(a, b).pvalue), "p_over": "seeds"}
        result[name] = row
    secondary = [name for name, row in result.items() if name not in PRIMARY and "p" in row]
    for name, adjusted in zip(secondary, holm([result[name]["p"] for name in secondary]), strict=True):
        result[name]["p_holm"] = float(adjusted)
    return {"seeds": seeds, "metrics": result}


def ceilings_of(vanilla: Mapping[int, Measured], members: Mapping[str, Splits], city: City) -> dict[str, Any]:
    """Return the rows of the pools over the seeds of the vanilla student, and the NLL of two of them by seed."""
    students = {seed: city.splits(each) for seed, each in vanilla.items()}
    measured = measure_ceilings(students, {}, members["teacher"], members["markov"])
    content = measured.to_json()
    by_seed = {
        name: {str(fit.seeds[0]): fit.metrics["nll"] for fit in measured.of(name, "log_linear")}
        for name in (CEILING, CONTROL)
    }
    return {
        "seeds": list(vanilla),
        "rows": content["rows"],
        "teacher_beyond_markov": content["teacher_beyond_markov"],
        "nll_by_seed": by_seed,
    }


def gap_of(
    runs: Mapping[int, Run], vanilla: Mapping[int, Run], ceilings: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return the share of the gap in NLL between vanilla and a log-linear pool that a recipe closes, by pool."""
    result = {}
    for name, pooled in ceilings["nll_by_seed"].items():
        seeds = [seed for seed in runs if seed in vanilla and str(seed) in pooled]
        if seeds:
            before, after = ([of[seed].metrics["next_step.nll"] for seed in seeds] for of in (vanilla, runs))
            closed = share_of_gap_closed(before, after, [pooled[str(seed)] for seed in seeds])
            ends = _ends(interval_over_seeds(closed.by_seed))
            result[name] = {"share": closed.share, "by_seed": list(closed.by_seed), "seeds": ends}
    return result


def _mean_values(values: Sequence[Mapping[str, TripValues]]) -> dict[str, TripValues]:
    """Return the means over the seeds of the totals of each trip."""
    shared = [name for name in values[0] if all(name in each for each in values)]
    return {
        name: TripValues(np.asarray(np.mean([each[name].totals for each in values], axis=0)), values[0][name].counts)
        for name in shared
    }


def _costs(runs: Any) -> dict[str, float]:
    """Return the mean costs of the runs that have them, by name."""
    names = dict.fromkeys(name for run in runs for name in run.metrics if name.startswith(OTHER_METRICS))
    return {name: float(np.mean([run.metrics[name] for run in runs if name in run.metrics])) for name in names}


def _ends(interval: Any) -> list[float] | None:
    """Return low and high of an interval, None without one."""
    if interval is None or not np.isfinite([interval.low, interval.high]).all():
        return None
    return [interval.low, interval.high]


def stored_row(file: Path, name: str, share: float) -> dict[str, Any]:
    """Return the row of a recipe at a share of the trips in a file of results.

    Raises ConfigError, with the shares and recipes of the file, where it has none.
    """
    if not file.is_file():
        raise ConfigError(f"{file}: no such file. Run the experiment of this city without --only first.")
    shares = json.loads(file.read_text(encoding="utf-8"))["shares"]
    rows = shares.get(f"{share:g}", {}).get("rows", {})
    if name not in rows:
        known = "; ".join(f"{each}: {', '.join(content['rows'])}" for each, content in shares.items())
        raise ConfigError(f"{file.name} has no recipe {name} at share {share:g}. Recipes by share: {known}.")
    row: dict[str, Any] = rows[name]
    return row


def stored_tries(file: Path, name: str, share: float) -> list[dict[str, Any]]:
    """Return the tries of a recipe at a share of the trips in a file of results; none if it has none."""
    if not file.is_file():
        return []
    shares = json.loads(file.read_text(encoding="utf-8"))["shares"]
    tries: list[dict[str, Any]] = shares.get(f"{share:g}", {}).get("tried", {}).get(name, [])
    return tries
