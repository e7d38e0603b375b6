"""Generate the pages and tables of docs/ that follow from the code: `python docs/build.py`.

tests/test_docs.py checks that they are current.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from hoser_kd.config.schema import CityConfig
from hoser_kd.evaluation.divergences import MIN_TRIPS_FOR_JSD
from hoser_kd.evaluation.failures import CAUSES
from hoser_kd.evaluation.metric_registry import SECTIONS, Metric, all_metrics
from hoser_kd.evaluation.scenarios import LEAST_TRIPS, SCENARIOS
from hoser_kd.evaluation.statistics import PRIMARY_NEXT_STEP, PRIMARY_TRIP, RESAMPLES
from hoser_kd.generation.baselines import BASELINES
from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.stage import Stage

DOCS = Path(__file__).resolve().parent


def settings_page() -> str:
    """Return docs/settings.md: every setting with its type, default and meaning."""
    lines = [
        "# Settings of a city",
        "",
        "Each city has one YAML file, `config/<city>.yaml`, named after it. `source` is required, and `grid` if a",
        "teacher is trained in the pipeline. Unknown keys, wrong types and contradictions are errors that name the",
        "file, the line and the closest known key. `hoser-kd show-config --dataset <city>` prints the settings of a",
        "city with all defaults. In strings, `${NAME}` and `${NAME:-default}` are replaced by environment variables.",
        "",
        "*Generated from `hoser_kd/config/` by `python docs/build.py`.*",
    ]
    for name, model in _sections(CityConfig):
        lines += ["", f"## `{name}`", "", _one_line(model.__doc__), ""]
        lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
        for key, field in model.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                continue
            default = "required" if field.is_required() else f"`{_plain(field.default)}`"
            lines.append(f"| `{key}` | {_type(field.annotation)} | {default} | {_one_line(field.description)} |")
    return "\n".join(lines) + "\n"


def _sections(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    for key, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield f"{prefix}{key}", kind
            yield from _sections(kind, f"{prefix}{key}.")


def _type(annotation: object) -> str:
    if isinstance(annotation, type):
        return annotation.__name__
    text = str(annotation).replace("typing.", "").replace("NoneType", "none")
    return text.replace("None", "none").replace("|", "or").replace("Literal", "one of ")


def _plain(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


_METRICS_INTRO = """\
# Metrics

Every metric with its unit, the better direction and its definition. Distances and radii follow the published
evaluation (HOSER: Cao et al., AAAI 2025): histograms have 100 evenly spaced edges from 0 to the real maximum, and the
earth radius is 6,371.009 km for distance and radius, 6,378 km for Hausdorff and DTW, 6,378.137 km for EDR. `→ real`
and `→ 1` mark metrics that are best where they equal the value of the real trips, or 1. Sections of requests need
requests, `paired` those of test trips, `training`, `privacy` and `utility` the training trips, and `diversity` several
samples per request (`generation.samples_per_od`). Scenarios leave out `privacy` and `utility`.

To add a metric, register one record in `hoser_kd/evaluation/metrics.py`; the evaluation, the comparison, the report
and this page read it.

*Generated from `hoser_kd/evaluation/` (`metrics.py`, `metric_registry.py`, `scenarios.py`, `failures.py`) by
`python docs/build.py`.*
"""
_SCENARIOS_INTRO = """
## Scenarios

