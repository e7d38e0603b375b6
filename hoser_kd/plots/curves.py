"""Curves, distributions and bars: training, metrics by group, values, differences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from hoser_kd.evaluation.metric_registry import epoch_label
from hoser_kd.evaluation.trip_measures import radius_km, step_minutes, traveled_km
from hoser_kd.plots.canvas import COLORS, FAINT, INK, color_of, legend_below, plain_axes, share_axis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from matplotlib.axes import Axes

    from hoser_kd.common.arrays import Float64Array
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories

LOSS_PANELS = {"next_step": "nll", "time": "time_log_mape"}
"""Validation metric in whose panel the training values of a loss term are drawn, because it measures the same."""


def by_group(
    values: Mapping[str, Mapping[str, Mapping[str, float]]],
    labels: Mapping[str, str],
    weights: Mapping[str, Mapping[str, float]],
    ylabel: str,
) -> Figure:
    """Draw a metric by group (hour of the day, for example): one panel per grouping, one color per kind of student.

    `values` holds the metric by grouping, kind of student and group; `weights` holds the size of each group by
    grouping and group (drawn as bars); `labels` names the groupings.
    """
    figure = Figure(figsize=(10.2, 3.1 * len(values)), layout="constrained")
    panels = figure.subplots(len(values), 1, squeeze=False).ravel()
    for axes, (grouping, kinds) in zip(panels, values.items(), strict=True):
        names = list(weights[grouping])
        _draw_shares_behind(axes, np.array([weights[grouping][name] for name in names]))
        for kind, by_name in kinds.items():
            at = [place for place, name in enumerate(names) if name in by_name]
            axes.plot(
                at,
                [by_name[names[place]] for place in at],
                "o-",
                color=color_of(kind),
                label=kind,
                linewidth=1.6,
                markersize=5,
            )
        plain_axes(axes)
        slanted = max(map(len, names)) > 9
        axes.set_xticks(
            range(len(names)),
            labels=[name.replace("_", " ") for name in names],
            rotation=30 if slanted else 0,
            ha="right" if slanted else "center",
        )
        axes.set_xlabel(labels[grouping], size=9, color=INK)
        axes.set_ylabel(ylabel, size=9, color=INK)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    legend_below(figure, panels[0].get_legend_handles_labels()[0])
    return figure


def _draw_shares_behind(axes: Axes, weights: Float64Array) -> None:
    """Draw the share of each group, (groups,) float64 weights, as bars behind a panel, on an axis at the right."""
    behind = axes.twinx()
    behind.bar(range(len(weights)), weights / max(weights.sum(), 1), color=FAINT, width=0.8)
    behind.set_ylabel("share of the steps (bars)", size=8, color="#8a8a8a")
    behind.tick_params(labelsize=8, colors="#8a8a8a")
    behind.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    for side in ("top", "left"):
        behind.spines[side].set_visible(False)
    axes.set_zorder(behind.get_zorder() + 1)
    axes.patch.set_visible(False)


def distributions(real: Trajectories, generated: Mapping[str, Trajectories], network: RoadNetwork) -> Figure:
    """Draw the distributions of distance, radius and step duration: real trips filled, generated sets as lines."""
    figure = Figure(figsize=(10.2, 3.0), layout="constrained")
    panels = figure.subplots(1, 3)
    columns: tuple[tuple[str, Callable[[Trajectories], Float64Array]], ...] = (
        ("traveled distance (km)", lambda trips: traveled_km(trips, network)),
        ("radius (km)", lambda trips: radius_km(trips, network)),
        ("time to the next road (s)", lambda trips: step_minutes(trips) * 60),
    )
    for axes, (label, values_of) in zip(panels, columns, strict=True):
        reference = values_of(real)
        top = float(np.quantile(reference, 0.995)) if len(reference) else 1.0
        edges = np.linspace(0, top if top > 0 else 1.0, int(np.clip(2 * len(reference) ** 0.5, 12, 40)) + 1)
        share, _ = np.histogram(np.minimum(reference, edges[-1]), edges)
        axes.stairs(share / max(share.sum(), 1), edges, fill=True, color=COLORS["real"], alpha=0.3, label="real")
        for name, trips in generated.items():
            share, _ = np.histogram(np.minimum(values_of(trips), edges[-1]), edges)
            axes.stairs(share / max(share.sum(), 1), edges, color=color_of(name), linewidth=1.8, label=name)
        plain_axes(axes)
        axes.set_xlabel(label, size=9, color=INK)
        axes.set_xlim(0, edges[-1])
        share_axis(axes)
    panels[0].set_ylabel("share", size=9, color=INK)
    legend_below(figure, panels[0].get_legend_handles_labels()[0])
    return figure


def training_curves(
    histories: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], labels: Mapping[str, str] | None = None
) -> Figure:
    """Draw the metrics of the epochs: one panel per metric, one color per kind, thin lines for runs, thick for means.

    `histories` holds one list of epochs per run, by kind (`vanilla`, `distilled`, …). Keys `train_x` and `val_x` (or
    `x`) share a panel; training is dashed. Metrics that never change are left out. `labels` selects, orders and names
    the panels; by default all metrics are drawn.
    """
    keys = _panel_keys(histories, labels)
    across = min(len(keys), 3)
    down = -(-len(keys) // max(across, 1))
    figure = Figure(figsize=(3.4 * max(across, 1) + 0.2, 2.5 * max(down, 1) + 0.4), layout="constrained")
    if not keys:
        return figure
    panels = figure.subplots(down, across, squeeze=False).ravel()
    handles: dict[str, Line2D] = {}
    for axes, (panel, lines) in zip(panels, keys.items(), strict=False):
        for kind, runs in histories.items():
            for key, style in lines.items():
                for handle in _draw_runs(axes, runs, key, color_of(kind), style):
                    handles.setdefault(f"{kind}{', training' if style == '--' else ''}", handle)
        plain_axes(axes)
        axes.set_title((labels or {}).get(panel) or epoch_label(panel), size=9.5, color=INK, loc="left")
        axes.set_xlabel("epoch", size=9, color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    for axes in panels[len(keys) :]:
        axes.set_visible(False)
    for label, handle in handles.items():
        handle.set_label(label)
    legend_below(figure, list(handles.values()))
    return figure


def _panel_keys(
    histories: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], labels: Mapping[str, str] | None
) -> dict[str, dict[str, str]]:
    """Return the line style of each numeric key of the epochs, by panel and key."""
    panels: dict[str, dict[str, str]] = {}
    values: dict[str, set[float]] = {}
    epochs = [epoch for runs in histories.values() for run in runs for epoch in run]
    for key, value in ((key, value) for epoch in epochs for key, value in epoch.items()):
        if isinstance(value, int | float) and not isinstance(value, bool) and key not in {"epoch", "step"}:
            name = key.removeprefix("train_").removeprefix("val_")
            panel = LOSS_PANELS.get(name, name) if key.startswith("train_") else name
            panels.setdefault(panel, {})[key] = "--" if key.startswith("train_") else "-"
            values.setdefault(panel, set()).add(float(value))
    changing = [panel for panel in panels if len(values[panel]) > 1 or len(epochs) == 1]
    return {panel: panels[panel] for panel in (labels or changing) if panel in changing}


def _draw_runs(
    axes: Axes, runs: Sequence[Sequence[Mapping[str, Any]]], key: str, color: str, style: str
) -> Iterable[Line2D]:
    """Draw every run and, for several runs, their mean over the common epochs; yield the lines for the legend."""
    curves = [
        np.array(
            [[epoch.get("epoch", number + 1), epoch[key]] for number, epoch in enumerate(run) if key in epoch], float
        ).reshape(-1, 2)
        for run in runs
    ]
    curves = [curve for curve in curves if len(curve)]
    several = len(curves) > 1
    for curve in curves:
        (line,) = axes.plot(
            *curve.T,
            style,
            color=color,
            linewidth=0.8 if several else 1.8,
            alpha=0.45 if several else 1,
            marker="." if len(curve) == 1 else None,
        )
        if not several:
            yield line
    if several:
        common = min(len(curve) for curve in curves)
        mean = np.mean([curve[:common] for curve in curves], axis=0)
        yield axes.plot(*mean.T, style, color=color, linewidth=2.0)[0]


def histograms(values: Mapping[str, npt.NDArray[Any]], color: str = COLORS["teacher"], bins: int = 40) -> Figure:
    """Draw the distribution of each array (label diagnostics, for example) in a panel; the keys label the axes.

    Integers with a small range get one bar per value. A line marks the median.
    """
    across = min(max(len(values), 1), 3)
    down = -(-max(len(values), 1) // across)
    figure = Figure(figsize=(3.4 * across + 0.2, 2.5 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for axes, (label, raw) in zip(panels, values.items(), strict=False):
        array = np.asarray(raw, float)
        array = array[np.isfinite(array)]
        if len(array):
            whole = bool((array == np.round(array)).all()) and np.ptp(array) <= bins
            edges = np.arange(array.min() - 0.5, array.max() + 1) if whole else np.histogram_bin_edges(array, bins)
            share, edges = np.histogram(array, edges)
            axes.stairs(share / share.sum(), edges, fill=True, color=color, alpha=0.55)
            axes.axvline(float(np.median(array)), color=INK, linewidth=1, linestyle=":")
        plain_axes(axes)
        axes.set_xlabel(label, size=9, color=INK)
        share_axis(axes)
    for axes in panels[len(values) :]:
        axes.set_visible(False)
    return figure


def differences(rows: Sequence[tuple[str, float, float, float, str | None, bool]]) -> Figure:
    """Draw relative differences with their intervals: rows (label, mean, low, high, better, is_clear), in percent.

    `better` (lower, higher or None) decides the color: blue for better, orange for worse, gray for None. The marker is
    hollow unless the difference is clear. Without an interval, low and high are not finite.
    """
    figure = Figure(figsize=(8.4, 0.34 * len(rows) + 0.9), layout="constrained")
    axes = figure.subplots()
    for place, (_, mean, low, high, better, is_clear) in enumerate(reversed(rows)):
        good = None if better is None or mean == 0 else (mean < 0) == (better == "lower")
        color = COLORS["real"] if good is None else COLORS["distilled"] if good else COLORS["vanilla"]
        if np.isfinite([low, high]).all():
            axes.plot([low, high], [place, place], color=color, linewidth=2, solid_capstyle="round")
        axes.plot(
            mean,
            place,
            "o",
            color=color if is_clear else "white",
            markeredgecolor=color,
            markersize=7,
            markeredgewidth=1.6,
            zorder=3,
        )
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks(range(len(rows)), labels=[label for label, *_ in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    plain_axes(axes)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("distilled − vanilla, % of vanilla", size=9, color=INK)
    return figure
