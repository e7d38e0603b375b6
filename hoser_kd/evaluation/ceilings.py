"""Ceilings of next-step prediction: what pools of student, teacher and Markov chain reach beside the students.

Every pool is fitted on validation steps and measured on test steps, for each seed or pair of seeds. The pools with the
Markov chain are the control: what the teacher adds to the student is evidence of the teacher only as far as it exceeds
what counting adds.

Intervals over seeds (Student's t) and over test trips (bootstrap) are reported separately. For the second, the NLL of a
trip is its mean over the seeds.

Shapes: k seeds, n trips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from hoser_kd.common.arrays import Float64Array, Int64Array
from hoser_kd.evaluation.statistics import (
    Difference,
    bootstrap_difference,
    bootstrap_over_trips,
    ends_of,
    interval_over_seeds,
    paired_difference,
)
from hoser_kd.student.pools import (
    PoolKind,
    PoolWeights,
    StepProbabilities,
    fit_pool,
    pool,
    share_of_gap_closed,
)

LABELS = {
    "student": "vanilla student",
    "student_tempered": "vanilla student, temperature scaled",
    "distilled": "distilled student",
    "distilled_tempered": "distilled student, temperature scaled",
    "teacher": "teacher alone, renormalized over the candidates",
    "markov": "Markov chain alone",
    "student_student": "two vanilla students of different seeds",
    "student_markov": "vanilla student and Markov chain (control)",
    "student_teacher": "vanilla student and teacher",
    "student_teacher_markov": "vanilla student, teacher and Markov chain",
}
"""Models and pools in the order of tables."""
KINDS: tuple[PoolKind, ...] = ("arithmetic", "log_linear")
CEILING = "student_teacher"
"""The pool, log-linear, that the share of the gap closed is measured to."""
CONTROL = "student_markov"
_METRICS = ("accuracy", "decision_accuracy", "nll", "calibration_error")


class Splits(NamedTuple):
    """Probabilities of one model on the validation and on the test trips."""

    val: StepProbabilities
    """To fit on."""
    test: StepProbabilities
    """To measure on."""


@dataclass(frozen=True)
class Fit:
    """One model or pool with the members of one seed or pair of seeds, measured on test."""

    name: str
    """Key of `LABELS`."""
    kind: PoolKind | None
    """How the members are combined; None for a model alone."""
    seeds: tuple[int, ...]
    """Seeds of its students; empty without one."""
    weights: dict[str, float]
    """Share or exponent of each member; empty for a model alone."""
    metrics: dict[str, float]
    """Metrics on test (`StepProbabilities.metrics`)."""
    trip_nll: Float64Array = field(repr=False)
    """(n,) float64: summed NLL of each test trip, nats."""
    trip_steps: Int64Array = field(repr=False)
    """(n,) int64: steps of each test trip."""

    @property
    def key(self) -> tuple[str, PoolKind | None]:
        """Name and kind, which all seeds share."""
        return self.name, self.kind


@dataclass(frozen=True)
class Ceilings:
    """All fits of a city."""

    fits: tuple[Fit, ...]
    """In the order of `LABELS`, then by kind and seed."""

    @property
    def notes(self) -> list[str]:
        """Sentences on what is left out and why."""
        notes = []
        if not self.of("student_student", "log_linear"):
            notes.append("There is one seed: the pool of two vanilla students needs two and is left out.")
        if not self.of("distilled"):
            notes.append("There is no distilled student: its rows and the share of the gap closed are left out.")
        return notes

    def of(self, name: str, kind: PoolKind | None = None) -> list[Fit]:
        """Return the fits of a model or pool, one per seed or pair of seeds."""
        return [fit for fit in self.fits if fit.key == (name, kind)]

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values; an interval that does not exist is null."""
        return {
            "fitted_on": "val",
            "measured_on": "test",
            "fits": [
                {
                    "name": fit.name,
                    "kind": fit.kind,
                    "seeds": list(fit.seeds),
                    "weights": fit.weights,
                    "metrics": fit.metrics,
                }
                for fit in self.fits
            ],
            "rows": ceiling_rows(self),
            "share_of_gap_closed": gap_closed(self),
            "teacher_beyond_markov": teacher_beyond_markov(self),
            "notes": self.notes,
        }


