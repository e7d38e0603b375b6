"""Generate the pages of docs/ that follow from the code: `python docs/build.py`. tests/test_docs.py checks them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from hoser_kd.config.schema import CityConfig
from hoser_kd.evaluation.failures import CAUSES
from hoser_kd.evaluation.metric_registry import SECTIONS, Metric, all_metrics
from hoser_kd.evaluation.scenarios import LEAST_TRIPS, MIN_TRIPS_FOR_JSD, SCENARIOS
from hoser_kd.evaluation.statistics import PRIMARY_NEXT_STEP, PRIMARY_TRIP, RESAMPLES

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
        "*Generated from `hoser_kd/config/schema.py` by `python docs/build.py`.*",
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
    text = str(annotation).replace("typing.", "").replace("hoser_kd.config.schema.", "").replace("NoneType", "none")
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
and `→ 1` mark metrics that are best where they equal the value of the real trips, or 1.

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
One with fewer than {jsd} has no divergence (JSD), since two samples of real trips differ too
([sampling floor](#sampling-floor)).

Next-step metrics (`accuracy`, `decision_accuracy`, `nll`, `time_mae_s`, `steps`) are also grouped by the `scenario` of
the trip, the `hour` of the day, `to_go` (great-circle distance to the destination, km) and the `road_class` of the
current road.
"""
_COMPARISON = """
## Comparison

Differences are distilled minus vanilla, paired by seed, with 95 % t-intervals. The effect is the mean difference over
its standard deviation over the seeds (Cohen's d for pairs). Where the pairs of the same OD cells are those of the same
request, the metrics of both sections are equal, and the report's verdict counts them once.
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

Metrics that each trip has, such as EDR, are tested trip by trip with the Wilcoxon signed-rank test
(`paired_trip_test`). `temperature_scaled_nll` in `hoser_kd.student.pools` is the NLL at the temperature of least NLL on
validation trips: it separates what a model predicts from how confident it is. [Ceilings](ceilings.md) compare the NLL
of the students with that of pools with the teacher, with other students and with a Markov chain.

## Sampling floor

The divergence of two samples of the same distribution is not 0. `hoser_kd.evaluation.sampling_floor.jsd_floors`
returns, for each divergence, its mean and 95 % quantile between two samples of n real trips. The samples are disjoint
where there are 2n real trips; with fewer, they are bootstrap samples, whose floor is too low (by a sixth on Porto). For
the traveled distance of Porto's training trips the mean is 0.34, 0.20, 0.12, 0.061 and 0.035 nats at n = 50, 100, 187,
375 and 650. A difference between two models that both lie near the floor is noise.
"""


def evaluation_page() -> str:
    """Return docs/evaluation.md: every metric with unit, direction and definition."""
    parts = [_METRICS_INTRO]
    for section, (heading, _) in SECTIONS.items():
        rows = [_metric_row(metric) for metric in all_metrics() if metric.section == section]
        if rows:
            table = ["| metric | unit | better | definition |", "|---|---|---|---|", *rows]
            parts.append("\n".join(["", f"## {heading}", "", *table, ""]))
    parts += [
        _SCENARIOS_INTRO,
        _table("scenario", "contains", {f"`{name}`": about for name, about in SCENARIOS.items()}),
        _SCENARIOS_NOTES.format(least=LEAST_TRIPS, jsd=MIN_TRIPS_FOR_JSD),
        "\n## Failures\n",
        _table("cause", "meaning", dict(CAUSES)),
        _COMPARISON,
        _STATISTICS.format(next_step=PRIMARY_NEXT_STEP, trip=PRIMARY_TRIP, resamples=RESAMPLES),
    ]
    return "".join(parts)


def _metric_row(metric: Metric) -> str:
    aim = metric.better or "–"
    if metric.target is not None:
        aim = f"→ {metric.target if metric.target == 'real' else f'{metric.target:g}'}"
    text = _one_line(metric.text).replace("|", "\\|")
    return f"| `{metric.name}` | {metric.unit or '–'} | {aim} | {text} |"


def _table(first: str, second: str, rows: dict[str, str]) -> str:
    lines = [f"| {first} | {second} |", "|---|---|", *(f"| {name} | {about} |" for name, about in rows.items())]
    return "\n".join(["", *lines, ""])


PAGES = {"settings.md": settings_page, "evaluation.md": evaluation_page}


def main() -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
