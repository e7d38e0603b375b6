"""The road network: directed roads as arrays, and their connections.

Coordinates are WGS 84 degrees (EPSG:4326): (lon, lat) in files and geometries, (lat, lon) where a field says so.
Shapes: N roads, M coordinates of all roads, L connections.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import shapely

from hoser_kd.common.arguments import check_choice, check_path
from hoser_kd.common.arrays import Csr, Float64Array, Int64Array, offsets_of
from hoser_kd.common.errors import DataError
from hoser_kd.network.csv_files import read_csv_columns

CRS_WGS84 = "EPSG:4326"
EARTH_CIRCUMFERENCE_M = 40_075_017
"""No road is longer."""
ROADS_FILE = "roads.parquet"
CONNECTIONS_FILE = "connections.parquet"


@dataclass(frozen=True)
class RoadNetwork:
    """Directed roads and their connections; road ids are 0 … N - 1, the row numbers of the source."""

    coord_offsets: Int64Array
    """(N + 1,) int64: road i has the coordinates `coords[coord_offsets[i]:coord_offsets[i + 1]]`."""
    coords: Float64Array
    """(M, 2) float64: lon, lat in degrees."""
    length_m: Float64Array
    """(N,) float64: length in meters, as given in the source."""
    highway: npt.NDArray[np.object_]
    """(N,) str: OpenStreetMap class of each road."""
    successors: Csr
    """Row r: the roads that can follow road r (the candidates of a step), in the order of the source."""
    dropped_connections: int = 0
    """Number of repeated rows of roadmap.rel dropped with `on_duplicate_connection="drop"`; not stored."""

    def __repr__(self) -> str:
        """Name the numbers of roads and of connections; the arrays may be long."""
        return f"RoadNetwork({self.num_roads:,} roads, {len(self.successors.indices):,} connections)"

    @property
    def num_roads(self) -> int:
        """Number of roads, N."""
        return len(self.length_m)

    @cached_property
    def geometry(self) -> npt.NDArray[np.object_]:
        """(N,) shapely LineStrings in degrees."""
        road_of_coord = np.repeat(np.arange(self.num_roads), np.diff(self.coord_offsets))
        lines: npt.NDArray[np.object_] = shapely.linestrings(self.coords, indices=road_of_coord)
        return lines

    @cached_property
    def centroids(self) -> Float64Array:
        """(N, 2) float64: lat, lon of the centroid of each LineString, planar in degrees, as published."""
        points = shapely.centroid(self.geometry)
        return np.column_stack([shapely.get_y(points), shapely.get_x(points)])

    @property
    def start(self) -> Float64Array:
        """(N, 2) float64: lat, lon of each road's first coordinate."""
        return self.coords[self.coord_offsets[:-1], ::-1]

    @property
    def end(self) -> Float64Array:
        """(N, 2) float64: lat, lon of each road's last coordinate."""
        return self.coords[self.coord_offsets[1:] - 1, ::-1]

    @cached_property
    def highway_names(self) -> list[str]:
        """Distinct classes in the order of their index: numerically if all are numbers, otherwise alphabetically."""
        names = sorted(set(self.highway))
        try:
            return sorted(names, key=float)
        except ValueError:
            return names

    @cached_property
    def road_type(self) -> Int64Array:
        """(N,) int64: index of each road's class in `highway_names`."""
        index = {name: i for i, name in enumerate(self.highway_names)}
        return np.fromiter((index[name] for name in self.highway), np.int64, self.num_roads)

    @cached_property
    def _connection_keys(self) -> tuple[Int64Array, Int64Array]:
        """Sorted keys origin * N + destination of the connections, and the position of each among its candidates."""
        origin = np.repeat(np.arange(self.num_roads), self.successors.degrees)
        keys = origin * self.num_roads + self.successors.indices
        order = np.argsort(keys, kind="stable")
        place = np.arange(len(keys)) - self.successors.indptr[origin]
        return keys[order], place[order]

    def candidate_index(self, road: Int64Array, following: Int64Array) -> Int64Array:
        """Return the position of `following` among the candidates of `road`, -1 if it is not one of them.

        Both are (K,) int64 road ids in range; returns (K,) int64.
        """
        keys, place = self._connection_keys
        if len(keys) == 0:
            return np.full(len(road), -1, np.int64)
        key = np.asarray(road, np.int64) * self.num_roads + following
        at = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
        return np.where(keys[at] == key, place[at], -1)

    def roads_frame(self) -> gpd.GeoDataFrame:
        """Return road_id, highway, length_m and the LineString, one row per road, EPSG:4326."""
        table = {"road_id": np.arange(self.num_roads), "highway": self.highway, "length_m": self.length_m}
        return gpd.GeoDataFrame(table, geometry=self.geometry, crs=CRS_WGS84)

    def centroids_frame(self) -> gpd.GeoDataFrame:
        """Return road_id, lon_deg, lat_deg and the center as a Point, one row per road, EPSG:4326.

        The center is the planar centroid of the line in degrees, as in the published models.
        """
        center = gpd.GeoSeries(shapely.centroid(self.geometry), crs=CRS_WGS84)
        table = {"road_id": np.arange(self.num_roads), "lon_deg": center.x, "lat_deg": center.y}
        return gpd.GeoDataFrame(table, geometry=center, crs=CRS_WGS84)

    def save(self, folder: str | PathLike[str]) -> None:
        """Write `roads.parquet` (GeoParquet) and `connections.parquet` to an existing folder."""
        self.roads_frame().to_parquet(Path(folder) / ROADS_FILE, compression="zstd")
        origin = np.repeat(np.arange(self.num_roads), self.successors.degrees)
        connections = pa.table({"road_id": origin, "following_road_id": self.successors.indices})
        pq.write_table(connections, Path(folder) / CONNECTIONS_FILE, compression="zstd")

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> RoadNetwork:
        """Read a network written by `save`."""
        roads = gpd.read_parquet(Path(folder) / ROADS_FILE)
        connections = pq.read_table(Path(folder) / CONNECTIONS_FILE)
        lines = roads.geometry.to_numpy()
        counts = np.bincount(connections["road_id"].to_numpy(), minlength=len(roads))
        return cls(
            coord_offsets=offsets_of(shapely.get_num_coordinates(lines)),
            coords=shapely.get_coordinates(lines),
            length_m=roads["length_m"].to_numpy(np.float64),
            highway=roads["highway"].to_numpy(object),
            successors=Csr(offsets_of(counts), connections["following_road_id"].to_numpy()),
        )


