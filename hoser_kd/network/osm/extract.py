"""The drivable ways of an OpenStreetMap extract (`.osm.pbf`, `.osm`, or an Overpass answer) as arrays.

An extract is read once, in a Python loop over its ways and over the nodes of the ways that are kept; everything after
that works on arrays. Turn restrictions and other relations are not read.
Shapes: W pieces of ways, K nodes, P positions of nodes in pieces of ways.
"""

from __future__ import annotations

import bz2
import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from hoser_kd.common.arrays import BoolArray, Float64Array, Int64Array, offsets_of, row_of_value, take_rows
from hoser_kd.common.errors import DataError
from hoser_kd.config.raw_data import MapConfig

WAYS_FILE = "ways.parquet"
NODES_FILE = "nodes.parquet"
JSON_SUFFIXES = (".json", ".json.gz", ".json.bz2")
_OSM_SUFFIXES = (".pbf", ".osm", ".osm.gz", ".osm.bz2", ".xml")
_READABLE = "Use an extract as .osm.pbf or .osm, or an Overpass answer as .json (with `out body; >; out skel;`)."
_ACCESS_KEYS = ("motorcar", "motor_vehicle", "vehicle", "access")
"""Tags about access for cars, the most specific one first."""
_FORWARD, _BACKWARD = ("yes", "true", "1"), ("-1", "reverse")


@dataclass(frozen=True)
class OsmWays:
    """Pieces of drivable ways: a way that leaves the area, or lacks nodes in the extract, is several pieces."""

    way_id: Int64Array
    """(W,) int64: id of each piece's way in OpenStreetMap."""
    highway: npt.NDArray[np.object_]
    """(W,) str: class of each way."""
    direction: Int64Array
    """(W,) int64: 1 for one-way in the order of the nodes, -1 for one-way against it, 0 for both directions."""
    offsets: Int64Array
    """(W + 1,) int64: piece i has the nodes `nodes[offsets[i]:offsets[i + 1]]`, two or more."""
    nodes: Int64Array
    """(P,) int64: rows of `node_id` and `lon_lat`."""
    node_id: Int64Array
    """(K,) int64: ids of the nodes in OpenStreetMap, ascending."""
    lon_lat: Float64Array
    """(K, 2) float64: lon, lat in degrees (EPSG:4326)."""
    counts: Mapping[str, int]
    """Numbers of ways and nodes that were read and left out, by reason."""

    def __len__(self) -> int:
        """Number of pieces of ways, W."""
        return len(self.way_id)

    def save(self, folder: str | PathLike[str]) -> None:
        """Write `ways.parquet` (way_id, highway, direction, node_ids) and `nodes.parquet` (node_id, lon, lat)."""
        lists = pa.LargeListArray.from_arrays(self.offsets, self.node_id[self.nodes])
        columns = {"way_id": self.way_id, "highway": pa.array(self.highway, pa.string()), "direction": self.direction}
        ways = pa.table({**columns, "node_ids": lists})
        nodes = pa.table({"node_id": self.node_id, "lon": self.lon_lat[:, 0], "lat": self.lon_lat[:, 1]})
        pq.write_table(ways, Path(folder) / WAYS_FILE, compression="zstd")
        pq.write_table(nodes, Path(folder) / NODES_FILE, compression="zstd")

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> OsmWays:
        """Read what `save` wrote; `counts` is empty."""
        ways = pq.read_table(Path(folder) / WAYS_FILE).combine_chunks()
        nodes = pq.read_table(Path(folder) / NODES_FILE)
        node_id = nodes["node_id"].to_numpy()
        lists = pa.concat_arrays(ways["node_ids"].chunks)
        return cls(
            ways["way_id"].to_numpy(),
            np.asarray(ways["highway"].to_pandas(), dtype=object),
            ways["direction"].to_numpy(),
            lists.offsets.to_numpy().astype(np.int64),
            np.searchsorted(node_id, lists.values.to_numpy()),
            node_id,
            np.column_stack([nodes["lon"].to_numpy(), nodes["lat"].to_numpy()]),
            {},
        )


class _Raw(NamedTuple):
    """Ways and nodes as read, before nodes that are missing or outside the area are removed."""

    way_id: list[int]
    highway: list[str]
    direction: list[int]
    node_ids: list[list[int]]
    counts: dict[str, int]


