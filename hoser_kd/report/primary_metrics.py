"""Primary metrics of students, baselines and ceilings, and the verdict on them in three sentences.

The primary metrics were chosen before the results: `PRIMARY_NEXT_STEP` (NLL on test trips) and `PRIMARY_TRIP` (EDR from
the real trip of the same request).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from hoser_kd.evaluation.comparison import Row
from hoser_kd.evaluation.evidence import Evidence, interval_over_trips
from hoser_kd.evaluation.statistics import PRIMARY_NEXT_STEP, PRIMARY_TRIP, Interval, interval_over_seeds
from hoser_kd.report.baselines import Standing, intervals_text, standing
from hoser_kd.report.data import ReportData
from hoser_kd.report.judgment import Judgment, excludes_zero, has_one_seed

STUDENTS = {"vanilla": "vanilla student", "distilled": "distilled student"}
CEILING = "student_teacher"
CONTROL = "student_markov"
_POOLS = {
    CEILING: "ceiling: vanilla student + teacher",
    CONTROL: "control: vanilla student + Markov chain",
}
NOT_SHOWN = "one seed, so not shown for another training"
"""What follows a difference that holds over the test trips of one seed."""
NAMES = {PRIMARY_NEXT_STEP: "test NLL", PRIMARY_TRIP: "EDR"}
UNITS = {PRIMARY_NEXT_STEP: " nat", PRIMARY_TRIP: ""}
INTRODUCTION = (
    "Primary metrics, chosen before the results, lower is better: negative log-likelihood (NLL) of the next road on "
    "test trips; edit distance (EDR) of a generated trip from the real one of the same request."
)
Role = Literal["student", "baseline", "ceiling", "control"]


class Contender(NamedTuple):
    """A model or baseline on a primary metric."""

    name: str
    """Name of a student (`vanilla`, `distilled`), pool or baseline."""
    label: str
    """Name for readers."""
    role: Role
    value: float
    """The metric, mean over the seeds."""
    trips: Interval | None = None
    """Interval over the test trips; None if it is not known."""
    seeds: Interval | None = None
    """Interval over the seeds; None with one seed or without seeds."""


def contenders(data: ReportData, rows: Mapping[str, Row], metric: str) -> list[Contender]:
    """Return students, baselines and ceilings on a primary metric, the best first; empty without a student."""
    row = rows.get(metric)
    if row is None:
        return []
    found = [
        Contender(
            kind,
            STUDENTS[kind],
            "student",
            float(np.mean(values)),
            _over_trips(data, kind, metric),
            interval_over_seeds(values) if len(values) > 1 else None,
        )
        for kind, values in (("vanilla", row.vanilla), ("distilled", row.distilled))
        if values
    ]
    baselines = data.baselines.next_step if metric == PRIMARY_NEXT_STEP else data.baselines.trips
    found += [
        Contender(name, name, "baseline", metrics[metric], _over_trips(data, name, metric))
        for name, metrics in baselines.items()
        if metric in metrics
    ]
    if metric == PRIMARY_NEXT_STEP:
        found += _pools(data.ceilings.rows)
    return sorted(found, key=lambda each: each.value)


def headline(data: ReportData, judgment: Judgment) -> str:
    """Return the verdict in one line."""
    if not data.students.get("distilled"):
        return "Vanilla HOSER, without a distilled student to compare with."
    texts = [
        f"{what}: {_outcome(data, judgment, name)}"
        for what, name in (("Next road", PRIMARY_NEXT_STEP), ("Trips", PRIMARY_TRIP))
        if name in judgment.by_name and judgment.by_name[name].difference is not None
    ]
    if not texts:
        return "The students are not compared."
    return ". ".join(texts) + "."


def sentences(data: ReportData, judgment: Judgment) -> list[str]:
    """Return the verdict: next step, generated trips, and the place between baselines and ceiling."""
    if not data.students.get("distilled"):
        vanilla = data.students.get("vanilla", {})
        disabled = (
            f"Distillation is disabled for {data.city}. This page shows the vanilla student only, trained with "
            f"{_seeds(len(vanilla))} and tested on {len(data.real):,} real test trips."
        )
        return [disabled, *_references(data, judgment)]
    gains = [
        _gain_sentence(data, judgment, name, start)
        for name, start in ((PRIMARY_NEXT_STEP, "Next road"), (PRIMARY_TRIP, "Generated trips"))
        if name in judgment.by_name and judgment.by_name[name].difference is not None
    ]
    return [*gains, *_references(data, judgment)]


def num_pairs(data: ReportData) -> int:
    """Return the number of seeds that both students have."""
    return len(data.students.get("vanilla", {}).keys() & data.students.get("distilled", {}).keys())


def ceiling_note(data: ReportData) -> str:
    """Return how far the distilled student is from the ceiling; empty if it is not known."""
    shares = data.ceilings.gap.get(CEILING) if data.ceilings.gap else None
    pool = next((row for row in data.ceilings.rows if _key(row) == CEILING), None)
    if pool is None:
        return ""
    text = f"the ceiling, a log-linear pool of vanilla student and teacher, {pool['nll']:.4f} nat"
    share = shares.get("share") if shares else None
    if shares is None or share is None:
        return f"The test NLL of {text}."
    note = _share_note(shares)
    if share < 0:
        return f"In the mean, the distilled student is farther than the vanilla one from {text}{note}."
    closes = f"closes {100 * share:.0f}\N{NO-BREAK SPACE}% of the gap in NLL to"
    return f"In the mean, the distilled student {closes} {text}{note}."


def share_note(data: ReportData) -> str:
    """Return that students have fewer trips than what they are compared with; empty if they have all."""
    if data.student_trips is None:
        return ""
    own, every = data.student_trips
    share = f"{100 * own / every:.0f}\N{NO-BREAK SPACE}%"
    text = f"A student has {own:,} of the {every:,} training trips ({share})"
    others = [
        # a teacher from elsewhere was trained on trips that are not known here
        *(["LM-TAD"] if data.teacher.get("teacher", {}).get("imported") is False else []),
        *(["the baselines"] if data.baselines.trips or data.baselines.next_step else []),
    ]
    if not others:
        return f"{text}."
    return f"{text}; {' and '.join(others)} {'has' if others == ['LM-TAD'] else 'have'} all of them."


def _share_note(shares: Mapping[str, Any]) -> str:
    """Return the interval of a share of the gap over the seeds, and whether it contains 0, in parentheses."""
    ends = shares.get("seeds")
    if ends is None:
        return " (no interval over seeds)"
    low, high = (f"{100 * end:.0f}".replace("-", "−") for end in ends)
    shown = "" if excludes_zero(*ends) else ", which includes 0"
    return f" (95\N{NO-BREAK SPACE}% interval of the share {low} to {high}\N{NO-BREAK SPACE}% over seeds{shown})"


def _outcome(data: ReportData, judgment: Judgment, name: str) -> str:
    """Return which student is better on a primary metric by `Judgment.verdict`, and whether a baseline is better."""
    row = judgment.by_name[name]
    if not _is_clear(judgment, row):
        text = f"no clear difference{' (one seed)' if has_one_seed(row) else ''}"
        compared, behind = [kind for kind in STUDENTS if getattr(row, kind)], "both behind"
    else:
        winner = "distilled" if judgment.verdict(row).startswith("better") else "vanilla"
        text = f"{winner} has the lower {NAMES[name]} on these trips" if has_one_seed(row) else f"{winner} is better"
        compared, behind = [winner], "but behind"
    standings = _best_baseline(data, row, compared)
    if standings:
        outcomes, best = {each.outcome for each in standings}, standings[0]
        if outcomes == {"better"}:
            text += f", {behind} the baseline {best.baseline}"
        elif outcomes == {"means only"} and all(each.seeds.mean < 0 for each in standings):
            text += f", {behind} the baseline {best.baseline} in the mean"
    return f"{text}; {NOT_SHOWN}" if _is_clear(judgment, row) and has_one_seed(row) else text


def _best_baseline(data: ReportData, row: Row, kinds: Sequence[str]) -> list[Standing]:
    """Return how the baseline of the lowest mean compares with each student; empty without a baseline."""
    known = data.baselines.next_step if row.name == PRIMARY_NEXT_STEP else data.baselines.trips
    values = {label: metrics[row.name] for label, metrics in known.items() if row.name in metrics}
    if not values:
        return []
    best = min(values, key=values.__getitem__)
    return [standing(row, kind, best, values[best], data.trip_values) for kind in kinds]


def _is_clear(judgment: Judgment, row: Row) -> bool:
    """Return whether the verdict on a metric is better or worse, over seeds or over the test trips of one seed."""
    return judgment.verdict(row).startswith(("better", "worse"))


def _gain_sentence(data: ReportData, judgment: Judgment, name: str, start: str) -> str:
    row = judgment.by_name[name]
    vanilla, distilled = float(np.mean(row.vanilla)), float(np.mean(row.distilled))
    mean = row.difference.mean if row.difference is not None else distilled - vanilla
    unit = UNITS[name]
    change = "equal" if mean == 0 else f"{abs(mean):.4f}{unit} {'lower' if mean < 0 else 'higher'}"
    one_seed = f"; {NOT_SHOWN}" if has_one_seed(row) else ""
    clear = one_seed if _is_clear(judgment, row) else "; not a clear difference"
    return (
        f"{start}: the distilled student has {'a' if name == PRIMARY_NEXT_STEP else 'an'} {NAMES[name]} of "
        f"{distilled:.4f}{unit}, the vanilla one {vanilla:.4f}{unit}: {change}{_intervals(data, judgment, row)}{clear}."
    )


def _intervals(data: ReportData, judgment: Judgment, row: Row) -> str:
    """Return the intervals of a difference in parentheses; empty if there is none."""
    text = intervals_text(row.difference, num_pairs(data), judgment.evidence.get(row.name, Evidence()).trips)
    return f" ({text})" if text else ""


def _references(data: ReportData, judgment: Judgment) -> Iterator[str]:
    """Yield one sentence on the best baselines and the ceiling; none where nothing is known."""
    parts = [
        text
        for name, start in ((PRIMARY_NEXT_STEP, "On the next road"), (PRIMARY_TRIP, "On trips"))
        if name in judgment.by_name and (text := _against_baselines(data, judgment.by_name[name], start))
    ]
    if text := " ".join(filter(None, (*parts, ceiling_note(data), share_note(data)))):
        yield text


def _against_baselines(data: ReportData, row: Row, start: str) -> str:
    """Return a sentence on the baseline of the lowest mean and each student, by their paired differences."""
    kinds = [kind for kind in STUDENTS if getattr(row, kind)]
    standings = _best_baseline(data, row, kinds)
    if not standings:
        return ""
    by_words: dict[str, list[str]] = {}
    for kind, each in zip(kinds, standings, strict=True):
        by_words.setdefault(_words(each), []).append(kind)
    clauses = " and ".join(f"{words} {_students(students)}" for words, students in by_words.items())
    outcomes, best = {each.outcome for each in standings}, standings[0]
    note = ""
    if "means only" in outcomes:
        note = " (only the means are known)"
    elif best.num_seeds == 1 and outcomes & {"better", "worse"}:
        note = " (on these trips, one seed)"
    return f"{start}, the best baseline ({best.baseline}, {best.value:.4f}{UNITS[row.name]}) {clauses}{note}."


def _words(each: Standing) -> str:
    """Return how a baseline compares, as a verb to put before the student."""
    if each.outcome == "means only":
        # means over the same trips in another order may differ by rounding
        if np.isclose(each.value, each.value - each.seeds.mean, rtol=1e-9, atol=0):
            return "has the mean of"
        return f"has a {'lower' if each.seeds.mean < 0 else 'higher'} mean than"
    return "is not shown to differ from" if each.outcome == "unclear" else f"is {each.outcome} than"


def _students(kinds: Sequence[str]) -> str:
    return f"the {STUDENTS[kinds[0]]}" if len(kinds) == 1 else "both students"


def _pools(rows: Sequence[Mapping[str, Any]]) -> list[Contender]:
    return [
        Contender(
            row["name"],
            _POOLS[row["name"]],
            "ceiling" if row["name"] == CEILING else "control",
            row["nll"],
            _interval(row["nll"], row["nll_trips"]),
            _interval(row["nll"], row["nll_seeds"]),
        )
        for row in rows
        if _key(row) in _POOLS
    ]


def _key(row: Mapping[str, Any]) -> str:
    """Return the name of a log-linear pool; empty for other rows."""
    return str(row["name"]) if row["kind"] == "log_linear" else ""


def _interval(value: float, ends: Sequence[float] | None) -> Interval | None:
    return None if ends is None else Interval(value, *ends)


def _over_trips(data: ReportData, name: str, metric: str) -> Interval | None:
    values = data.trip_values.get(name, {}).get(metric)
    return None if values is None else interval_over_trips(values)


def _seeds(number: int) -> str:
    return "one seed" if number == 1 else f"{number} seeds"
