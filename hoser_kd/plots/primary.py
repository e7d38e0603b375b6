"""Charts of the first screen: primary metrics with baselines and ceilings, and a few requests on the map."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hoser_kd.plots.canvas import COLORS, FAINT, INK, legend_below, plain_axes
from hoser_kd.plots.map_drawing import draw_roads, map_axes, near_roads, road_lines, square_window

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from hoser_kd.common.arrays import Float64Array
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories

_BASELINE, _CEILING = "#767676", "#009E73"
_OVERLAY = {"real": (9.0, "#bdbdbd"), "vanilla": (4.6, COLORS["vanilla"]), "distilled": (1.9, COLORS["distilled"])}
"""Line width and color of each set of trips: lines that coincide are nested, so all stay visible."""
_PANEL_SHAPE = 1.5
"""Width over height of the map of a request."""
_FURTHEST = 2.5
"""The axis is at most this many times as long as the spread of students and ceilings; the rest is at its edge."""


class Point(NamedTuple):
    """A model or baseline on a metric."""

    label: str
    value: float
    kind: str
    """`vanilla`, `distilled`, `ceiling`, `control` or `baseline`."""
    trips: tuple[float, float] | None = None
    """Interval over the test trips."""
    seeds: tuple[float, float] | None = None
    """Interval over the seeds."""


def primary_chart(panels: Mapping[str, Sequence[Point]], columns: int = 1) -> Figure:
    """Draw each metric as a panel of horizontal points with intervals, best on top; titles are the keys.

    The panels fill rows of `columns`. Thin lines are intervals over the test trips, thick lines over the seeds. A
    ceiling is also a dashed line over its panel. Labels and values stand at the points. A point far beyond the others
    is at the right edge, with its value.
    """
    counts = [len(points) for points in panels.values()]
    rows = [max(counts[start : start + columns]) for start in range(0, len(counts), columns)]
    figure = Figure(figsize=(6.6 * columns, 0.29 * sum(rows) + 0.62 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False, height_ratios=[count + 1 for count in rows]).ravel()
    for panel, (title, points) in zip(axes, panels.items(), strict=False):
        _draw_points(panel, points)
        panel.set_title(title, size=10, color=INK, loc="left", weight="bold")
    for panel in axes[len(panels) :]:
        panel.set_visible(False)
    return figure


def _draw_points(axes: Axes, points: Sequence[Point]) -> None:
    ordered = sorted(points, key=lambda point: point.value)
    low, high = _span(ordered)
    for place, point in enumerate(reversed(ordered)):
        color = COLORS.get(point.kind, _CEILING if point.kind in {"ceiling", "control"} else _BASELINE)
        at = min(point.value, high)
        # the interval over the seeds is wide and pale, so that the other one shows where it is shorter
        for ends, width, alpha in ((point.seeds, 5.0, 0.4), (point.trips, 1.4, 1.0)):
            if ends is not None and point.value <= high:
                xs = np.minimum(ends, high)
                axes.plot(xs, [place, place], color=color, linewidth=width, alpha=alpha, solid_capstyle="butt")
        if point.kind == "ceiling":
            axes.axvline(at, color=color, linewidth=1, linestyle="--", zorder=0.5)
        marker = "D" if point.kind in {"ceiling", "control"} else "o" if point.value <= high else ">"
        axes.plot(at, place, marker, color=color, markersize=6.5, markeredgecolor="white", zorder=3)
        right = max([at, *(min(end, high) for ends in (point.trips, point.seeds) if ends for end in ends)])
        axes.annotate(
            f"{point.value:.4f}" + (" (off the scale)" if point.value > high else ""),
            (right if at < high else at, place),
            (6, 0) if at < high else (-8, 0),
            textcoords="offset points",
            size=8.5,
            color=INK,
            va="center",
            ha="left" if at < high else "right",
        )
    margin = 0.03 * (high - low)
    axes.set_xlim(low - margin, high + 5 * margin)
    axes.set_ylim(-0.7, len(ordered) - 0.3)
    axes.set_yticks(range(len(ordered)), labels=[point.label for point in reversed(ordered)])
    plain_axes(axes)
    axes.tick_params(axis="y", length=0, labelsize=8.5)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
    for text, point in zip(axes.get_yticklabels(), reversed(ordered), strict=True):
        if point.kind in COLORS:
            text.set_fontweight("bold")


def _span(points: Sequence[Point]) -> tuple[float, float]:
    """Return the ends of the axis: all points, except baselines far beyond the others."""
    near = [end for point in points if point.kind != "baseline" for end in (point.value, *(point.trips or ()))]
    near = near or [point.value for point in points]
    best = min((point.value for point in points if point.kind == "baseline"), default=near[0])
    low, high = min(*near, best, points[0].value), max(*near, best)
    limit = high + (_FURTHEST - 1) * max(high - low, 0.02 * abs(high), 1e-9)
    inside = [
        end
        for point in points
        for end in (point.value, *(point.trips or ()), *(point.seeds or ()))
        if point.value <= limit
    ]
    return min([low, *inside]), max([high, *inside])


def _wide(window: Float64Array) -> Float64Array:
    """Return a square window (2, 2) lon, lat, widened to `_PANEL_SHAPE`."""
    middle = window.mean(0)
    return np.asarray(middle + (window - middle) * [_PANEL_SHAPE, 1.0], np.float64)


def request_panels(
    network: RoadNetwork, trips: Mapping[str, Trajectories], rows: Sequence[int], titles: Sequence[str]
) -> Figure:
    """Draw requests, a map each, with the trips of all sets (`real`, `vanilla`, `distilled`) over each other.

    `rows` index every set. The circle is the origin, the square the destination. Where trips share roads, the lines
    are nested, the real one widest.
    """
    across = 2 if len(rows) > 1 else 1
    down = -(-len(rows) // across)
    figure = Figure(figsize=(3.4 * across, 3.4 / _PANEL_SHAPE * down + 0.65), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    reference = next(iter(trips.values()))
    for axes, row, title in zip(panels, rows, titles, strict=False):
        window = _wide(square_window(np.concatenate([network.centroids[each.roads(row)] for each in trips.values()])))
        draw_roads(axes, network, near_roads(network, window), FAINT, 0.6, order=1)
        for order, (name, each) in enumerate(trips.items()):
            width, color = _OVERLAY[name]
            lines = road_lines(network, each.roads(row))
            axes.add_collection(
                LineCollection(lines, colors=color, linewidths=width, capstyle="round", zorder=3 + order), autolim=False
            )
        ends = network.centroids[[reference.origins[row], reference.destinations[row]]]
        axes.plot(*ends[0, ::-1], "o", markersize=8, color="white", markeredgecolor=INK, zorder=7)
        axes.plot(*ends[1, ::-1], "s", markersize=8, color=INK, markeredgecolor="white", zorder=7)
        map_axes(axes, window, margin=0.0)
        axes.set_title(title, size=8.5, color=INK, loc="left")
    for axes in panels[len(rows) :]:
        axes.set_visible(False)
    kinds = [Line2D([], [], linewidth=_OVERLAY[name][0], color=_OVERLAY[name][1], label=name) for name in trips]
    marks = [
        Line2D([], [], linestyle="none", marker="o", color="white", markeredgecolor=INK, markersize=8, label="origin"),
        Line2D([], [], linestyle="none", marker="s", color=INK, markersize=8, label="destination"),
    ]
    legend_below(figure, [*kinds, *marks])
    return figure
