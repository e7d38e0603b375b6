"""Checks of roads and trips: valid rows that contradict each other, and splits that are the same trips.

Heavy libraries are imported where they are used, because Dagster's definitions load `hoser_kd.pipeline.checks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hoser_kd.pipeline.check import Check, Verdict
from hoser_kd.pipeline.check_evidence import MAX_ROWS, Evidence, artifact_figure
from hoser_kd.pipeline.store import Artifact

if TYPE_CHECKING:
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories


def _lengths_match_lines(artifact: Artifact, _: Mapping[str, Any]) -> Verdict:
    from hoser_kd.network.consistency import length_problem, measure_lengths

    network = _network(artifact)
    metrics, problem = measure_lengths(network), length_problem(network)
    message = problem or (
        f"The median of length over the length of the line is {metrics['median_length_ratio']:.3f}; "
        f"{metrics['agreeing_share']:.1%} of the roads agree within 5 %."
    )
    return problem is None, message, {**metrics, "median_length_ratio": _json_number(metrics["median_length_ratio"])}


def _connections_meet(artifact: Artifact, _: Mapping[str, Any]) -> Verdict:
    from hoser_kd.network.consistency import MAX_GAP_M, connection_problem, measure_connections

    network = _network(artifact)
    metrics, problem = measure_connections(network), connection_problem(network)
    message = problem or (
        f"{metrics['connections_apart']} of {metrics['connections']} connections join roads whose ends lie more than "
        f"{MAX_GAP_M:g} m apart."
    )
    return problem is None, message, metrics


def _splits_differ(artifact: Artifact, _: Mapping[str, Any]) -> Verdict:
    from hoser_kd.network.trip_consistency import MAX_REPEATED_SHARE, overlap_problem, split_overlap

    splits = _splits(artifact)
    overlap = split_overlap(splits)
    shares = {name: count / max(len(splits[name.partition("_")[0]]), 1) for name, count in overlap.items()}
    passed = max(shares.values()) <= MAX_REPEATED_SHARE
    message = f"At most {MAX_REPEATED_SHARE:.0%} of the trips of a split are those of another."
    if not passed:
        message = f"{overlap_problem(splits)} Give three different sets of trips as train.csv, val.csv and test.csv."
    return passed, message, {f"{name}_share": round(share, 4) for name, share in shares.items()}


def _splits_disjoint(artifact: Artifact, _: Mapping[str, Any]) -> Verdict:
    from hoser_kd.network.trip_consistency import overlap_problem, split_overlap

    splits = _splits(artifact)
    problem = overlap_problem(splits)
    message = problem or "No validation or test trip has the roads and times of a trip in another split."
    return problem is None, message, split_overlap(splits)


def _times_informative(artifact: Artifact, _: Mapping[str, Any]) -> Verdict:
    from hoser_kd.network.trip_consistency import time_problem

    problem = time_problem(_splits(artifact))
    return problem is None, problem or "Intervals and times of day differ between the trips.", {}


def _roads_off_line(artifact: Artifact, _: Mapping[str, Any]) -> Evidence:
    """Return the roads whose length differs most from their line, and the map."""
    import numpy as np

    from hoser_kd.network.consistency import length_ratios, line_lengths_m

    network = _network(artifact)
    lines, ratio = line_lengths_m(network), length_ratios(network)
    with np.errstate(divide="ignore"):
        worst = np.argsort(-np.abs(np.log(ratio)), kind="stable")[:MAX_ROWS]
    rows = tuple(
        {
            "road": road,
            "length_m": float(network.length_m[road]),
            "line_m": float(lines[road]),
            "ratio": float(ratio[road]),
        }
        for road in worst.tolist()
    )
    return Evidence(rows, artifact_figure(artifact, "map.png"))


def _connections_apart(artifact: Artifact, _: Mapping[str, Any]) -> Evidence:
    """Return the connections with the widest gaps, and the map."""
    import numpy as np

    from hoser_kd.common.arrays import row_of_value
    from hoser_kd.network.consistency import connection_gaps_m

    network = _network(artifact)
    gaps, road = connection_gaps_m(network), row_of_value(network.successors.indptr)
    widest = np.argsort(-gaps, kind="stable")[:MAX_ROWS]
    rows = tuple(
        {"road": int(road[at]), "next_road": int(network.successors.indices[at]), "gap_m": round(float(gaps[at]), 1)}
        for at in widest.tolist()
    )
    return Evidence(rows, artifact_figure(artifact, "map.png"))


def _repeated_trips(artifact: Artifact, _: Mapping[str, Any]) -> Evidence:
    """Return the first trips of validation and test that are trips of another split."""
    import numpy as np

    from hoser_kd.network.trip_consistency import repeated_trips

    splits = _splits(artifact)
    rows: list[dict[str, Any]] = []
    for name, other in (("test", "train"), ("val", "train"), ("test", "val")):
        trips = splits[name]
        for row in np.flatnonzero(repeated_trips(trips, splits[other]))[:MAX_ROWS].tolist():
            ids = {} if trips.ids is None else {"traj_id": str(trips.ids[row])}
            rows.append({"split": name, "is_in": other, "row": row, **ids, "roads": int(trips.lengths[row])})
    return Evidence(tuple(rows[:MAX_ROWS]))


def _intervals(artifact: Artifact, _: Mapping[str, Any]) -> Evidence:
    """Return the intervals and start times of each split."""
    import numpy as np

    from hoser_kd.network.trip_consistency import distinct_intervals

    rows = []
    for name, trips in _splits(artifact).items():
        rows.append(
            {
                "split": name,
                "intervals": trips.num_steps,
                "distinct_intervals": len(distinct_intervals(trips)),
                "distinct_times_of_day": len(np.unique(trips.start_times % 86_400)),
            }
        )
    return Evidence(tuple(rows))


def _network(artifact: Artifact) -> RoadNetwork:
    from hoser_kd.network.road_network import RoadNetwork

    return RoadNetwork.load(artifact.path)


def _splits(artifact: Artifact) -> dict[str, Trajectories]:
    from hoser_kd.network.trajectories import SPLITS, Trajectories

    return {split: Trajectories.load(artifact.path / f"{split}.arrow") for split in SPLITS}


def _json_number(value: float) -> float | None:
    return value if value == value else None  # noqa: PLR0124  NaN


NETWORK_CHECKS: dict[str, tuple[Check, ...]] = {
    "road_network": (
        Check(
            "lengths_match_lines",
            "The lengths of the roads agree with their lines within 5 %, in the median and for three quarters of the "
            "roads. Other units and exchanged latitude and longitude fail.",
            _lengths_match_lines,
            _roads_off_line,
        ),
        Check(
            "connections_meet",
            "At 99 % of the connections the end of the road and the start of the next lie at most 50 m apart. Ids that "
            "mean other roads fail.",
            _connections_meet,
            _connections_apart,
        ),
    ),
    "trajectories": (
        Check(
            "splits_differ",
            "At most 90 % of the validation or test trips are trips of another split, with the same roads and times.",
            _splits_differ,
            _repeated_trips,
        ),
        Check(
            "splits_disjoint",
            "No validation or test trip is a trip of another split, with the same roads and times.",
            _splits_disjoint,
            _repeated_trips,
            blocking=False,
        ),
        Check(
            "times_informative",
            "Intervals between roads and times of departure differ, so that times can be learned and measured.",
            _times_informative,
            _intervals,
            blocking=False,
        ),
    ),
}
"""Checks of the network group by stage."""
