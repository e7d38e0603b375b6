"""How close generated trips are to real ones: the published figures, and those a person asks for next.

The published evaluation (HOSER: Cao et al., AAAI 2025, section "Experiments") compares distributions (traveled
distance, radius, step duration) over all trips, and shapes (Hausdorff, DTW, EDR) over pairs of a real and a generated
trip between the same two OD cells. Its numbers are kept, earth radii and histogram edges included, with two
exceptions, each said in `DEFINITIONS`: DTW is exact, and EDR is given both true and as published.

Shapes: N roads, n trips, P points of all trips together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyproj
from scipy.special import rel_entr

from hoser_kd.common.arrays import BoolArray, Float64Array, Int64Array, row_of_value
from hoser_kd.common.geodesy import EARTH_RADIUS_M, great_circle_m
from hoser_kd.config.schema import EvaluationConfig
from hoser_kd.evaluation.memorization import copied

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories

GREAT_CIRCLE_RADIUS_KM = 6371.009
"""Earth radius of distance and radius, as published."""
NUM_EDGES = 100
"""Evenly spaced histogram edges from 0 to the real maximum; one more bin takes what lies at or above it."""
REQUEST_CELL_DEG = 0.001
"""Side of the cells of `requests.od_cell_share`, in degrees."""

Better = Literal["lower", "higher"] | None


class Definition(NamedTuple):
    """What a figure is."""

    unit: str
    """Its unit; empty for shares, ratios and divergences."""
    text: str
    """What it says, in a sentence or two."""
    better: Better
    """Which way is better; None for a description, and where the real value is the aim."""


def _distribution(of: str, unit: str) -> dict[str, Definition]:
    return {
        "real_mean": Definition(unit, f"Mean of {of}, real trips.", None),
        "generated_mean": Definition(unit, f"Mean of {of}, generated trips; best where it meets the real mean.", None),
        "jsd": Definition(
            "nat",
            f"Jensen-Shannon divergence between the histograms of {of}, real and generated: "
            "0 for equal ones, ln 2 = 0.693 for disjoint ones.",
            "lower",
        ),
    }


def _shape(over: str) -> dict[str, Definition]:
    return {
        "hausdorff": Definition(
            "km", f"Hausdorff distance between the road centers of two trips, mean over {over}.", "lower"
        ),
        "dtw": Definition(
            "km",
            "Dynamic time warping: great-circle distances summed along the best alignment of two "
            f"trips' road centers, mean over {over}. Exact; the published figure comes from an "
            "approximation (fastdtw, radius 1) and is at or above it.",
            "lower",
        ),
        "edr": Definition(
            "",
            "Edit distance on real sequences: edits that turn one trip's road centers into the "
            "other's, where centers closer than the threshold (100 m) match, divided by the longer "
            f"trip's roads, mean over {over}.",
            "lower",
        ),
        "edr_published": Definition(
            "",
            "EDR as published, with latitude taken for longitude; for comparison with published tables only.",
            "lower",
        ),
        "hausdorff_per_road": Definition(
            "km", f"Hausdorff distance divided by the mean number of roads of the two trips, mean over {over}.", "lower"
        ),
        "dtw_per_road": Definition(
            "km", f"DTW divided by the mean number of roads of the two trips, mean over {over}.", "lower"
        ),
    }


_SECTIONS: dict[str, dict[str, Definition]] = {
    "counts": {
        "real": Definition("trips", "Real trips compared with.", None),
        "generated": Definition("trips", "Generated trips.", None),
        "pairs": Definition(
            "pairs",
            "Pairs of a real and a generated trip between the same two OD cells (200 m), "
            "the first with the first and so on.",
            None,
        ),
    },
    "distance": _distribution("the traveled distance: great circles from road center to road center", "km"),
    "radius": _distribution("the radius of a trip: mean distance of its road centers to their mean", "km"),
    "gyration": _distribution(
        "the radius of gyration of a trip: root mean square distance of its road centers to their mean", "km"
    ),
    "duration": _distribution("the time from one road to the next", "min"),
    "trip_length": _distribution("the length of a trip's roads together", "km"),
    "trip_duration": _distribution("the time from a trip's first road to its last", "min"),
    "road_use": {
        "jsd": Definition(
            "nat",
            "Jensen-Shannon divergence between the shares of all visits that each road gets in "
            "real and in generated trips.",
            "lower",
        ),
    },
    "similarity": _shape("the pairs of the same OD cells"),
    "requests": {
        "reached_share": Definition(
            "", "Share of generated trips that end on the road they were asked to reach.", "higher"
        ),
        "od_cell_share": Definition(
            "", "Share of generated trips that start and end in the cells (0.001°) they were asked to.", "higher"
        ),
    },
    "paired": {
        **_shape("trips and the real trip of the same request"),
        "detour_ratio": Definition(
            "",
            "Length of a generated trip over that of the real trip of the same request, "
            "mean over those that end where the real one does; 1 is as long as real.",
            None,
        ),
        "edit_similarity": Definition(
            "",
            "1 minus the edits that turn one sequence of road ids into the other over "
            "the longer one's roads, mean over requests; 1 is the same route.",
            "higher",
        ),
        "jaccard": Definition(
            "",
            "Roads in both the generated and the real trip of a request over roads in either, mean over requests.",
            "higher",
        ),
        "identical_share": Definition("", "Share of requests answered with exactly the real trip's roads.", "higher"),
    },
    "training": {
        "memorized_share": Definition(
            "", "Share of generated trips whose roads are exactly those of a training trip.", None
        ),
        "real_memorized_share": Definition(
            "", "The same share for the real trips: how often a trip repeats anyway.", None
        ),
    },
}

DEFINITIONS: dict[str, Definition] = {
    f"{section}.{name}": definition for section, figures in _SECTIONS.items() for name, definition in figures.items()
}
"""Unit, definition and direction of every figure of `evaluate`, by `section.figure`."""


def evaluate(
    real: Trajectories,
    generated: Trajectories,
    network: RoadNetwork,
    config: EvaluationConfig | None = None,
    *,
    destinations: Int64Array | None = None,
    training: Trajectories | None = None,
    paired: bool = False,
    details: bool = False,
) -> dict[str, dict[str, Any]]:
    """Compare generated trips with real ones (HOSER: Cao et al., AAAI 2025).

    Args:
        real: the real trips, usually the test split; at least one, every one with a road or more.
        generated: the generated trips, likewise.
        network: the roads both run on.
        config: sides of the OD cells and EDR threshold; the defaults are the published ones.
        destinations: (n,) int64, the road each generated trip was asked to reach. With `paired` the real
            destinations are taken where it is not given.
        training: the training trips, to count copies of them.
        paired: generated trip i answers the request (origin, destination) of real trip i.
        details: add `details`, with the value of every trip and pair, and the histograms, as lists.

    Returns:
        Floats by section and figure, as in `DEFINITIONS`. What cannot be computed is left out: sections
        `requests`, `paired` and `training` without their arguments, means over no pair at all.

    Raises:
        ValueError: there are no trips, or `destinations` or `paired` does not fit their number.
    """
    settings = config or EvaluationConfig()
    if len(real) == 0 or len(generated) == 0:
        raise ValueError("there must be at least one real and one generated trip")
    if paired and len(real) != len(generated):
        raise ValueError(f"paired trips must be equally many, not {len(real)} and {len(generated)}")
    if destinations is None and paired:
        destinations = real.destinations
    if destinations is not None and len(destinations) != len(generated):
        raise ValueError(f"{len(destinations)} destinations for {len(generated)} generated trips")

    lists: dict[str, Any] = {}
    result: dict[str, dict[str, Any]] = {}
    for name, values_of in _VALUES.items():
        result[name], lists[name] = _compare(values_of(real, network), values_of(generated, network))
    result["road_use"] = {"jsd": _jsd(road_use(real, network), road_use(generated, network))}

    pairs = pair_by_od_cell(real, generated, od_cells(network, settings))
    result["similarity"], lists["similarity"] = _shapes(real, generated, network, pairs, settings)
    lists["pairs"] = pairs
    if destinations is not None:
        result["requests"] = _requests(real if paired else generated, generated, destinations, network)
    if paired:
        result["paired"], lists["paired"] = _paired(real, generated, network, settings)
    if training is not None:
        result["training"] = {
            "memorized_share": float(copied(generated, training).mean()),
            "real_memorized_share": float(copied(real, training).mean()),
        }
    result["counts"] = {"real": float(len(real)), "generated": float(len(generated)), "pairs": float(len(pairs))}
    ordered = {section: result[section] for section in _SECTIONS if result.get(section)}
    return {**ordered, "details": _as_lists(lists)} if details else ordered


def flatten(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return the figures of `evaluate` by `section.figure`, without the details."""
    return {
        f"{section}.{name}": value
        for section, figures in metrics.items()
        if section != "details"
        for name, value in figures.items()
    }