def measure_ceilings(
    students: Mapping[int, Splits], distilled: Mapping[int, Splits], teacher: Splits, markov: Splits
) -> Ceilings:
    """Fit all pools on validation and measure them, and their members, on test.

    `students` and `distilled`: vanilla and distilled students by seed; the second may be empty. All probabilities
    are on the same validation and the same test trips.

    Raises:
        ValueError: there is no vanilla student, or the members are not on the same steps.
    """
    if not students:
        raise ValueError("ceilings need at least one vanilla student")
    fits = [_alone("teacher", teacher), _alone("markov", markov)]
    for name, models in (("student", students), ("distilled", distilled)):
        for seed, model in models.items():
            fits += [_alone(name, model, seed), _pooled(f"{name}_tempered", "log_linear", {name: model}, seed)]
    for kind in KINDS:
        for first, second in combinations(sorted(students), 2):
            pair = {f"seed {first}": students[first], f"seed {second}": students[second]}
            fits.append(_pooled("student_student", kind, pair, first, second))
        for seed, student in students.items():
            own = {"student": student}
            fits += [
                _pooled("student_teacher", kind, {**own, "teacher": teacher}, seed),
                _pooled("student_markov", kind, {**own, "markov": markov}, seed),
                _pooled("student_teacher_markov", kind, {**own, "teacher": teacher, "markov": markov}, seed),
            ]
    order = list(LABELS)
    return Ceilings(tuple(sorted(fits, key=lambda fit: (order.index(fit.name), fit.kind or ""))))


def ceiling_rows(ceilings: Ceilings) -> list[dict[str, Any]]:
    """Return a table: a row per model and pool with its means over the seeds, for reports.

    Columns: `name`, `label`, `kind` (None for a model alone), `num_fits` (seeds or pairs), `weights` (means), and the
    metrics of `StepProbabilities.metrics`. `nll_minus_student` is the NLL minus that of the vanilla student, over the
    common seeds. `nll_seeds`, `nll_trips`, `difference_seeds` and `difference_trips` are intervals (low, high) of both
    over seeds and over test trips, None where there is none. Pairs of seeds share seeds, so they have none over seeds.
    """
    keys = dict.fromkeys(fit.key for fit in ceilings.fits)
    return [_row(ceilings, *key) for key in keys]


