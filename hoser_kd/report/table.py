"""Rows of the comparison as texts, and tables of them without empty columns."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hoser_kd.evaluation.comparison import Row, heading_of
from hoser_kd.evaluation.evidence import PRIMARY, Evidence
from hoser_kd.evaluation.metric_registry import SECTIONS
from hoser_kd.evaluation.sampling_floor import Floor

BELOW_FLOOR = "†"
"""Marks a floor that all students are below: the metric cannot tell their trips from real ones."""


class Line(NamedTuple):
    """A row of the comparison as texts; the fields are the columns of the tables."""

    label: str
    direction: str
    unit: str
    real: str
    vanilla: str
    distilled: str
    difference: str
    interval: str
    verdict: str
    about: str = ""
    """Explanation in one sentence."""
    floor: str = ""
    ceiling: str = ""
    trips: str = ""
    """Interval of the difference over the test trips."""
    p_value: str = ""
    baselines: Mapping[str, str] = {}
    """Values by baseline; each is a column of its own."""
    is_primary: bool = False
    """Whether it is a primary metric."""


class Beside(NamedTuple):
    """What stands beside the students' values in a row."""

    baselines: Mapping[str, Mapping[str, float]] = {}
    """Metrics by `section.metric`, by baseline."""
    evidence: Mapping[str, Evidence] = {}
    """Evidence by `section.metric`."""
    floors: Mapping[str, Floor] = {}
    """Sampling floors by `section.metric`."""
    below_floor: Collection[str] = ()
    """`section.metric` of those that all students are below."""
    ceiling: Mapping[str, float] = {}
    """Metrics of the ceiling by `section.metric`."""
    verdicts: Mapping[str, str] = {}
    """Verdicts by `section.metric`; a row without one keeps that of the seeds alone."""


class Column(NamedTuple):
    """A column of a table."""

    key: str
    """Field of `Line`, or the name of a baseline."""
    heading: str
    title: str = ""
    """Explanation, shown as a tooltip."""
    is_baseline: bool = False
    """Whether it is the column of a baseline."""

    def of(self, line: Line) -> str:
        """Return the text of a line in this column."""
        return line.baselines.get(self.key, "") if self.is_baseline else str(getattr(line, self.key))

    def parts(self, line: Line) -> list[str]:
        """Return the text in the parts between which it may wrap: the ends of an interval, mean and quantile."""
        return _PART.split(self.of(line)) if self.key in _WRAPPED else [self.of(line)]


_WRAPPED = frozenset({"interval", "trips", "floor"})
_PART = re.compile(r"(?<=to) | (?=\()")
_OPTIONAL = (
    Column("unit", "unit"),
    Column("real", "real"),
    Column(
        "floor",
        "floor",
        "two independent sets of real trips of the same size: mean (95 % quantile) of their divergence; "
        f"{BELOW_FLOOR}: all students are below the quantile",
    ),
    Column("ceiling", "ceiling", "log-linear pool of vanilla student and teacher"),
    Column("vanilla", "vanilla"),
    Column("distilled", "distilled"),
    Column("difference", "difference", "distilled minus vanilla"),
    Column("interval", "95\N{NO-BREAK SPACE}% over seeds", "interval of the difference over the seeds (Student's t)"),
    Column("trips", "95\N{NO-BREAK SPACE}% over trips", "interval of the difference over the test trips (bootstrap)"),
    Column(
        "p_value",
        "p (Holm)",
        "two-sided p-value over the test trips (permutation test) or, with *, over the seeds (t-test), adjusted for "
        "all secondary metrics; those of primary metrics are not adjusted",
    ),
    Column("verdict", "distilled is"),
)
_LEADING = frozenset({"unit", "real", "floor", "ceiling", "vanilla", "distilled"})
"""Columns before those of the baselines."""


class Group(NamedTuple):
    """Lines under one heading."""

    heading: str
    """Empty for none."""
    lines: list[Line]
    note: str = ""
    """What the heading means."""


class Table(NamedTuple):
    """A table of the comparison."""

    columns: list[Column]
    """Columns after the label; those without any content are left out."""
    groups: list[Group]


def table_of(groups: Sequence[Group]) -> Table:
    """Return a table with the columns that have content: one seed gives no interval over the seeds, for example."""
    lines = [line for group in groups for line in group.lines]
    columns = [column for column in _OPTIONAL if any(column.of(line) for line in lines)]
    names = dict.fromkeys(name for line in lines for name in line.baselines)
    baselines = [Column(name, name, "no seeds, so no interval", is_baseline=True) for name in names]
    place = sum(column.key in _LEADING for column in columns)
    columns[place:place] = baselines  # beside the students
    return Table(columns, list(groups))


