"""The report's figures as words: lines of a comparison, sentences, headlines, definitions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from hoser_kd.evaluation.comparison import SECTIONS, Row
from hoser_kd.report.data import ReportData, StudentResult

_SHORT = {"similarity": "same OD cells", "paired": "same request"}
"""Sections whose heading is long."""


class Line(NamedTuple):
    """A row of a comparison as texts."""

    label: str
    unit: str
    direction: str
    real: str
    vanilla: str
    distilled: str
    difference: str
    interval: str
    effect: str
    verdict: str


def is_number(value: object) -> bool:
    """Tell whether a value is a finite number."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and bool(np.isfinite(value))


def judged_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that say which student is better; the published EDR would count the same thing twice."""
    return [row for row in rows if row.verdict is not None and not row.name.endswith(".edr_published")]


def headline_of(rows: Sequence[Row], num_pairs: int) -> str:
    """Return the verdict in one line."""
    judged = judged_rows(rows)
    better = sum(row.verdict == "better" for row in judged)
    worse = sum(row.verdict == "worse" for row in judged)
    if not judged:
        return "Plain HOSER; no distilled student to compare it with."
    if num_pairs == 1:
        lean = sum(row.verdict == "leans better" for row in judged)
        return f"One seed: {lean} of {len(judged)} figures lean towards the distilled student, none is clear."
    if better and not worse:
        return f"Distillation helped: {_count(better, 'figure')} clearly better, none clearly worse."
    if better and worse:
        return f"A mixed result: {_count(better, 'figure')} clearly better, {worse} clearly worse."
    if worse:
        return f"Distillation did not help: {_count(worse, 'figure')} clearly worse, none clearly better."
    return f"No clear difference: none of {len(judged)} figures differs beyond what seeds alone can explain."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun} is" if number == 1 else f"{number} {noun}s are"


def verdict_sentences(data: ReportData, rows: Sequence[Row]) -> Iterator[str]:
    """Yield the verdict in plain words."""
    vanilla, distilled = (data.students.get(kind, {}) for kind in ("vanilla", "distilled"))
    trips = f"{len(data.real):,} real test trips"
    if not distilled:
        yield (
            f"Distillation is switched off for {data.city}. The page shows the plain student alone, trained with "
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
        line = format_row(accuracy)
        taught, plain = (
            f"{100 * np.mean(values):.2f}\N{NO-BREAK SPACE}%" for values in (accuracy.distilled, accuracy.vanilla)
        )
        yield (
            f"The distilled student names the next road in {taught} of the steps, the plain one in {plain}: "
            f"{line.difference} points" + (f", 95 % interval {line.interval}." if line.interval else ".")
        )
    judged = judged_rows(rows)
    for verdict, words in (("better", "Clearly better with the teacher"), ("worse", "Clearly worse with the teacher")):
        names = [full_label(row) for row in judged if row.verdict == verdict]
        if names:
            yield f"{words}: {'; '.join(names)}."
    open_rows = [row for row in judged if row.verdict not in {"better", "worse"}]
    if open_rows:
        ahead = sum(row.verdict == "leans better" for row in open_rows)
        same = sum(row.verdict == "same" for row in open_rows)
        yield (
            f"Of the {'other ' if len(open_rows) < len(judged) else ''}{len(open_rows)} figures with a better and a "
            f"worse direction, {ahead} lean towards the distilled student, {len(open_rows) - ahead - same} towards "
            f"the plain one" + (f", and {same} are the same." if same else ".")
        )


def _seeds(results: Mapping[int, StudentResult]) -> str:
    seeds = ", ".join(str(seed) for seed in results)
    return f"one seed ({seeds})" if len(results) == 1 else f"{len(results)} seeds ({seeds})"


def caveat(num_pairs: int) -> str:
    """Return what the intervals can say and what they cannot."""
    if num_pairs == 0:
        return "The students share no seed, so their figures are shown side by side and not compared."
    if num_pairs == 1:
        return (
            "One seed gives no interval: a difference of any size may be chance. Train with more seeds (five or "
            "more) before believing one. Nothing here claims statistical significance."
        )
    return (
        f"Differences are paired by seed; intervals are 95 % t-intervals over {num_pairs} seeds. “Clearly” means "
        "that the interval does not hold 0. The effect is the mean difference over its standard deviation over the "
        "seeds. An interval speaks of the chance in training, not of other cities or "
        "other trips, and among many figures one in twenty is clear by luck alone. Nothing here claims "
        "statistical significance."
    )


def full_label(row: Row) -> str:
    """Return a figure's label with its section."""
    return f"{row.label} ({in_text(row.section)})"


