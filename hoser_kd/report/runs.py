"""Comparison of trained students over seeds, settings, versions and cities: groups of runs and what distinguishes them.

A group holds runs that differ by the seed alone, so a mean over it and its interval describe the randomness of
training. Groups of one city are compared with the reference of that city, paired by seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hoser_kd.evaluation.comparison import metric_of
from hoser_kd.evaluation.metric_registry import Metric
from hoser_kd.evaluation.statistics import Difference, Interval, interval_over_seeds, paired_difference
from hoser_kd.evaluation.trip_values import TripValues

ABSENT = "–"
"""Text in place of a setting that a run does not read."""


@dataclass(frozen=True)
class RunRecord:
    """One trained student and, where it was evaluated, its metrics on the test trips; all from artifact records."""

    city: str
    """Name of the city."""
    student: str
    """`vanilla` or `distilled`."""
    seed: int
    """Its seed."""
    version: str
    """Version of the student's artifact."""
    created_at: str
    """Time of its materialization, UTC."""
    settings: Mapping[str, str]
    """All settings that student, inputs and evaluation read, defaults included, as text by their place in the YAML."""
    origin: Mapping[str, str]
    """Code versions and versions of the inputs by name. Inputs with a seed are left out."""
    metrics: Mapping[str, float]
    """Metrics by `section.metric`; those of the section `val` are of validation trips."""
    history: Sequence[Mapping[str, float]] = ()
    """Metrics of each epoch."""
    test_split: str = ""
    """Version of the test trips that it was evaluated on; empty if it was not."""
    trip_values: Callable[[], Mapping[str, TripValues]] = field(default=dict, compare=False)
    """Reads the metrics of each test trip, by `section.metric`; empty where the artifact has none."""


@dataclass(frozen=True)
class RunGroup:
    """Runs of one city that differ by the seed alone."""

    runs: tuple[RunRecord, ...]
    """The runs by seed."""
    intervals: Mapping[str, Interval]
    """Mean and t-interval over the seeds of each metric; NaN ends for one seed."""
    differences: Mapping[str, Difference] = field(default_factory=dict)
    """Group minus reference over common seeds, by metric; empty for the reference, and where no seed is common."""
    is_reference: bool = False
    """Whether the other groups of the city are compared with it."""

    @property
    def first(self) -> RunRecord:
        """A run of the group: city, student and settings are those of all its runs."""
        return self.runs[0]


@dataclass(frozen=True)
class RunComparison:
    """All groups, and what distinguishes them."""

    groups: tuple[RunGroup, ...]
    """Groups by city, the reference of each city first, then the student and the settings."""
    columns: tuple[str, ...]
    """Settings, code versions and input versions that differ between groups of the same city."""
    between_cities: tuple[str, ...]
    """Settings that differ between cities only."""
    metrics: tuple[Metric, ...]
    """Records of all metrics that a run has, in the order in which runs hold them."""

    def reference_of(self, group: RunGroup) -> RunGroup:
        """Return the reference of a group's city."""
        return next(each for each in self.groups if each.is_reference and each.first.city == group.first.city)

    @property
    def shown(self) -> tuple[Metric, ...]:
        """Metrics of the short table: validation NLL and the headline metrics on test trips."""
        chosen = tuple(metric for metric in self.metrics if metric.headline or metric.name == "val.nll")
        return chosen or self.metrics[:6]


def compare_runs(runs: Iterable[RunRecord], reference: str = "") -> RunComparison:
    """Group runs and compare the groups of each city with its reference.

    `reference` is the beginning of the version of a run in the reference group of its city. By default the reference
    is the vanilla group whose seeds the most runs of the city have, the oldest of several.
    """
    by_key: dict[Any, list[RunRecord]] = {}
    for run in sorted(runs, key=lambda run: (run.city, run.seed, run.created_at)):
        by_key.setdefault(_key(run), []).append(run)
    groups: list[RunGroup] = []
    for city in dict.fromkeys(key[0] for key in by_key):
        of_city = [tuple(members) for key, members in by_key.items() if key[0] == city]
        groups += _with_differences(of_city, _reference(of_city, reference))
    columns = tuple(_columns(groups))
    order = sorted(groups, key=lambda group: (group.first.city, not group.is_reference, _place(group, columns)))
    names = dict.fromkeys(name for group in groups for run in group.runs for name in run.metrics)
    return RunComparison(
        tuple(order), columns, tuple(_between_cities(groups, columns)), tuple(metric_record(name) for name in names)
    )