def summary_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of `ceiling_rows` as short texts and numbers, for a table in a user interface."""
    return [
        {
            "model": row["label"],
            "pool": (row["kind"] or "–").replace("_", "-"),
            "nll": round(row["nll"], 4),
            "over seeds": interval_text(row["nll_seeds"]),
            "over test trips": interval_text(row["nll_trips"]),
            "minus vanilla": round(row["nll_minus_student"], 4),
            "accuracy": round(row["accuracy"], 4),
            "accuracy at decisions": round(row["decision_accuracy"], 4),
            "calibration error": round(row["calibration_error"], 4),
            "weights": ", ".join(f"{name} {weight:.2f}" for name, weight in row["weights"].items()) or "–",
            "fits": row["num_fits"],
        }
        for row in rows
    ]


def interval_text(ends: Sequence[float] | None) -> str:
    """Return an interval (low, high) as text, a dash where there is none."""
    return "–" if ends is None else f"{ends[0]:.4f} to {ends[1]:.4f}"


def gap_closed(ceilings: Ceilings) -> dict[str, Any] | None:
    """Return which share of the gap in NLL, from the vanilla student to a pool, the distilled student closes.

    By pool (`CEILING`, `CONTROL`; log-linear): `share` over the means, `by_seed`, and `seeds`, the t-interval of the
    shares of the seeds; None where it does not exist. None without a seed that has both students.
    """
    vanilla, distilled = (_by_seed(ceilings.of(name)) for name in ("student", "distilled"))
    seeds = [seed for seed in vanilla if seed in distilled]
    if not seeds:
        return None
    result: dict[str, Any] = {}
    for name in (CEILING, CONTROL):
        pooled = _by_seed(ceilings.of(name, "log_linear"))
        closed = share_of_gap_closed(*(_nll([fits[seed] for seed in seeds]) for fits in (vanilla, distilled, pooled)))
        result[name] = {
            "share": _or_none(closed.share),
            "by_seed": {seed: _or_none(share) for seed, share in zip(seeds, closed.by_seed, strict=True)},
            "seeds": ends_of(interval_over_seeds(closed.by_seed)),
        }
    return result


def teacher_beyond_markov(ceilings: Ceilings) -> dict[str, Any]:
    """Return the NLL that the teacher removes from the log-linear pool of student and Markov chain (the control).

    `nll`: the difference of the means, negative where the teacher adds information; `seeds` and `trips`: its intervals.
    """
    with_teacher = ceilings.of("student_teacher_markov", "log_linear")
    return _difference(with_teacher, ceilings.of(CONTROL, "log_linear"), paired_by_seed=True)


def _alone(name: str, model: Splits, *seeds: int) -> Fit:
    return _fit(name, None, seeds, {}, model.test)


def _pooled(name: str, kind: PoolKind, members: Mapping[str, Splits], *seeds: int) -> Fit:
    weights: PoolWeights = fit_pool([member.val for member in members.values()], kind)
    pooled = pool([member.test for member in members.values()], weights)
    return _fit(name, kind, seeds, dict(zip(members, weights.values, strict=True)), pooled)


def _fit(
    name: str, kind: PoolKind | None, seeds: tuple[int, ...], weights: dict[str, float], test: StepProbabilities
) -> Fit:
    return Fit(name, kind, seeds, weights, test.metrics(), *test.trip_totals())


def _row(ceilings: Ceilings, name: str, kind: PoolKind | None) -> dict[str, Any]:
    fits, vanilla = ceilings.of(name, kind), ceilings.of("student")
    single = len(fits[0].seeds) == 1
    difference = _difference(fits, vanilla, paired_by_seed=single)
    # the members of a pair are seeds, which have no common weight
    members = () if len(fits[0].seeds) > 1 else fits[0].weights
    return {
        "name": name,
        "label": LABELS[name],
        "kind": None if name.endswith("_tempered") else kind,
        "num_fits": len(fits),
        "weights": {member: float(np.mean([fit.weights[member] for fit in fits])) for member in members},
        **{metric: float(np.mean([fit.metrics[metric] for fit in fits])) for metric in _METRICS},
        "nll_seeds": ends_of(interval_over_seeds(_nll(fits))) if single else None,
        "nll_trips": ends_of(bootstrap_over_trips(_mean_trip_nll(fits), fits[0].trip_steps)),
        "nll_minus_student": difference["nll"],
        "difference_seeds": difference["seeds"],
        "difference_trips": difference["trips"],
    }


def _difference(fits: list[Fit], others: list[Fit], *, paired_by_seed: bool) -> dict[str, Any]:
    """Return the difference in mean NLL, with its interval over the common seeds and that over the test trips.

    Only common seeds are compared where both have one fit per seed.
    """
    over_seeds: Difference | None = None
    if paired_by_seed:
        a, b = _by_seed(fits), _by_seed(others)
        seeds = [seed for seed in a if seed in b]
        fits, others = [a[seed] for seed in seeds], [b[seed] for seed in seeds]
        over_seeds = paired_difference(_nll(fits), _nll(others))
    trips = bootstrap_difference(_mean_trip_nll(fits), _mean_trip_nll(others), fits[0].trip_steps)
    return {"nll": trips.mean, "seeds": ends_of(over_seeds), "trips": ends_of(trips)}


def _by_seed(fits: list[Fit]) -> dict[int, Fit]:
    return {fit.seeds[0]: fit for fit in fits}


def _nll(fits: list[Fit]) -> list[float]:
    return [fit.metrics["nll"] for fit in fits]


def _mean_trip_nll(fits: list[Fit]) -> Float64Array:
    """Return (n,) float64: the summed NLL of each trip, mean over the fits."""
    return np.asarray(np.mean([fit.trip_nll for fit in fits], axis=0), np.float64)


def _or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None