def traveled_km(trips: Trajectories, network: RoadNetwork) -> Float64Array:
    """Return (n,) float64: great-circle distances between consecutive road centers, summed, in km."""
    at, trip = trips.step_positions()
    points = network.centroids
    steps = _great_circle_km(points[trips.road_ids[at]], points[trips.road_ids[at + 1]])
    return _sums(trip, steps, len(trips))


def radius_km(trips: Trajectories, network: RoadNetwork) -> Float64Array:
    """Return (n,) float64: mean distance of a trip's road centers to their mean latitude and longitude, in km."""
    trip, away_km = _away_from_mean(trips, network)
    return _sums(trip, away_km, len(trips)) / trips.lengths


def gyration_km(trips: Trajectories, network: RoadNetwork) -> Float64Array:
    """Return (n,) float64: root mean square distance of a trip's road centers to their mean, in km."""
    trip, away_km = _away_from_mean(trips, network)
    return np.sqrt(_sums(trip, away_km**2, len(trips)) / trips.lengths)


def _away_from_mean(trips: Trajectories, network: RoadNetwork) -> tuple[Int64Array, Float64Array]:
    """Return (P,) trip of each point, and how far it is from the mean of the trip's points, km."""
    trip = row_of_value(trips.offsets)
    points = network.centroids[trips.road_ids]
    mean = np.column_stack([_sums(trip, column, len(trips)) for column in points.T]) / trips.lengths[:, None]
    return trip, _great_circle_km(mean[trip], points)


