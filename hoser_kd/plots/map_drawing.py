"""Parts of maps: roads, cells, windows, scale bars.

Shapes: N roads, H rows and W columns of cells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from hoser_kd.plots.canvas import FAINT, INK, sequential

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from hoser_kd.common.arrays import BoolArray, Float64Array
    from hoser_kd.network.road_network import RoadNetwork

_METERS_PER_DEGREE = 111_195.0


def road_lines(network: RoadNetwork, rows: npt.NDArray[Any]) -> list[Float64Array]:
    """Return the line of each of these roads, (points, 2) float64 lon, lat in degrees."""
    starts, ends = network.coord_offsets[:-1][rows].tolist(), network.coord_offsets[1:][rows].tolist()
    return [network.coords[a:b] for a, b in zip(starts, ends, strict=True)]


def draw_roads(
    axes: Axes,
    network: RoadNetwork,
    rows: BoolArray | None,
    color: str,
    width: float,
    *,
    order: float = 2,
    alpha: float = 1.0,
) -> None:
    """Draw the roads of `rows`, (N,) bool; None draws all. A higher `order` is drawn on top."""
    chosen = np.arange(network.num_roads) if rows is None else np.flatnonzero(rows)
    axes.add_collection(
        LineCollection(
            road_lines(network, chosen), colors=color, linewidths=width, alpha=alpha, capstyle="round", zorder=order
        ),
        autolim=False,
    )


def draw_cells(
    axes: Axes, lat_edges: Float64Array, lng_edges: Float64Array, values_HW: npt.NDArray[Any], norm: Normalize
) -> Any:
    """Draw the values of cells, (H, W); cells with NaN are blank."""
    masked = np.ma.masked_invalid(values_HW)
    return axes.pcolormesh(lng_edges, lat_edges, masked, cmap=sequential(), norm=norm, zorder=1)


def width_scale(network: RoadNetwork) -> float:
    """Return a factor for line widths: thinner lines for networks with more roads."""
    return float(np.clip(60 / np.sqrt(max(network.num_roads, 1)), 0.45, 2.2))


def extent_of(network: RoadNetwork) -> Float64Array:
    """Return (2, 2) float64: south-west and north-east corner, lon and lat in degrees."""
    return np.stack([network.coords.min(0), network.coords.max(0)])


def _shape(extent: Float64Array) -> float:
    """Return height over width of an extent as drawn."""
    width, height = np.maximum(extent[1] - extent[0], 1e-9)
    return float(np.clip(height / (width * np.cos(np.radians(extent[:, 1].mean()))), 0.25, 2.0))


def map_figure(extent: Float64Array, title: str, *, below_in: float = 0.1) -> tuple[Figure, Axes]:
    """Return a figure with one map, and `below_in` inches for a legend or color bar below it."""
    width = 9.0
    figure = Figure(figsize=(width, width * _shape(extent) + 0.3 + below_in), layout="constrained")
    axes = figure.subplots()
    map_axes(axes, extent)
    axes.set_title(title, size=11, color=INK, loc="left")
    return figure, axes


def map_panels(network: RoadNetwork, names: Sequence[str]) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure with one map per name: in a row, or the first above the others if the city is wider than high."""
    extent = extent_of(network)
    shape, width, head, bar = _shape(extent), 10.2, 0.3, 0.7
    row = width / max(len(names), 1) * shape + head
    layout: list[Any] = [list(names)]
    heights = [row]
    if shape < 0.8 and len(names) > 1:
        others = list(names[1:])
        layout = [[names[0]] * len(others), others]
        heights = [width * 0.8 * shape + head, width / len(others) * shape + head]
    figure = Figure(figsize=(width, sum(heights) + bar), layout="constrained")
    panels = figure.subplot_mosaic(layout, height_ratios=heights)
    for name in names:
        map_axes(panels[name], extent)
        panels[name].set_title(name, size=11, color=INK, loc="left", weight="bold")
    return figure, [panels[name] for name in names]


def map_axes(axes: Axes, extent: Float64Array, margin: float = 0.015) -> None:
    """Show an extent with equal scale in both directions at its middle latitude, a scale bar and no ticks."""
    (west, south), (east, north) = extent
    edge = margin * max(east - west, north - south, 1e-6)
    axes.set_xlim(west - edge, east + edge)
    axes.set_ylim(south - edge, north + edge)
    axes.set_aspect(1 / np.cos(np.radians((south + north) / 2)))
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(FAINT)
    _scale_bar(axes)


def square_window(points: Float64Array) -> Float64Array:
    """Return the extent of a window, square in meters, around (points, 2) lat, lon with a margin."""
    low, high = points.min(0)[::-1], points.max(0)[::-1]
    middle = (low + high) / 2
    stretch = np.cos(np.radians(middle[1]))
    side = max((high[0] - low[0]) * stretch, high[1] - low[1], 0.002) * 1.25
    half = np.array([side / 2 / stretch, side / 2])
    return np.stack([middle - half, middle + half])


def near_roads(network: RoadNetwork, window: Float64Array) -> BoolArray:
    """Return (N,) bool: whether the bounding box of a road intersects the window."""
    low = np.minimum.reduceat(network.coords, network.coord_offsets[:-1])
    high = np.maximum.reduceat(network.coords, network.coord_offsets[:-1])
    near: BoolArray = ((low < window[1]) & (high > window[0])).all(1)
    return near


def _scale_bar(axes: Axes) -> None:
    """Draw a scale bar of a round length, about a fifth of the map, in the lower left corner."""
    (west, east), (south, north) = axes.get_xlim(), axes.get_ylim()
    meter = 1 / (_METERS_PER_DEGREE * np.cos(np.radians((south + north) / 2)))
    longest = (east - west) / meter / 5
    power = 10.0 ** np.floor(np.log10(longest))
    length = max(step * power for step in (1, 2, 5) if step * power <= longest)
    x, y = west + 0.03 * (east - west), south + 0.035 * (north - south)
    axes.plot([x, x + length * meter], [y, y], color=INK, linewidth=2.5, solid_capstyle="butt", zorder=8)
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    axes.annotate(
        text,
        (x, y),
        (0, 4),
        textcoords="offset points",
        size=8,
        color=INK,
        zorder=7,
        bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1},
    )
