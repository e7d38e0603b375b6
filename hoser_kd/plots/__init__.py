"""Pictures of artifacts and results: maps, curves, distributions.

Every function returns a matplotlib `Figure` that belongs to nobody else: no pyplot, no global state, so they can be
drawn from any thread. `png` turns one into bytes. Colors are those of Okabe and Ito and the cividis scale, which
people with any color vision tell apart; real trips are always gray, the plain student orange, the distilled one blue.
"""

from __future__ import annotations

from hoser_kd.plots.canvas import COLORS, color_of, png
from hoser_kd.plots.curves import by_group, differences, distributions, histograms, training_curves
from hoser_kd.plots.maps import cell_value_map, grid_map, network_map, zones_map
from hoser_kd.plots.trip_maps import trips_map, use_map, wins_map

__all__ = [
    "COLORS",
    "by_group",
    "cell_value_map",
    "color_of",
    "differences",
    "distributions",
    "grid_map",
    "histograms",
    "network_map",
    "png",
    "training_curves",
    "trips_map",
    "use_map",
    "wins_map",
    "zones_map",
]