def metric_record(name: str) -> Metric:
    """Return the record of a metric; the section `val` has those of next steps, on validation trips."""
    section, _, rest = name.partition(".")
    if section != "val":
        return metric_of(name)
    known = metric_of(f"next_step.{rest}")
    return Metric(name, known.label, known.text, unit=known.unit, better=known.better, is_share=known.is_share)


def value_of(group: RunGroup, column: str) -> str:
    """Return the text of a column for a group."""
    return group.first.settings.get(column, group.first.origin.get(column, ABSENT))


def _key(run: RunRecord) -> tuple[Any, ...]:
    return run.city, run.student, tuple(sorted(run.settings.items())), tuple(sorted(run.origin.items()))


def _place(group: RunGroup, columns: Sequence[str]) -> tuple[Any, ...]:
    return group.first.student != "vanilla", [value_of(group, column) for column in columns]


def _reference(groups: Sequence[tuple[RunRecord, ...]], version: str) -> tuple[RunRecord, ...]:
    if version:
        for runs in groups:
            if any(run.version.startswith(version) for run in runs):
                return runs

    def place(runs: tuple[RunRecord, ...]) -> tuple[bool, int, str]:
        seeds = {run.seed for run in runs}
        paired = sum(run.seed in seeds for other in groups for run in other)
        return runs[0].student != "vanilla", -paired, runs[0].created_at

    return min(groups, key=place)


def _with_differences(groups: Sequence[tuple[RunRecord, ...]], reference: tuple[RunRecord, ...]) -> Iterator[RunGroup]:
    for runs in groups:
        names = dict.fromkeys(name for run in runs for name in run.metrics)
        intervals = {
            name: interval_over_seeds([run.metrics[name] for run in runs if name in run.metrics]) for name in names
        }
        is_reference = runs is reference
        differences = {} if is_reference else {name: _difference(runs, reference, name) for name in names}
        known = {name: difference for name, difference in differences.items() if difference is not None}
        yield RunGroup(runs, intervals, known, is_reference)


def _difference(runs: Sequence[RunRecord], reference: Sequence[RunRecord], name: str) -> Difference | None:
    a, b = ({run.seed: run.metrics[name] for run in each if name in run.metrics} for each in (runs, reference))
    common = [seed for seed in a if seed in b]
    return paired_difference([a[seed] for seed in common], [b[seed] for seed in common]) if common else None


def _columns(groups: Sequence[RunGroup]) -> Iterator[str]:
    """Yield the settings that differ within a city, then versions where the settings do not distinguish its groups."""
    settings = dict.fromkeys(name for group in groups for name in group.first.settings)
    chosen = [name for name in settings if _differs_within_a_city(groups, name)]
    yield from chosen
    places = [(group.first.city, group.first.student, *(value_of(group, name) for name in chosen)) for group in groups]
    alike = [group for group, place in zip(groups, places, strict=True) if places.count(place) > 1]
    for name in dict.fromkeys(name for group in alike for name in group.first.origin):
        if _differs_within_a_city(alike, name):
            yield name


def _differs_within_a_city(groups: Sequence[RunGroup], name: str) -> bool:
    values: dict[str, set[str]] = {}
    for group in groups:
        values.setdefault(group.first.city, set()).add(value_of(group, name))
    return any(len(of_city - {ABSENT}) > 1 for of_city in values.values())


def _between_cities(groups: Sequence[RunGroup], columns: Sequence[str]) -> Iterator[str]:
    for name in dict.fromkeys(name for group in groups for name in group.first.settings):
        values = {value_of(group, name) for group in groups} - {ABSENT}
        if name not in columns and len(values) > 1:
            yield name
