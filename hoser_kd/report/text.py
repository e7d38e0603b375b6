"""Sentences of the report: secondary metrics, caveats, definitions. The first screen is in `primary`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from hoser_kd.evaluation.comparison import Row, heading_of
from hoser_kd.report.data import StudentResult
from hoser_kd.report.judgment import ONE_SEED, Judgment
from hoser_kd.report.table import format_row, short_label, unit_of


class Definition(NamedTuple):
    """A line of the definitions."""

    label: str
    unit: str
    better: str
    text: str
    source: str


_NOT_SHOWN = "(one seed, so not shown for another training)"
_CLEAR = {
    "better": "The distilled student is clearly better",
    "worse": "The distilled student is clearly worse",
    f"better{ONE_SEED}": f"The distilled student is better over the test trips {_NOT_SHOWN}",
    f"worse{ONE_SEED}": f"The distilled student is worse over the test trips {_NOT_SHOWN}",
}
"""Verdicts that name their metrics, with the words before the names."""


def secondary_sentences(judgment: Judgment) -> Iterator[str]:
    """Yield what the secondary metrics say, each measured quantity once and by the verdict of its row in the tables."""
    rows = judgment.secondary()
    verdicts = {row.name: judgment.verdict(row) for row in rows}
    for verdict, words in _CLEAR.items():
        names = [short_label(row) for row in rows if verdicts[row.name] == verdict]
        if names:
            yield f"{words}: {'; '.join(names)}."
    unclear = {row.name: row for row in rows if verdicts[row.name] not in _CLEAR}
    if unclear:
        yield _unclear_sentence([verdicts[name] for name in unclear], len(rows))
        yield from _untested_sentence(judgment, [row for name, row in unclear.items() if verdicts[name] != "same"])
    below = [short_label(row) for row in rows if judgment.is_below_floor(row)]
    if below:
        yield (
            f"Below the sampling floor with both students: {'; '.join(below)}. There the metric cannot tell the trips "
            "from real ones; that does not show that they are equal."
        )


def _unclear_sentence(verdicts: Sequence[str], total: int) -> str:
    """Return a sentence on the secondary metrics without a clear difference."""
    counts = Counter(verdicts)
    other = "other " if len(verdicts) < total else ""
    parts = [
        f"{counts['leans better']} lean toward the distilled student",
        f"{counts['leans worse']} toward the vanilla one",
        *([f"{counts['same']} are equal"] if counts["same"] else []),
    ]
    listed = ", ".join(parts[:-1]) + f" and {parts[-1]}"
    return f"Of the {other}{len(verdicts)} secondary metrics, {listed}; none of these is a clear difference."


def _untested_sentence(judgment: Judgment, rows: Sequence[Row]) -> Iterator[str]:
    """Yield a sentence on the differences that no test could show, with the names of those for the vanilla student."""
    untested = [row for row in rows if not judgment.is_tested(row)]
    if not untested:
        return
    worse = [short_label(row) for row in untested if judgment.verdict(row) == "leans worse"]
    named = f" Worse among them: {'; '.join(worse)}." if worse else ""
    yield (
        f"{len(untested)} of these {'has' if len(untested) == 1 else 'have'} no interval and no test, however large "
        f"the difference: a metric without a value per trip needs two seeds.{named}"
    )


def caveat(num_pairs: int) -> str:
    """Return what the intervals mean; `num_pairs` is the number of common seeds."""
    if num_pairs == 0:
        return "The students share no seed. Their metrics are shown side by side and not compared."
    trips = (
        "An interval over test trips (bootstrap) covers the choice of these trips, not the randomness of training "
        "and not other cities."
    )
    if num_pairs == 1:
        return (
            "There is one seed, so no interval over seeds: another training may turn a difference around. Train with "
            f"five or more seeds before drawing conclusions. {trips}"
        )
    return (
        f"Differences are paired by seed; intervals over the {num_pairs} seeds are Student's t. {trips} “Clearly” "
        "means that all intervals exclude 0 and, for secondary metrics, that the p-value after Holm's correction is "
        "below 0.05."
    )


_UNDERTRAINED = {
    "few_steps_per_epoch": "an epoch has too few steps",
    "best_epoch_in_warmup": "the best epoch lies in the warm-up",
    "last_epoch_is_best": "the last epoch is the best",
}


def training_caveat(students: Mapping[str, Mapping[int, StudentResult]]) -> str:
    """Return which students may not have reached their optimum, and why; empty if none."""
    signs: dict[str, list[str]] = {}
    for kind, results in students.items():
        for seed, result in results.items():
            for warning in result.training_warnings:
                signs.setdefault(warning["kind"], []).append(f"{kind} {seed}")
    if not signs:
        return ""
    listed = "; ".join(f"{_UNDERTRAINED[sign]} ({', '.join(names)})" for sign, names in signs.items())
    return f"Some students may not have reached their optimum, so a difference may come from the training: {listed}."


def definitions_of(rows: Sequence[Row]) -> list[tuple[str, list[Definition]]]:
    """Return (section, definitions) of every metric shown that has a definition."""
    table = []
    for section, group in groupby(rows, key=lambda row: row.section):
        defined = [
            Definition(
                row.metric.label,
                unit_of(row),
                row.metric.better or format_row(row).direction,
                row.metric.text.replace("`", ""),
                row.metric.source,
            )
            for row in group
            if row.metric.text
        ]
        if defined:
            table.append((heading_of(section), defined))
    return table
