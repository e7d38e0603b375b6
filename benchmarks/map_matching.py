"""Measure map matching on a city in HOSER's format: known truth, speed, memory, and agreement with matched trips.

    python benchmarks/map_matching.py FOLDER                        # known truth, on the validation and test trips
    python benchmarks/map_matching.py FOLDER --raw trips.csv.gz     # also agreement, from the ECML/PKDD points
    python benchmarks/map_matching.py FOLDER --intervals 15 --noises 15 --processes 2

Known truth: a vehicle drives the roads of real trips at the speeds of their times; its position is sampled every few
seconds, with normal noise in each direction. Recall and precision are weighted by length, `exact` is the share of trips
with all roads right and no other. Trips/s are per CPU second, with compiled loops, network preparation included.

If fastmm is installed (pip install fastmm), it matches the same points on the same roads; otherwise it is skipped.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import importlib.util
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from hoser_kd.common.arrays import offsets_of, row_of_value
from hoser_kd.config.matching import MatchingSettings
from hoser_kd.network.matching import match_trips
from hoser_kd.network.matching.known_truth import GpsPoints, agreement, drive
from hoser_kd.network.matching.street_graph import project
from hoser_kd.network.road_network import read_network
from hoser_kd.network.trajectories import SPLITS, Trajectories, concatenate, read_trips


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a city in HOSER's format")
    parser.add_argument("--raw", type=Path, help="ECML/PKDD CSV that the city's trips were matched from")
    parser.add_argument("--intervals", type=float, nargs="+", default=[5, 15, 60], help="seconds between points")
    parser.add_argument("--noises", type=float, nargs="+", default=[5, 10, 15], help="standard deviations, meters")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    network = read_network(options.folder)
    trips = concatenate([read_trips(options.folder / f"{split}.csv", network) for split in ("val", "test")])
    cases = [(every, noise) for every in options.intervals for noise in options.noises]
    matchers = {"this project": lambda: Ours(network, options.processes)}
    if importlib.util.find_spec("fastmm"):
        matchers["fastmm"] = lambda: FastMm(network)
    else:
        print("fastmm is not installed: skipped")
    rows = []
    for name, build in matchers.items():
        matcher = build()
        matcher(drive(trips.take(np.arange(5)), network, 15, 5))  # compile, build tables
        print(
            f"\n{name}: {matcher.about}\n| every | noise | recall | precision | exact | trips/s |\n|--|--|--|--|--|--|"
        )
        for every, noise in cases:
            points = drive(trips, network, every, noise, seed=1)
            started = time.process_time()
            matched, row = matcher(points)
            seconds = time.process_time() - started
            result = agreement(matched, row, trips, network)
            rows.append({"matcher": name, "every_s": every, "noise_m": noise, **result._asdict(), "cpu_s": seconds})
            recall, precision, exact = result
            speed = f"{len(trips) / seconds:.0f}" if options.processes == 1 else "–"
            print(f"| {every:g} s | {noise:g} m | {recall:.3f} | {precision:.3f} | {exact:.2f} | {speed} |", flush=True)
        print(f"peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    if options.raw is not None:
        rows.append(compare_with_given(options, network))
    if options.out is not None:
        options.out.write_text(json.dumps(rows, indent=1))


class Ours:
    """The matcher of this project."""

    def __init__(self, network, processes):
        self.network, self.processes = network, processes
        self.about = "settings are the defaults"

    def __call__(self, points):
        matched = match_trips(*points, self.network, MatchingSettings(), processes=self.processes)
        return matched.trips, matched.input_trip


class FastMm:
    """fastmm with the numbers of `MatchingSettings`, where it has them."""

    def __init__(self, network, reach_m=1500.0):
        import fastmm

        settings = MatchingSettings()
        self.settings, self.library = settings, fastmm
        self.center = (network.coords.min(0) + network.coords.max(0)) / 2
        xy = project(network.coords, self.center)
        offsets = network.coord_offsets
        ends = np.round(network.coords[np.concatenate([offsets[:-1], offsets[1:] - 1])] * 1e7).astype(np.int64)
        _, node = np.unique(ends, axis=0, return_inverse=True)
        graph = self.graph = fastmm.Network()  # the matcher does not keep it alive
        for road in range(network.num_roads):
            line = list(map(tuple, xy[offsets[road] : offsets[road + 1]].tolist()))
            graph.add_edge(road, source=int(node[road]), target=int(node[network.num_roads + road]), geom=line)
        graph.finalize()
        started = time.process_time()
        self.folder = tempfile.TemporaryDirectory()
        self.matcher = fastmm.FastMapMatch(
            graph,
            fastmm.TransitionMode.SHORTEST,
            max_distance_between_candidates=reach_m,
            cache_dir=Path(self.folder.name),
        )
        size = sum(file.stat().st_size for file in Path(self.folder.name).rglob("*") if file.is_file())
        seconds = time.process_time() - started
        self.about = f"table of {size / 1e6:.0f} MB to {reach_m:g} m, built in {seconds:.0f} CPU s; settings as above"

    def __call__(self, points):
        roads, pieces, settings = [], [], self.settings
        xy = project(np.column_stack([points.lon, points.lat]), self.center)
        for trip in range(len(points.offsets) - 1):
            at = slice(points.offsets[trip], points.offsets[trip + 1])
            rows = np.column_stack([xy[at], points.t[at]]).tolist()
            result = self.matcher.match(
                self.library.Trajectory.from_xyt_tuples(list(map(tuple, rows))),
                max_candidates=settings.candidates,
                candidate_search_radius=settings.radius_m,
                gps_error=settings.sigma_m,
                reverse_tolerance=settings.backward_m,
            )
            for piece in result.subtrajectories:
                if piece.error_code == self.library.MatchErrorCode.SUCCESS:
                    ids = [edge.edge_id for segment in piece.segments for edge in segment.edges]
                    roads.append([road for k, road in enumerate(ids) if k == 0 or ids[k - 1] != road])
                    pieces.append(trip)
        flat = np.array([road for piece in roads for road in piece], np.int64)
        offsets = offsets_of(np.array([len(piece) for piece in roads]))
        return Trajectories(offsets, flat, np.zeros(len(flat), np.int64)), np.array(pieces)


def compare_with_given(options, network):
    """Compare with the trips of the city, matched by another program from the same points."""
    given = concatenate([read_trips(options.folder / f"{split}.csv", network) for split in SPLITS])
    names, points = read_raw(options.raw)
    number = {name: row for row, name in enumerate(names)}
    given_row = np.array([number[name.split("-")[0]] for name in given.ids])
    started = time.process_time()
    matched = match_trips(*points, network, MatchingSettings(), processes=options.processes)
    seconds = time.process_time() - started
    keys, counts = np.unique(
        given_row[row_of_value(given.offsets)] * network.num_roads + given.road_ids, return_counts=True
    )
    ours = matched.input_trip[row_of_value(matched.trips.offsets)] * network.num_roads + matched.trips.road_ids
    own_keys, own_counts = np.unique(ours, return_counts=True)
    common, at, own_at = np.intersect1d(keys, own_keys, return_indices=True)
    shared = (np.minimum(counts[at], own_counts[own_at]) * network.length_m[common % network.num_roads]).sum()
    away = matched.point_distance_m
    result = {
        "given_length_found": float(shared / network.length_m[given.road_ids].sum()),
        "matched_length_given": float(shared / network.length_m[matched.trips.road_ids].sum()),
        "distance_m_median": float(np.nanmedian(away)),
        "distance_m_p95": float(np.nanpercentile(away, 95)),
        "trips": len(names),
        "points": len(points.t),
        "pieces": len(matched.trips),
        "trips_per_cpu_s": len(names) / seconds,
        **matched.counts,
    }
    print(f"\nagreement with the {len(given)} trips of {options.folder.name}")
    print("\n".join(f"  {name}: {value:.4g}" for name, value in result.items()))
    return result


def read_raw(path):
    csv.field_size_limit(sys.maxsize)
    with gzip.open(path, "rt") as lines:
        rows = list(csv.DictReader(lines))
    trips = [np.array(json.loads(row["POLYLINE"]), np.float64).reshape(-1, 2) for row in rows]
    offsets = offsets_of(np.array([len(trip) for trip in trips]))
    lon, lat = np.concatenate(trips).T
    t = np.concatenate(
        [int(row["TIMESTAMP"]) + 15.0 * np.arange(len(trip)) for row, trip in zip(rows, trips, strict=True)]
    )
    return [row["TRIP_ID"] for row in rows], GpsPoints(offsets, t, lon, lat)


if __name__ == "__main__":
    main()