def short_label(row: Row) -> str:
    """Return a metric's label with the short name of its section."""
    short = SECTIONS[row.section].short if row.section in SECTIONS else ""
    return f"{row.metric.label} ({short or _in_text(row.section)})"


def _in_text(section: str) -> str:
    heading = heading_of(section)
    return heading[:1].lower() + heading[1:]


def format_row(row: Row, beside: Beside | None = None) -> Line:
    """Return a row of the comparison as texts."""
    beside = beside or Beside()
    decimals = _decimals(row)
    difference = interval = ""
    if row.difference is not None:
        difference = _text(row, row.difference.mean, _finer(row, row.difference.mean, decimals), sign=True)
        interval = _interval(row, row.difference.low, row.difference.high, decimals)
    evidence = beside.evidence.get(row.name, Evidence())
    over_trips = evidence.trips
    floor = beside.floors.get(row.name)
    ceiling = beside.ceiling.get(row.name)
    return Line(
        label=row.metric.label,
        direction=_direction(row),
        unit=unit_of(row),
        real="" if row.real is None else _text(row, row.real, decimals),
        vanilla=_spread(row, row.vanilla, decimals),
        distilled=_spread(row, row.distilled, decimals),
        difference=difference,
        interval=interval,
        verdict=beside.verdicts.get(row.name, row.verdict or ""),
        about=first_sentence(row.metric.text),
        floor="" if floor is None else _floor(row, floor, decimals, is_above=row.name not in beside.below_floor),
        ceiling="" if ceiling is None else _text(row, ceiling, decimals),
        trips="" if over_trips is None else _interval(row, over_trips.low, over_trips.high, decimals),
        p_value=_p_value(row, evidence),
        baselines={
            name: _text(row, values[row.name], decimals)
            for name, values in beside.baselines.items()
            if row.name in values
        },
        is_primary=row.name in PRIMARY,
    )


def first_sentence(text: str) -> str:
    """Return the first sentence of a definition, without the marks of code."""
    return text.replace("`", "").partition(". ")[0].rstrip(".")


def _direction(row: Row) -> str:
    """Return ↓, ↑ or the target of a metric; empty for a description."""
    target = row.metric.target
    if target is None:
        return {"lower": "↓", "higher": "↑", None: ""}[row.metric.better]
    return f"→ {target}" if isinstance(target, str) else f"→ {target:g}"


def _floor(row: Row, floor: Floor, decimals: int, *, is_above: bool) -> str:
    text = f"{_text(row, floor.mean, decimals)} ({_text(row, floor.quantile_95, decimals)})"
    return text if is_above else f"{text}{BELOW_FLOOR}"


def _p_value(row: Row, evidence: Evidence) -> str:
    """Return the adjusted p-value, that of a primary metric as it is; * marks a test over the seeds."""
    value = evidence.p_value if row.name in PRIMARY else evidence.adjusted
    if value is None:
        return ""
    number = "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"
    return f"{number}{'*' if evidence.test == 'seeds' else ''}"


def _interval(row: Row, low: float, high: float, decimals: int) -> str:
    """Return an interval of a difference; empty if there is none."""
    if not np.isfinite([low, high]).all():
        return ""
    finer = _finer(row, max((low, high), key=abs), decimals)
    return " to ".join(_text(row, end, finer, sign=True) for end in (low, high))


def unit_of(row: Row) -> str:
    """Return the unit in which a row is shown."""
    return "%" if row.metric.is_share else row.metric.unit


def _spread(row: Row, values: Sequence[float], decimals: int) -> str:
    """Return the mean over the seeds and, for several seeds, their standard deviation."""
    if not values:
        return ""
    mean = _text(row, float(np.mean(values)), decimals)
    return mean if len(values) == 1 else f"{mean} ± {_text(row, float(np.std(values, ddof=1)), decimals)}"


def _decimals(row: Row) -> int:
    """Return the decimals of every number of a row: four significant digits of the mean, at most four decimals.

    Means below 0.01 have five.
    """
    if row.metric.is_share:
        return 2
    size = abs(float(np.mean(row.vanilla or row.distilled)))
    return 3 if size == 0 else int(np.clip(3 - np.floor(np.log10(size)), 0, 4 if size >= 0.01 else 5))


def _finer(row: Row, value: float, decimals: int) -> int:
    """Return up to two more decimals where a value of a row would be shown with fewer than two digits otherwise."""
    size = abs(value)
    if row.metric.is_share or size == 0:
        return decimals
    return int(np.clip(1 - np.floor(np.log10(size)), decimals, decimals + 2))


def _without_sign_of_zero(number: str) -> str:
    return number.lstrip("+-") if float(number) == 0 else number


def _text(row: Row, value: float, decimals: int, *, sign: bool = False) -> str:
    number = 100 * value if row.metric.is_share else value
    return f"{number:{'+' if sign else ''},.{decimals}f}".replace("-", "−")
