"""Directed roads from the ways of OpenStreetMap: split at shared nodes, one road per direction, connected.

Shapes: W pieces of ways, P positions of their nodes, E streets (stretches between two split positions), N roads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hoser_kd.common.arrays import BoolArray, Csr, Float64Array, Int64Array, offsets_of, ranges, row_of_value
from hoser_kd.common.errors import DataError
from hoser_kd.common.geodesy import line_lengths_m
from hoser_kd.network.osm.extract import OsmWays
from hoser_kd.network.road_graph import between_connected_nodes, connect, largest_component, restrict
from hoser_kd.network.road_network import RoadNetwork

OSM_FILE = "osm_roads.parquet"


@dataclass(frozen=True)
class OsmRoads:
    """A road network and what its roads are in OpenStreetMap."""

    network: RoadNetwork
    """N roads, one strongly connected component."""
    way_id: Int64Array
    """(N,) int64: id of the way that each road is a part of."""
    start_node: Int64Array
    """(N,) int64: id of the node at which each road starts."""
    end_node: Int64Array
    """(N,) int64: id of the node at which it ends."""
    is_reversed: BoolArray
    """(N,) bool: the road runs against the order of the way's nodes."""
    removed: int = 0
    """Number of roads outside the largest strongly connected component, which are left out."""

    def save(self, folder: str | PathLike[str]) -> None:
        """Write `osm_roads.parquet` (road_id, way_id, start_node, end_node, is_reversed), one row per road."""
        table = pa.table(
            {
                "road_id": np.arange(len(self.way_id)),
                "way_id": self.way_id,
                "start_node": self.start_node,
                "end_node": self.end_node,
                "is_reversed": self.is_reversed,
            }
        )
        pq.write_table(table, Path(folder) / OSM_FILE, compression="zstd")


def build_roads(ways: OsmWays) -> OsmRoads:
    """Return the roads of drivable ways.

    A way is split at its ends and at every node that it shares with another way or passes twice. A stretch that ends
    where it starts is split in its middle, so that no road follows itself. Parallel stretches stay different roads.
    A road is followed by all roads that leave its last node, and by its opposite direction only at a dead end. Kept is
    the largest strongly connected component, so that every road can be reached from every other one.

    Raises DataError if no road remains.
    """
    built = _build(ways)
    kept, successors = _connected(built)
    if len(kept) < 2:
        hint = "Use a larger extract or area, or more classes (`source.map.highways`)."
        raise DataError("OpenStreetMap extract", "no two roads are connected.", hint=hint)
    network = _network(ways, built, kept, successors)
    way = row_of_value(ways.offsets)[built.first[kept]]
    nodes = ways.node_id[built.tail[kept]], ways.node_id[built.head[kept]]
    roads = OsmRoads(network, ways.way_id[way], *nodes, built.is_back[kept])
    return replace(roads, removed=len(built.tail) - len(kept))


def build_all_roads(ways: OsmWays) -> RoadNetwork:
    """Return the roads of `build_roads`, followed by those that it leaves out, with the connections between all.

    A vehicle on a motorway that leaves the map drives on roads without return. Matched to the kept roads alone, its
    points would be assigned to the streets beside the motorway.
    """
    built = _build(ways)
    kept, _ = _connected(built)
    order = np.concatenate([kept, np.setdiff1d(np.arange(len(built.tail)), kept)])
    return _network(ways, built, order, connect(built.tail[order], built.head[order], built.street[order]))


class _Built(NamedTuple):
    """Directed roads before any is left out, B of them; all (B,)."""

    street: Int64Array
    """Number of the stretch; both directions have the same."""
    first: Int64Array
    """First position of the stretch."""
    last: Int64Array
    """Last position of the stretch."""
    is_back: BoolArray
    tail: Int64Array
    """Row of the node at which the road starts."""
    head: Int64Array
    """Row of the node at which it ends."""


def _build(ways: OsmWays) -> _Built:
    first, last = _stretches(ways)
    direction = ways.direction[row_of_value(ways.offsets)[first]]
    there, back = np.flatnonzero(direction >= 0), np.flatnonzero(direction <= 0)
    street, is_back = np.concatenate([there, back]), np.repeat([False, True], [len(there), len(back)])
    order = np.lexsort((is_back, street))
    street, is_back = street[order], is_back[order]
    tail, head = _ends(ways, first[street], last[street], is_back)
    return _Built(street, first[street], last[street], is_back, tail, head)


def _connected(built: _Built) -> tuple[Int64Array, Csr]:
    """Return the rows of the roads of the largest strongly connected component, ascending, and their connections."""
    rows = between_connected_nodes(built.tail, built.head)
    successors = connect(built.tail[rows], built.head[rows], built.street[rows])
    if len(successors.indices) == 0:
        return rows[:0], successors
    kept = largest_component(successors)
    return rows[kept], restrict(successors, kept)


def _network(ways: OsmWays, built: _Built, rows: Int64Array, successors: Csr) -> RoadNetwork:
    """Return these roads as a network."""
    offsets, coords = _lines(ways, built.first[rows], built.last[rows], built.is_back[rows])
    way = row_of_value(ways.offsets)[built.first[rows]]
    return RoadNetwork(offsets, coords, line_lengths_m(offsets, coords), ways.highway[way], successors)


def _ends(ways: OsmWays, first: Int64Array, last: Int64Array, is_back: BoolArray) -> tuple[Int64Array, Int64Array]:
    """Return the nodes at which roads between two positions start and end, both (N,) int64."""
    return ways.nodes[np.where(is_back, last, first)], ways.nodes[np.where(is_back, first, last)]


def _stretches(ways: OsmWays) -> tuple[Int64Array, Int64Array]:
    """Return first and last position of each stretch of a way between two split positions, both (E,) int64."""
    splits = np.bincount(ways.nodes)[ways.nodes] > 1
    splits[ways.offsets[:-1]] = splits[ways.offsets[1:] - 1] = True
    first, last = _between(ways, splits)
    # a closed stretch, such as a turning loop or a roundabout with one arm
    closed = ways.nodes[first] == ways.nodes[last]
    splits[((first + last) // 2)[closed]] = True
    return _between(ways, splits)


def _between(ways: OsmWays, splits: BoolArray) -> tuple[Int64Array, Int64Array]:
    at = np.flatnonzero(splits)
    way = row_of_value(ways.offsets)[at]
    same = way[1:] == way[:-1]
    return at[:-1][same], at[1:][same]


def _lines(ways: OsmWays, first: Int64Array, last: Int64Array, is_back: BoolArray) -> tuple[Int64Array, Float64Array]:
    """Return offsets and lon, lat of the roads between two positions, in driving direction."""
    counts = last - first + 1
    offsets = offsets_of(counts)
    road, step = row_of_value(offsets), ranges(np.zeros_like(counts), counts)
    at = np.where(is_back[road], last[road] - step, first[road] + step)
    return offsets, ways.lon_lat[ways.nodes[at]]
