"""Compare the distilled student with the vanilla one, metric by metric, paired by seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hoser_kd.evaluation.metric_registry import METRICS, SECTIONS, Metric, all_metrics
from hoser_kd.evaluation.statistics import Difference, paired_difference, paired_t_test

Runs = Mapping[int, Mapping[str, float]]
"""Metrics by `section.metric`, by seed."""
Verdict = Literal["better", "leans better", "same", "leans worse", "worse"]


@dataclass(frozen=True)
class Row:
    """One metric of both students."""

    metric: Metric
    """Its record."""
    vanilla: tuple[float, ...]
    """Value of each seed of the vanilla student."""
    distilled: tuple[float, ...]
    """Value of each seed of the distilled student; empty without one."""
    real: float | None
    """Value of the real trips, where the metric has one."""
    difference: Difference | None
    """Distilled minus vanilla over the common seeds; None without any."""
    verdict: Verdict | None
    """Whether the distilled student is better; None where the metric has no direction or there is no common seed."""
    effect: float | None = None
    """Effect size: mean difference over its standard deviation over the seeds (Cohen's d for pairs); None with fewer
    than two common seeds or without any spread."""
    p_value: float | None = None
    """Two-sided p-value of the paired t-test over the common seeds, of the distances from the target where there is
    one; None with fewer than two common seeds or without a verdict."""

    @property
    def name(self) -> str:
        """`section.metric`."""
        return self.metric.name

    @property
    def section(self) -> str:
        """The part of the name before the dot."""
        return self.metric.section

    @property
    def relative(self) -> Difference | None:
        """The difference in percent of the vanilla mean; None where that is 0 or there is no difference."""
        mean = float(np.mean(self.vanilla)) if self.vanilla else 0.0
        if self.difference is None or mean == 0:
            return None
        low, high = sorted((100 * self.difference.low / mean, 100 * self.difference.high / mean))
        return Difference(100 * self.difference.mean / mean, low, high)


def compare(
    vanilla: Runs,
    distilled: Runs,
    confidence: float = 0.95,
    record: Callable[[str], Metric] | None = None,
) -> list[Row]:
    """Return a row for each metric that either student has, in the order of `SECTIONS`.

    Metrics are named `section.metric`, as `hoser_kd.evaluation.metrics.flatten` names them. Where a record has a
    `target`, the student closer to it is better. Values of real trips are part of the row they belong to. A name
    without a record gets a row without a direction, so no verdict. `record` returns the record of a name;
    `metric_of` by default.
    """
    names = dict.fromkeys(name for runs in (vanilla, distilled) for values in runs.values() for name in values)
    order = {section: place for place, section in enumerate(SECTIONS)}
    beside = {metric.real for metric in all_metrics()}
    chosen = [(record or metric_of)(name) for name in names if name not in beside]
    chosen.sort(key=lambda metric: order.get(metric.section, len(order)))
    return [_row(metric, vanilla, distilled, confidence) for metric in chosen]


def metric_of(name: str) -> Metric:
    """Return the record of `section.metric`; a name without one gets a record without definition and direction."""
    if name in METRICS:
        return METRICS[name]
    return Metric(name, label=name.partition(".")[2].replace("_", " "), text="")


def heading_of(section: str) -> str:
    """Return the heading of a section; one without a heading goes by its name."""
    return SECTIONS[section].heading if section in SECTIONS else section.replace("_", " ").capitalize()


def headline_rows(students: Mapping[str, Mapping[str, float]]) -> list[dict[str, float | str]]:
    """Return the short comparison: a row per `headline` metric that all students have, a column per student.

    `students` holds metrics by `section.metric`, by student. The column `metric` holds the metric's name.
    """
    names = [metric.name for metric in all_metrics() if metric.headline]
    shared = [name for name in names if all(name in values for values in students.values())]
    return [{"metric": name, **{kind: values[name] for kind, values in students.items()}} for name in shared]


def _row(metric: Metric, vanilla: Runs, distilled: Runs, confidence: float) -> Row:
    name = metric.name
    a, b = ({seed: values[name] for seed, values in runs.items() if name in values} for runs in (vanilla, distilled))
    real = next(_values([*vanilla.values(), *distilled.values()], metric.real), None)
    target = real if metric.target == "real" else metric.target
    difference, verdict, effect, p_value = None, None, None, None
    common = [seed for seed in a if seed in b]
    if common:
        vanilla_values = np.array([a[seed] for seed in common])
        distilled_values = np.array([b[seed] for seed in common])
        difference = paired_difference(distilled_values, vanilla_values, confidence)
        spread = float((distilled_values - vanilla_values).std(ddof=1)) if len(common) > 1 else 0.0
        effect = difference.mean / spread if spread > 0 else None
        if target is not None:
            errors = abs(distilled_values - target), abs(vanilla_values - target)
            verdict = _verdict(paired_difference(*errors, confidence), "lower")
            p_value = paired_t_test(errors[0] - errors[1])
        elif metric.better is not None:
            verdict = _verdict(difference, metric.better)
            p_value = paired_t_test(distilled_values - vanilla_values)
    return Row(metric, tuple(a.values()), tuple(b.values()), real, difference, verdict, effect, p_value)


def _values(runs: list[Mapping[str, float]], name: str | None) -> Iterator[float]:
    return (values[name] for values in runs if name is not None and name in values)


def _verdict(difference: Difference, better: Literal["lower", "higher"]) -> Verdict:
    if better not in ("lower", "higher"):
        raise ValueError(f"the better direction is {better!r}. Use 'lower' or 'higher'.")
    if difference.mean == 0:
        return "same"
    good = (difference.mean < 0) == (better == "lower")
    if difference.is_clear:
        return "better" if good else "worse"
    return "leans better" if good else "leans worse"
