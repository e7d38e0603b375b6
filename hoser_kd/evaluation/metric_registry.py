"""What a metric is: one record with its definition, unit, direction, label and function.

`evaluate`, the comparison of the students, the report and docs/evaluation.md read the records, so a new metric takes
one call of `register`. The built-in metrics are in `hoser_kd.evaluation.metrics`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

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
    """Definition, presentation and function of a metric."""

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
    source: str = ""
    """Paper that defines it; empty where the definition is our own."""

    @property
    def section(self) -> str:
        """The part of the name before the dot."""
        return self.name.partition(".")[0]

    @property
    def key(self) -> str:
        """The part of the name after the dot."""
        return self.name.partition(".")[2]


METRICS: Registry[Metric] = Registry("metric", "hoser_kd.evaluation.metrics")
"""All metrics by `section.metric`, in the order in which `evaluate` returns them."""


def register(metric: Metric) -> Metric:
    """Add a metric and return it.

    Raises:
        ValueError: the name is taken or is not `section.metric`, the section has no heading in `SECTIONS`, or the
            label or definition is empty.
    """
    if metric.section not in SECTIONS or not metric.key:
        raise ValueError(f"metric {metric.name!r} needs a name 'section.metric' whose section is a key of SECTIONS")
    if not metric.label or not metric.text:
        raise ValueError(f"metric {metric.name!r} needs a label and a definition (text)")
    return METRICS.register(metric.name, metric)


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