def step_minutes(trips: Trajectories) -> Float64Array:
    """Return (steps,) float64: minutes from each road to the next, over all trips."""
    at, _ = trips.step_positions()
    return (trips.times[at + 1] - trips.times[at]) / 60


def length_km(trips: Trajectories, network: RoadNetwork) -> Float64Array:
    """Return (n,) float64: lengths of a trip's roads, summed, in km."""
    return _sums(row_of_value(trips.offsets), network.length_m[trips.road_ids], len(trips)) / 1000


def trip_minutes(trips: Trajectories) -> Float64Array:
    """Return (n,) float64: minutes from entering the first road to entering the last."""
    return (trips.times[trips.offsets[1:] - 1] - trips.start_times) / 60


_VALUES: dict[str, Callable[[Trajectories, RoadNetwork], Float64Array]] = {
    "distance": traveled_km,
    "radius": radius_km,
    "gyration": gyration_km,
    "duration": lambda trips, _: step_minutes(trips),
    "trip_length": length_km,
    "trip_duration": lambda trips, _: trip_minutes(trips),
}


def road_use(trips: Trajectories, network: RoadNetwork) -> Int64Array:
    """Return (N,) int64: visits of each road."""
    return np.bincount(trips.road_ids, minlength=network.num_roads)


def histogram_edges(real: Float64Array) -> Float64Array:
    """Return the (101,) published edges: 100 from 0 to the real maximum, then infinity.

    The maximum itself falls into the last, open bin, as in the published code.
    """
    return np.append(np.linspace(0, real.max(initial=0), NUM_EDGES), np.inf)


