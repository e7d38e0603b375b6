"""The report of a city: one HTML file that a person reads, prints and sends, without anything to load.

What belongs here: which tables, sentences and pictures the page has. The words' frame and the looks are in
`templates/report.html`; the comparison is `hoser_kd.comparison`, the pictures are `hoser_kd.plots`.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jinja2
import numpy as np
from matplotlib.figure import Figure

from hoser_kd import plots
from hoser_kd.atomic import atomic_path
from hoser_kd.comparison import LABELS, SECTIONS, Row, compare
from hoser_kd.failures import CAUSES
from hoser_kd.metrics import flatten, road_overlap
from hoser_kd.progress import duration
from hoser_kd.ragged import row_of_value
from hoser_kd.scenarios import SCENARIOS

if TYPE_CHECKING:
    from os import PathLike

    from hoser_kd.failures import Failure
    from hoser_kd.ragged import BoolArray, Int64Array
    from hoser_kd.road_network import RoadNetwork
    from hoser_kd.trajectories import Trajectories

CURVES = ("nll", "accuracy", "decision_accuracy", "time_mae_s", "calibration_error", "kl", "generation_reached",
          "generation_score")
"""Figures of the students' epochs that are drawn, of those `hoser_kd.training` records."""
TRIP_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
"""The trips drawn one by one lie at these quantiles of the real trips' number of roads."""
SCENARIO_FIGURES = ("next_step.decision_accuracy", "requests.reached_share", "paired.edit_similarity", "similarity.dtw",
                    "distance.jsd", "duration.jsd")
"""Figures shown of each scenario; all of them are in the metrics' file."""
WORST = 2
"""Failures drawn of each cause and student."""
_GROUPINGS = {"hour": "hour of the day", "to_go": "distance to the destination, great circle",
              "road_class": "class of the road that is left"}
_SHORT = {"similarity": "same OD cells", "paired": "same request"}
"""Sections whose heading is too long for a picture."""


@dataclass(frozen=True)
class StudentResult:
    """What one training of a student came to."""

    history: Sequence[Mapping[str, Any]]
    """Figures of each epoch."""
    test: Mapping[str, float]
    """Figures of the next-step prediction on the test trips, as in `hoser_kd.comparison.NEXT_STEP`."""
    metrics: Mapping[str, Mapping[str, Any]] | None = None
    """What `hoser_kd.metrics.evaluate` says of its generated trips."""
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
    """The same as `metrics` by scenario (`hoser_kd.scenarios`)."""
    next_step_by: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    """Figures of the next step by grouping and group (`hoser_kd.scenarios.next_step_by`)."""


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
    settings_yaml: str = ""
    """The city's settings, defaults included."""
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


class _Picture(NamedTuple):
    caption: str
    source: str
    """A data URL."""
    width_px: int
    """Width at which it is shown where there is room."""


class _Line(NamedTuple):
    """A row of a comparison as texts."""

    label: str
    unit: str
    direction: str
    real: str
    vanilla: str
    distilled: str
    difference: str
    interval: str
    effect: str
    verdict: str


_Drawing = tuple[Figure | bytes, str]
"""A picture to be, and its caption."""


def write_report(path: str | PathLike[str], data: ReportData) -> None:
    """Write the report to `path`; a report that was there before stays until the new one is whole."""
    page = render(data)
    with atomic_path(path) as beside:
        Path(beside).write_text(page, encoding="utf-8")


