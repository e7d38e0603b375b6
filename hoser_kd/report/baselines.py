"""Sentences about baselines: which of them beat which student on the primary metric of generated trips."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from hoser_kd.evaluation.comparison import Row
from hoser_kd.evaluation.statistics import PRIMARY_TRIP
from hoser_kd.report.table import short_label

PRIMARY_TRIP_METRIC = PRIMARY_TRIP
"""The metric of generated trips that was chosen before the results: EDR against the real trip of the same request."""


def baseline_sentences(baselines: Mapping[str, Mapping[str, float]], rows: Sequence[Row]) -> Iterator[str]:
    """Yield which baselines beat which student on `PRIMARY_TRIP_METRIC`, by the means over the seeds.

    `baselines`: metrics by `section.metric`, by name. Yields nothing where the students or the baselines lack the
    metric, as for requests that are not those of test trips.
    """
    row = next((row for row in rows if row.name == PRIMARY_TRIP_METRIC), None)
    values = {
        name: metrics[PRIMARY_TRIP_METRIC] for name, metrics in baselines.items() if PRIMARY_TRIP_METRIC in metrics
    }
    if row is None or not values:
        return
    students = {
        kind: float(np.mean(seeds)) for kind, seeds in (("vanilla", row.vanilla), ("distilled", row.distilled)) if seeds
    }
    sign = -1 if row.metric.better == "higher" else 1
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, value in sorted(values.items(), key=lambda item: sign * item[1]):
        # means over the same trips in another order may differ by rounding
        beaten = tuple(
            kind
            for kind, student in students.items()
            if sign * value < sign * student and not np.isclose(value, student, rtol=1e-9, atol=0)
        )
        groups.setdefault(beaten, []).append(f"{name} ({value:.4f})")
    compared = ", ".join(f"{kind} {value:.4f}" for kind, value in students.items())
    parts = "; ".join(_part(names, beaten, tuple(students)) for beaten, names in groups.items())
    yield (
        f"Primary metric of generated trips, {short_label(row)}, {row.metric.better} is better, {compared}: {parts}. "
        "Baselines have no seeds, so these differences have no interval."
    )


def _part(names: Sequence[str], beaten: tuple[str, ...], kinds: tuple[str, ...]) -> str:
    """Return the clause for the baselines that beat the same students."""
    subject = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    verb = "beats" if len(names) == 1 else "beat"
    if not beaten and len(kinds) == 1:
        return f"{subject} {'does' if len(names) == 1 else 'do'} not beat the {kinds[0]} student"
    if not beaten:
        return f"{subject} {verb} neither student"
    if beaten == kinds and len(kinds) > 1:
        return f"{subject} {verb} both students"
    return f"{subject} {verb} the {beaten[0]} student" + (" only" if len(kinds) > 1 else "")