def od_cells(network: RoadNetwork, config: EvaluationConfig) -> Int64Array:
    """Return (N,) int64: the OD cell each road's center lies in.

    Cells count geodesic distances (WGS 84) from a south-west corner, eastwards along the road's own parallel and
    northwards along its meridian, as published. Without `od_corner` the published corner of the city is taken where
    it is one of the three published ones, and the corner of the road centers elsewhere.
    """
    lat, lon = network.centroids.T
    south, west = config.od_corner or _default_corner(float(lat.min()), float(lon.min()))
    geod = pyproj.Geod(ellps="WGS84")
    _, _, east_m = geod.inv(np.full_like(lon, west), lat, lon, lat)
    _, _, north_m = geod.inv(lon, np.full_like(lat, south), lon, lat)
    # A geodesic has no sign: without one, roads on either side of the corner would share cells.
    columns = np.floor(np.copysign(east_m, lon - west) / config.od_cell_m).astype(np.int64)
    rows = np.floor(np.copysign(north_m, lat - south) / config.od_cell_m).astype(np.int64)
    rows -= rows.min()
    cells: Int64Array = (columns - columns.min()) * (rows.max() + 1) + rows
    return cells


PUBLISHED_CORNERS = {"Beijing": (39.79, 116.25), "Porto": (41.1406, -8.689), "San Francisco": (37.7083, -122.5123)}
"""Latitude and longitude from which the published evaluation counts the OD cells of each of its cities."""
_NEAR_DEG = 0.3


def _default_corner(south: float, west: float) -> tuple[float, float]:
    """Return the published corner where the city is a published one, its own corner elsewhere."""
    for corner in PUBLISHED_CORNERS.values():
        if abs(south - corner[0]) < _NEAR_DEG and abs(west - corner[1]) < _NEAR_DEG:
            return corner
    return south, west


def pair_by_od_cell(real: Trajectories, generated: Trajectories, cell: Int64Array) -> Int64Array:
    """Return (pairs, 2) int64 rows of real and generated trips between the same two OD cells.

    The k-th real trip of an OD goes with the k-th generated one, as published; pairs come in the order in which
    their OD first appears among the generated trips. `cell` is (N,) int64, the cell of each road.
    """
    both = [cell[trips.origins] * (cell.max() + 1) + cell[trips.destinations] for trips in (real, generated)]
    od = np.unique(np.concatenate(both), return_inverse=True)[1]
    real_od, generated_od = od[: len(real)], od[len(real) :]
    real_rank, generated_rank = _rank_within(real_od), _rank_within(generated_od)
    width = max(len(real), len(generated))
    _, real_row, generated_row = np.intersect1d(
        real_od * width + real_rank, generated_od * width + generated_rank, assume_unique=True, return_indices=True
    )
    first = np.full(od.max() + 1, len(generated))
    np.minimum.at(first, generated_od, np.arange(len(generated)))
    order = np.lexsort((generated_rank[generated_row], first[generated_od[generated_row]]))
    return np.column_stack([real_row, generated_row])[order]


def _rank_within(group: Int64Array) -> Int64Array:
    """Return how many earlier entries have the same group."""
    order = np.argsort(group, kind="stable")
    ordered = group[order]
    rank = np.empty(len(group), np.int64)
    rank[order] = np.arange(len(group)) - np.searchsorted(ordered, ordered)
    return rank


def _sums(group: Int64Array, values: Float64Array, num_groups: int) -> Float64Array:
    """Return (num_groups,) sums of the values of each group."""
    return np.asarray(np.bincount(group, values, num_groups), np.float64)


def _great_circle_km(a: Float64Array, b: Float64Array) -> Float64Array:
    """Return (K,) km between (K, 2) points given as lat, lon in degrees."""
    angle = great_circle_m(a[:, 0], a[:, 1], b[:, 0], b[:, 1]) / EARTH_RADIUS_M
    return angle * GREAT_CIRCLE_RADIUS_KM


def _jsd(p: npt.NDArray[Any], q: npt.NDArray[Any]) -> float:
    p, q = p / (p.sum() + 1e-14), q / (q.sum() + 1e-14)
    middle = (p + q) / 2
    return float(rel_entr(p, middle).sum() + rel_entr(q, middle).sum()) / 2


