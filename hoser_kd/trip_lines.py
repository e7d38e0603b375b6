"""Trips as lines on a map: GeoParquet that QGIS and geopandas open.

Letters: n trips, P roads of all of them together, K coordinates of all their lines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import pyarrow as pa
import shapely

from hoser_kd.ragged import ranges, row_of_value

if TYPE_CHECKING:
    from hoser_kd.road_network import RoadNetwork
    from hoser_kd.search import GeneratedTrajectories

CRS = "EPSG:4326"


def trip_lines(trips: GeneratedTrajectories, network: RoadNetwork) -> gpd.GeoDataFrame:
    """Return a row a trip: trajectory_id, num_roads, start_time, end_time, length_m, reached, and its LineString.

    The line follows the roads' own lines, WGS 84 longitude and latitude. Trips have a road or more.
    """
    starts = network.coord_offsets[trips.road_ids]
    counts = network.coord_offsets[trips.road_ids + 1] - starts
    at, trip = ranges(starts, counts), np.repeat(row_of_value(trips.offsets), counts)
    coords = network.coords[at]
    # a road begins where the one before it ends
    keep = np.ones(len(at), bool)
    keep[1:] = (coords[1:] != coords[:-1]).any(1) | (trip[1:] != trip[:-1])
    # a road without extent must stay a line: it keeps both of its ends
    alone = np.bincount(trip[keep], minlength=len(trips)) < 2
    keep |= alone[trip]
    length_m = np.bincount(row_of_value(trips.offsets), network.length_m[trips.road_ids], len(trips))
    last = trips.offsets[1:] - 1
    return gpd.GeoDataFrame(
        {
            "trajectory_id": np.arange(len(trips)).astype(str) if trips.ids is None else trips.ids,
            "num_roads": trips.lengths,
            "start_time": _stamps(trips.start_times),
            "end_time": _stamps(trips.times[last]),
            "length_m": length_m,
            "reached": trips.reached,
        },
        geometry=shapely.linestrings(coords[keep], indices=trip[keep]),
        crs=CRS,
    )


def _stamps(seconds: np.ndarray) -> pa.Array:
    return pa.array(seconds, pa.timestamp("s", tz="UTC")).to_pandas()
