"""A small town as raw data: an OpenStreetMap file and GPS points of taxis that drive along its streets."""

from __future__ import annotations

import json
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np

from hoser_kd.network.road_network import RoadNetwork

LAT, LON = 41.15, -8.62
STEP = 0.0018
"""Degrees of latitude between two crossings, 200 m; longitudes are scaled."""


def place(row: float, column: float) -> tuple[float, float]:
    """Return lon, lat of a crossing."""
    return round(LON + column * STEP / np.cos(np.radians(LAT)), 7), round(LAT + row * STEP, 7)


def town_elements(blocks: int = 6) -> list[dict]:
    """Return the nodes and ways of a town as Overpass elements: one way per street, crossings are shared nodes."""
    nodes = [
        {"type": "node", "id": 100 + row * blocks + column, "lon": lon, "lat": lat}
        for row in range(blocks)
        for column in range(blocks)
        for lon, lat in [place(row, column)]
    ]
    ways = []
    for k in range(blocks):
        tags = {"highway": ("primary", "residential", "tertiary")[k % 3]}
        along = {"oneway": "yes"} if k == 1 else {}
        ways.append({"id": 1000 + k, "nodes": [100 + k * blocks + c for c in range(blocks)], "tags": tags | along})
        ways.append({"id": 2000 + k, "nodes": [100 + r * blocks + k for r in range(blocks)], "tags": tags})
    ways.append({"id": 3000, "nodes": [100, 101], "tags": {"highway": "footway"}})
    return nodes + [{"type": "way", **way} for way in ways]


def write_overpass(path: Path, elements: list[dict]) -> Path:
    """Write elements as an Overpass answer."""
    path.write_text(json.dumps({"elements": elements}))
    return path


def write_osm_xml(path: Path, elements: list[dict]) -> Path:
    """Write elements as an `.osm` file."""
    lines = ['<?xml version="1.0"?>', '<osm version="0.6" generator="test">']
    for each in elements:
        if each["type"] == "node":
            lines.append(f'<node id="{each["id"]}" lon="{each["lon"]}" lat="{each["lat"]}" version="1"/>')
        else:
            inside = [f'<nd ref="{ref}"/>' for ref in each["nodes"]]
            inside += [f"<tag k={quoteattr(k)} v={quoteattr(v)}/>" for k, v in each["tags"].items()]
            lines.append(f'<way id="{each["id"]}" version="1">{"".join(inside)}</way>')
    path.write_text("\n".join([*lines, "</osm>"]))
    return path


def drives(network: RoadNetwork, count: int, *, days: int = 10, seed: int = 0) -> list[tuple[str, int, np.ndarray]]:
    """Return (taxi, start in s, points (k, 2) lon, lat every 15 s) of random drives at 8 m/s with 4 m of noise."""
    rng = np.random.default_rng(seed)
    result = []
    for trip in range(count):
        road = int(rng.integers(network.num_roads))
        path = [road]
        while len(path) < 14:
            following = network.successors.row(path[-1])
            path.append(int(rng.choice([r for r in following if r not in path[-3:]] or following)))
        line = np.concatenate([network.coords[network.coord_offsets[r] : network.coord_offsets[r + 1]] for r in path])
        scale = np.array([np.cos(np.radians(LAT)), 1.0]) * 111_195
        along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0) * scale, axis=1))])
        at = np.arange(0.0, along[-1], 8.0 * 15)
        points = np.column_stack([np.interp(at, along, line[:, axis]) for axis in (0, 1)])
        points += rng.normal(0, 4, points.shape) / scale
        start = 1_372_636_800 + int(trip * days * 86_400 / count) + int(rng.integers(600))
        result.append((f"taxi{trip % 7}", start, np.round(points, 6)))
    return result


def write_ecml(path: Path, trips: list[tuple[str, int, np.ndarray]]) -> Path:
    """Write drives in the columns of the ECML/PKDD 2015 CSV."""
    lines = ["TRIP_ID,CALL_TYPE,TAXI_ID,TIMESTAMP,DAY_TYPE,MISSING_DATA,POLYLINE"]
    for number, (taxi, start, points) in enumerate(trips):
        lines.append(f'T{number},C,{taxi},{start},A,False,"{json.dumps(points.tolist())}"')
    path.write_text("\n".join(lines) + "\n")
    return path
