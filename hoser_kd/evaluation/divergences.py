"""Divergences between real and generated trips, and the number of trips that they need.

Which metrics they are is part of their records: `Metric.is_divergence`.
"""

from __future__ import annotations

from typing import Any

from hoser_kd.evaluation.metric_registry import METRICS

MIN_TRIPS_FOR_JSD = 200
"""Subsets with fewer real or fewer generated trips get no Jensen-Shannon divergence.

Two samples of real trips differ too (`hoser_kd.evaluation.sampling_floor`): their divergence of traveled distance
(Porto) is 0.34, 0.20, 0.12, 0.061 and 0.035 nats at 50, 100, 187, 375 and 650 trips each. At 200 trips it is 0.11, a
sixth of the largest possible divergence (ln 2) and twice that of the students over all test trips (0.04 to 0.06); with
fewer trips a divergence measures their number more than the model."""


def is_divergence(name: str) -> bool:
    """Return whether a metric, `section.metric`, is a divergence by its record; False for a name without one."""
    return name in METRICS and METRICS[name].is_divergence


def without_divergences(metrics: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return metrics by section and key without divergences, and without sections that have nothing else."""
    kept = {
        section: {key: value for key, value in values.items() if not is_divergence(f"{section}.{key}")}
        for section, values in metrics.items()
    }
    return {section: values for section, values in kept.items() if values}
