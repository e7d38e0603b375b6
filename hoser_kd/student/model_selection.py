"""Which epoch of a training, and which of several trainings, is the best: by next steps, or by whole trips.

Students whose accuracies at the next step are alike can differ widely in how many of their trips arrive. So trips can
be generated after each epoch for a fixed sample of validation ODs, and the epoch be chosen by what became of them.

Shapes: v validation ODs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

PREFIX = "generation_"
"""Figures of whole trips are called so among those of an epoch."""
SUMMARY_PREFIX = "val_"
"""Figures of the epoch that was kept are called so in the summary of a student's artifact."""
_TIE = 1e-6

_RULES: dict[str, Callable[[Mapping[str, float]], float]] = {
    "accuracy": lambda figures: figures["accuracy"],
    "nll": lambda figures: -figures["nll"],
    # an arrival more or less is worth 1 / v: what is added only settles ties
    "arrival": lambda figures: figures[f"{PREFIX}reached"] + _TIE * figures[f"{PREFIX}score"],
    "generation": lambda figures: figures[f"{PREFIX}score"],
}
RULES = tuple(_RULES)
"""Values of `student.select_by`."""


def score(figures: Mapping[str, float], by: str = "accuracy") -> float:
    """Return how good an epoch is by a rule of `RULES`; higher is better.

    Raises ValueError where the figures the rule needs are not there.
    """
    try:
        return float(_RULES[by](figures))
    except KeyError as error:
        raise ValueError(
            f"choosing by {by} needs the figure {error.args[0]}: set `student.select_num_ods`, so that "
            "trips are generated after each epoch."
        ) from None


def selection_score(summary: Mapping[str, Any], by: str = "accuracy") -> float:
    """Return how good a student is by a rule of `RULES`, from the summary of its artifact; higher is better.

    It is that of the epoch that was kept, on the validation trips. Raises ValueError where the student was trained
    without the figures the rule needs.
    """
    return score(
        {
            name.removeprefix(SUMMARY_PREFIX): value
            for name, value in summary.items()
            if name.startswith(SUMMARY_PREFIX)
        },
        by,
    )


def best_epoch(history: Sequence[Mapping[str, float]], by: str = "accuracy") -> int:
    """Return the best epoch by a rule of `RULES`, counted from 1; the first of equals."""
    return 1 + max(range(len(history)), key=lambda i: (score(history[i], by), -i))
