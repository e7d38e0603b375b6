"""Rows of the comparison as texts, and tables of them without empty columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hoser_kd.evaluation.comparison import Row, heading_of
from hoser_kd.evaluation.metric_registry import SECTIONS


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
    effect: str
    verdict: str
    baselines: Mapping[str, str] = {}
    """Values by baseline; each is a column of its own."""


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


_OPTIONAL = (
    Column("unit", "unit"),
    Column("real", "real"),
    Column("vanilla", "vanilla"),
    Column("distilled", "distilled"),
    Column("difference", "difference", "distilled minus vanilla"),
    Column("interval", "95\N{NO-BREAK SPACE}% interval"),
    Column("effect", "effect", "mean difference over its standard deviation (Cohen's d for pairs)"),
    Column("verdict", "distilled is"),
)


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
    """Return a table with the columns that have content: one seed gives no interval and no effect, for example."""
    lines = [line for group in groups for line in group.lines]
    columns = [column for column in _OPTIONAL if any(column.of(line) for line in lines)]
    names = dict.fromkeys(name for line in lines for name in line.baselines)
    baselines = [Column(name, name, "no seeds, so no interval", is_baseline=True) for name in names]
    place = sum(column.key in {"unit", "real", "vanilla", "distilled"} for column in columns)
    columns[place:place] = baselines  # beside the students
    return Table(columns, list(groups))


def short_label(row: Row) -> str:
    """Return a metric's label with the short name of its section."""
    short = SECTIONS[row.section].short if row.section in SECTIONS else ""
    return f"{row.metric.label} ({short or _in_text(row.section)})"


def _in_text(section: str) -> str:
    heading = heading_of(section)
    return heading[:1].lower() + heading[1:]


def format_row(row: Row, baselines: Mapping[str, Mapping[str, float]] | None = None) -> Line:
    """Return a row of the comparison as texts; `baselines` are metrics by `section.metric`, by baseline."""
    arrow = {"lower": "↓", "higher": "↑", None: ""}[row.metric.better]
    target = row.metric.target
    decimals = _decimals(row)
    difference = interval = ""
    if row.difference is not None:
        difference = _text(row, row.difference.mean, _finer(row, row.difference.mean, decimals), sign=True)
        ends = (row.difference.low, row.difference.high)
        if np.isfinite(row.difference.low):
            finer = _finer(row, max(ends, key=abs), decimals)
            interval = " to ".join(_text(row, end, finer, sign=True) for end in ends)
    return Line(
        label=row.metric.label,
        direction=arrow if target is None else f"→ {target}" if isinstance(target, str) else f"→ {target:g}",
        unit=unit_of(row),
        real="" if row.real is None else _text(row, row.real, decimals),
        vanilla=_spread(row, row.vanilla, decimals),
        distilled=_spread(row, row.distilled, decimals),
        difference=difference,
        interval=interval,
        effect="" if row.effect is None else _without_sign_of_zero(f"{row.effect:+.1f}").replace("-", "−"),
        verdict=row.verdict or "",
        baselines={
            name: _text(row, values[row.name], decimals)
            for name, values in (baselines or {}).items()
            if row.name in values
        },
    )


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
