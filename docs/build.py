"""Write the pages of docs/ that follow from the code: `python docs/build.py`. A test holds that they are current."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from hoser_kd.config.schema import CityConfig
from hoser_kd.evaluation.comparison import NEXT_STEP, SECTIONS
from hoser_kd.evaluation.failures import CAUSES
from hoser_kd.evaluation.metrics import DEFINITIONS
from hoser_kd.evaluation.scenarios import SCENARIOS

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


def evaluation_page() -> str:
    """Return docs/evaluation.md: every figure with unit, direction and definition."""
    lines = [
        "# What is measured",
        "",
        "Every figure, its unit, the direction that is better, and its definition. Distances and radii are those of",
        "the published evaluation (HOSER: Cao et al., AAAI 2025), with histograms of 100 even edges from 0 to the",
        "real maximum; the earth radius is 6,371.009 km for distance and radius, 6,378 km for Hausdorff and DTW,",
        "6,378.137 km for EDR.",
        "",
        "*This page is made from `evaluation/metrics.py`, `comparison.py`, `scenarios.py` and `failures.py` by",
        "`python docs/build.py`.*",
    ]
    for section, heading in SECTIONS.items():
        figures = (
            NEXT_STEP
            if section == "next_step"
            else {
                name.partition(".")[2]: found for name, found in DEFINITIONS.items() if name.startswith(f"{section}.")
            }
        )
        if figures:
            lines += ["", f"## {heading}", "", "| figure | unit | better | definition |", "|---|---|---|---|"]
            lines += [
                f"| `{section}.{name}` | {found.unit or '–'} | {found.better or '–'} | {_one_line(found.text)} |"
                for name, found in figures.items()
            ]
    lines += [
        "",
        "## Scenarios",
        "",
        "All figures of generated trips are also given for parts of them, set in `evaluation` of the YAML. A",
        "generated trip belongs where its request (origin, start time, destination) belongs.",
        "",
        "| scenario | holds |",
        "|---|---|",
        *(f"| `{name}` | {about} |" for name, about in SCENARIOS.items()),
    ]
    lines += [
        "",
        "Weekday and weekend, peak and off-peak, center and suburb each share all trips out. Hours and days are",
        "those of the trips' times as they stand. A part with fewer than five real or generated trips has no",
        "figures.",
        "",
        "Next-step figures (`accuracy`, `decision_accuracy`, `nll`, `time_mae_s`, `steps`) are given by the",
        "`scenario` of the trip, by the `hour` of the day, by `to_go` (great circle to the destination, km) and",
        "by the `road_class` of the road that is left.",
        "",
        "## Failures",
        "",
        "| cause | meaning |",
        "|---|---|",
        *(f"| {cause} | {about} |" for cause, about in CAUSES.items()),
    ]
    lines += [
        "",
        "## Comparison",
        "",
        "Differences are distilled minus vanilla, paired by seed, with 95 % t-intervals. The effect is the mean",
        "difference over its standard deviation over the seeds (Cohen's d for pairs).",
    ]
    return "\n".join(lines) + "\n"


PAGES = {"settings.md": settings_page, "evaluation.md": evaluation_page}


def main() -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