def read_network(folder: str | PathLike[str], on_duplicate_connection: str = "refuse") -> RoadNetwork:
    """Read `roadmap.geo` and `roadmap.rel` of a folder in HOSER's format.

    `on_duplicate_connection`: "refuse" raises DataError for a row that repeats a connection; "drop" keeps the first and
    counts the others in `.dropped_connections`.
    Raises DataError with file, row and fix for an invalid row, TypeError or ValueError for a wrong argument.
    """
    check_path("folder", folder, "read_network(folder)")
    check_choice("on_duplicate_connection", on_duplicate_connection, ("refuse", "drop"), "read_network(folder)")
    geo_path, rel_path = Path(folder) / "roadmap.geo", Path(folder) / "roadmap.rel"
    geo = read_csv_columns(
        geo_path, {"geo_id": pa.int64(), "coordinates": pa.string(), "highway": pa.string(), "length": pa.float64()}
    )
    num_roads = len(geo)
    if num_roads == 0:
        raise DataError(geo_path, "no roads.", hint="The file needs one row per directed road.")
    ids = geo["geo_id"].to_numpy()
    _reject(geo_path, ids != np.arange(num_roads), "geo_id is not the row number.", _fix_of_ids(ids))
    offsets, coords = _parse_coordinates(geo_path, geo["coordinates"])
    length_m = geo["length"].to_numpy().astype(np.float64)
    _reject(
        geo_path,
        ~(np.isfinite(length_m) & (length_m >= 0)),
        "length is missing or negative.",
        "Set the length in meters.",
    )
    _reject(
        geo_path,
        length_m > EARTH_CIRCUMFERENCE_M,
        "length is larger than the circumference of the earth.",
        "Set the length in meters.",
    )
    _reject_antimeridian(geo_path, offsets, coords)
    highway = _parse_highway(geo_path, geo["highway"])
    successors, dropped = _read_connections(rel_path, num_roads, drop_repeated=on_duplicate_connection == "drop")
    return RoadNetwork(offsets, coords, length_m, highway, successors, dropped)