All metrics of generated trips are also computed for subsets of the trips, defined by `evaluation` in the YAML. A
generated trip belongs to the scenarios of its request (origin, start time, destination).
"""
_SCENARIOS_NOTES = """
Each of the pairs weekday/weekend, peak/off-peak and center/suburb divides all trips in two. Hours and days are taken
from the trips' times without conversion. A scenario with fewer than {least} real or generated trips has no metrics.
One with fewer than {jsd} has no divergence (JSD), flows included, since two samples of real trips differ too
([sampling floor](#sampling-floor)).

Next-step metrics (`accuracy`, `decision_accuracy`, `nll`, `time_mae_s`, `steps`) are also grouped by the `scenario` of
the trip, the `hour` of the day, `to_go` (great-circle distance to the destination, km) and the `road_class` of the
current road.
"""
_COMPARISON = """
## Comparison

Differences are distilled minus vanilla, paired by seed, with 95 % t-intervals. Where the pairs of the same OD cells are
those of the same request, both sections have the same values; the [report](report.md) says so and shows one section.
"""
_STATISTICS = """
## Intervals and tests

One metric is primary for each question, named before the results: `{next_step}` on test trips for next steps, `{trip}`
for generated trips. The p-values of all others are adjusted together by the method of Holm
(`hoser_kd.evaluation.statistics.holm`).

Two intervals describe two kinds of randomness and are reported separately:

- over seeds (Student's t): another training on the same data, measured on the same test trips;
- over test trips (bootstrap, {resamples:,} resamples, seeded): other test trips for the same trainings. Whole trips are
  resampled, because the steps of a trip are not independent; the NLL of next steps is a ratio of sums over the
  resampled trips. The difference of two models is paired: both are measured on the same resampled trips.

Metrics that each trip has, such as EDR and NLL, are tested with a permutation test (`paired_trip_test`): if two models
do not differ, their values of a trip can be swapped. It tests the same difference as the interval.
`temperature_scaled_nll` in `hoser_kd.student.pools` is the NLL at the temperature of least NLL on validation trips: it
separates what a model predicts from how confident it is. [Ceilings](ceilings.md) compare the NLL of the students with
that of pools with the teacher, with other students and with a Markov chain.

## Sampling floor

The divergence of two samples of the same distribution is not 0. `hoser_kd.evaluation.sampling_floor.jsd_floors`
returns, for each divergence, its mean and 95 % quantile between two samples of n real trips. The samples are disjoint
where there are 2n real trips; with fewer, they are bootstrap samples, whose floor is too low (by a sixth on Porto). For
the traveled distance of Porto's training trips the mean is 0.34, 0.20, 0.12, 0.061 and 0.035 nats at n = 50, 100, 187,
375 and 650.

Below the floor, a divergence cannot tell the generated trips from real ones. That does not show that they are equal.
The samples of the floor are independent, while generated trips have the origins, destinations and start times of the
test trips, so they can be closer to these than the floor and still differ systematically: the shortest paths of the
demo have a mean traveled distance of 2.27 km (real: 2.57 km) and a divergence of 0.0625, below the 95 % quantile of
0.0701. The report marks such values (†) and takes no verdict from the floor.
"""


_BASELINES_INTRO = """
## Baselines

The stage `baseline_trips` generates trips for the same requests as the students, fitted on training trips only. They
are columns of the report and of `hoser-kd evaluate`. They have no seeds, so no interval over seeds. The primary metric
of trips is `paired.edr`; the report states which baselines are better and worse than which student on it, by the paired
differences and their intervals, and which are not shown to differ. Next-step metrics are compared
with counting models: the frequency of the next road, and Markov chains of order 1 and 2.
"""
_TRIP_FILES = """
## Trips of another generator

    hoser-kd evaluate --dataset my_city --trips trips.csv --name MyModel --out metrics.json --report page.html

computes the same metrics for the trips of any generator and prints them beside the baselines and the evaluated students
of `--seed`. It trains nothing. `--out` writes all metrics as JSON. `--report` writes the report of the city with a
column for the trips; it needs the artifacts of `hoser-kd report` for that seed. The file is one of

- a Parquet file with the list columns `road_ids` and `times`, as the stages write it;
- the published CSV: `gene_trace_road_id` and `gene_trace_datetime`;
- a CSV in HOSER's columns: `rid_list` and `time_list`.

A CSV may be compressed (`.csv.gz`). Road ids may be spelled as NumPy prints them, `np.int64(5)`; nothing in the file is
evaluated. Every trip needs one road or more, one time per road in order, and roads that are connected in `roadmap.rel`.
An invalid file is refused with the row, the column and the value.

Trips are paired with test trips for the metrics of the same request if each of them answers a test trip:

1. by the columns `origin_road_id` and `destination_road_id` of a CSV, the requested roads, where the file has them;
2. otherwise by row, if there are as many trips as test trips, with the same origins and start times;
3. otherwise by the first and the last road of the trip.

The k-th trip of an OD answers the k-th test trip of that OD; further trips start again with the first. The output says
how many trips match. If one does not, no trip is paired, and the metrics of the same request are left out.

Several trips may answer one test trip, as samples of its request. Metrics of the same request are then means over all
trips, and distributions are compared with each answered test trip once. A file that does not answer all test trips
gets a caution in the output, the JSON and the report, and its column says how many it answers; with fewer than 200 of
them, or fewer than 10 %, its divergences (JSD) are left out. Further cautions: a median duration 100 times that of
the real trips or a hundredth of it, and start times that no test trip of the origin and destination has.
"""


def evaluation_page() -> str:
    """Return docs/evaluation.md: every metric with unit, direction and definition."""
    parts = [_METRICS_INTRO]
    for section, (heading, _) in SECTIONS.items():
        rows = [_metric_row(metric) for metric in all_metrics() if metric.section == section]
        if rows:
            table = ["| metric | unit | better | definition | source |", "|---|---|---|---|---|", *rows]
            parts.append("\n".join(["", f"## {heading}", "", *table, ""]))
    parts += [
        _SCENARIOS_INTRO,
        _table("scenario", "contains", {f"`{name}`": about for name, about in SCENARIOS.items()}),
        _SCENARIOS_NOTES.format(least=LEAST_TRIPS, jsd=MIN_TRIPS_FOR_JSD),
        "\n## Arrival and route\n",
        _table("cause", "meaning", dict(CAUSES)),
        _COMPARISON,
        _BASELINES_INTRO,
        _table("baseline", "definition", _baselines()),
        _TRIP_FILES,
        _STATISTICS.format(next_step=PRIMARY_NEXT_STEP, trip=PRIMARY_TRIP, resamples=RESAMPLES),
    ]
    return "".join(parts)


def _baselines() -> dict[str, str]:
    """Return the descriptions of the baselines by name."""
    return {f"`{name}`": BASELINES[name].description for name in BASELINES}


def _metric_row(metric: Metric) -> str:
    aim = metric.better or "–"
    if metric.target is not None:
        aim = f"→ {metric.target if metric.target == 'real' else f'{metric.target:g}'}"
    text = _one_line(metric.text).replace("|", "\\|")
    return f"| `{metric.name}` | {metric.unit or '–'} | {aim} | {text} | {_one_line(metric.source) or '–'} |"


def _table(first: str, second: str, rows: dict[str, str]) -> str:
    lines = [f"| {first} | {second} |", "|---|---|", *(f"| {name} | {about} |" for name, about in rows.items())]
    return "\n".join(["", *lines, ""])


def stages_page() -> str:
    """Return docs/stages.md with the tables of all stages; its text and the column `writes` stay as they are."""
    page = (DOCS / "stages.md").read_text(encoding="utf-8")
    writes = dict(re.findall(r"^\| `(\w+)`.* \| ([^|]+) \|$", page, re.MULTILINE))
    for group in dict.fromkeys(stage.group for stage in STAGES.values()):
        rows = "".join(_stage_row(stage, writes) for stage in STAGES.values() if stage.group == group)
        table = rf"(^## {group}\n(?:(?!## ).*\n)*?\| stage \|.*\n\|[-|]+\|\n)(?:\|.*\n)*"
        page = re.sub(table, lambda match, rows=rows: match[1] + rows, page, flags=re.MULTILINE)
    return page


def _stage_row(stage: Stage, writes: dict[str, str]) -> str:
    """Return the row of a stage; its description stands for the files that it writes until they are named."""
    lists = (", ".join(f"`{name}`" for name in names) for names in (stage.inputs, stage.settings))
    name = f"`{stage.name}`{' (per seed)' if stage.per_seed else ''}"
    cells = (name, *lists, writes.get(stage.name) or _one_line(stage.description))
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells) + "\n"


PAGES = {"settings.md": settings_page, "evaluation.md": evaluation_page, "stages.md": stages_page}


def main() -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
