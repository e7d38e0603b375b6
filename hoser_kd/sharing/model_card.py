"""The model card of a bundle: Markdown with the front matter that Hugging Face reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import yaml

from hoser_kd.evaluation.metric_registry import METRICS

_TRAINING = {
    "parameters": "parameters",
    "train_trips": "training trips",
    "best_epoch": "epoch",
    "selected_by": "selected by",
    "val_accuracy": "next-step accuracy on validation trips",
    "val_nll": "negative log-likelihood on validation trips (nats per step)",
}
_KINDS = {
    "vanilla_student": "trained on trips alone, without a teacher",
    "distilled_student": "trained on trips and on the soft labels of an LM-TAD teacher",
}


def model_card(about: Mapping[str, Any]) -> str:
    """Return the card of a student from the content of `student.json` and its version."""
    front = {
        "license": about["license"],
        "library_name": "hoser-kd",
        "tags": ["trajectory-generation", "road-network", "hoser"],
    }
    metrics = about.get("metrics", {})
    training = metrics.get("training", {})
    test = metrics.get("test", {})
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701  Markdown; texts are made plain by `_plain`
        keep_trailing_newline=True,
    )
    environment.filters["plain"] = _plain
    return environment.get_template("model_card.md").render(
        front=yaml.safe_dump(front, sort_keys=False).strip(),
        city=about.get("city"),
        kind=_KINDS.get(str(about.get("stage")), "whose training is not recorded"),
        seed=about.get("seed"),
        version=about["version"],
        num_roads=f"{about['num_roads']:,}",
        license=about["license"],
        clock=about.get("time_convention", {}),
        training=[(label, _shown(training[key])) for key, label in _TRAINING.items() if key in training],
        test=[(_label(name), name, _shown(value)) for name, value in test.items()],
        lineage=about.get("lineage", []),
    )


def _label(name: str) -> str:
    return METRICS[name].label if name in METRICS else name


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else _plain(value)


def _plain(value: object) -> str:
    """Return a text without characters that have a meaning in Markdown tables, links or HTML."""
    return "".join(" " if letter in "|<>[]`*\n\r" else letter for letter in str(value))