read_hoser = read_network
"""The name inside this package."""


def _fix_of_ids(ids: npt.NDArray[Any]) -> str:
    """Return how to get ids that are row numbers without changing which road an id means elsewhere."""
    if np.array_equal(np.sort(ids), np.arange(len(ids))):
        return "Sort the rows by geo_id; roadmap.rel and the trips stay as they are."
    return (
        "Road ids are row numbers: 0, 1, 2, … in file order. If you renumber the roads, renumber them by the same "
        "mapping in roadmap.rel, in rid_list of the trips and in all ODs, or every id means another road: "
        "`hoser-kd renumber-roads FOLDER --out NEW_FOLDER` does so and writes the mapping."
    )


def _reject_antimeridian(path: Path, offsets: Int64Array, coords: Float64Array) -> None:
    """Raise DataError where longitudes jump by 360°: planar centers and grids would lie on the other side of the earth.

    Shapes: M coordinates of all roads.
    """
    hint = "Shift all longitudes by the same angle, for example by 90°: distances do not change, and bounds shift too."
    jumps = np.abs(np.diff(coords[:, 0])) > 180
    jumps[offsets[1:-1] - 1] = False  # from one road to the next
    if jumps.any():
        row = int(np.searchsorted(offsets, np.argmax(jumps), side="right")) - 1
        raise DataError(path, "the line crosses the antimeridian (180° east or west).", row=row, hint=hint)
    west, east = coords[:, 0].min(), coords[:, 0].max()
    if east - west > 180:
        problem = f"the roads lie from {west:g}° to {east:g}° east, on both sides of the antimeridian."
        raise DataError(path, problem, hint=hint)


