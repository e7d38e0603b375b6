"""Checks of GPS points and map matching, and where they fail; entries of `CHECKS` name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hoser_kd.pipeline.check import Verdict
from hoser_kd.pipeline.check_evidence import Evidence, artifact_figure
from hoser_kd.pipeline.store import Artifact

MIN_POINTS_KEPT, MIN_POINTS_MATCHED = 0.5, 0.5
MIN_TRIPS_MATCHED, MAX_PIECES_PER_TRIP = 0.8, 1.5
MAX_DISTANCE_M, MAX_DISTANCE_P95_M = 15.0, 50.0
MAX_SPEED_P99_M_S, MAX_DETOUR = 45.0, 2.0
_NOT_RAW = "Not applicable: the city is not of raw data (`source.kind: raw`)."


def points_kept(artifact: Artifact, _: Mapping[str, Any]) -> Verdict:
    """Judge whether most GPS points are kept."""
    if artifact.summary.get("enabled") is False:
        return True, _NOT_RAW, {}
    share = float(artifact.summary["points_kept_share"])
    message = f"{share:.1%} of {artifact.summary['points_read']} points are kept, in {artifact.summary['trips']} trips."
    if share < MIN_POINTS_KEPT:
        message += (
            " The table says what was left out; change the limits in `source.points` if they do not suit the data."
        )
    return share >= MIN_POINTS_KEPT, message, {"points_kept_share": share}


def points_on_roads(artifact: Artifact, _: Mapping[str, Any]) -> Verdict:
    """Judge whether most points are matched, to roads that are connected."""
    if artifact.summary.get("enabled") is False:
        return True, _NOT_RAW, {}
    share, wrong = float(artifact.summary["matched_points_share"]), int(artifact.summary["unconnected_steps"])
    message = f"{share:.1%} of the points are matched; {wrong} steps connect roads that are not connected."
    if share < MIN_POINTS_MATCHED:
        message += (
            " Map and points cover different areas or have different datums: compare their extents, the order of "
            "longitude and latitude, and `source.points.coordinates`; or raise `source.matching.radius_m`."
        )
    passed = share >= MIN_POINTS_MATCHED and wrong == 0
    return passed, message, {"matched_points_share": share, "unconnected_steps": wrong}


def trips_whole(artifact: Artifact, _: Mapping[str, Any]) -> Verdict:
    """Judge whether most GPS trips are matched, in few pieces."""
    if artifact.summary.get("enabled") is False:
        return True, _NOT_RAW, {}
    share, pieces = float(artifact.summary["matched_trips_share"]), float(artifact.summary["pieces_per_trip"])
    message = f"{share:.1%} of {artifact.summary['gps_trips']} GPS trips are matched, in {pieces:g} pieces on average."
    passed = share >= MIN_TRIPS_MATCHED and pieces <= MAX_PIECES_PER_TRIP
    if not passed:
        message += (
            f" {artifact.summary['splits_at_gaps']} splits are at time gaps (`source.matching.max_gap_s`), "
            f"{artifact.summary['splits_without_path']} where no path leads on: the map may lack roads "
            "(`source.map.highways`) or cover a smaller area than the trips."
        )
    return passed, message, {"matched_trips_share": share, "pieces_per_trip": pieces}


def points_near_roads(artifact: Artifact, _: Mapping[str, Any]) -> Verdict:
    """Judge whether points are close to their roads."""
    if artifact.summary.get("enabled") is False:
        return True, _NOT_RAW, {}
    median, p95 = float(artifact.summary["distance_m_median"]), float(artifact.summary["distance_m_p95"])
    passed = median <= MAX_DISTANCE_M and p95 <= MAX_DISTANCE_P95_M
    message = (
        f"The distance of points from their roads is {median:.1f} m in the median, {p95:.1f} m at the 95th percentile."
    )
    if not passed:
        message += " The map may lack roads, or be shifted against the points (`source.points.coordinates`)."
    return passed, message, {"distance_m_median": median, "distance_m_p95": p95}


def paths_plausible(artifact: Artifact, _: Mapping[str, Any]) -> Verdict:
    """Judge whether speeds and detours are plausible."""
    if artifact.summary.get("enabled") is False:
        return True, _NOT_RAW, {}
    speed, detour = float(artifact.summary["speed_m_s_p99"]), float(artifact.summary["detour_median"])
    passed = speed <= MAX_SPEED_P99_M_S and detour <= MAX_DETOUR
    message = (
        f"99 % of the trips are slower than {speed:.1f} m/s; paths are {detour:.2f} times as long as the straight line."
    )
    if speed > MAX_SPEED_P99_M_S:
        message += (
            " Check the unit of the times (`source.points.time_unit`, `interval_s`), and whether the map has the roads "
            "that were driven."
        )
    if detour > MAX_DETOUR:
        message += " The map may lack roads or directions; vehicles without a destination drive like this, too."
    if not passed:
        message += " See the worst trips on the map."
    return passed, message, {"speed_m_s_p99": speed, "detour_median": detour}


def points_left_out(artifact: Artifact, _: Mapping[str, Any]) -> Evidence:
    """Return how many points and trips were left out, by reason."""
    return Evidence(tuple({"reason": name, "number": count} for name, count in artifact.summary["cleaning"].items()))


def worst_matches(artifact: Artifact, _: Mapping[str, Any]) -> Evidence:
    """Return the pieces whose points lie farthest from their roads, and their map."""
    return Evidence(tuple(dict(row) for row in artifact.summary["worst"]), artifact_figure(artifact, "worst.png"))


def match_quality(artifact: Artifact, _: Mapping[str, Any]) -> Evidence:
    """Return the worst pieces, and the distributions of distances, gaps, speeds and detours."""
    return Evidence(tuple(dict(row) for row in artifact.summary["worst"]), artifact_figure(artifact, "quality.png"))
