"""Maps of road values: diagnostics of the teacher's labels, averaged over the sampled steps that leave each road.

Shapes: N roads, K sampled steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize

from hoser_kd.plots.canvas import FAINT, bar_below, sequential
from hoser_kd.plots.map_drawing import draw_roads, map_panels, road_lines, width_scale

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    from matplotlib.figure import Figure

    from hoser_kd.common.arrays import Float64Array, Int64Array
    from hoser_kd.network.road_network import RoadNetwork


def mean_by_road(roads: Int64Array, values: npt.NDArray[np.floating], num_roads: int) -> Float64Array:
    """Return (N,) float64: mean value of the steps that leave each road, NaN without any.

    `roads` (K,) int64 and `values` (K,) hold the road and the value of each step.
    """
    count = np.bincount(roads, minlength=num_roads)
    total = np.bincount(roads, values, minlength=num_roads)
    means: Float64Array = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return means


def road_value_maps(
    network: RoadNetwork, values: Mapping[str, Float64Array], spans: Mapping[str, tuple[float, float]] | None = None
) -> Figure:
    """Draw road values, (N,) float64 each, one map per value; the keys name the maps, roads with NaN are faint.

    A color scale ends at the 99th percentile of the values, unless `spans` gives its ends. Where roads overlap, such
    as the two directions of a street, the highest value is on top.
    """
    figure, panels = map_panels(network, list(values))
    width = width_scale(network)
    for axes, (name, value) in zip(panels, values.items(), strict=True):
        known = np.flatnonzero(np.isfinite(value))
        known = known[np.argsort(value[known], kind="stable")]
        given = (spans or {}).get(name)
        norm = Normalize(*(_span(value[known]) if given is None else given))
        draw_roads(axes, network, None, FAINT, 0.4 * width, order=1)
        axes.add_collection(
            LineCollection(
                road_lines(network, known),
                colors=sequential()(norm(value[known])),
                linewidths=1.6 * width,
                capstyle="round",
                zorder=2,
            ),
            autolim=False,
        )
        beyond = len(known) > 0 and value[known].max() > float(norm.vmax or 0)
        bar_below(figure, [axes], ScalarMappable(norm, sequential()), "", extend="max" if beyond else "neither")
    return figure


def _span(values: Float64Array) -> tuple[float, float]:
    if len(values) == 0:
        return 0.0, 1.0
    low, high = float(values.min()), float(np.quantile(values, 0.99))
    return low, high if high > low else low + 1
