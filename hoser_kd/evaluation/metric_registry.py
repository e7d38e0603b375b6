"""What a metric is: one record with its definition, unit, direction, label and function.

`evaluate`, the comparison of the students, the report and docs/evaluation.md read the records, so a new metric takes
one call of `register`. The built-in metrics are in `hoser_kd.evaluation.metrics`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from hoser_kd.common.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from hoser_kd.evaluation.context import EvaluationContext

Better = Literal["lower", "higher"] | None


class Section(NamedTuple):
    """A group of metrics under one heading."""

    heading: str
    """Heading in tables and docs."""
    short: str = ""
    """Name in parentheses after a metric's label; empty: the heading."""


SECTIONS = {
    "next_step": Section("Next step"),
    "counts": Section("Trips"),
    "requests": Section("Requests"),
    "od_match": Section("Requested OD cells, by size", "requested OD cells"),
    "similarity": Section("Shape, compared with real trips of the same OD cells", "same OD cells"),
    "paired": Section("Shape, compared with the real trip of the same request", "same request"),
    "paired_duration": Section("Trip duration, compared with the real trip of the same request", "same request"),
    "distance": Section("Traveled distance"),
    "radius": Section("Radius"),
    "gyration": Section("Radius of gyration"),
    "duration": Section("Time to the next road"),
    "trip_length": Section("Trip length"),
    "trip_duration": Section("Trip duration"),
    "road_use": Section("Road use"),
    "flows": Section("Flows (JSD)", "flows"),
    "diversity": Section("Diversity of the samples of one request", "diversity"),
    "training": Section("Memorized training trips"),
    "privacy": Section("Privacy: distance to training trips", "privacy"),
    "utility": Section("Utility: next-road model trained on generated, tested on real trips", "utility"),
}
"""Sections in the order of tables and docs. A metric of a new section needs an entry here."""


@dataclass(frozen=True)
class Metric:
    """Definition, presentation and function of a metric.

    Raises TypeError or ValueError for a value that a field does not allow.
    """

    name: str
    """`section.metric`."""
    label: str
    """Name in tables and plots, without the section."""
    text: str
    """Definition, in a sentence or two."""
    unit: str = ""
    """Unit; empty for shares, ratios and divergences without one."""
    better: Better = None
    """Direction that is better; None for a description, and where `target` is the aim."""
    compute: Callable[[EvaluationContext], float | None] | None = None
    """Value for generated trips; returns None where it is undefined, and the metric is left out. None: the metric is
    measured elsewhere (`hoser_kd.student.next_step_metrics`)."""
    is_share: bool = False
    """Whether to show it as a percentage."""
    real: str | None = None
    """Metric with the value of the real trips, shown beside this one instead of in a separate row."""
    target: float | Literal["real"] | None = None
    """Value that is best: a number, or that of the real trips; None: there is none."""
    headline: bool = False
    """Whether the short comparison of the students lists it."""
    same_as: str | None = None
    """Metric that measures the same thing. The verdict does not count both if their values are equal, nor this one if
    `variant` is set."""
    variant: bool = False
    """Whether it is a second version of `same_as`, never counted in the verdict."""
    is_divergence: bool = False
    """Whether it is a divergence between the distributions of real and generated trips. Its value depends on their
    number, so `hoser_kd.evaluation.divergences` leaves it out where there are too few."""
    source: str = ""
    """Paper that defines it; empty where the definition is our own."""

    def __post_init__(self) -> None:
        for field in ("name", "label", "text", "unit", "source"):
            _require(isinstance(getattr(self, field), str), self, field, "Use a string.", TypeError)
        for field in ("is_share", "headline", "variant", "is_divergence"):
            _require(isinstance(getattr(self, field), bool), self, field, "Use True or False.", TypeError)
        _require(_is_name(self.name), self, "name", "Use 'section.metric'.")
        _require(self.better in ("lower", "higher", None), self, "better", "Use 'lower', 'higher' or None.")
        usage = "Use a function of the EvaluationContext that returns a number or None, or no function."
        _require(self.compute is None or callable(self.compute), self, "compute", usage, TypeError)
        _require(_is_target(self.target), self, "target", "Use a finite number, 'real' or None.")
        _require(self.target is None or self.better is None, self, "target", "Set either `better` or `target`.")
        for field in ("real", "same_as"):
            other = getattr(self, field)
            is_other = other is None or (_is_name(other) and other != self.name)
            _require(is_other, self, field, "Use the name 'section.metric' of another metric.")
        _require(
            self.target != "real" or self.real is not None, self, "target", "It needs `real`, the metric to match."
        )
        _require(not self.variant or self.same_as is not None, self, "variant", "It needs `same_as`.")
        _require(not (self.is_share and self.unit), self, "unit", "A share has no unit; it is shown in percent.")

    @property
    def section(self) -> str:
        """The part of the name before the dot."""
        return self.name.partition(".")[0]

    @property
    def key(self) -> str:
        """The part of the name after the dot."""
        return self.name.partition(".")[2]


