"""Whether a road network agrees with itself: lengths with lines, and connections with the ends of roads.

Every row of a wrong network can be valid: lengths in kilometers, coordinates as [lat, lon], ids that mean other roads.
Two metrics show it: the median of `length` over the length of the line, and the share of connections whose ends
lie far apart.
Shapes: N roads, M coordinates of all roads, L connections.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hoser_kd.common.arrays import BoolArray, Float64Array, row_of_value
from hoser_kd.common.geodesy import great_circle_m
from hoser_kd.network.road_network import RoadNetwork

LENGTH_TOLERANCE = 0.05
"""Relative difference up to which a length agrees with its line; in real networks it is below 0.01."""
MIN_AGREEING_SHARE = 0.75
"""Minimum share of roads whose length agrees with the line."""
MAX_GAP_M = 50.0
"""Distance between the end of a road and the start of the next up to which they meet."""
MAX_APART_SHARE = 0.01
"""Maximum share of connections whose roads do not meet."""
MAX_EXCESS_M = 10_000.0
"""A single road may not differ from its line by more than this and a factor of two: it would distort all features."""
_UNITS = {
    0.001: "kilometers",
    3.2808: "feet",
    0.000621371: "miles",
    1.0936: "yards",
    100.0: "centimeters",
    1000.0: "millimeters",
    1 / 111_195: "degrees",
}
"""Ratio of the lengths to meters."""
_LOCAL_KM, _LOCAL_M = 1000 / 111_195, 1 / 111_195
"""Ratio of lengths in meters to lines whose local coordinates in kilometers, or meters, are read as degrees."""


def line_lengths_m(network: RoadNetwork) -> Float64Array:
    """Return the great-circle length of each road's line in meters, (N,) float64."""
    lon, lat = network.coords.T
    segments = great_circle_m(lat[:-1], lon[:-1], lat[1:], lon[1:])
    road = row_of_value(network.coord_offsets)
    within = road[1:] == road[:-1]
    lengths: Float64Array = np.bincount(road[1:][within], segments[within], minlength=network.num_roads).astype(float)
    return lengths


def connection_gaps_m(network: RoadNetwork) -> Float64Array:
    """Return the distance in meters from the end of a road to the start of the next, for connections, (L,) float64."""
    end = network.end[row_of_value(network.successors.indptr)]
    start = network.start[network.successors.indices]
    return great_circle_m(end[:, 0], end[:, 1], start[:, 0], start[:, 1])


def length_ratios(network: RoadNetwork) -> Float64Array:
    """Return `length` over the length of the line, (N,) float64; NaN for a line without extent."""
    line_m = line_lengths_m(network)
    return network.length_m / np.where(line_m > 0, line_m, np.nan)


def is_far_off(network: RoadNetwork) -> BoolArray:
    """Return which roads differ from their line by more than a factor of two and `MAX_EXCESS_M`, (N,) bool."""
    line_m = line_lengths_m(network)
    longer, shorter = np.maximum(network.length_m, line_m), np.minimum(network.length_m, line_m)
    far: BoolArray = (longer - shorter > MAX_EXCESS_M) & (longer > 2 * shorter)
    return far


def measure_lengths(network: RoadNetwork) -> dict[str, float | int]:
    """Return how the lengths agree with the lines.

    Keys: median_length_ratio (NaN if no line has an extent), agreeing_share and far_off_roads.
    """
    ratio = length_ratios(network)
    known = ratio[np.isfinite(ratio)]
    return {
        "median_length_ratio": float(np.median(known)) if len(known) else float("nan"),
        "agreeing_share": _agreeing_share(known),
        "far_off_roads": int(is_far_off(network).sum()),
    }


def measure_connections(network: RoadNetwork) -> dict[str, float | int]:
    """Return how connections agree with the ends of roads; keys: connections, connections_apart, apart_share."""
    gaps = connection_gaps_m(network)
    apart = int((gaps > MAX_GAP_M).sum())
    return {"connections": len(gaps), "connections_apart": apart, "apart_share": apart / max(len(gaps), 1)}


def length_problem(network: RoadNetwork) -> str | None:
    """Return what is wrong with the lengths or coordinates and the fix; None if they agree."""
    metrics = measure_lengths(network)
    median, share = metrics["median_length_ratio"], metrics["agreeing_share"]
    if share >= MIN_AGREEING_SHARE and abs(median - 1) <= LENGTH_TOLERANCE:
        if not metrics["far_off_roads"]:
            return None
        road = int(np.argmax(is_far_off(network)))
        return (
            f"{metrics['far_off_roads']} roads differ from their lines by more than {MAX_EXCESS_M / 1000:g} km, such "
            f"as road {road}: its length is {network.length_m[road]:.6g} m, its line is "
            f"{line_lengths_m(network)[road]:.6g} m long. Correct `length` or `coordinates` in roadmap.geo."
        )
    return (
        "`length` does not agree with `coordinates` in roadmap.geo: the median of length over the length of the line "
        f"is {median:.4g}, and {share:.0%} of the roads agree within {LENGTH_TOLERANCE:.0%}. {_cause(network, median)}"
    )


def connection_problem(network: RoadNetwork) -> str | None:
    """Return what is wrong with the connections and the fix; None if connected roads meet."""
    metrics = measure_connections(network)
    if metrics["apart_share"] <= MAX_APART_SHARE:
        return None
    return (
        f"At {metrics['connections_apart']} of {metrics['connections']} connections the end of the road and the start "
        f"of the next lie more than {MAX_GAP_M:g} m apart: ids in roadmap.rel mean other roads than in roadmap.geo. "
        "Restore the original geo_id, or renumber roadmap.geo, roadmap.rel and the trips by the same mapping "
        "(`hoser-kd renumber-roads`)."
    )


def network_problems(network: RoadNetwork) -> list[str]:
    """Return what makes a network of valid rows unusable, one text per problem with its fix; empty if none."""
    return [problem for problem in (length_problem(network), connection_problem(network)) if problem is not None]


def _agreeing_share(ratio: Float64Array) -> float:
    return float((np.abs(ratio - 1) <= LENGTH_TOLERANCE).mean()) if len(ratio) else 0.0


def _cause(network: RoadNetwork, median: float) -> str:
    """Return the probable cause of lengths that do not agree with the lines."""
    if np.abs(network.coords[:, 1]).max() <= 180 and np.abs(network.coords[:, 0]).max() <= 90:
        swapped = replace(network, coords=network.coords[:, ::-1])
        if _agreeing_share(length_ratios(swapped)) >= MIN_AGREEING_SHARE:
            return "They agree if latitude and longitude are exchanged: write coordinates as [lon, lat]."
    for ratio, unit in _UNITS.items():
        if abs(median / ratio - 1) < LENGTH_TOLERANCE:
            other = ", or the coordinates are local meters" if ratio == _LOCAL_M else ""
            return f"The lengths are probably in {unit}{other}: write lengths in meters, coordinates in degrees."
    if abs(median / _LOCAL_KM - 1) < LENGTH_TOLERANCE:
        return "The coordinates are probably local kilometers: write [lon, lat] in degrees, EPSG:4326."
    return "Write lengths in meters and coordinates as [lon, lat] in degrees, EPSG:4326."
