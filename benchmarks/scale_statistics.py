"""Measure the memory and time of each statistic over all steps of the training trips, beside the trips themselves.

    python benchmarks/scale_statistics.py --roads 40000 --trips 2000000

Trips are those of `benchmarks/scale_stages.py`. Each statistic runs in a fork of the process; its memory is the peak of
the fork's resident set, as the kernel records it, less that at its start.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scale import street_grid
from scale_stages import random_trips

if TYPE_CHECKING:
    from collections.abc import Callable

    from hoser_kd.common.arrays import Int64Array
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories


class _City(NamedTuple):
    """What the statistics read."""

    network: RoadNetwork
    zones: Int64Array
    train: Trajectories
    test: Trajectories


def statistics() -> dict[str, Callable[[_City], object]]:
    """Return the statistics by name."""
    from hoser_kd.evaluation.memorization import copied
    from hoser_kd.grid.token_table import resolution
    from hoser_kd.hoser import time_label_statistics
    from hoser_kd.network.class_speeds import ClassSpeeds
    from hoser_kd.network.markov import MarkovChain
    from hoser_kd.network.trip_consistency import repeated_trips, time_problem
    from hoser_kd.network.zones import transitions
    from hoser_kd.student.next_step_metrics import frequency_baseline

    return {
        "zone transitions": lambda city: transitions(city.zones, city.train, int(city.zones.max()) + 1),
        "resolution of the grid": lambda city: resolution(city.zones, city.network, city.train),
        "scale of times": lambda city: time_label_statistics(city.train),
        "class speeds": lambda city: ClassSpeeds.fit(city.train, city.network),
        "Markov chain of order 1": lambda city: MarkovChain.fit(city.train, city.network),
        "frequency baseline": lambda city: frequency_baseline(city.train, city.test, city.network),
        "copies of training trips": lambda city: copied(city.test, city.train),
        "trips in two splits": lambda city: repeated_trips(city.test, city.train),
        "times without information": lambda city: time_problem({"train": city.train}),
    }


def measure(work: Callable[[], object]) -> tuple[float, float]:
    """Run a function in a fork; returns its peak of memory beyond the start, MiB, and its CPU seconds."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        before, began = _resident_mib(), time.process_time()
        work()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        os.write(writer, json.dumps([peak - before, time.process_time() - began]).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    mib, seconds = json.loads(os.read(reader, 200))
    os.close(reader)
    return mib, seconds


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--roads", type=int, default=40_000)
    parser.add_argument("--trips", type=int, default=2_000_000)
    args = parser.parse_args()
    from hoser_kd.network.zones import bisection

    network = street_grid(args.roads)
    zones = bisection(network.centroids, 300)
    # used by several, and not part of what is measured
    network.candidate_index(np.zeros(1, np.int64), np.zeros(1, np.int64))
    city = _City(network, zones, random_trips(network, args.trips, 1), random_trips(network, args.trips // 100, 2))
    for name, statistic in statistics().items():
        mib, seconds = measure(partial(statistic, city))
        row = {"statistic": name, "trips": args.trips, "mib": round(mib, 1), "cpu_s": round(seconds, 1)}
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