def _require(
    is_valid: bool, metric: Metric, field: str, fix: str, error: type[TypeError | ValueError] = ValueError
) -> None:
    if not is_valid:
        raise error(f"metric {metric.name!r}: `{field}` is {getattr(metric, field)!r}. {fix}")


def _is_name(name: Any) -> bool:
    section, _, key = name.partition(".") if isinstance(name, str) else ("", "", "")
    return bool(section.strip() and key.strip())


def _is_target(target: Any) -> bool:
    if isinstance(target, bool) or not isinstance(target, int | float):
        return target is None or (isinstance(target, str) and target == "real")
    return math.isfinite(target)


def _check_metric(name: str, metric: object) -> None:
    """Validate a metric before it is registered; see `register` for the errors."""
    if not isinstance(metric, Metric):
        usage = "Call register(Metric('section.metric', label=..., text=...))."
        raise TypeError(f"metric {name!r} is {metric!r}, not a Metric. {usage}")
    if name != metric.name:
        raise ValueError(f"metric {metric.name!r} cannot be registered as {name!r}. Call register(metric).")
    if metric.section not in SECTIONS:
        raise ValueError(f"metric {name!r} needs a name 'section.metric' whose section is a key of SECTIONS")
    if not metric.label or not metric.text:
        raise ValueError(f"metric {name!r} needs a label and a definition (text)")


def _check_metric_and_references(name: str, metric: Metric) -> None:
    _check_metric(name, metric)
    _check_references(metric)


def _check_references(metric: Metric) -> None:
    """Raise ValueError unless `real` and `same_as` are registered and have the unit of the metric."""
    for field in ("real", "same_as"):
        other = getattr(metric, field)
        _require(other is None or other in METRICS, metric, field, "No metric has that name; register it first.")
        if other is not None and METRICS[other].unit != metric.unit:
            fix = f"Its unit is {METRICS[other].unit!r}, not {metric.unit!r}."
            _require(False, metric, field, fix)


METRICS: Registry[Metric] = Registry("metric", "hoser_kd.evaluation.metrics", _check_metric)
"""All metrics by `section.metric`, in the order in which `evaluate` returns them."""


def register(metric: Metric) -> Metric:
    """Add a metric and return it.

    Raises:
        TypeError: it is not a `Metric`.
        ValueError: the name is taken, the section has no heading in `SECTIONS`, the label or definition is empty, or
            `real` or `same_as` is not registered or has another unit.
    """
    if not isinstance(metric, Metric):
        _check_metric(str(metric), metric)
    return METRICS.register(metric.name, metric)


def check_built_in_references() -> None:
    """Check the references between the built-in metrics; from then on, those of a new metric at its registration.

    The built-in metrics are registered in the order of the tables, so a reference may come before its metric.
    """
    for metric in all_metrics():
        _check_references(metric)
    METRICS.check = _check_metric_and_references


def all_metrics() -> list[Metric]:
    """Return every metric in the order of registration."""
    return [METRICS[name] for name in METRICS]


_EPOCH_LABELS = {
    "kl": "distillation loss (KL)",
    "loss": "loss",
    "generation_reached": "validation trips that reach their destination",
    "generation_score": "score of the validation trips",
}


def epoch_label(key: str) -> str:
    """Return the label of a value of an epoch (training history), such as `nll` or `kl`."""
    if f"next_step.{key}" in METRICS:
        return METRICS[f"next_step.{key}"].label
    return _EPOCH_LABELS.get(key, key.replace("_", " "))