def render(data: ReportData, *, with_pictures: bool = True) -> str:
    """Return the report as one HTML text: styles and pictures inside, no script, nothing loaded from anywhere.

    Without pictures it is made in no time and small enough for a message.
    """
    def pictures(drawings: Iterable[_Drawing]) -> list[_Picture]:
        return [_inline(drawing, caption) for drawing, caption in drawings] if with_pictures else []

    rows = compare(_runs(data.students.get("vanilla", {})), _runs(data.students.get("distilled", {})))
    has_distilled = bool(data.students.get("distilled"))
    next_step = [row for row in rows if row.section == "next_step" and row.name != "next_step.steps"]
    generation = [row for row in rows if row.section not in {"next_step", "counts"}
                  and row.name != "training.real_copied_share"]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html").render(
        city=data.city,
        headline=_headline(rows, _pairs(data)),
        sentences=list(_sentences(data, rows)),
        caveat=_caveat(_pairs(data)) if has_distilled else "",
        has_distilled=has_distilled,
        kinds=list(data.students),
        several_seeds=any(len(results) > 1 for results in data.students.values()),
        tiles=_tiles(rows) if has_distilled else [],
        next_step=[_line(row) for row in next_step],
        generation=[(SECTIONS.get(section, section), [_line(row) for row in group])
                    for section, group in groupby(generation, key=lambda row: row.section)],
        decoder=data.decoder,
        scenarios=list(_scenarios(data)),
        group_pictures=pictures(_group_pictures(data)),
        failure_counts=_failure_counts(data),
        failure_pictures=pictures(_failure_pictures(data)),
        difference_pictures=pictures(_difference_pictures(rows)),
        training_pictures=pictures(_training_pictures(data)),
        trip_pictures=pictures(_trip_pictures(data)),
        teacher_tables=[(_words(name), list(_figures(value))) for name, value in data.teacher.items()
                        if isinstance(value, Mapping) and name != "label_values" and value],
        teacher_pictures=pictures(_teacher_pictures(data)),
        sizes=list(_sizes(data)),
        data_pictures=pictures(_data_pictures(data)),
        seconds=[(_words(name), duration(value)) for name, value in data.seconds.items()],
        total=duration(sum(data.seconds.values())),
        settings=data.settings_yaml,
        versions=[dict(version) for version in data.versions],
        definitions=_definitions(rows),
    )


def _runs(results: Mapping[int, StudentResult]) -> dict[int, dict[str, float]]:
    """Return the figures of every seed by `section.figure`."""
    return {
        seed: {f"next_step.{name}": float(value) for name, value in result.test.items() if _is_number(value)}
        | (flatten(result.metrics) if result.metrics else {})
        for seed, result in results.items()
    }


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and bool(np.isfinite(value))


def _pairs(data: ReportData) -> int:
    return len(data.students.get("vanilla", {}).keys() & data.students.get("distilled", {}).keys())


