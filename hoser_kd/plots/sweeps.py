"""Figures of sweeps: parallel coordinates of the trials, and the importance of each setting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from hoser_kd.plots.canvas import COLORS, INK, plain_axes, sequential

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hoser_kd.common.arrays import Float64Array

_LABEL_BOX = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
_LABEL_GAP = 0.05
"""Smallest distance of two labels at an axis, as a share of its height."""
_LOG_FROM = 20.0
"""Largest over smallest value from which an axis is logarithmic."""


def parallel_coordinates(
    settings: Mapping[str, Sequence[Any]], metric: str, values: Sequence[float], *, lower_is_better: bool
) -> Figure:
    """Draw each trial as a line across an axis per setting and one for the metric; better trials are darker, on top.

    `settings`: the values of each setting in all trials; numbers are placed by size, other values by name.
    """
    names = [*settings, metric]
    axes_values = [_axis(column) for column in (*settings.values(), values)]
    heights = np.array([axis[0] for axis in axes_values])
    goodness = np.asarray(values, np.float64) * (-1 if lower_is_better else 1)
    scale = Normalize(float(goodness.min()), float(max(goodness.max(), goodness.min() + 1e-12)))
    figure = Figure(figsize=(max(4.0, 1.9 * len(names)), 4.2), layout="constrained")
    axes = figure.subplots()
    for trial in np.argsort(goodness, kind="stable"):
        color = ScalarMappable(scale, sequential()).to_rgba(goodness[trial])
        axes.plot(np.arange(len(names)), heights[:, trial], color=color, linewidth=1.4, alpha=0.85)
    for place, (_, ticks) in enumerate(axes_values):
        axes.axvline(place, color="#999999", linewidth=0.8, zorder=0)
        for height, label in ticks:
            axes.annotate(
                label,
                (place, height),
                (4, 0),
                textcoords="offset points",
                size=8,
                color=INK,
                va="center",
                bbox=_LABEL_BOX,
            )
    axes.set_xticks(range(len(names)), [name.replace(".", ".\n", 1) for name in names], fontsize=9)
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(names) - 0.5)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    return figure


def importances(shares: Mapping[str, float]) -> Figure:
    """Draw the importance of each setting as a bar; an empty mapping gives a note."""
    figure = Figure(figsize=(5.6, 0.9 + 0.42 * max(len(shares), 1)), layout="constrained")
    axes = figure.subplots()
    if not shares:
        axes.set_axis_off()
        axes.text(0, 0.5, "Importances need two trials with different results.", size=9, color=INK)
        return figure
    names = list(shares)[::-1]
    axes.barh(names, [shares[name] for name in names], color=COLORS["distilled"], height=0.6)
    for row, name in enumerate(names):
        axes.annotate(
            f"{shares[name]:.2f}", (shares[name], row), (4, 0), textcoords="offset points", size=8, va="center"
        )
    axes.set_xlabel("share of the metric's variance", size=9, color=INK)
    axes.set_xlim(0, 1.08)
    plain_axes(axes)
    return figure


def _axis(column: Sequence[Any]) -> tuple[Float64Array, list[tuple[float, str]]]:
    """Return the heights of the values of a setting, 0 to 1, and the labels with their heights."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in column):
        numbers = np.asarray(column, np.float64)
        is_log = numbers.min() > 0 and numbers.max() >= _LOG_FROM * numbers.min()
        heights = _scaled(np.log(numbers) if is_log else numbers)
        _, first = np.unique(numbers, return_index=True)
        return heights, _spaced([(float(heights[row]), f"{numbers[row]:.4g}") for row in first])
    texts = [", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value) for value in column]
    known = sorted(set(texts))
    place = {text: 0.5 if len(known) == 1 else index / (len(known) - 1) for index, text in enumerate(known)}
    return np.array([place[text] for text in texts]), [(height, text) for text, height in place.items()]


def _scaled(numbers: Float64Array) -> Float64Array:
    """Return numbers on a scale of 0 to 1; equal ones are in the middle."""
    low, high = numbers.min(), numbers.max()
    return np.full(len(numbers), 0.5) if high == low else (numbers - low) / (high - low)


def _spaced(ticks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Return those ascending labels that do not overlap; the first and the last stay."""
    kept = list(ticks[:1])
    for height, label in ticks[1:-1]:
        if height - kept[-1][0] >= _LABEL_GAP and ticks[-1][0] - height >= _LABEL_GAP:
            kept.append((height, label))
    return kept + list(ticks[1:][-1:])
