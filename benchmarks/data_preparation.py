"""Measure how fast trips become batches: this implementation and the published one, one thread, in the same run.

    python benchmarks/data_preparation.py                          # synthetic cities of 2,000 and 20,000 roads
    python benchmarks/data_preparation.py --folder data/porto      # a city in HOSER's format

The published code processes one trip at a time in Python: it parses the row, computes features for every step and
pair of steps, and writes a file per trip; training reads and pads these files. This implementation reads the table
into one Arrow file, memory-maps it, and derives the features of a batch from road ids and times. Both start from
train.csv and end with the tensors of a training step, in the same batches of trips of similar length. `prepare` runs
once, `load` in every epoch.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
import time
import warnings
from datetime import datetime
from pathlib import Path
from statistics import median

import numpy as np
import torch

from hoser_kd.config.source import SyntheticConfig
from hoser_kd.config.student import StudentConfig
from hoser_kd.config.zones import ZonesConfig
from hoser_kd.hoser import HOSER, collate
from hoser_kd.network.road_network import read_hoser
from hoser_kd.network.synthetic.city import make_city
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.network.trajectories import read_hoser as read_trips
from hoser_kd.network.zones import partition, transitions
from hoser_kd.student.training import bucketed_batches

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import oracle_hoser

BLOCKS = {"synthetic_2000": (23, 23), "synthetic_20000": (71, 71)}


def seconds(work, repeats=1):
    """Return the median CPU seconds of a call, since other processes may share the machine, and its result."""
    took, result = [], None
    for _ in range(repeats):
        start = time.process_time()
        result = work()
        took.append(time.process_time() - start)
    return median(took), result


def prepare_published(network, table: Path, folder: Path) -> list[Path]:
    """Write a file of features per row."""
    files = []
    with table.open(newline="", encoding="utf-8") as text:
        for number, row in enumerate(csv.DictReader(text)):
            roads = [int(road) for road in row["rid_list"].strip("[]").split(",")]
            moments = [datetime.strptime(part, "%Y-%m-%dT%H:%M:%S%z") for part in row["time_list"].split(",")]
            times = np.array([int(moment.timestamp()) for moment in moments])
            files.append(folder / f"{number}.pt")
            torch.save(oracle_hoser.trip_features(network, np.array(roads), times), files[-1])
    return files


def load_published(files: list[Path]):
    # trusted: written by this process
    return oracle_hoser.collate_plain([torch.load(file, weights_only=False) for file in files])


def measure(folder: Path, size: int) -> dict[str, float]:
    network = read_hoser(folder)
    table = folder / "train.csv"
    zones = partition(network, ZonesConfig())
    counts = transitions(zones, read_trips(table, network), int(zones.max()) + 1)
    tables = HOSER.build(StudentConfig(candidate_angle="published"), network, zones, counts).tables

    def prepare(target: Path) -> Trajectories:
        read_trips(table, network).save(target)
        return Trajectories.load(target)

    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "plain").mkdir()
        published_prepare, files = seconds(lambda: prepare_published(network, table, Path(scratch) / "plain"))
        ours_prepare, trips = seconds(lambda: prepare(Path(scratch) / "trips.arrow"), 5)
        rows = list(bucketed_batches(trips.lengths, size, seed=0, epoch=0))
        tables.derive(collate(trips, rows[0]))  # warm-up: imports and allocations
        published_load, _ = seconds(lambda: [load_published([files[i] for i in part]) for part in rows])
        ours_load, _ = seconds(lambda: [tables.derive(collate(trips, part)) for part in rows], 5)
        bytes_published = sum(file.stat().st_size for file in files)
        bytes_ours = (Path(scratch) / "trips.arrow").stat().st_size
    ms_per_trip = 1e3 / len(trips)
    return {
        "roads": network.num_roads,
        "trips": len(trips),
        "roads_per_trip": round(float(trips.lengths.mean()), 1),
        "prepare_ms_per_trip": {
            "published": published_prepare * ms_per_trip,
            "ours": ours_prepare * ms_per_trip,
            "ratio": published_prepare / ours_prepare,
        },
        "load_ms_per_trip": {
            "published": published_load * ms_per_trip,
            "ours": ours_load * ms_per_trip,
            "ratio": published_load / ours_load,
        },
        "total_ratio": (published_prepare + published_load) / (ours_prepare + ours_load),
        "kib_per_trip": {"published": bytes_published / len(trips) / 1024, "ours": bytes_ours / len(trips) / 1024},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="a city in HOSER's format instead of the synthetic ones")
    parser.add_argument(
        "--synthetic", nargs="+", choices=list(BLOCKS), default=list(BLOCKS), help="which synthetic cities"
    )
    parser.add_argument("--trips", type=int, default=1000, help="trips of a synthetic city")
    parser.add_argument("--batch", type=int, default=64, help="trips per batch")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    if args.folder:
        results[args.folder.name] = measure(args.folder, args.batch)
    else:
        for name in args.synthetic:
            with tempfile.TemporaryDirectory() as folder:
                make_city(folder, SyntheticConfig(blocks=BLOCKS[name], num_trips=args.trips))
                results[name] = measure(Path(folder), args.batch)
    sys.stdout.write(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
