"""Sentences of the report: headline, verdict, caveat, summary cards, definitions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from hoser_kd.evaluation.comparison import Row, heading_of
from hoser_kd.report.data import ReportData, StudentResult
from hoser_kd.report.table import Line, format_row, short_label, unit_of

_CARDS = ("next_step.accuracy", "next_step.nll", "requests.reached_share", "similarity.dtw", "distance.jsd")
"""Metrics at the top of the page."""


class Definition(NamedTuple):
    """A line of the definitions."""

    label: str
    unit: str
    better: str
    text: str
    source: str


def repeated_metrics(rows: Sequence[Row]) -> set[str]:
    """Return the names of the metrics that repeat another one's values, `Metric.same_as`, for every seed.

    The shape metrics of the same request and of the same OD cells coincide where both pair the same trips.
    """
    by_name = {row.name: row for row in rows}
    repeated = set()
    for row in rows:
        other = by_name.get(row.metric.same_as or "")
        if other is None or row.metric.variant:
            continue
        mine, theirs = (*row.vanilla, *row.distilled), (*other.vanilla, *other.distilled)
        # the order of the pairs may differ, and with it the rounding of the mean
        if len(mine) == len(theirs) and np.allclose(mine, theirs, rtol=1e-9, atol=0):
            repeated.add(row.name)
    return repeated


def judged_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with a verdict, each measured quantity once: no variants and no repeated metrics."""
    repeated = repeated_metrics(rows)
    return [row for row in rows if row.verdict is not None and not row.metric.variant and row.name not in repeated]


def headline_of(rows: Sequence[Row], num_pairs: int) -> str:
    """Return the verdict in one line; `num_pairs` is the number of common seeds."""
    judged = judged_rows(rows)
    better = sum(row.verdict == "better" for row in judged)
    worse = sum(row.verdict == "worse" for row in judged)
    if not judged:
        return "Vanilla HOSER, without a distilled student to compare with."
    if num_pairs == 1:
        lean = sum(row.verdict == "leans better" for row in judged)
        return f"One seed: {lean} of {len(judged)} metrics lean toward the distilled student, none is clear."
    if better and not worse:
        return f"Distillation helped: {_count(better)} clearly better, none clearly worse."
    if better and worse:
        return f"A mixed result: {_count(better)} clearly better, {worse} clearly worse."
    if worse:
        return f"Distillation did not help: {_count(worse)} clearly worse, none clearly better."
    return f"No clear difference: none of {len(judged)} metrics differs by more than the variation between seeds."


def _count(number: int) -> str:
    return "1 metric is" if number == 1 else f"{number} metrics are"


def verdict_sentences(data: ReportData, rows: Sequence[Row]) -> Iterator[str]:
    """Yield the verdict in sentences."""
    vanilla, distilled = (data.students.get(kind, {}) for kind in ("vanilla", "distilled"))
    trips = f"{len(data.real):,} real test trips"
    if not distilled:
        yield (
            f"Distillation is disabled for {data.city}. This page shows the vanilla student only, trained with "
            f"{_seeds(vanilla)} and tested on {trips}."
        )
        return
    yield (
        f"HOSER was trained in {data.city} with and without the teacher's labels, {_seeds(distilled)} each, and "
        f"tested on {trips}."
    )
    by_name = {row.name: row for row in rows}
    accuracy = by_name.get("next_step.accuracy")
    if accuracy is not None and accuracy.difference is not None:
        yield _accuracy_sentence(accuracy)
    judged = judged_rows(rows)
    for verdict, words in (("better", "Clearly better with the teacher"), ("worse", "Clearly worse with the teacher")):
        names = [short_label(row) for row in judged if row.verdict == verdict]
        if names:
            yield f"{words}: {'; '.join(names)}."
    yield from _open_sentence(judged)
    if repeated_metrics(rows):
        yield (
            "“Same OD cells” and “same request” pair the same trips here, so the metrics that both have are equal and "
            "count once."
        )


def _accuracy_sentence(row: Row) -> str:
    line = format_row(row)
    distilled, vanilla = (f"{100 * np.mean(values):.2f}\N{NO-BREAK SPACE}%" for values in (row.distilled, row.vanilla))
    interval = f", 95 % interval {line.interval}" if line.interval else ""
    return (
        f"The distilled student predicts the next road in {distilled} of the steps, the vanilla one in {vanilla}: "
        f"{line.difference} points{interval}."
    )


def _open_sentence(judged: Sequence[Row]) -> Iterator[str]:
    """Yield a sentence about the judged rows without a clear difference."""
    rows = [row for row in judged if row.verdict not in {"better", "worse"}]
    if not rows:
        return
    ahead, same = (sum(row.verdict == verdict for row in rows) for verdict in ("leans better", "same"))
    other = "other " if len(rows) < len(judged) else ""
    equal = f", and {same} are equal" if same else ""
    yield (
        f"Of the {other}{len(rows)} metrics with a direction, {ahead} lean toward the distilled student, "
        f"{len(rows) - ahead - same} toward the vanilla one{equal}."
    )


def _seeds(results: Mapping[int, StudentResult]) -> str:
    seeds = ", ".join(str(seed) for seed in results)
    return f"one seed ({seeds})" if len(results) == 1 else f"{len(results)} seeds ({seeds})"


def caveat(num_pairs: int) -> str:
    """Return what the intervals mean; `num_pairs` is the number of common seeds."""
    if num_pairs == 0:
        return "The students share no seed. Their metrics are shown side by side and not compared."
    if num_pairs == 1:
        return (
            "One seed gives no interval: a difference of any size may be chance. Train with five or more seeds before "
            "drawing conclusions. Nothing here claims statistical significance."
        )
    return (
        f"Differences are paired by seed; intervals are 95 % t-intervals over {num_pairs} seeds. “Clearly” means "
        "that the interval excludes 0. The effect is the mean difference over its standard deviation over the "
        "seeds. An interval covers the randomness of training, not other cities or other trips, and among many "
        "metrics about one in twenty is clear by chance. Nothing here claims statistical significance."
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
    return (
        f"Some students may not have reached their optimum, so a difference may come from the training: {listed}. "
        "The check `trained_to_optimum` names the setting to change."
    )


def summary_cards(rows: Sequence[Row]) -> list[tuple[str, Line]]:
    """Return (section, line) of the metrics at the top of the page, as far as both students have them."""
    by_name = {row.name: row for row in rows}
    return [
        (heading_of(by_name[name].section).partition(",")[0], format_row(by_name[name]))
        for name in _CARDS
        if name in by_name and by_name[name].difference is not None
    ]


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
