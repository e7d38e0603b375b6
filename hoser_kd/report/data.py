"""What the report is made from: the results of every student, and all about the city."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hoser_kd.common.arrays import BoolArray, Int64Array
    from hoser_kd.evaluation.failures import Failure
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories


@dataclass(frozen=True)
class StudentResult:
    """What one training of a student came to."""

    history: Sequence[Mapping[str, Any]]
    """Figures of each epoch."""
    test: Mapping[str, float]
    """Figures of the next-step prediction on the test trips, as in `hoser_kd.evaluation.comparison.NEXT_STEP`."""
    metrics: Mapping[str, Mapping[str, Any]] | None = None
    """What `hoser_kd.evaluation.metrics.evaluate` says of its generated trips."""
    generated: Trajectories | None = None
    """Its generated trips."""
    reached: BoolArray | None = None
    """(n,) bool: which of them reached the destination asked for."""
    real_rows: Int64Array | None = None
    """(n,) int64: the real trip each of them answers; None where they are no answers to real trips, or where trip i
    answers real trip i."""
    failures: Sequence[Failure] = ()
    """Which of them went wrong, the worst first."""
    scenarios: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    """The same as `metrics` by scenario (`hoser_kd.evaluation.scenarios`)."""
    next_step_by: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    """Figures of the next step by grouping and group (`hoser_kd.evaluation.scenarios.next_step_by`)."""


@dataclass(frozen=True)
class ReportData:
    """Everything the report shows."""

    city: str
    """Name of the city."""
    network: RoadNetwork
    """Its roads."""
    real: Trajectories
    """The real test trips."""
    students: Mapping[str, Mapping[int, StudentResult]]
    """`vanilla` and, where distillation is on, `distilled`: results by seed."""
    teacher: Mapping[str, Any] = field(default_factory=dict)
    """`history`: figures of each epoch, where it was trained here; `label_values`: arrays to draw, by axis label; every
    other entry is a table of figures by name (`perplexity`, `labels`, …)."""
    left_out: Sequence[Mapping[str, Any]] = ()
    """Rows `seed` and `why`: seeds there are that could not be pooled with these."""
    settings_yaml: str = ""
    """The settings that all this was made with."""
    versions: Sequence[Mapping[str, str]] = ()
    """The artifacts it was made from: asset, version, made, inputs."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall-clock seconds by stage."""
    sizes: Mapping[str, int | float | str] = field(default_factory=dict)
    """More sizes of the data, by name (training trips, say)."""
    decoder: str = ""
    """How the trips were generated, in words."""
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    """More pictures (PNG) by caption: the grid, the zones, where the teacher is surprised."""


def first_generated(data: ReportData) -> dict[str, StudentResult]:
    """Return the first seed's result of each student that has generated trips."""
    found = {}
    for kind, results in data.students.items():
        first = next((results[seed] for seed in sorted(results) if results[seed].generated is not None), None)
        if first is not None:
            found[kind] = first
    return found


def answered_trips(data: ReportData) -> Trajectories | None:
    """Return the real trips that the first seed's trips of all students answer, one each; None if there are none."""
    found = [real_of(data, result) for result in first_generated(data).values()]
    return found[0] if found and all(real is not None for real in found) else None


def real_of(data: ReportData, result: StudentResult) -> Trajectories | None:
    """Return the real trip of each generated one."""
    trips = result.generated
    if trips is None:
        return None
    if result.real_rows is not None:
        return data.real.take(result.real_rows)
    same = len(trips) == len(data.real) and bool((trips.origins == data.real.origins).all())
    return data.real if same else None