def _judged(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that say which student is better; the published EDR would count the same thing twice."""
    return [row for row in rows if row.verdict is not None and not row.name.endswith(".edr_published")]


def _headline(rows: Sequence[Row], num_pairs: int) -> str:
    judged = _judged(rows)
    better = sum(row.verdict == "better" for row in judged)
    worse = sum(row.verdict == "worse" for row in judged)
    if not judged:
        return "Plain HOSER; no distilled student to compare it with."
    if num_pairs == 1:
        lean = sum(row.verdict == "leans better" for row in judged)
        return f"One seed: {lean} of {len(judged)} figures lean towards the distilled student, none is clear."
    if better and not worse:
        return f"Distillation helped: {_count(better, 'figure')} clearly better, none clearly worse."
    if better and worse:
        return f"A mixed result: {_count(better, 'figure')} clearly better, {worse} clearly worse."
    if worse:
        return f"Distillation did not help: {_count(worse, 'figure')} clearly worse, none clearly better."
    return f"No clear difference: none of {len(judged)} figures differs beyond what seeds alone can explain."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun} is" if number == 1 else f"{number} {noun}s are"


def _sentences(data: ReportData, rows: Sequence[Row]) -> Iterator[str]:
    """Yield the verdict in plain words."""
    vanilla, distilled = (data.students.get(kind, {}) for kind in ("vanilla", "distilled"))
    trips = f"{len(data.real):,} real test trips"
    if not distilled:
        yield (f"Distillation is switched off for {data.city}. The page shows the plain student alone, trained with "
               f"{_seeds(vanilla)} and tested on {trips}.")
        return
    yield (f"HOSER was trained in {data.city} with and without the teacher's labels, {_seeds(distilled)} each, and "
           f"tested on {trips}.")
    by_name = {row.name: row for row in rows}
    accuracy = by_name.get("next_step.accuracy")
    if accuracy is not None and accuracy.difference is not None:
        line = _line(accuracy)
        taught, plain = (f"{100 * np.mean(values):.2f}\N{NO-BREAK SPACE}%"
                         for values in (accuracy.distilled, accuracy.vanilla))
        yield (f"The distilled student names the next road in {taught} of the steps, the plain one in {plain}: "
               f"{line.difference} points"
               + (f", 95 % interval {line.interval}." if line.interval else "."))
    judged = _judged(rows)
    for verdict, words in (("better", "Clearly better with the teacher"), ("worse", "Clearly worse with the teacher")):
        names = [_full_label(row) for row in judged if row.verdict == verdict]
        if names:
            yield f"{words}: {'; '.join(names)}."
    open_rows = [row for row in judged if row.verdict not in {"better", "worse"}]
    if open_rows:
        ahead = sum(row.verdict == "leans better" for row in open_rows)
        same = sum(row.verdict == "same" for row in open_rows)
        yield (f"Of the {'other ' if len(open_rows) < len(judged) else ''}{len(open_rows)} figures with a better and a "
               f"worse direction, {ahead} lean towards the distilled student, {len(open_rows) - ahead - same} towards "
               f"the plain one" + (f", and {same} are the same." if same else "."))


def _seeds(results: Mapping[int, StudentResult]) -> str:
    seeds = ", ".join(str(seed) for seed in results)
    return f"one seed ({seeds})" if len(results) == 1 else f"{len(results)} seeds ({seeds})"


def _caveat(num_pairs: int) -> str:
    if num_pairs == 0:
        return "The students share no seed, so their figures are shown side by side and not compared."
    if num_pairs == 1:
        return ("One seed gives no interval: a difference of any size may be chance. Train with more seeds (five or "
                "more) before believing one. Nothing here claims statistical significance.")
    return (f"Differences are paired by seed; intervals are 95 % t-intervals over {num_pairs} seeds. “Clearly” means "
            "that the interval does not hold 0. The effect is the mean difference over its standard deviation over the "
            "seeds. An interval speaks of the chance in training, not of other cities or "
            "other trips, and among many figures one in twenty is clear by luck alone. Nothing here claims "
            "statistical significance.")


def _full_label(row: Row) -> str:
    return f"{row.label} ({_in_text(row.section)})"


def _in_text(section: str) -> str:
    heading = SECTIONS.get(section, _words(section))
    return heading[:1].lower() + heading[1:]


def _tiles(rows: Sequence[Row]) -> list[tuple[str, _Line]]:
    """Return the few figures that come first, as far as they are known."""
    first = ("next_step.accuracy", "next_step.nll", "requests.reached_share", "similarity.dtw", "distance.jsd")
    by_name = {row.name: row for row in rows}
    return [(SECTIONS[by_name[name].section].partition(",")[0], _line(by_name[name])) for name in first
            if name in by_name and by_name[name].difference is not None]


def _line(row: Row) -> _Line:
    arrow = {"lower": "↓", "higher": "↑", None: ""}[row.definition.better]
    aim = row.name.endswith(".generated_mean") or row.name == "paired.detour_ratio"
    decimals = _decimals(row)
    difference = interval = ""
    if row.difference is not None:
        finer = _decimals_of_difference(row, decimals)
        difference = _text(row, row.difference.mean, finer, sign=True)
        if np.isfinite(row.difference.low):
            interval = " to ".join(_text(row, end, finer, sign=True)
                                   for end in (row.difference.low, row.difference.high))
    return _Line(
        label=row.label, unit="%" if row.is_share else row.definition.unit, direction="→ real" if aim else arrow,
        real="" if row.real is None else _text(row, row.real, decimals),
        vanilla=_spread(row, row.vanilla, decimals), distilled=_spread(row, row.distilled, decimals),
        difference=difference, interval=interval,
        effect="" if row.effect is None else f"{row.effect:+.1f}".replace("-", "−"), verdict=row.verdict or "",
    )


def _spread(row: Row, values: Sequence[float], decimals: int) -> str:
    """Return the mean over the seeds and, where there are several, their standard deviation."""
    if not values:
        return ""
    mean = _text(row, float(np.mean(values)), decimals)
    return mean if len(values) == 1 else f"{mean} ± {_text(row, float(np.std(values, ddof=1)), decimals)}"


def _decimals(row: Row) -> int:
    """Return the decimals every number of the row gets: four significant digits of the mean, at most five decimals."""
    if row.is_share:
        return 2
    size = abs(float(np.mean(row.vanilla or row.distilled)))
    return 3 if size == 0 else int(np.clip(3 - np.floor(np.log10(size)), 0, 5))


def _decimals_of_difference(row: Row, decimals: int) -> int:
    """Return up to two more decimals where the difference would vanish otherwise."""
    size = abs(row.difference.mean) if row.difference is not None else 0.0
    if row.is_share or size == 0:
        return decimals
    return int(np.clip(1 - np.floor(np.log10(size)), decimals, decimals + 2))


def _text(row: Row, value: float, decimals: int, *, sign: bool = False) -> str:
    number = 100 * value if row.is_share else value
    return f"{number:{'+' if sign else ''},.{decimals}f}".replace("-", "−")


def _plain(value: float) -> str:
    """Return a number with four significant digits, without needless zeros."""
    return f"{value:.4g}".replace("-", "−") if abs(value) < 1e4 else f"{value:,.0f}".replace("-", "−")


def _scenarios(data: ReportData) -> Iterator[tuple[str, str, list[_Line]]]:
    """Yield scenario, what belongs to it, and its lines."""
    for name, about in SCENARIOS.items():
        runs = [{seed: _of_scenario(result, name) for seed, result in data.students.get(kind, {}).items()
                 if name in result.scenarios} for kind in ("vanilla", "distilled")]
        by_name = {row.name: row for row in compare(runs[0], runs[1])}
        lines = [_line(row)._replace(label=_full_label(row))
                 for row in (by_name[figure] for figure in SCENARIO_FIGURES if figure in by_name)]
        if lines:
            counts = [figures["counts.generated"] for figures in runs[0].values()]
            plain = about.replace("`", "")
            yield _words(name), f"{plain}: {np.mean(counts):,.0f}" if counts else plain, lines


def _of_scenario(result: StudentResult, name: str) -> dict[str, float]:
    next_step = result.next_step_by.get("scenario", {}).get(name, {})
    return {**{f"next_step.{figure}": value for figure, value in next_step.items()}, **flatten(result.scenarios[name])}


def _group_pictures(data: ReportData) -> Iterator[_Drawing]:
    """Draw the accuracy where there is a choice by hour, way to go and class of road."""
    values: dict[str, dict[str, dict[str, float]]] = {}
    weights: dict[str, dict[str, float]] = {}
    for kind, results in data.students.items():
        for grouping in _GROUPINGS:
            seeds = [result.next_step_by[grouping] for result in results.values() if grouping in result.next_step_by]
            if not seeds:
                continue
            weights[grouping] = {group: figures["steps"] for group, figures in seeds[0].items()}
            values.setdefault(grouping, {})[kind] = {
                group: float(np.mean([seed[group]["decision_accuracy"] for seed in seeds]))
                for group in seeds[0] if all("decision_accuracy" in seed.get(group, {}) for seed in seeds)
            }
    if values:
        yield (plots.by_group(values, _GROUPINGS, weights, "accuracy where there is a choice"),
               "Accuracy of the next step where there is a choice, mean over the seeds.")


def _difference_pictures(rows: Sequence[Row]) -> Iterator[_Drawing]:
    shown = [(row, row.relative) for row in _judged(rows) if row.definition.better is not None]
    drawn = [(f"{row.label} ({_SHORT.get(row.section, _in_text(row.section))})", *relative, row.definition.better)
             for row, relative in shown if relative is not None]
    if drawn:
        yield plots.differences(drawn), (
            "Differences in percent of the plain student, with 95 % intervals where there are several seeds. Blue is "
            "better, orange worse; hollow where the interval holds 0 or is missing.")


def _training_pictures(data: ReportData) -> Iterator[_Drawing]:
    histories = {kind: [run.history for run in runs.values()] for kind, runs in data.students.items()}
    figure = plots.training_curves(histories, {name: LABELS.get(name, _words(name)) for name in CURVES})
    if figure.axes:
        yield figure, "Figures of each epoch; where there are several seeds, thin lines are one each, thick their mean."


def _generated(data: ReportData) -> dict[str, StudentResult]:
    """Return the first seed's result of each student that has generated trips."""
    found = {}
    for kind, results in data.students.items():
        first = next((results[seed] for seed in sorted(results) if results[seed].generated is not None), None)
        if first is not None:
            found[kind] = first
    return found


def _trip_pictures(data: ReportData) -> Iterator[_Drawing]:
    results = _generated(data)
    trips = {kind: result.generated for kind, result in results.items() if result.generated is not None}
    if not trips:
        return
    yield (plots.distributions(data.real, trips, data.network),
           "Distributions over the trips of the first seed; what lies beyond the axis is in the last bar.")
    yield (plots.use_map(data.network, {"real": data.real, **trips}),
           "How often each road is driven, on one logarithmic scale; roads nobody drives are grey.")
    real = _answered(data)
    if real is not None:
        yield from _wins(data)
        lengths = real.lengths
        order = np.argsort(lengths, kind="stable")
        rows = list(dict.fromkeys(int(order[int(q * (len(order) - 1))]) for q in TRIP_QUANTILES))
        notes = {"real": [f"{lengths[row]} roads" for row in rows]}
        notes |= {kind: [_trip_note(each, results[kind].reached, row) for row in rows] for kind, each in trips.items()}
        shares = ", ".join(f"{100 * q:g}" for q in TRIP_QUANTILES)
        yield (plots.trips_map(data.network, {"real": real, **trips}, rows, notes),
               (f"Requests, one a row: the real trips at percentiles {shares} of length, and the answers of the first "
                "seed. They were not picked by hand."))


def _answered(data: ReportData) -> Trajectories | None:
    """Return the real trips that the first seed's trips of all students answer, one each; None if there are none."""
    found = [_real_of(data, result) for result in _generated(data).values()]
    return found[0] if found and all(real is not None for real in found) else None


def _real_of(data: ReportData, result: StudentResult) -> Trajectories | None:
    """Return the real trip of each generated one."""
    trips = result.generated
    if trips is None:
        return None
    if result.real_rows is not None:
        return data.real.take(result.real_rows)
    same = len(trips) == len(data.real) and bool((trips.origins == data.real.origins).all())
    return data.real if same else None


def _wins(data: ReportData) -> Iterator[_Drawing]:
    """Draw where which student comes closer to the real trips, over the seeds both have."""
    vanilla, distilled = (data.students.get(kind, {}) for kind in ("vanilla", "distilled"))
    num_roads = data.network.num_roads
    gain, visits = np.zeros(num_roads), np.zeros(num_roads, np.int64)
    for seed in vanilla.keys() & distilled.keys():
        real = _real_of(data, vanilla[seed])
        plain, taught = vanilla[seed].generated, distilled[seed].generated
        if real is None or plain is None or taught is None or len(plain) != len(taught):
            continue
        gained = road_overlap(real, taught, num_roads) - road_overlap(real, plain, num_roads)
        gain += np.bincount(real.road_ids, gained[row_of_value(real.offsets)], num_roads)
        visits += np.bincount(real.road_ids, minlength=num_roads)
    if visits.any():
        yield (plots.wins_map(data.network, gain / np.maximum(visits, 1), visits, "Where each student wins"),
               ("Each real trip's roads take the difference of the two students' overlap (Jaccard) with it, mean over "
                "trips and seeds: blue where the distilled student follows real trips better, orange where the plain "
                "one does. Roads of few trips show chance."))


def _failure_counts(data: ReportData) -> list[tuple[str, str, list[str]]]:
    """Return (cause, explanation, share of the trips for each student) of each cause, over all seeds."""
    if not any(result.failures for results in data.students.values() for result in results.values()):
        return []
    return [(cause, about, [_share_of_cause(list(results.values()), cause) for results in data.students.values()])
            for cause, about in CAUSES.items()]


def _share_of_cause(results: Sequence[StudentResult], cause: str) -> str:
    total = sum(len(result.generated) for result in results if result.generated is not None)
    count = sum(failure.cause == cause for result in results for failure in result.failures)
    return f"{100 * count / total:.2f}" if total else ""


def _failure_pictures(data: ReportData) -> Iterator[_Drawing]:
    """Draw the worst failures of each cause, with what the other student and the real driver did."""
    results = _generated(data)
    trips = {kind: result.generated for kind, result in results.items() if result.generated is not None}
    real = _answered(data)
    by_kind = {kind: {failure.row: failure for failure in result.failures} for kind, result in results.items()}
    for cause in CAUSES:
        rows = list(dict.fromkeys(failure.row for result in results.values()
                                  for failure in [f for f in result.failures if f.cause == cause][:WORST]))
        if not rows or real is None:
            continue
        notes = {"real": [f"{real.lengths[row]} roads" for row in rows]}
        for kind in trips:
            found = [by_kind[kind].get(row) for row in rows]
            notes[kind] = [f"{trips[kind].lengths[row]} roads" + (f", {failure.cause}, {failure.away_km:.1f} km off"
                                                                   if failure else "")
                           for row, failure in zip(rows, found, strict=True)]
        yield (plots.trips_map(data.network, {"real": real, **trips}, rows, notes),
               f"The worst of “{cause}” ({CAUSES[cause]}), up to {WORST} a student, first seed.")


def _trip_note(trips: Trajectories, reached: BoolArray | None, row: int) -> str:
    roads = f"{trips.lengths[row]} roads"
    return roads if reached is None or reached[row] else f"{roads}, destination not reached"


def _teacher_pictures(data: ReportData) -> Iterator[_Drawing]:
    if data.teacher.get("history"):
        figure = plots.training_curves({"teacher": [data.teacher["history"]]})
        if figure.axes:
            yield figure, "The teacher's training, by epoch."
    if data.teacher.get("label_values"):
        yield (plots.histograms(data.teacher["label_values"]),
               "What the labels look like over the steps; the dotted line is the median.")


def _data_pictures(data: ReportData) -> Iterator[_Drawing]:
    yield plots.network_map(data.network), "The road network."
    for caption, image in data.pictures.items():
        yield image, caption


def _sizes(data: ReportData) -> Iterator[tuple[str, str]]:
    yield "roads", f"{data.network.num_roads:,}"
    yield "length of the roads", f"{data.network.length_m.sum() / 1000:,.0f} km"
    yield "connections", f"{len(data.network.successors.indices):,}"
    yield "test trips", f"{len(data.real):,}"
    yield "steps of the test trips", f"{data.real.num_steps:,}"
    for kind, result in _generated(data).items():
        if result.generated is not None:
            yield f"generated trips a seed, {kind}", f"{len(result.generated):,}"
    yield from _figures(data.sizes)


def _figures(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (words, text) of every plain value of a nested dict; lists and arrays are left out."""
    for name, value in figures.items():
        words = f"{prefix}{_words(name)}"
        if isinstance(value, Mapping):
            yield from _figures(value, f"{words}: ")
        elif isinstance(value, bool):
            yield words, "yes" if value else "no"
        elif isinstance(value, int | np.integer):
            yield words, f"{value:,}"
        elif _is_number(value):
            yield words, _plain(float(value))
        elif isinstance(value, str):
            yield words, value


def _words(name: str) -> str:
    return name.replace("_", " ")


def _definitions(rows: Sequence[Row]) -> list[tuple[str, list[tuple[str, str, str, str]]]]:
    """Return (section, [(label, unit, direction, definition)]) of every figure shown that has a definition."""
    better = {"lower": "lower", "higher": "higher", None: ""}
    table = []
    for section, group in groupby(rows, key=lambda row: row.section):
        defined = [(row.label, "%" if row.is_share else row.definition.unit, better[row.definition.better],
                    row.definition.text) for row in group]
        defined = [entry for entry in defined if entry[-1]]
        if defined:
            table.append((SECTIONS.get(section, section), defined))
    return table


def _inline(drawing: Figure | bytes, caption: str) -> _Picture:
    """Put a picture into a data URL, to be shown at 104 pixels an inch, or at its own size where it came as PNG."""
    if isinstance(drawing, bytes):
        image, width = drawing, int.from_bytes(drawing[16:20], "big")  # the PNG header's
    else:
        image, width = plots.png(drawing, dpi=130), round(104 * drawing.get_figwidth())
    return _Picture(caption, "data:image/png;base64," + base64.b64encode(image).decode("ascii"), width)
