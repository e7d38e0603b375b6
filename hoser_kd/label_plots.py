"""Where on the map the teacher knows what comes next: figures of sampled steps as colours of the roads they leave.

As in `hoser_kd.plots`, a `Figure` belongs to nobody else, and colours are those that people with any colour vision tell
apart. Letters: N roads, K sampled steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    from matplotlib.axes import Axes

    from hoser_kd.ragged import Float64Array, Int64Array
    from hoser_kd.road_network import RoadNetwork

_INK, _FAINT = "#333333", "#d4d4d4"
_COLOURS = colormaps["cividis_r"]
_WIDE = 0.8
"""Cities lower than this share of their width are drawn below one another."""


def mean_by_road(roads: Int64Array, values: npt.NDArray[np.floating], num_roads: int) -> Float64Array:
    """Return the mean of (K,) values over the steps that leave each road, (N,) float64, NaN where none does.

    `roads` is (K,) int64.
    """
    count = np.bincount(roads, minlength=num_roads)
    total = np.bincount(roads, values, minlength=num_roads)
    means: Float64Array = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return means


def road_value_maps(network: RoadNetwork, values: Mapping[str, Float64Array],
                    spans: Mapping[str, tuple[float, float]] | None = None) -> Figure:
    """Draw values of roads, (N,) float64 each, a map a value; the keys name the maps, NaN leaves a road faint.

    A scale goes over what is drawn, up to the 99th percentile, unless `spans` gives its ends. Where roads lie on one
    another, as the two directions of a street do, the highest value is on top.
    """
    shape = _shape(network)
    across = len(values) if shape >= _WIDE else 1
    down = -(-len(values) // across)
    width = 12.0 / across if across > 1 else 9.0
    figure = Figure(figsize=(width * across, down * (width * shape + 1.0)), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for axes, (name, value) in zip(panels, values.items(), strict=True):
        _draw(figure, axes, network, name, value, (spans or {}).get(name))
    return figure


def _draw(figure: Figure, axes: Axes, network: RoadNetwork, name: str, value: Float64Array,
          span: tuple[float, float] | None) -> None:
    known = np.flatnonzero(np.isfinite(value))
    known = known[np.argsort(value[known], kind="stable")]
    norm = Normalize(*(_span(value[known]) if span is None else span))
    scale = float(np.clip(60 / np.sqrt(max(network.num_roads, 1)), 0.45, 2.2))
    _map_axes(axes, network)
    _add_roads(axes, network, np.arange(network.num_roads), _FAINT, 0.4 * scale)
    _add_roads(axes, network, known, _COLOURS(norm(value[known])), 1.6 * scale)
    beyond = len(known) > 0 and value[known].max() > float(norm.vmax or 0)
    bar = figure.colorbar(ScalarMappable(norm, _COLOURS), ax=axes, orientation="horizontal", fraction=0.05, pad=0.02,
                          aspect=40, shrink=0.8, extend="max" if beyond else "neither")
    bar.set_label(name, size=9, color=_INK)
    bar.ax.tick_params(labelsize=8, colors=_INK)


def _add_roads(axes: Axes, network: RoadNetwork, rows: npt.NDArray[np.integer], colours: object, width: float) -> None:
    starts, ends = network.coord_offsets[:-1][rows].tolist(), network.coord_offsets[1:][rows].tolist()
    lines = [network.coords[a:b] for a, b in zip(starts, ends, strict=True)]
    axes.add_collection(LineCollection(lines, colors=colours, linewidths=width, capstyle="round"), autolim=False)


def _span(values: Float64Array) -> tuple[float, float]:
    if len(values) == 0:
        return 0.0, 1.0
    low, high = float(values.min()), float(np.quantile(values, 0.99))
    return low, high if high > low else low + 1


def _shape(network: RoadNetwork) -> float:
    """Return the height of the map over its width."""
    (west, south), (east, north) = network.coords.min(0), network.coords.max(0)
    metres = np.cos(np.radians((south + north) / 2))
    return float(np.clip(max(north - south, 1e-9) / (max(east - west, 1e-9) * metres), 0.25, 2.0))


def _map_axes(axes: Axes, network: RoadNetwork) -> None:
    """Show the whole network, metres equally long both ways at its middle latitude."""
    (west, south), (east, north) = network.coords.min(0), network.coords.max(0)
    edge = 0.015 * max(east - west, north - south, 1e-6)
    axes.set_xlim(west - edge, east + edge)
    axes.set_ylim(south - edge, north + edge)
    axes.set_aspect(1 / np.cos(np.radians((south + north) / 2)))
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(_FAINT)
