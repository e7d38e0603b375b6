"""Tables of other tools: CSV with any separator, gzip, Parquet, GeoParquet, GeoPackage, GeoJSON, GraphML."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hoser_kd.common.arrays import Int64Array, offsets_of
from hoser_kd.common.errors import DataError

_SEPARATORS = ",;\t|"
_GEO_SUFFIXES = (".gpkg", ".geojson", ".shp", ".fgb")
# pyogrio raises RuntimeError, the parser of GraphML SyntaxError, that of pandas ValueError
_UNREADABLE = (ValueError, OSError, EOFError, RuntimeError, SyntaxError, LookupError, TypeError, zlib.error)
_AROUND_VALUES = " \t[](){}'\""


def read_table(path: Path) -> pd.DataFrame:
    """Read a file by its suffix; the values of text files stay text. An OSMnx graph gives its edges.

    Raises DataError if the file is missing, empty, or cannot be read.
    """
    if not path.is_file():
        raise DataError(path, "no such file.", hint="Give the path of an existing file.")
    try:
        frame = _read(path)
    except _UNREADABLE as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DataError(path, f"cannot be read: {reason}") from None
    if len(frame) == 0:
        raise DataError(path, "no rows.", hint="The file needs at least one row.")
    return frame.rename(columns=lambda name: str(name).strip())


def _read(path: Path) -> pd.DataFrame:
    suffix = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    if suffix.startswith(".parquet") or suffix == ".geoparquet":
        is_geo = b"geo" in (pq.read_schema(path).metadata or {})
        table: pd.DataFrame = gpd.read_parquet(path) if is_geo else pd.read_parquet(path)
        return table
    if suffix == ".graphml":
        return _graphml_edges(path)
    if suffix in _GEO_SUFFIXES:
        layers = gpd.list_layers(path)["name"].tolist()
        edges: pd.DataFrame = gpd.read_file(path, layer="edges" if "edges" in layers else layers[0])
        return edges
    return _read_csv(path)


def _read_csv(path: Path) -> pd.DataFrame:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8-sig") as lines:
        header = lines.readline()
    separator = max(_SEPARATORS, key=header.count)
    return pd.read_csv(
        path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True
    )


def _graphml_edges(path: Path) -> pd.DataFrame:
    """Return the edges of a graph that OSMnx saved: u, v, key and attributes; a straight line without geometry."""
    import networkx as nx

    graph = nx.read_graphml(path, force_multigraph=True)
    place = {node: f"{data['x']} {data['y']}" for node, data in graph.nodes(data=True)}
    return pd.DataFrame(
        {
            "geometry": f"LINESTRING ({place[u]}, {place[v]})",
            **{name: str(value) for name, value in data.items()},
            "u": str(u),
            "v": str(v),
            "key": str(key),
        }
        for u, v, key, data in graph.edges(keys=True, data=True)
    )


def column_of(
    path: Path, frame: pd.DataFrame, role: str, aliases: Mapping[str, Sequence[str]], chosen: Mapping[str, str]
) -> str | None:
    """Return the column that plays a role: the chosen one, or the first alias that the table has; None without one.

    Raises DataError if the chosen column is missing.
    """
    if role in chosen:
        if chosen[role] not in frame.columns:
            known = ", ".join(map(str, frame.columns))
            raise DataError(path, f"column {chosen[role]} is missing.", hint=f"Columns of the file: {known}.")
        return chosen[role]
    lower = {str(name).lower(): str(name) for name in reversed(list(frame.columns))}
    return next((lower[alias] for alias in aliases[role] if alias in lower), None)


def name_column(role: str) -> str:
    """Return how to name the column of a role, for messages."""
    return f"Name it with --columns {role}=NAME, in YAML `source.files.columns: {{{role}: NAME}}`."


def texts_of(values: pd.Series) -> pa.StringArray:
    """Return ids as text: without blanks around them, and `22` for pandas' `22.0`; missing values are empty."""
    if pd.api.types.is_float_dtype(values):
        whole = values.notna() & (values == np.floor(values))
        values = values.astype(object).where(~whole, values.where(whole, 0).astype(np.int64))
    return plain_ids(pa.array(values.astype(object).where(values.notna(), "").astype(str), pa.string()))


def plain_ids(texts: pa.StringArray) -> pa.StringArray:
    """Return texts without blanks, quotes and brackets around them, and without a trailing `.0` of a number."""
    trimmed = pc.ascii_trim(texts, _AROUND_VALUES)
    return pc.replace_substring_regex(trimmed, r"^(-?\d+)\.0+$", r"\1")


def lists_of(values: pd.Series) -> tuple[Int64Array, pa.StringArray]:
    """Return offsets and trimmed values of a column of lists: `[1, 2]`, `1,2`, `1 2`, or lists of a Parquet file."""
    if len(values) and not isinstance(values.iloc[0], str):
        arrays = [np.asarray(item, object) for item in values]
        flat = np.concatenate(arrays) if arrays else np.zeros(0, object)
        return offsets_of(np.array([len(item) for item in arrays])), pa.array([str(item) for item in flat], pa.string())
    texts = pc.ascii_trim(pa.array(values, pa.string()), _AROUND_VALUES)
    if not pc.any(pc.match_substring(texts, ",")).as_py() and not pc.any(pc.match_substring(texts, ":")).as_py():
        texts = pc.replace_substring_regex(texts, r"\s+", ",")
    is_empty = pc.equal(texts, "")
    lists = pc.split_pattern(texts, ",")
    lengths = np.where(np.asarray(is_empty), 0, np.asarray(pc.list_value_length(lists)))
    flat = pc.list_flatten(pc.filter(lists, pc.invert(is_empty)))
    return offsets_of(lengths), pc.ascii_trim(flat, _AROUND_VALUES)
