"""Input of the report: the results of every student and everything about the city."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from hoser_kd.common.arrays import BoolArray, Int64Array
    from hoser_kd.evaluation.failures import Failure
    from hoser_kd.evaluation.sampling_floor import Floor
    from hoser_kd.evaluation.trip_values import TripValues
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories


NETWORK_CAPTION = "The road network."
"""Caption in `ReportData.figures` of the map of the road network; without it, the report draws the map."""


@dataclass(frozen=True)
class StudentResult:
    """Result of one trained student (one seed).

    Shapes: n generated trips.
    """

    history: Sequence[Mapping[str, Any]]
    """Metrics of each epoch."""
    test: Mapping[str, float]
    """Next-step metrics on the test trips, as `hoser_kd.student.next_step_metrics.evaluate_student` returns them."""
    metrics: Mapping[str, Mapping[str, Any]] | None = None
    """Metrics of the generated trips, as `hoser_kd.evaluation.metrics.evaluate` returns them."""
    generated: Trajectories | None = None
    """The generated trips."""
    reached: BoolArray | None = None
    """(n,) bool: which of them reached the requested destination."""
    real_rows: Int64Array | None = None
    """(n,) int64: row of the real test trip that each one answers. None if generated trip i answers real trip i, or if
    the requests are not those of real trips."""
    failures: Sequence[Failure] = ()
    """Failed trips, the worst first."""
    scenarios: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    """`metrics` by scenario (`hoser_kd.evaluation.scenarios`)."""
    next_step_by: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    """Next-step metrics by grouping and group (`hoser_kd.evaluation.scenarios.next_step_by`)."""
    training_warnings: Sequence[Mapping[str, Any]] = ()
    """Why the student may not have reached its optimum (`hoser_kd.student.training_budget.training_warnings`)."""


@dataclass(frozen=True)
class Baselines:
    """Metrics of baselines and of other generators' trips by `section.metric`; they have no seeds.

    The keys are the names in tables.
    """

    trips: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Metrics of generated trips, by baseline."""
    scenarios: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    """The same by baseline and scenario."""
    next_step: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Next-step metrics, by counting model."""
    note: str = ""
    """Why there are no baselines, or what is particular about them; a sentence."""


@dataclass(frozen=True)
class CeilingResults:
    """Results of the stage `ceilings`: pools of student, teacher and Markov chain on the test trips."""

    rows: Sequence[Mapping[str, Any]] = ()
    """A row per model and pool (`hoser_kd.evaluation.ceilings.ceiling_rows`)."""
    gap: Mapping[str, Any] | None = None
    """Share of the gap in NLL that the distilled student closes (`hoser_kd.evaluation.ceilings.gap_closed`)."""
    note: str = ""
    """Why there are none, or what they leave out; a sentence."""


class Latency(NamedTuple):
    """Wall-clock time of a model on the machine that ran it."""

    name: str
    """What was timed."""
    ms_per_trip: float
    """Milliseconds per trip."""
    ms_per_step: float
    """Milliseconds per step (pair of consecutive roads)."""


class FileLink(NamedTuple):
    """A file beside the report."""

    label: str
    """What it holds."""
    address: str
    """Its path relative to the report."""


@dataclass(frozen=True)
class ReportData:
    """Everything the report shows."""

    city: str
    """Name of the city."""
    network: RoadNetwork
    """Its road network."""
    real: Trajectories
    """The real test trips."""
    students: Mapping[str, Mapping[int, StudentResult]]
    """`vanilla` and, with distillation, `distilled`: results by seed."""
    teacher: Mapping[str, Any] = field(default_factory=dict)
    """`history`: metrics of each epoch, if it was trained here; `label_values`: arrays to draw, by axis label; every
    other entry is a table of values by name (`teacher_evaluation`, `grid_token_table`, …)."""
    left_out: Sequence[Mapping[str, Any]] = ()
    """Rows `seed` and `reason`: seeds that are not comparable with these."""
    settings_yaml: str = ""
    """The settings of the artifacts."""
    versions: Sequence[Mapping[str, str]] = ()
    """The artifacts behind the report: asset, version, created_at (UTC), inputs."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall-clock seconds by stage."""
    sizes: Mapping[str, int | float | str] = field(default_factory=dict)
    """More sizes of the data, by name (training trips, for example)."""
    decoder: str = ""
    """Description of the decoder that generated the trips."""
    recipe: str = ""
    """Recipe of the distilled students, with its weights."""
    student_trips: tuple[int, int] | None = None
    """Training trips of a student and of the city, if students have a share of them (`student.train_fraction`)."""
    baselines: Baselines = field(default_factory=Baselines)
    """Baselines and other generators, shown beside the students."""
    trip_values: Mapping[str, Mapping[str, TripValues]] = field(default_factory=dict)
    """Metrics of each test trip by `section.metric`, by student (mean over the seeds) and baseline."""
    ceilings: CeilingResults = field(default_factory=CeilingResults)
    """Ceilings of next-step prediction."""
    floors: Mapping[str, Floor] = field(default_factory=dict)
    """Divergence of real trips from as many real trips, by `section.metric`."""
    latency: Sequence[Latency] = ()
    """Times of the machine that ran the stages; never part of a version or of a comparison."""
    files: Sequence[FileLink] = ()
    """Files to open in a GIS."""
    baseline_trips: Mapping[str, Trajectories] = field(default_factory=dict)
    """Trips of the baselines for the students' requests, by name."""
    figures: Mapping[str, bytes] = field(default_factory=dict)
    """More figures (PNG) by caption: the grid, the zones, the teacher's negative log-likelihood."""


def first_generated(data: ReportData) -> dict[str, StudentResult]:
    """Return, for each student, the result of its first seed with generated trips."""
    results = {}
    for kind, seeds in data.students.items():
        first = next((seeds[seed] for seed in sorted(seeds) if seeds[seed].generated is not None), None)
        if first is not None:
            results[kind] = first
    return results


def answered_trips(data: ReportData) -> Trajectories | None:
    """Return the real trips that the first seed's trips of all students answer, row by row; None if there are none."""
    answered = [real_of(data, result) for result in first_generated(data).values()]
    return answered[0] if answered and all(real is not None for real in answered) else None


def real_of(data: ReportData, result: StudentResult) -> Trajectories | None:
    """Return the real trip of each generated one, row by row; None if the requests are not those of real trips."""
    trips = result.generated
    if trips is None:
        return None
    if result.real_rows is not None:
        return data.real.take(result.real_rows)
    same = len(trips) == len(data.real) and bool((trips.origins == data.real.origins).all())
    return data.real if same else None
