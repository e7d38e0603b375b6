"""Measure the memory and time of each statistic over all steps of the training trips, beside the trips themselves.

    python benchmarks/scale_statistics.py --roads 40000 --trips 2000000

Trips are those of `benchmarks/scale_stages.py`, mapped from a file as in the pipeline. Each statistic runs in a fork of
the process; its memory is what the fork has of its own beyond what it starts with.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scale import street_grid
from scale_stages import own_bytes, random_trips

if TYPE_CHECKING:
    from collections.abc import Callable

    from hoser_kd.common.arrays import Int64Array
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories

_POLL_S = 0.02


class _City(NamedTuple):
    """What the statistics read."""

    network: RoadNetwork
    zones: Int64Array
    file: Path
    test: Trajectories

    @property
    def train(self) -> Trajectories:
        """The training trips, mapped from their file."""
        return type(self.test).load(self.file)


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
        "reading": lambda city: len(city.train),
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
    """Run a function in a fork; returns its peak of own memory beyond the start, MiB, and its CPU seconds."""
    reader, writer = os.pipe()
    before = own_bytes(os.getpid())
    child = os.fork()
    if child == 0:
        began = time.process_time()
        work()
        os.write(writer, str(time.process_time() - began).encode())
        os._exit(0)
    os.close(writer)
    most = 0
    while not os.waitpid(child, os.WNOHANG)[0]:
        most = max(most, own_bytes(child))
        time.sleep(_POLL_S)
    seconds = float(os.read(reader, 64) or "nan")
    os.close(reader)
    return max(most - before, 0) / 2**20, seconds


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
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "train.arrow"
        random_trips(network, args.trips, 1).save(file)
        city = _City(network, zones, file, random_trips(network, args.trips // 100, 2))
        for name, statistic in statistics().items():
            mib, seconds = measure(partial(statistic, city))
            row = {"statistic": name, "trips": args.trips, "own_mib": round(mib, 1), "cpu_s": round(seconds, 1)}
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
