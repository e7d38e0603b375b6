"""Maps of a city: its roads, zones and grid cells.

Shapes: N roads, H rows and W columns of cells.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib.colors import BoundaryNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hoser_kd.plots.canvas import FAINT, INK, SPARE, bar_below, legend_below
from hoser_kd.plots.map_drawing import draw_cells, draw_roads, extent_of, map_figure, width_scale

if TYPE_CHECKING:
    from hoser_kd.common.arrays import BoolArray, Float64Array, Int64Array
    from hoser_kd.network.road_network import RoadNetwork

_ZONE_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C3C", "#7A5195", "#444444")
_CLASSES = {
    # class: color, line width; from the widest road to the narrowest
    "motorway": ("#D55E00", 1.5),
    "trunk": ("#E69F00", 1.3),
    "primary": ("#0072B2", 1.1),
    "secondary": ("#56B4E9", 0.9),
    "tertiary": ("#009E73", 0.7),
    "residential": ("#8a8a8a", 0.55),
    "living_street": ("#CC79A7", 0.55),
}
_OTHER_CLASSES = ("#b8a27a", 0.45)


def network_map(network: RoadNetwork, title: str = "Roads by class") -> Figure:
    """Draw the roads colored by class, wider roads on top; the legend gives number and total length of each class."""
    figure, axes = map_figure(extent_of(network), title, below_in=0.8)
    names = np.array([str(name).removesuffix("_link") for name in network.highway])
    known = [name for name in _CLASSES if (names == name).any()]
    others = ~np.isin(names, known)
    layers = [(name, names == name, *_CLASSES[name]) for name in known]
    if others.any():
        layers += [(name, rows, color, 0.6) for name, rows, color in _other_layers(names, others, few=not known)]
    scale = width_scale(network)
    handles = []
    for height, (name, rows, color, width) in enumerate(reversed(layers)):
        draw_roads(axes, network, rows, color, width * scale, order=2 + height)
        label = f"{name.replace('_', ' ')}  ({rows.sum():,} roads, {network.length_m[rows].sum() / 1000:,.0f} km)"
        handles.append(Line2D([], [], color=color, linewidth=1.6 + width, label=label))
    legend_below(figure, list(reversed(handles)))
    return figure


def _other_layers(names: npt.NDArray[Any], rows: BoolArray, *, few: bool) -> list[tuple[str, BoolArray, str]]:
    """Return the layers of classes that `_CLASSES` does not name: one, or the five most frequent classes if `few`.

    `few` is true where the network has no class of `_CLASSES` (numbered classes, for example).
    """
    if not few:
        return [("other", rows, _OTHER_CLASSES[0])]
    classes, counts = np.unique(names[rows], return_counts=True)
    main = classes[np.argsort(-counts, kind="stable")][: len(SPARE)]
    layers = [(f"class {name}", names == name, color) for name, color in zip(main.tolist(), SPARE, strict=False)]
    rest = rows & ~np.isin(names, main)
    return [*layers, ("other", rest, _OTHER_CLASSES[0])] if rest.any() else layers


def zones_map(network: RoadNetwork, zones: Int64Array, title: str | None = None) -> Figure:
    """Draw the roads colored by zone, so that adjacent zones differ; `zones` is (N,) int64."""
    sizes = np.bincount(zones)
    sizes = sizes[sizes > 0]
    text = f"{len(sizes):,} zones of {sizes.min():,} to {sizes.max():,} roads; neighbors differ in color"
    figure, axes = map_figure(extent_of(network), title or text)
    color_of_zone = _color_zones(network, zones)
    scale = width_scale(network)
    for number, color in enumerate(_ZONE_COLORS):
        rows = color_of_zone[zones] == number
        if rows.any():
            draw_roads(axes, network, rows, color, 0.9 * scale)
    return figure


def _color_zones(network: RoadNetwork, zones: Int64Array) -> Int64Array:
    """Return the color index of each zone: the first one that no connected zone has, the largest zones first."""
    count = int(zones.max()) + 1
    origin = np.repeat(zones, network.successors.degrees)
    links = np.column_stack([origin, zones[network.successors.indices]])
    links = np.unique(np.concatenate([links, links[:, ::-1]]), axis=0)
    links = links[links[:, 0] != links[:, 1]]
    starts = np.searchsorted(links[:, 0], np.arange(count + 1))
    color = np.full(count, -1)
    for zone in np.argsort(-np.bincount(zones, minlength=count), kind="stable"):
        taken = color[links[starts[zone] : starts[zone + 1], 1]]
        free = np.setdiff1d(np.arange(len(_ZONE_COLORS)), taken)
        color[zone] = free[0] if len(free) else zone % len(_ZONE_COLORS)
    return color


def grid_map(
    network: RoadNetwork,
    lat_edges: Float64Array,
    lng_edges: Float64Array,
    roads_per_cell_HW: Int64Array,
    title: str = "Roads that share a grid cell",
) -> Figure:
    """Draw the grid cells, colored by the number of road centers in them, and the centers as dots.

    Edges are (H + 1,) and (W + 1,) float64 degrees, ascending. Empty cells are blank. Centers outside the grid, which
    are clamped to its border cells, are highlighted.
    """
    grid = np.array([[lng_edges[0], lat_edges[0]], [lng_edges[-1], lat_edges[-1]]])
    centers = network.centroids[:, ::-1]
    outside = ((centers < grid[0]) | (centers > grid[1])).any(1)
    extent = np.stack([np.minimum(grid[0], centers.min(0)), np.maximum(grid[1], centers.max(0))])
    figure, axes = map_figure(extent, title, below_in=0.75)
    counts = np.where(roads_per_cell_HW > 0, roads_per_cell_HW, np.nan)
    most = max(int(roads_per_cell_HW.max(initial=1)), 1)
    bounds = [edge for edge in (1, 2, 3, 5, 9, 17, 33, 65, 129) if edge <= most] + [most + 1]
    mesh = draw_cells(axes, lat_edges, lng_edges, counts, BoundaryNorm(bounds, 256))
    size = float(np.clip(4e3 / network.num_roads, 0.3, 9))
    axes.scatter(centers[~outside, 0], centers[~outside, 1], s=size, color=INK, alpha=0.55, linewidths=0, zorder=4)
    axes.plot(grid[[0, 1, 1, 0, 0], 0], grid[[0, 0, 1, 1, 0], 1], color=INK, linewidth=0.8, zorder=3)
    if outside.any():
        dots = axes.scatter(
            centers[outside, 0], centers[outside, 1], s=max(size, 3), color="#D55E00", linewidths=0, zorder=5
        )
        dots.set_label(f"{outside.sum():,} road centers outside the grid")
        axes.legend(handles=[dots], loc="upper right", frameon=True, fontsize=8.5, markerscale=3, labelcolor=INK)
    bar = bar_below(figure, [axes], mesh, "roads in the cell")
    spans = list(pairwise(bounds))
    bar.set_ticks([(a + b) / 2 for a, b in spans], labels=[_span(a, b - 1) for a, b in spans])
    bar.ax.tick_params(which="both", length=0)
    return figure


def cell_value_map(
    network: RoadNetwork,
    lat_edges: Float64Array,
    lng_edges: Float64Array,
    values_HW: Float64Array,
    label: str,
    *,
    title: str | None = None,
) -> Figure:
    """Draw a value of each grid cell (the teacher's negative log-likelihood, for example) over the roads.

    Edges are (H + 1,) and (W + 1,) float64 degrees, ascending. Cells with NaN are blank. The map covers the cells with
    a value; the color scale ends at their 99th percentile.
    """
    known = np.isfinite(values_HW)
    extent = extent_of(network)
    norm = Normalize(0, 1)
    if known.any():
        rows, columns = np.flatnonzero(known.any(1)), np.flatnonzero(known.any(0))
        extent = np.array(
            [[lng_edges[columns[0]], lat_edges[rows[0]]], [lng_edges[columns[-1] + 1], lat_edges[rows[-1] + 1]]]
        )
        low, high = float(values_HW[known].min()), float(np.quantile(values_HW[known], 0.99))
        norm = Normalize(low, high if high > low else low + 1)
    figure, axes = map_figure(extent, title or label, below_in=0.9)
    draw_roads(axes, network, None, FAINT, 0.5, order=1)
    mesh = draw_cells(axes, lat_edges, lng_edges, values_HW, norm)
    draw_roads(axes, network, None, "#ffffff", 0.3, order=4, alpha=0.5)
    beyond = bool(known.any()) and float(values_HW[known].max()) > float(norm.vmax or 0)
    bar_below(figure, [axes], mesh, label, extend="max" if beyond else "neither")
    return figure


def _span(low: int, high: int) -> str:
    return f"{low}" if low >= high else f"{low}–{high}"