def read_osm(settings: MapConfig) -> OsmWays:
    """Return the drivable ways of `settings.path`, clipped to the area of the settings.

    Raises DataError if the file is missing, is of an unknown kind or cannot be read, or holds no drivable way.
    """
    path = Path(settings.path or "").expanduser()
    if not path.is_file():
        raise DataError(path, "no such file.", hint="It is the value of `source.map.path`: correct it.")
    try:
        raw, node_id, lon_lat = (_read_json if path.name.endswith(JSON_SUFFIXES) else _read_pbf)(path, settings)
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        EOFError,
        OSError,
        RuntimeError,
    ) as error:
        problem = f"cannot be read as OpenStreetMap data ({type(error).__name__}: {error})."
        raise DataError(path, problem, hint=_READABLE) from None
    _require_places(path, node_id, lon_lat)
    if not raw.way_id:
        kept = ", ".join(settings.highways[:4])
        message = f"no way has one of the classes {kept}, … of `source.map.highways`."
        raise DataError(path, message, hint="Correct the classes, or use an extract that holds roads.")
    order = np.argsort(node_id, kind="stable")
    ways = _clip(raw, node_id[order], lon_lat[order], _area(settings))
    if len(ways) == 0:
        hint = (
            "Correct `source.map.bounds` or `source.map.polygon`, or use an extract that holds the nodes of its ways."
        )
        raise DataError(path, "no road lies inside the area.", hint=hint)
    return ways


def _require_places(path: Path, node_id: Int64Array, lon_lat: Float64Array) -> None:
    """Raise DataError for a node that is nowhere on the earth."""
    nowhere = ~(np.abs(lon_lat) <= [180, 90]).all(1)
    if nowhere.any():
        at = int(np.argmax(nowhere))
        lon, lat = lon_lat[at].tolist()
        problem = f"node {node_id[at]} lies at lon {lon:g}, lat {lat:g}, which are no degrees in EPSG:4326."
        raise DataError(path, problem, hint="Download the extract again.")


def _keep(tags: Mapping[str, str], settings: MapConfig, counts: dict[str, int]) -> bool:
    """Return whether a way is drivable, and count it."""
    if tags.get("highway") not in settings.highways:
        counts["other_class"] += 1
        return False
    access = next((tags[key] for key in _ACCESS_KEYS if key in tags), "yes")
    reason = "area" if tags.get("area") == "yes" else "no_access" if access in settings.excluded_access else "ways"
    counts[reason] += 1
    return reason == "ways"


def direction_of(tags: Mapping[str, str]) -> int:
    """Return 1 for a way that is one-way in the order of its nodes, -1 against it, 0 for both directions.

    Roundabouts and motorways are one-way unless `oneway` states otherwise (OpenStreetMap wiki, Key:oneway).
    """
    oneway = tags.get("oneway")
    if oneway in _BACKWARD:
        return -1
    implied = tags.get("junction") in ("roundabout", "circular") or tags.get("highway") == "motorway"
    return int(oneway in _FORWARD or (implied and oneway is None))


def _collect(ways: Iterable[tuple[int, Mapping[str, str], list[int]]], settings: MapConfig) -> _Raw:
    """Return the drivable ones of (way id, tags, node ids)."""
    raw = _Raw([], [], [], [], dict.fromkeys(("ways", "other_class", "area", "no_access"), 0))
    for way_id, tags, node_ids in ways:
        if _keep(tags, settings, raw.counts):
            raw.way_id.append(way_id)
            raw.highway.append(tags["highway"])
            raw.direction.append(direction_of(tags))
            raw.node_ids.append(node_ids)
    return raw


def _read_json(path: Path, settings: MapConfig) -> tuple[_Raw, Int64Array, Float64Array]:
    """Read an Overpass answer; pyosmium has no reader for it."""
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open}
    with openers.get(path.suffix, open)(path, "rt", encoding="utf-8") as file:
        elements = json.load(file)["elements"]
    ways = ((way["id"], way.get("tags", {}), way["nodes"]) for way in elements if way["type"] == "way")
    raw = _collect(ways, settings)
    np.array([node for each in raw.node_ids for node in each], np.int64)  # an id that is no number is an error here
    nodes: dict[int, tuple[float, float]] = {}
    for node in elements:
        if node["type"] == "node":
            place = node["lon"], node["lat"]
            if nodes.setdefault(node["id"], place) != place:
                raise ValueError(f"node {node['id']} is there twice, at different places")
    lon_lat = np.array(list(nodes.values()), np.float64).reshape(-1, 2)
    return raw, np.fromiter(nodes, np.int64, len(nodes)), lon_lat


