"""Network group: from raw files to roads, trips, centers and zones.

Belongs here: what describes the city and its trips, for teacher and students alike. Does not: anything of a model.
"""

from __future__ import annotations

from assets.raw_files import RAW
from assets.stage_asset import stage_asset

source_files = stage_asset(
    "source_files",
    kinds={"csv"},
    reads=tuple(RAW),
    description=(
        "The raw files in HOSER's format: `roadmap.geo`, `roadmap.rel`, `train.csv`, `val.csv`, `test.csv`, and a "
        "partition into zones if the data set ships one. Taken from a folder, made (`synthetic`), or downloaded from "
        "a Hugging Face repository. Its version is a digest of the files' content."
    ),
)
road_network = stage_asset(
    "road_network",
    kinds={"geopandas", "parquet"},
    description=(
        "Directed roads (GeoParquet: road_id, highway, length_m, LineString in EPSG:4326) and which road can follow "
        "which (Parquet). Every row is validated."
    ),
)
trajectories = stage_asset(
    "trajectories",
    kinds={"arrow"},
    description=(
        "Trips of train, validation and test as ragged arrays of road ids and times (Arrow IPC, memory-mapped), "
        "each step validated against the road network."
    ),
)
road_centroids = stage_asset(
    "road_centroids",
    kinds={"geopandas", "parquet"},
    description="The center of every road: centroid of its line in degrees, as a point in EPSG:4326 (GeoParquet).",
)
road_zones = stage_asset(
    "road_zones",
    kinds={"kahip", "parquet"},
    description=(
        "The zone of every road: the data set's own partition where it ships one, otherwise KaHIP's partition of the "
        "undirected road graph."
    ),
)
zone_transitions = stage_asset(
    "zone_transitions",
    kinds={"numpy"},
    description="How often training trips go from one zone to another (Z × Z counts).",
)
