"""Rules that select the best epoch of a training, or the best of several trainings.

Students with similar next-step accuracy can differ widely in how many of their trips arrive. So trips can be generated
after each epoch for a fixed sample of validation OD pairs, and the epoch be selected by their metrics. To add a rule,
register a `SelectionRule` in `hoser_kd.config.variants.SELECTION_RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hoser_kd.config.variants import SELECTION_RULES

PREFIX = "generation_"
"""Prefix of the metrics of generated trips among the metrics of an epoch."""
SUMMARY_PREFIX = "val_"
"""Prefix of the metrics of the selected epoch in the summary of a student's artifact."""
# one more trip that arrives is worth 1 / v (v validation OD pairs), so this only breaks ties
_TIE = 1e-6


@dataclass(frozen=True)
class SelectionRule:
    """A rule that `student.select_by` can name."""

    score: Callable[[Mapping[str, float]], float]
    """Returns the score of an epoch from its metrics; higher is better. A missing metric is a KeyError."""
    summary: str
    """One line for settings and docs: which epoch is the best."""
    needs_generated_trips: bool = False
    """Whether the rule reads metrics of trips that are generated after each epoch."""
    tie_break: Callable[[Mapping[str, float]], float] | None = None
    """Orders epochs of equal score; higher is better. None: the first of equals is the best."""


def check_selection_rule(name: str, rule: object) -> None:
    """Validate a selection rule before it is registered. Raises TypeError with the right call."""
    usage = f"Call SELECTION_RULES.register({name!r}, SelectionRule(lambda metrics: metrics['accuracy'], 'summary'))."
    if not isinstance(rule, SelectionRule):
        raise TypeError(f"selection rule {name!r} is {rule!r}, not a SelectionRule. {usage}")
    if not callable(rule.score) or not (rule.tie_break is None or callable(rule.tie_break)):
        raise TypeError(f"score and tie_break of selection rule {name!r} must be functions of the metrics. {usage}")
    if not isinstance(rule.summary, str):
        raise TypeError(f"summary of selection rule {name!r} is {rule.summary!r}, not a string. {usage}")


SELECTION_RULES.register(
    "accuracy",
    SelectionRule(
        lambda metrics: metrics["accuracy"],
        "highest accuracy of the next step, as published; the lowest NLL breaks ties",
        # a validation split of a few hundred steps gives many epochs the same accuracy
        tie_break=lambda metrics: -metrics["nll"],
    ),
)
SELECTION_RULES.register("nll", SelectionRule(lambda metrics: -metrics["nll"], "lowest NLL of the next step"))
SELECTION_RULES.register(
    "arrival_rate",
    SelectionRule(
        lambda metrics: metrics[f"{PREFIX}reached"] + _TIE * metrics[f"{PREFIX}score"],
        "highest share of generated trips that reach their destination",
        needs_generated_trips=True,
    ),
)
SELECTION_RULES.register(
    "generation",
    SelectionRule(
        lambda metrics: metrics[f"{PREFIX}score"],
        "highest score of generated trips: arrival rate, distributions and shape",
        needs_generated_trips=True,
    ),
)


def score(metrics: Mapping[str, float], by: str = "nll") -> float:
    """Return the score of an epoch by a rule of `SELECTION_RULES`; higher is better.

    Raises ConfigError for an unknown rule and ValueError if a metric that the rule needs is missing.
    """
    rule: SelectionRule = SELECTION_RULES[by]
    try:
        return float(rule.score(metrics))
    except KeyError as error:
        raise ValueError(
            f"select_by {by} needs the metric {error.args[0]}: set `student.select_num_ods`, so that trips are "
            "generated after each epoch."
        ) from None


def selection_score(summary: Mapping[str, Any], by: str = "nll") -> float:
    """Return the score of a student by a rule of `SELECTION_RULES`, from the summary of its artifact; higher is better.

    It is the score of the selected epoch on the validation trips. Raises ValueError if the student was trained without
    a metric that the rule needs.
    """
    return score(
        {
            name.removeprefix(SUMMARY_PREFIX): value
            for name, value in summary.items()
            if name.startswith(SUMMARY_PREFIX)
        },
        by,
    )


def best_epoch(history: Sequence[Mapping[str, float]], by: str = "nll") -> int:
    """Return the best epoch by a rule of `SELECTION_RULES`, counted from 1.

    Of epochs with equal scores, the rule's tie-break decides, then the first is the best.
    """
    tie_break = SELECTION_RULES[by].tie_break or (lambda _: 0.0)
    return 1 + max(range(len(history)), key=lambda i: (score(history[i], by), tie_break(history[i]), -i))


def patience_exhausted(history: Sequence[Mapping[str, float]], patience: int | None, by: str = "nll") -> bool:
    """Return whether the last `patience` epochs brought no better one; False if `patience` is None."""
    return patience is not None and bool(history) and len(history) - best_epoch(history, by) >= patience
