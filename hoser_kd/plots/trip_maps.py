"""Maps of trips: road use, single trips, and where each student is closer to the real trips.

Shapes: N roads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hoser_kd.evaluation.trip_measures import road_use
from hoser_kd.plots.canvas import FAINT, INK, bar_below, color_of, legend_below, sequential
from hoser_kd.plots.map_drawing import (
    draw_roads,
    extent_of,
    map_axes,
    map_figure,
    map_panels,
    near_roads,
    road_lines,
    square_window,
    width_scale,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hoser_kd.common.arrays import Float64Array, Int64Array
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories

_DIVERGING = LinearSegmentedColormap.from_list("wins", ["#B35900", "#E69F00", "#d9d9d9", "#56B4E9", "#00507E"])


def use_map(network: RoadNetwork, trips: Mapping[str, Trajectories]) -> Figure:
    """Draw the visits of each road, one panel per set of trips, on one logarithmic scale of visits per trip.

    Roads without visits are faint. The keys name the panels.
    """
    shares = {name: road_use(each, network) / len(each) for name, each in trips.items()}
    driven = np.concatenate([share[share > 0] for share in shares.values()])
    norm = LogNorm(float(driven.min()), float(max(driven.max(), driven.min() * 1.01)))
    colors = sequential()
    figure, panels = map_panels(network, list(trips))
    for axes, share in zip(panels, shares.values(), strict=True):
        draw_roads(axes, network, share == 0, FAINT, 0.3, order=1)
        rows = np.flatnonzero(share > 0)
        rows = rows[np.argsort(share[rows], kind="stable")]  # the busiest roads are on top
        widths = 0.5 + 2.2 * norm(share[rows])
        axes.add_collection(
            LineCollection(
                road_lines(network, rows),
                colors=colors(norm(share[rows])),
                linewidths=widths,
                capstyle="round",
                zorder=2,
            )
        )
    bar_below(figure, panels, ScalarMappable(norm, colors), "visits of a road per trip")
    return figure


def trips_map(
    network: RoadNetwork,
    trips: Mapping[str, Trajectories],
    rows: Sequence[int],
    notes: Mapping[str, Sequence[str]] | None = None,
) -> Figure:
    """Draw trips over the road network: one row per OD, one column per set of trips; `rows` index every set.

    Circles mark the origin and squares the destination of the first set's trip. `notes` holds a text for each drawn
    trip, by set.
    """
    reference = next(iter(trips.values()))
    figure = Figure(figsize=(3.1 * len(trips) + 0.2, 2.9 * len(rows) + 0.6), layout="constrained")
    grid = figure.subplots(len(rows), len(trips), squeeze=False)
    for panels, row in zip(grid, rows, strict=True):
        windows = [network.centroids[each.roads(row)] for each in trips.values()]
        window = square_window(np.concatenate(windows))
        nearby = near_roads(network, window)
        ends = network.centroids[[reference.origins[row], reference.destinations[row]]]
        for axes, (name, each) in zip(panels, trips.items(), strict=True):
            draw_roads(axes, network, nearby, FAINT, 0.6, order=1)
            color = color_of(name)
            path = road_lines(network, each.roads(row))
            axes.add_collection(LineCollection(path, colors=color, linewidths=2.6, capstyle="round", zorder=3))
            axes.plot(*ends[0, ::-1], marker="o", markersize=8, color="white", markeredgecolor=INK, zorder=5)
            axes.plot(*ends[1, ::-1], marker="s", markersize=8, color=INK, markeredgecolor="white", zorder=5)
            map_axes(axes, window, margin=0.0)
            if notes and name in notes:
                axes.set_xlabel(notes[name][list(rows).index(row)], size=8, color=INK)
    for axes, name in zip(grid[0], trips, strict=True):
        axes.set_title(name, size=11, color=INK, loc="left", weight="bold")
    marks: dict[str, Any] = {"linestyle": "none", "markersize": 8, "markeredgecolor": INK}
    legend_below(
        figure,
        [
            Line2D([], [], marker="o", color="white", label="origin", **marks),
            Line2D([], [], marker="s", color=INK, label="destination", **marks),
        ],
    )
    return figure


def wins_map(network: RoadNetwork, gain: Float64Array, visits: Int64Array, title: str) -> Figure:
    """Draw where the distilled student's trips are closer to the real ones (blue) and where the vanilla one's (orange).

    `gain` (N,) float64 is the mean difference over the real trips through each road, `visits` (N,) int64 the number of
    these trips. Lines are wider for more trips; roads without trips are faint.
    """
    figure, axes = map_figure(extent_of(network), title, below_in=0.9)
    rows = np.flatnonzero(visits > 0)
    draw_roads(axes, network, visits == 0, FAINT, 0.3, order=1)
    most = max(float(np.quantile(np.abs(gain[rows]), 0.95)) if len(rows) else 0.0, 1e-3)
    norm = Normalize(-most, most)
    rows = rows[np.argsort(np.abs(gain[rows]), kind="stable")]
    widths = width_scale(network) * (0.7 + np.minimum(np.log2(visits[rows] + 1), 6) / 2)
    axes.add_collection(
        LineCollection(
            road_lines(network, rows),
            colors=_DIVERGING(norm(gain[rows])),
            linewidths=widths,
            capstyle="round",
            zorder=2,
        )
    )
    bar_below(
        figure,
        [axes],
        ScalarMappable(norm, _DIVERGING),
        "overlap with the real trip, distilled − vanilla, mean over trips through a road",
        extend="both",
    )
    return figure
