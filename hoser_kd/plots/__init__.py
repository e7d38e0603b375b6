"""Figures of artifacts and results: maps, curves, distributions.

Every function returns a new matplotlib `Figure`, without pyplot and without global state, so any thread may call it.
`png` turns a figure into bytes. Colors are the Okabe-Ito palette and the cividis scale, which are safe for color-blind
readers. Real trips are gray, the vanilla student is orange, the distilled one blue.
"""

from __future__ import annotations

from hoser_kd.plots.canvas import COLORS, color_of, png
from hoser_kd.plots.curves import LOSS_PANELS, by_group, differences, distributions, histograms, training_curves
from hoser_kd.plots.maps import cell_value_map, grid_map, network_map, zones_map
from hoser_kd.plots.matching_maps import quality_figure, worst_map
from hoser_kd.plots.primary import Point, primary_chart, request_panels
from hoser_kd.plots.sweeps import importances, parallel_coordinates
from hoser_kd.plots.trip_maps import trips_map, use_map, wins_map

__all__ = [
    "COLORS",
    "LOSS_PANELS",
    "Point",
    "by_group",
    "cell_value_map",
    "color_of",
    "differences",
    "distributions",
    "grid_map",
    "histograms",
    "importances",
    "network_map",
    "parallel_coordinates",
    "png",
    "primary_chart",
    "quality_figure",
    "request_panels",
    "training_curves",
    "trips_map",
    "use_map",
    "wins_map",
    "worst_map",
    "zones_map",
]