def _compare(real: Float64Array, generated: Float64Array) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the figures of a distribution, and its values and histograms."""
    if len(real) == 0 or len(generated) == 0:  # trips of one road have no step
        return {}, {}
    edges = histogram_edges(real)
    counts = [np.histogram(values, edges)[0] for values in (real, generated)]
    figures = {"real_mean": float(real.mean()), "generated_mean": float(generated.mean()), "jsd": _jsd(*counts)}
    return figures, {
        "real": real,
        "generated": generated,
        "edges": edges[:-1],
        "real_histogram": counts[0],
        "generated_histogram": counts[1],
    }


def _as_lists(details: Mapping[str, Any]) -> dict[str, Any]:
    """Return details as JSON has them, with None for what is not a number."""
    found: dict[str, Any] = {}
    for name, values in details.items():
        if isinstance(values, dict):
            found[name] = _as_lists(values)
            continue
        known = values.astype(object)
        known[np.isnan(values)] = None
        found[name] = known.tolist()
    return found


def _shapes(
    real: Trajectories, generated: Trajectories, network: RoadNetwork, pairs: Int64Array, config: EvaluationConfig
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the mean distances of (pairs, 2) rows, and those of every pair."""
    if len(pairs) == 0:
        return {}, {}
    from hoser_kd.evaluation import _similarity_kernels as kernel

    columns = kernel.pair_distances(real, generated, pairs, network.centroids, config.edr_threshold_m).T
    real_roads, generated_roads = real.lengths[pairs[:, 0]], generated.lengths[pairs[:, 1]]
    mean_roads = (real_roads + generated_roads) / 2
    values = {
        "hausdorff": columns[kernel.HAUSDORFF_KM],
        "dtw": columns[kernel.DTW_KM],
        "edr": columns[kernel.EDR],
        "edr_published": columns[kernel.EDR_PUBLISHED],
        "hausdorff_per_road": columns[kernel.HAUSDORFF_KM] / mean_roads,
        "dtw_per_road": columns[kernel.DTW_KM] / mean_roads,
        "edit_similarity": 1 - columns[kernel.ROAD_EDITS] / np.maximum(real_roads, generated_roads),
    }
    figures = {name: float(value.mean()) for name, value in values.items() if f"similarity.{name}" in DEFINITIONS}
    return figures, values


def _paired(
    real: Trajectories, generated: Trajectories, network: RoadNetwork, config: EvaluationConfig
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the figures of generated trip i against real trip i, and those of every trip."""
    rows = np.arange(len(real), dtype=np.int64)
    figures, lists = _shapes(real, generated, network, np.column_stack([rows, rows]), config)
    similarity = lists["edit_similarity"]
    shared = road_overlap(real, generated, network.num_roads)
    figures |= {
        "edit_similarity": float(similarity.mean()),
        "jaccard": float(shared.mean()),
        "identical_share": float((similarity == 1).mean()),
    }
    real_km, generated_km = length_km(real, network), length_km(generated, network)
    comparable = (generated.destinations == real.destinations) & (real_km > 0)
    if comparable.any():
        figures["detour_ratio"] = float((generated_km[comparable] / real_km[comparable]).mean())
    ratio = np.divide(generated_km, real_km, out=np.full(len(real), np.nan), where=comparable)
    return figures, {**lists, "detour_ratio": ratio, "jaccard": shared}


def road_overlap(real: Trajectories, generated: Trajectories, num_roads: int) -> Float64Array:
    """Return (n,) float64: roads in both trips i over roads in either (Jaccard), repeats counted once."""
    a, b = (np.unique(row_of_value(trips.offsets) * num_roads + trips.road_ids) for trips in (real, generated))
    both = np.intersect1d(a, b, assume_unique=True)
    in_a, in_b, in_both = (np.bincount(keys // num_roads, minlength=len(real)) for keys in (a, b, both))
    return in_both / (in_a + in_b - in_both)


def _requests(
    asked: Trajectories, generated: Trajectories, destinations: Int64Array, network: RoadNetwork
) -> dict[str, float]:
    """Return how many trips end where they were asked to; `asked` gives the origins asked for."""
    cell = np.floor(network.centroids / REQUEST_CELL_DEG).astype(np.int64)

    def same(a: Int64Array, b: Int64Array) -> BoolArray:
        equal: BoolArray = (cell[a] == cell[b]).all(1)
        return equal

    in_cells = same(asked.origins, generated.origins) & same(destinations, generated.destinations)
    return {
        "reached_share": float((generated.destinations == destinations).mean()),
        "od_cell_share": float(in_cells.mean()),
    }