def short_label(row: Row) -> str:
    """Return the same where there is little room."""
    return f"{row.label} ({_SHORT.get(row.section, in_text(row.section))})"


def in_text(section: str) -> str:
    """Return a section's heading as it stands within a sentence."""
    heading = SECTIONS.get(section, describe(section))
    return heading[:1].lower() + heading[1:]


def summary_cards(rows: Sequence[Row]) -> list[tuple[str, Line]]:
    """Return the few figures that come first, as far as they are known."""
    first = ("next_step.accuracy", "next_step.nll", "requests.reached_share", "similarity.dtw", "distance.jsd")
    by_name = {row.name: row for row in rows}
    return [
        (SECTIONS[by_name[name].section].partition(",")[0], format_row(by_name[name]))
        for name in first
        if name in by_name and by_name[name].difference is not None
    ]


def format_row(row: Row) -> Line:
    """Return a row of the comparison as texts."""
    arrow = {"lower": "↓", "higher": "↑", None: ""}[row.definition.better]
    aim = row.name.endswith(".generated_mean") or row.name == "paired.detour_ratio"
    decimals = _decimals(row)
    difference = interval = ""
    if row.difference is not None:
        finer = _decimals_of_difference(row, decimals)
        difference = _text(row, row.difference.mean, finer, sign=True)
        if np.isfinite(row.difference.low):
            interval = " to ".join(
                _text(row, end, finer, sign=True) for end in (row.difference.low, row.difference.high)
            )
    return Line(
        label=row.label,
        unit="%" if row.is_share else row.definition.unit,
        direction="→ real" if aim else arrow,
        real="" if row.real is None else _text(row, row.real, decimals),
        vanilla=_spread(row, row.vanilla, decimals),
        distilled=_spread(row, row.distilled, decimals),
        difference=difference,
        interval=interval,
        effect="" if row.effect is None else f"{row.effect:+.1f}".replace("-", "−"),
        verdict=row.verdict or "",
    )


def _spread(row: Row, values: Sequence[float], decimals: int) -> str:
    """Return the mean over the seeds and, where there are several, their standard deviation."""
    if not values:
        return ""
    mean = _text(row, float(np.mean(values)), decimals)
    return mean if len(values) == 1 else f"{mean} ± {_text(row, float(np.std(values, ddof=1)), decimals)}"


def _decimals(row: Row) -> int:
    """Return the decimals every number of the row gets: four significant digits of the mean, at most five decimals."""
    if row.is_share:
        return 2
    size = abs(float(np.mean(row.vanilla or row.distilled)))
    return 3 if size == 0 else int(np.clip(3 - np.floor(np.log10(size)), 0, 5))


def _decimals_of_difference(row: Row, decimals: int) -> int:
    """Return up to two more decimals where the difference would vanish otherwise."""
    size = abs(row.difference.mean) if row.difference is not None else 0.0
    if row.is_share or size == 0:
        return decimals
    return int(np.clip(1 - np.floor(np.log10(size)), decimals, decimals + 2))


def _text(row: Row, value: float, decimals: int, *, sign: bool = False) -> str:
    number = 100 * value if row.is_share else value
    return f"{number:{'+' if sign else ''},.{decimals}f}".replace("-", "−")


def _plain(value: float) -> str:
    """Return a number with four significant digits, without needless zeros."""
    return f"{value:.4g}".replace("-", "−") if abs(value) < 1e4 else f"{value:,.0f}".replace("-", "−")


def figures_of(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (words, text) of every plain value of a nested dict; lists and arrays are left out."""
    for name, value in figures.items():
        words = f"{prefix}{describe(name)}"
        if isinstance(value, Mapping):
            yield from figures_of(value, f"{words}: ")
        elif isinstance(value, bool):
            yield words, "yes" if value else "no"
        elif isinstance(value, int | np.integer):
            yield words, f"{value:,}"
        elif is_number(value):
            yield words, _plain(float(value))
        elif isinstance(value, str):
            yield words, value


def describe(name: str) -> str:
    """Return a name as people write it."""
    return name.replace("_", " ")


def definitions_of(rows: Sequence[Row]) -> list[tuple[str, list[tuple[str, str, str, str]]]]:
    """Return (section, [(label, unit, direction, definition)]) of every figure shown that has a definition."""
    better = {"lower": "lower", "higher": "higher", None: ""}
    table = []
    for section, group in groupby(rows, key=lambda row: row.section):
        defined = [
            (
                row.label,
                "%" if row.is_share else row.definition.unit,
                better[row.definition.better],
                row.definition.text,
            )
            for row in group
        ]
        defined = [entry for entry in defined if entry[-1]]
        if defined:
            table.append((SECTIONS.get(section, section), defined))
    return table