def _read_pbf(path: Path, settings: MapConfig) -> tuple[_Raw, Int64Array, Float64Array]:
    """Read the ways of a file with pyosmium, and in a second pass the nodes of the drivable ones."""
    import osmium

    if not path.name.endswith(_OSM_SUFFIXES):
        raise RuntimeError(f"unknown file name extension {path.suffix!r}")

    def ways() -> Iterator[tuple[int, Mapping[str, str], list[int]]]:
        # osmium.osm.WAY selects the type, which its annotations cannot say
        way: Any
        for way in osmium.FileProcessor(str(path), osmium.osm.WAY).with_filter(osmium.filter.KeyFilter("highway")):
            yield way.id, dict(way.tags), [node.ref for node in way.nodes]

    raw = _collect(ways(), settings)
    wanted = np.unique(np.array([node for ids in raw.node_ids for node in ids], np.int64))
    only_wanted = osmium.filter.IdFilter(wanted.tolist())
    nodes: Iterable[Any] = osmium.FileProcessor(str(path), osmium.osm.NODE).with_filter(only_wanted)
    places = [(node.id, node.lon, node.lat) for node in nodes]
    table = np.array([place[1:] for place in places], np.float64).reshape(-1, 2)
    return raw, np.array([place[0] for place in places], np.int64), table


def _area(settings: MapConfig) -> shapely.Geometry | None:
    """Return the area to clip to; None for the whole extract. Raises DataError for an invalid GeoJSON file."""
    if settings.bounds is not None:
        box = settings.bounds
        return shapely.box(box.min_lng, box.min_lat, box.max_lng, box.max_lat)
    if settings.polygon is None:
        return None
    path = Path(settings.polygon).expanduser()
    hint = "It is the value of `source.map.polygon`: a GeoJSON file with a polygon in EPSG:4326."
    if not path.is_file():
        raise DataError(path, "no such file.", hint=hint)
    try:
        area = shapely.union_all(shapely.get_parts(shapely.from_geojson(path.read_text(encoding="utf-8"))))
    except (shapely.errors.GEOSException, UnicodeDecodeError) as error:
        raise DataError(path, f"cannot be read as GeoJSON ({error}).", hint=hint) from None
    if area.geom_type not in ("Polygon", "MultiPolygon"):
        raise DataError(path, f"holds a {area.geom_type}, not a polygon.", hint=hint)
    return area


def _clip(raw: _Raw, node_id: Int64Array, lon_lat: Float64Array, area: shapely.Geometry | None) -> OsmWays:
    """Cut the ways at nodes that are missing or outside the area, and drop repeated nodes; nodes are sorted by id."""
    offsets = offsets_of(np.array([len(ids) for ids in raw.node_ids]))
    ids = np.array([node for each in raw.node_ids for node in each], np.int64)
    row = np.minimum(np.searchsorted(node_id, ids), max(len(node_id) - 1, 0))
    known = node_id[row] == ids if len(node_id) else np.zeros(len(ids), bool)
    usable = np.ones(len(node_id), bool) if area is None else _inside(area, lon_lat)
    way = row_of_value(offsets)
    kept = known & usable[row] if len(node_id) else known
    repeats = np.zeros(len(ids), bool)
    repeats[1:] = (ids[1:] == ids[:-1]) & (way[1:] == way[:-1])
    piece = np.cumsum(_piece_starts(way, kept))
    at = np.flatnonzero(kept & ~repeats)
    _, first, size = np.unique(piece[at], return_index=True, return_counts=True)
    long_enough = np.flatnonzero(size >= 2)
    piece_offsets, positions = take_rows(offsets_of(size), long_enough)
    of_way = way[at][first[long_enough]]
    used, nodes = np.unique(row[at][positions], return_inverse=True)
    counts = {**raw.counts, "nodes_missing": int((~known).sum()), "nodes_outside": int((known & ~kept).sum())}
    return OsmWays(
        np.array(raw.way_id, np.int64)[of_way],
        np.array(raw.highway, object)[of_way],
        np.array(raw.direction, np.int64)[of_way],
        piece_offsets,
        nodes.astype(np.int64),
        node_id[used],
        lon_lat[used],
        counts,
    )


def _piece_starts(way: Int64Array, kept: BoolArray) -> BoolArray:
    """Return (P,) bool: whether a position is the first of a way, or follows one that is not kept."""
    starts = np.ones(len(way), bool)
    starts[1:] = (way[1:] != way[:-1]) | ~kept[:-1]
    return starts


def _inside(area: shapely.Geometry, lon_lat: Float64Array) -> BoolArray:
    shapely.prepare(area)
    inside: BoolArray = shapely.intersects_xy(area, lon_lat[:, 0], lon_lat[:, 1])
    return inside
