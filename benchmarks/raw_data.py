"""Compare the matched trips of a city of raw data with those of another matching of the same GPS trips.

    python benchmarks/raw_data.py STORE/porto_raw FOLDER_IN_HOSERS_FORMAT

Roads are the same if their first and last points are (to 1e-6 degrees), trips if their ids without `-<piece>` are.
Prints the seconds of each stage, and per GPS trip the share of the driven length that both have.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from hoser_kd.network.road_network import RoadNetwork, read_network
from hoser_kd.network.trajectories import SPLITS, Trajectories, concatenate, read_trips
from hoser_kd.pipeline.store import read_artifact

STAGES = ("osm_extract", "gps_points", "road_network", "matched_trips", "trajectories")


def latest(city: Path, stage: str):
    return max((read_artifact(folder) for folder in (city / stage).iterdir()), key=lambda each: each.created_at)


def road_keys(network: RoadNetwork) -> list[tuple[float, ...]]:
    return [tuple(row) for row in np.round(np.concatenate([network.start, network.end], axis=1), 6).tolist()]


def by_trip(trips: Trajectories, roads: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the roads and times of all pieces of each GPS trip."""
    found: dict[str, list[int]] = {}
    for row, name in enumerate(trips.ids.tolist()):
        found.setdefault(name.rpartition("-")[0], []).append(row)
    taken = {name: trips.take(np.array(rows)) for name, rows in found.items()}
    return {name: (roads[each.road_ids], each.times) for name, each in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("city", type=Path)
    parser.add_argument("other", type=Path)
    options = parser.parse_args()
    artifacts = {stage: latest(options.city, stage) for stage in STAGES}
    for stage, artifact in artifacts.items():
        print(f"{stage:<15} {artifact.seconds:6.1f} s")
        print(json.dumps({key: value for key, value in artifact.summary.items() if key not in ("worst", "classes")}))
    ours, other = RoadNetwork.load(artifacts["road_network"].path), read_network(options.other)
    number = {key: i for i, key in enumerate(road_keys(ours))}
    mapped = np.array([number.get(key, -1) for key in road_keys(other)])
    length = np.append(ours.length_m, 0.0)
    pieces = Trajectories.load(artifacts["matched_trips"].path / "trips.arrow")
    reference = concatenate([read_trips(options.other / f"{split}.csv", other) for split in SPLITS])
    mine, theirs = by_trip(pieces, np.arange(ours.num_roads)), by_trip(reference, mapped)
    both = sorted(mine.keys() & theirs.keys())
    shared = np.zeros(3)
    seconds = []
    for name in both:
        (one, one_t), (two, two_t) = mine[name], theirs[name]
        common = np.intersect1d(one, two)
        shared += [length[common].sum(), length[np.unique(one)].sum(), length[np.unique(two)].sum()]
        _, i, j = np.intersect1d(one, two, return_indices=True)
        seconds.append(one_t[i] - two_t[j])
    unknown = float((np.concatenate([roads for roads, _ in theirs.values()]) < 0).mean())
    apart = np.concatenate(seconds)
    offset = np.median(apart)
    print(f"roads: {ours.num_roads} here, {other.num_roads} there, {(mapped >= 0).sum()} the same")
    print(
        f"GPS trips: {len(mine)} here, {len(theirs)} there, {len(both)} in both; pieces {len(pieces)}, {len(reference)}"
    )
    print(f"length: {shared[0] / shared[2]:.4f} of theirs is here, {shared[0] / shared[1]:.4f} of this is there")
    print(f"steps of theirs on roads that are missing here: {unknown:.4f}")
    print(f"entry times: median difference {offset:.0f} s; {np.mean(np.abs(apart - offset) <= 5):.4f} within 5 s of it")


if __name__ == "__main__":
    main()
