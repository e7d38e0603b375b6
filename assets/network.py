"""Network group: from raw files to roads, trips, centroids and zones.

What belongs here: data of the city and its trips that teacher and students share. What does not: anything of a model.
"""

from __future__ import annotations

from assets.raw_files import RAW
from assets.stage_asset import stage_assets

ASSETS = stage_assets(
    "network",
    reads={"source_files": tuple(RAW), "osm_extract": ("raw_roads",), "gps_points": ("raw_trips",)},
)