def _reject(path: Path, bad: npt.NDArray[np.bool_], problem: str, hint: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        more = int(bad.sum()) - 1
        raise DataError(
            path, problem + (f" ({more} more rows have the same problem.)" if more else ""), row=row, hint=hint
        )


_POINT = r"\[\s*[^\[\],\s]+\s*,\s*[^\[\],\s]+\s*\]"
_LINE = rf"^\s*\[\s*{_POINT}(\s*,\s*{_POINT})*\s*\]\s*$"


def _parse_coordinates(path: Path, texts: pa.ChunkedArray) -> tuple[Int64Array, Float64Array]:
    """Parse JSON lists of [lon, lat] for all rows of a chunk at once; all chunks together may exceed 2 GiB."""
    is_line = pc.match_substring_regex(texts, _LINE)
    _reject(
        path,
        ~np.asarray(pc.fill_null(is_line, False)),
        "coordinates is not a list of [lon, lat] pairs.",
        'Write it as "[[lon, lat], [lon, lat]]".',
    )
    first_rows = offsets_of(np.array([len(chunk) for chunk in texts.chunks], np.int64))
    parts = [_parse_lines(path, chunk, int(row)) for chunk, row in zip(texts.chunks, first_rows[:-1], strict=True)]
    counts, coords = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    offsets = offsets_of(counts // 2)
    _reject(path, counts < 4, "the line has fewer than two points.", "A road needs at least a start and an end.")
    outside = ~(np.isfinite(coords).all(1) & (np.abs(coords[:, 0]) <= 180) & (np.abs(coords[:, 1]) <= 90))
    if outside.any():
        row = int(np.searchsorted(offsets, np.argmax(outside), side="right")) - 1
        raise DataError(path, "a coordinate is out of range.", row=row, hint="Use [lon, lat] in degrees, EPSG:4326.")
    return offsets, coords


def _parse_lines(path: Path, texts: pa.StringArray, first_row: int) -> tuple[Int64Array, Float64Array]:
    """Return the number of values of each row and all points, (M, 2): strip brackets and blanks, split at commas, cast.

    Raises DataError for a value that is not a number; `first_row` is the number of the first row.
    """
    pieces = pc.split_pattern(pc.replace_substring_regex(texts, r"[\[\]\s]", ""), ",")
    counts = np.asarray(pc.list_value_length(pieces)).astype(np.int64)
    numbers = pieces.flatten()
    try:
        return counts, np.asarray(pc.cast(numbers, pa.float64())).reshape(-1, 2)
    except pa.ArrowInvalid:
        is_number = np.asarray(pc.match_substring_regex(numbers, r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"))
        at = int(np.argmin(is_number))
        row = first_row + int(np.searchsorted(2 * offsets_of(counts // 2), at, side="right")) - 1
        raise DataError(path, f"coordinates contains {numbers[at].as_py()!r}, not a number.", row=row) from None


def _parse_highway(path: Path, texts: pa.ChunkedArray) -> npt.NDArray[np.object_]:
    """Return the class of each road: the text, or the first entry of a list (the second after `unclassified`)."""
    # " 0" and "0" are one class
    trimmed = pc.utf8_trim_whitespace(texts)
    words = pd.Series(pc.if_else(pc.equal(trimmed, ""), None, trimmed).to_pandas(), dtype=object)
    _reject(path, words.isna().to_numpy(), "highway is empty.", "Set the class of the road, `unclassified` if unknown.")
    for text in words[words.str.startswith("[")].unique():
        try:
            entries = [str(entry).strip() for entry in ast.literal_eval(text)]
        except (ValueError, SyntaxError):
            entries = []
        if not entries:
            row = int((words == text).to_numpy().argmax())
            raise DataError(path, f"highway {text!r} is not a list of classes.", row=row)
        chosen = entries[1] if entries[0] == "unclassified" and len(entries) > 1 else entries[0]
        words = words.where(words != text, chosen)
    return words.to_numpy(object)


def _read_connections(path: Path, num_roads: int, *, drop_repeated: bool) -> tuple[Csr, int]:
    """Return the connections in the order of the file, and the number of repeated rows that were dropped."""
    rel = read_csv_columns(path, {"origin_id": pa.int64(), "destination_id": pa.int64()})
    ends = np.column_stack([rel["origin_id"].to_numpy(), rel["destination_id"].to_numpy()])
    if len(ends) == 0:
        raise DataError(path, "no connections.", hint="The file needs one row per pair of consecutive roads.")
    ends = ends.astype(np.int64) if ends.dtype.kind == "i" else np.nan_to_num(ends, nan=-1).astype(np.int64)
    outside: npt.NDArray[np.bool_] = np.any((ends < 0) | (ends >= num_roads), axis=1)
    _reject(path, outside, "a road id is not in roadmap.geo.", f"Valid ids are 0 to {num_roads - 1}.")
    _, first = np.unique(ends[:, 0] * num_roads + ends[:, 1], return_index=True)
    repeated = np.ones(len(ends), bool)
    repeated[first] = False
    if drop_repeated:
        ends = ends[~repeated]
    else:
        hint = "Remove this row, or set `source.on_duplicate_connection: drop` to drop and count duplicates."
        _reject(path, repeated, "the connection is a duplicate.", hint)
    order = np.argsort(ends[:, 0], kind="stable")
    successors = Csr(offsets_of(np.bincount(ends[:, 0], minlength=num_roads)), ends[order, 1])
    return successors, int(repeated.sum())
