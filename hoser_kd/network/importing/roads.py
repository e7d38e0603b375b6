"""Road networks of other tools: edges with any ids become roads 0 … N - 1, and the map of ids is kept.

Shapes: N roads, L connections.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from hoser_kd.common.arrays import Csr, Float64Array, Int64Array, offsets_of
from hoser_kd.common.errors import DataError
from hoser_kd.common.geodesy import great_circle_m
from hoser_kd.network.importing.tables import column_of, name_column, read_table, texts_of
from hoser_kd.network.road_graph import connect
from hoser_kd.network.road_network import CRS_WGS84, RoadNetwork

ROLES: Mapping[str, tuple[str, ...]] = {
    "road_id": ("geo_id", "road_id", "edge_id", "segment_id", "link_id", "gid", "id", "fid"),
    "geometry": ("geometry", "coordinates", "geom", "wkt", "the_geom", "wkt_geom", "linestring"),
    "highway": ("highway", "road_type", "fclass", "road_class", "class"),
    "length": ("length", "length_m", "len", "distance"),
    "from": ("u", "from", "from_node", "source", "start_node", "tail"),
    "to": ("v", "to", "to_node", "target", "end_node", "head"),
    "origin": ("origin_id", "origin", "from_id", "from", "source"),
    "destination": ("destination_id", "destination", "to_id", "to", "target"),
}
"""Names of columns for each role, lower case, in the order of preference."""


@dataclass(frozen=True)
class ImportedRoads:
    """A network and the ids that its roads have in the source."""

    network: RoadNetwork
    """N roads."""
    source_ids: pa.StringArray
    """(N,) id of each road in the source, as text."""

    def rows_of(self, ids: pa.StringArray) -> Int64Array:
        """Return the road of each source id, int64; -1 for an unknown id."""
        rows = pc.index_in(ids, value_set=self.source_ids)
        known: Int64Array = pc.fill_null(rows, -1).to_numpy(zero_copy_only=False).astype(np.int64)
        return known


def read_roads(roads: Path, connections: Path | None = None, columns: Mapping[str, str] | None = None) -> ImportedRoads:
    """Read the directed edges of a table, and which can follow which.

    Files: LibCity `.geo` with `.rel`, GraphML or GeoPackage of OSMnx, GeoParquet, GeoJSON, Shapefile, CSV with WKT or
    lists of coordinates; `;`, tab and gzip are accepted. A row is one direction of a street. Coordinates in another
    system than EPSG:4326 are converted, a MultiLineString of one line is that line, a missing length is the line's.
    Without `connections`, roads follow each other if they share a node (columns such as u and v, or equal end points);
    u-turns are connected only at dead ends.

    `columns` names columns by the keys of `ROLES`, where the usual names do not apply.

    Raises:
        DataError: a file or column is missing, or a row cannot be used; the message names file, row and fix.
    """
    chosen = columns or {}
    frame = read_table(roads)
    ids = _ids(roads, frame, chosen)
    lines = _lines(roads, frame, chosen)
    network = RoadNetwork(
        coord_offsets=offsets_of(shapely.get_num_coordinates(lines)),
        coords=shapely.get_coordinates(lines),
        length_m=_lengths(roads, frame, chosen, lines),
        highway=_classes(roads, frame, chosen),
        successors=Csr(np.zeros(len(frame) + 1, np.int64), np.zeros(0, np.int64)),
    )
    imported = ImportedRoads(network, ids)
    successors = (
        _connections_by_nodes(roads, frame, chosen, lines)
        if connections is None
        else _connections_of(connections, imported, chosen)
    )
    return ImportedRoads(
        RoadNetwork(network.coord_offsets, network.coords, network.length_m, network.highway, successors), ids
    )


def _column(path: Path, frame: pd.DataFrame, role: str, chosen: Mapping[str, str]) -> str | None:
    return column_of(path, frame, role, ROLES, chosen)


def _ids(path: Path, frame: pd.DataFrame, chosen: Mapping[str, str]) -> pa.StringArray:
    """Return the id of each row; `u-v-key` where the table has no column of ids, as in OSMnx."""
    name = _column(path, frame, "road_id", chosen)
    if name is not None:
        ids = texts_of(frame[name])
    else:
        frame = frame.reset_index() if {"u", "v"} <= set(map(str, frame.index.names)) else frame
        if not {"u", "v"} <= set(frame.columns):
            hint = f"{name_column('road_id')} Columns of the file: {', '.join(map(str, frame.columns))}."
            raise DataError(path, "no column with the ids of roads.", hint=hint)
        parts = [texts_of(frame[part]) for part in ("u", "v", "key") if part in frame.columns]
        ids = pc.binary_join_element_wise(*parts, "-")
    _, first = np.unique(np.asarray(ids), return_index=True)
    if len(first) < len(ids):
        row = int(np.setdiff1d(np.arange(len(ids)), first)[0])
        hint = f"A row is one direction of a street and needs its own id. Another column? {name_column('road_id')}"
        raise DataError(path, f"the road id {ids[row].as_py()!r} occurs twice.", row=row, hint=hint)
    return ids


def _lines(path: Path, frame: pd.DataFrame, chosen: Mapping[str, str]) -> npt.NDArray[np.object_]:
    """Return one LineString per row in EPSG:4326."""
    name = _column(path, frame, "geometry", chosen)
    if name is None:
        hint = f"{name_column('geometry')} Columns of the file: {', '.join(map(str, frame.columns))}."
        raise DataError(path, "no column with the lines of roads.", hint=hint)
    if isinstance(frame, gpd.GeoDataFrame) and name == frame.geometry.name:
        if frame.crs is None:
            hint = 'Set it, for example with geopandas: edges.set_crs("EPSG:4326").'
            raise DataError(path, "the geometry has no coordinate reference system.", hint=hint)
        lines = frame.geometry.to_crs(CRS_WGS84).to_numpy()
    else:
        lines = np.asarray(_parse_lines(frame[name].astype(str)))
    is_multi = shapely.get_type_id(lines) == shapely.GeometryType.MULTILINESTRING
    lines = np.where(is_multi, shapely.line_merge(lines), lines)
    bad = (shapely.get_type_id(lines) != shapely.GeometryType.LINESTRING) | shapely.is_empty(lines)
    if bad.any():
        row = int(np.argmax(bad))
        hint = f"{int(bad.sum())} of {len(bad)} rows are no single line. Write one LINESTRING per road."
        raise DataError(path, f"{name} is not a line: {str(frame[name].iloc[row])[:60]!r}.", row=row, hint=hint)
    flat: npt.NDArray[np.object_] = shapely.force_2d(lines)
    bounds = np.abs(shapely.bounds(flat))
    outside = (bounds[:, [0, 2]] > 180).any(1) | (bounds[:, [1, 3]] > 90).any(1)
    if outside.any():
        row = int(np.argmax(outside))
        raise DataError(path, "a coordinate is out of range.", row=row, hint="Use [lon, lat] in degrees, EPSG:4326.")
    return flat


_PAIR = r"\[\s*([^\[\],\s]+)\s*,\s*([^\[\],\s]+)\s*(?:,[^\[\],]*)?\]"


def _parse_lines(texts: pd.Series) -> npt.NDArray[np.object_]:
    """Return the lines of WKT, or of JSON lists of [lon, lat]; None where a text is neither."""
    pairs = pc.replace_substring_regex(pa.array(texts, pa.string()), _PAIR, r"\1 \2")
    wkt = pc.replace_substring_regex(pairs, r"^\s*\[(.*)\]\s*$", r"LINESTRING (\1)")
    lines: npt.NDArray[np.object_] = shapely.from_wkt(np.asarray(wkt, object), on_invalid="ignore")
    return lines


def _lengths(
    path: Path, frame: pd.DataFrame, chosen: Mapping[str, str], lines: npt.NDArray[np.object_]
) -> Float64Array:
    """Return the given lengths in meters, or those of the lines."""
    name = _column(path, frame, "length", chosen)
    if name is None:
        coords, road = shapely.get_coordinates(lines, return_index=True)
        steps = great_circle_m(coords[:-1, 1], coords[:-1, 0], coords[1:, 1], coords[1:, 0])
        within = road[1:] == road[:-1]
        return np.bincount(road[1:][within], steps[within], len(lines)).astype(np.float64)
    length_m = pd.to_numeric(frame[name], errors="coerce").to_numpy(np.float64)
    bad = ~(np.isfinite(length_m) & (length_m >= 0))
    if bad.any():
        row = int(np.argmax(bad))
        hint = "Write the length in meters, or leave the column out."
        raise DataError(path, f"{name} is {str(frame[name].iloc[row])!r}, not a length.", row=row, hint=hint)
    return length_m


def _classes(path: Path, frame: pd.DataFrame, chosen: Mapping[str, str]) -> npt.NDArray[np.object_]:
    """Return the class of each road as text; `unclassified` where it is missing."""
    name = _column(path, frame, "highway", chosen)
    if name is None:
        return np.full(len(frame), "unclassified", object)
    values = frame[name]
    as_text = values.map(lambda value: str(list(value)) if isinstance(value, list | tuple | np.ndarray) else value)
    words = np.asarray(
        [text if str(text).startswith("[") else plain for text, plain in zip(as_text, _plain(as_text), strict=True)],
        object,
    )
    return np.where(words == "", "unclassified", words)


def _plain(values: pd.Series) -> list[str]:
    texts: list[str] = texts_of(values).to_pylist()
    return texts


def _connections_by_nodes(
    path: Path, frame: pd.DataFrame, chosen: Mapping[str, str], lines: npt.NDArray[np.object_]
) -> Csr:
    """Connect roads that share a node; the two directions of a street have the same line, whatever its direction."""
    names = [_column(path, frame, role, chosen) for role in ("from", "to")]
    if names[0] is not None and names[1] is not None:
        ends = [np.asarray(texts_of(frame[name])) for name in names]
    else:
        ends = [shapely.to_wkb(shapely.set_precision(shapely.get_point(lines, at), 1e-7)) for at in (0, -1)]
    _, node = np.unique(np.concatenate(ends), return_inverse=True)
    _, street = np.unique(shapely.to_wkb(shapely.normalize(lines)), return_inverse=True)
    successors: Csr = connect(node[: len(lines)], node[len(lines) :], street)
    return successors


def _connections_of(path: Path, roads: ImportedRoads, chosen: Mapping[str, str]) -> Csr:
    """Read pairs of consecutive roads, in the order of the file; a repeated pair counts once."""
    frame = read_table(path)
    ends = []
    for role in ("origin", "destination"):
        name = _column(path, frame, role, chosen)
        if name is None:
            hint = f"{name_column(role)} Columns of the file: {', '.join(map(str, frame.columns))}."
            raise DataError(path, f"no column with the {role} of connections.", hint=hint)
        texts = texts_of(frame[name])
        rows = roads.rows_of(texts)
        if (rows < 0).any():
            row = int(np.argmax(rows < 0))
            raise DataError(
                path,
                f"{name} {texts[row].as_py()!r} is not the id of a road.",
                row=row,
                hint=f"{int((rows < 0).sum())} of {len(rows)} rows name unknown roads.",
            )
        ends.append(rows)
    num_roads = roads.network.num_roads
    _, first = np.unique(ends[0] * num_roads + ends[1], return_index=True)
    kept = np.sort(first)
    origin, destination = ends[0][kept], ends[1][kept]
    order = np.argsort(origin, kind="stable")
    return Csr(offsets_of(np.bincount(origin, minlength=num_roads)), destination[order])
