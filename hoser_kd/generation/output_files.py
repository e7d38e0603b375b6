"""Output files of generated trips: the published CSV, and lines on a map (GeoParquet).

Both are written from the Parquet file of the trips, one row group at a time, so memory is bounded by a row group.
Files are written atomically.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyproj
import shapely

from hoser_kd.common.arrays import ranges, row_of_value
from hoser_kd.common.files import atomic_path
from hoser_kd.generation.trajectories import GeneratedTrajectories

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from os import PathLike

    from hoser_kd.common.arrays import Float64Array
    from hoser_kd.network.road_network import RoadNetwork

_GEOPARQUET_VERSION = "1.0.0"


def read_chunks(path: str | PathLike[str]) -> Iterator[GeneratedTrajectories]:
    """Yield the trips of a Parquet file of `hoser_kd.generation.generator.generate_to`, one row group at a time."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield GeneratedTrajectories.of_table(file.read_row_group(group))


def write_published_csv(chunks: Iterable[GeneratedTrajectories], path: str | PathLike[str]) -> None:
    """Write the chunks in order as one CSV in the layout of the published generator."""
    with atomic_path(path) as beside, beside.open("wb") as out:
        piece = beside.with_suffix(".piece")
        try:
            for number, chunk in enumerate(chunks):
                chunk.to_published_csv(piece)
                text = piece.read_bytes()
                out.write(text if number == 0 else text[text.index(b"\n") + 1 :])
        finally:
            piece.unlink(missing_ok=True)


def write_lines(chunks: Iterable[GeneratedTrajectories], network: RoadNetwork, path: str | PathLike[str]) -> None:
    """Write trips as GeoParquet, one line per trip (see `trip_lines`) and one row group per chunk."""
    writer: pq.ParquetWriter | None = None
    boxes: list[Float64Array] = []
    with atomic_path(path) as beside:
        try:
            for chunk in chunks:
                lines = trip_lines(chunk, network)
                boxes.append(lines.total_bounds)
                table = pa.Table.from_pandas(lines.to_wkb(), preserve_index=False).replace_schema_metadata()
                if writer is None:
                    writer = pq.ParquetWriter(beside, table.schema, compression="zstd")
                writer.write_table(table.cast(writer.schema))
            if writer is not None:
                writer.add_key_value_metadata({"geo": json.dumps(_geo(np.array(boxes)))})
        finally:
            if writer is not None:
                writer.close()


def _geo(boxes: Float64Array) -> dict[str, Any]:
    """Return the GeoParquet metadata; `boxes` (chunks, 4) are min x, min y, max x, max y of each chunk."""
    return {
        "version": _GEOPARQUET_VERSION,
        "primary_column": "geometry",
        "columns": {
            "geometry": {
                "encoding": "WKB",
                "geometry_types": ["LineString"],
                "crs": pyproj.CRS(CRS).to_json_dict(),
                "bbox": [*boxes[:, :2].min(0).tolist(), *boxes[:, 2:].max(0).tolist()],
            }
        },
    }


CRS = "EPSG:4326"


def trip_lines(trips: GeneratedTrajectories, network: RoadNetwork) -> gpd.GeoDataFrame:
    """Return one row per trip: trajectory_id, num_roads, start_time, end_time, length_m, reached and a LineString.

    The line follows the geometry of the roads in WGS 84 longitude and latitude. Every trip needs at least one road.
    """
    starts = network.coord_offsets[trips.road_ids]
    counts = network.coord_offsets[trips.road_ids + 1] - starts
    at, trip = ranges(starts, counts), np.repeat(row_of_value(trips.offsets), counts)
    coords = network.coords[at]
    # consecutive roads share a point
    keep = np.ones(len(at), bool)
    keep[1:] = (coords[1:] != coords[:-1]).any(1) | (trip[1:] != trip[:-1])
    # a LineString needs two points, so a road of zero extent keeps both of its ends
    alone = np.bincount(trip[keep], minlength=len(trips)) < 2
    keep |= alone[trip]
    length_m = np.bincount(row_of_value(trips.offsets), network.length_m[trips.road_ids], len(trips))
    last = trips.offsets[1:] - 1
    return gpd.GeoDataFrame(
        {
            "trajectory_id": np.arange(len(trips)).astype(str) if trips.ids is None else np.asarray(trips.ids),
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
