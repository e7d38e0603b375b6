"""Labels and explanations of the values that the report shows by their stored names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np


class Value(NamedTuple):
    """A line of a table of values."""

    label: str
    """Readable name."""
    text: str
    """The value."""
    about: str = ""
    """Explanation; empty where the label is enough."""


_SHARE_OF_DECISIONS = "Share of the steps with two or more candidates where "
_LABELS: dict[str, tuple[str, str]] = {
    # tables
    "teacher": ("Model", ""),
    "teacher_evaluation": ("Evaluation", ""),
    "teacher_soft_labels": ("Soft labels", ""),
    "grid_token_table": ("Grid", ""),
    # teacher
    "layers": ("layers", ""),
    "heads": ("attention heads", ""),
    "width": ("embedding width", ""),
    "vocab_size": ("vocabulary", "Tokens of the grid plus the special tokens."),
    "block_size": ("context length", "Tokens that the model reads at once."),
    "imported": ("imported", "Whether the checkpoint was imported rather than trained here."),
    "best_epoch": ("best epoch", "Epoch with the lowest validation loss; its weights are used."),
    "stopped_early": (
        "stopped early",
        "Whether training ended before the last epoch because validation stopped improving.",
    ),
    "val_loss": ("validation loss", "Negative log-likelihood of the validation trips, nats per token."),
    "val_perplexity": ("validation perplexity", "exp of the negative log-likelihood per token; lower is better."),
    "test_perplexity": ("test perplexity", "exp of the negative log-likelihood per token; lower is better."),
    "tokens_per_s": ("training speed (tokens/s)", ""),
    "val_sequences_scored": ("validation trips scored", "Trips longer than the context are not scored."),
    "test_sequences_scored": ("test trips scored", "Trips longer than the context are not scored."),
    "outlier_mean_f1": ("outlier detection, F1", "The published outlier test, mean over its settings."),
    "outlier_mean_pr_auc": (
        "outlier detection, PR AUC",
        "Area under the precision-recall curve, mean over the settings.",
    ),
    "outlier_mean_roc_auc": (
        "outlier detection, ROC AUC",
        "Area under the ROC curve, mean over the settings; chance is 0.5.",
    ),
    # soft labels
    "labels": ("labels", "Whether they are stored or computed during training (online)."),
    "window": ("history window", "How much of a trip's history the teacher reads."),
    "sample_num_cells": (
        "cells among the candidates",
        "Distinct grid cells of a step's candidates, mean over the sampled steps.",
    ),
    "sample_candidate_mass": (
        "probability of the candidates' cells",
        "The teacher's probability that the next cell is one of the candidates', mean over the sampled steps.",
    ),
    "sample_entropy_nats": (
        "entropy of the next cell (nats)",
        "Entropy of the teacher's distribution over all cells, mean over the sampled steps.",
    ),
    "sample_true_probability": (
        "probability of the true next cell",
        "The teacher's probability of the cell driven next, mean over the sampled steps.",
    ),
    "sample_top_is_true": (
        "accuracy over all cells",
        "Share of the sampled steps where the teacher's most probable cell is the true one.",
    ),
    "sample_candidate_top_is_true": (
        "accuracy among the candidates' cells",
        "Share of the sampled steps where the most probable of the candidates' cells is the true one.",
    ),
    # grid
    "kind": ("kind", ""),
    "bounds_from": ("bounds from", "Where the extent of the grid comes from."),
    "num_labels": ("tokens", "Tokens that a road can have."),
    "share_inside": ("share of roads inside", "Roads whose center lies inside the grid."),
    "clamped": ("clamped roads", "Roads outside the grid, assigned to the nearest cell of its edge."),
    "visits_inside": ("share of visits inside", "Training visits of roads whose center lies inside the grid."),
    "occupied_cells": ("occupied cells", "Cells with one road or more."),
    "roads_per_cell_p90": ("roads per cell, 90th percentile", ""),
    "roads_per_cell_p99": ("roads per cell, 99th percentile", ""),
    "resolution": ("resolution", ""),
    "choices": ("decisions", "Training steps with two or more candidates."),
    "distinguishable_share": (
        "candidates distinguishable",
        f"{_SHARE_OF_DECISIONS}the candidates are not all in one cell.",
    ),
    "all_distinguishable_share": (
        "all candidates distinguishable",
        f"{_SHARE_OF_DECISIONS}no two candidates share a cell.",
    ),
    "label_distinguishable_share": (
        "true road distinguishable",
        f"{_SHARE_OF_DECISIONS}the true road shares its cell with no candidate.",
    ),
    # alignment of an imported teacher's grid
    "alignment.trips": ("alignment: trips", "Validation trips scored in the grid and in shifted grids."),
    "alignment.loss": ("alignment: loss in this grid", "Negative log-likelihood of these trips, nats per token."),
    "alignment.uniform_loss": ("alignment: loss of a uniform distribution", "Nats per token."),
    "alignment.min_loss_half_cell": (
        "alignment: lowest loss half a cell away",
        "Lowest loss among the grids shifted by half a cell, nats per token.",
    ),
    "alignment.misplaced": ("alignment: misplaced", "Whether a shifted grid fits the teacher clearly better."),
    "alignment.is_conclusive": (
        "alignment: conclusive",
        "Whether shifts change the loss enough to judge the alignment.",
    ),
    "alignment.best_cells_north": ("alignment: best shift north (cells)", ""),
    "alignment.best_cells_east": ("alignment: best shift east (cells)", ""),
    "alignment.shifts_tried": ("alignment: shifts tried", ""),
}
"""Label and explanation by stored name, or by `table.name` where a name has several meanings."""


def describe(name: str) -> str:
    """Return the label of a stored name."""
    return _LABELS[name][0] if name in _LABELS else name.replace("_", " ")


def describe_values(values: Mapping[str, Any], prefix: str = "", path: str = "") -> Iterator[Value]:
    """Yield label, text and explanation of every plain value of a nested dict; lists and arrays are left out."""
    for name, value in values.items():
        dotted = f"{path}{name}"
        label, about = _LABELS.get(dotted, (f"{prefix}{describe(name)}", _LABELS.get(name, ("", ""))[1]))
        if isinstance(value, Mapping):
            yield from describe_values(value, f"{label}: ", f"{dotted}.")
        elif (text := _text_of(value)) is not None:
            yield Value(label, text, about)


def _text_of(value: object) -> str | None:
    """Return a plain value as text; None for anything else."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if is_number(value):
        return _four_digits(float(value))  # type: ignore[arg-type]
    return value if isinstance(value, str) else None


def is_number(value: object) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and bool(np.isfinite(value))


def _four_digits(value: float) -> str:
    """Return a number with four significant digits and no trailing zeros."""
    return f"{value:.4g}".replace("-", "−") if abs(value) < 1e4 else f"{value:,.0f}".replace("-", "−")
