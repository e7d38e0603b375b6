"""Figures of map matching: distributions of its quality, and the trips that fit worst."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hoser_kd.plots.canvas import COLORS, FAINT, INK, SPARE, legend_below
from hoser_kd.plots.map_drawing import draw_roads, map_axes, near_roads, road_lines, square_window

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hoser_kd.common.arrays import Float64Array
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories

_BINS = 40
_COLUMNS = 3


def quality_figure(values: Mapping[str, Float64Array]) -> Figure:
    """Draw a histogram for each measure, up to its 99th percentile, with a line at the median; NaN is left out."""
    rows = -(-len(values) // _COLUMNS)
    figure = Figure(figsize=(10.2, 2.7 * rows), layout="constrained")
    panels = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axes, (name, each) in zip(panels, values.items(), strict=False):
        known = each[np.isfinite(each)]
        axes.set_title(name, size=10, color=INK, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        if len(known):
            top = float(np.quantile(known, 0.99))
            axes.hist(known[known <= top], bins=_BINS, color=COLORS["distilled"])
            median = float(np.median(known))
            axes.axvline(median, color=INK, linewidth=1, linestyle="--")
            axes.text(0.98, 0.95, f"median {median:.3g}", transform=axes.transAxes, ha="right", va="top", size=8)
    for axes in panels[len(values) :]:
        axes.set_axis_off()
    return figure


def worst_map(
    network: RoadNetwork,
    trips: Trajectories,
    points: Sequence[Float64Array],
    notes: Sequence[str],
    rows: Sequence[int],
) -> Figure:
    """Draw trips, at the indices `rows`, with their GPS points, (k, 2) lon, lat, and a note each."""
    height = -(-len(rows) // _COLUMNS)
    figure = Figure(figsize=(10.2, 3.5 * height + 0.4), layout="constrained")
    panels = figure.subplots(height, _COLUMNS, squeeze=False).ravel()
    for axes, row, places, note in zip(panels, rows, points, notes, strict=False):
        path = road_lines(network, trips.roads(row))
        window = square_window(np.concatenate([*path, places])[:, ::-1])
        draw_roads(axes, network, near_roads(network, window), FAINT, 0.6, order=1)
        axes.add_collection(
            LineCollection(path, colors=COLORS["distilled"], linewidths=2.4, capstyle="round", zorder=3)
        )
        axes.plot(*places.T, linestyle="none", marker=".", markersize=5, color=SPARE[2], zorder=5)
        map_axes(axes, window, margin=0.0)
        axes.set_title(note, size=8.5, color=INK, loc="left")
    for axes in panels[len(rows) :]:
        axes.set_axis_off()
    legend_below(
        figure,
        [
            Line2D([], [], color=COLORS["distilled"], linewidth=2.4, label="matched roads"),
            Line2D([], [], linestyle="none", marker=".", color=SPARE[2], label="GPS points"),
        ],
    )
    return figure
