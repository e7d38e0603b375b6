"""How fast trips become batches: ours against the published way, on one thread, both in one run.

    python benchmarks/data_preparation.py                          # made cities of 2,000 and 20,000 roads
    python benchmarks/data_preparation.py --folder data/porto      # a city in HOSER's format

The published way works a trip at a time in Python: a row's text is parsed, features are made for every step and pair
of steps, a file is written for each trip; training reads these files back and pads them. Ours reads the table into one
Arrow file, memory-maps it, and derives a batch's features from road ids and times. Both start at train.csv and end at
the tensors a training step reads, in the same batches of trips of like length. `prepare` is done once, `load` in every
epoch.
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

from hoser_kd.config.schema import StudentConfig, SyntheticConfig, ZonesConfig
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

BLOCKS = {"made_2000": (23, 23), "made_20000": (71, 71)}


def seconds(work, repeats=1):
    """Median CPU seconds of a call (the run has one thread, and may not have the machine), and its result."""
    took, result = [], None
    for _ in range(repeats):
        start = time.process_time()
        result = work()
        took.append(time.process_time() - start)
    return median(took), result


def prepare_plainly(network, table: Path, folder: Path) -> list[Path]:
    """A file of features for each row."""
    files = []
    with table.open(newline="", encoding="utf-8") as text:
        for number, row in enumerate(csv.DictReader(text)):
            roads = [int(road) for road in row["rid_list"].strip("[]").split(",")]
            moments = [datetime.strptime(part, "%Y-%m-%dT%H:%M:%S%z") for part in row["time_list"].split(",")]
            times = np.array([int(moment.timestamp()) for moment in moments])
            files.append(folder / f"{number}.pt")
            torch.save(oracle_hoser.trip_features(network, np.array(roads), times), files[-1])
    return files


def load_plainly(files: list[Path]):
    # the files were written here, a moment ago
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
        plain_prepare, files = seconds(lambda: prepare_plainly(network, table, Path(scratch) / "plain"))
        ours_prepare, trips = seconds(lambda: prepare(Path(scratch) / "trips.arrow"), 5)
        rows = list(bucketed_batches(trips.lengths, size, seed=0, epoch=0))
        tables.derive(collate(trips, rows[0]))  # the first call imports and allocates
        plain_load, _ = seconds(lambda: [load_plainly([files[i] for i in part]) for part in rows])
        ours_load, _ = seconds(lambda: [tables.derive(collate(trips, part)) for part in rows], 5)
        bytes_plain = sum(file.stat().st_size for file in files)
        bytes_ours = (Path(scratch) / "trips.arrow").stat().st_size
    each = 1e3 / len(trips)
    return {
        "roads": network.num_roads,
        "trips": len(trips),
        "roads_a_trip": round(float(trips.lengths.mean()), 1),
        "prepare_ms_a_trip": {
            "plain": plain_prepare * each,
            "ours": ours_prepare * each,
            "ratio": plain_prepare / ours_prepare,
        },
        "load_ms_a_trip": {"plain": plain_load * each, "ours": ours_load * each, "ratio": plain_load / ours_load},
        "together_ratio": (plain_prepare + plain_load) / (ours_prepare + ours_load),
        "kib_a_trip": {"plain": bytes_plain / len(trips) / 1024, "ours": bytes_ours / len(trips) / 1024},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="a city in HOSER's format, in place of the made ones")
    parser.add_argument("--made", nargs="+", choices=list(BLOCKS), default=list(BLOCKS), help="which made cities")
    parser.add_argument("--trips", type=int, default=1000, help="trips of a made city")
    parser.add_argument("--batch", type=int, default=64, help="trips a batch")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    if args.folder:
        results[args.folder.name] = measure(args.folder, args.batch)
    else:
        for name in args.made:
            with tempfile.TemporaryDirectory() as folder:
                make_city(folder, SyntheticConfig(blocks=BLOCKS[name], num_trips=args.trips))
                results[name] = measure(Path(folder), args.batch)
    sys.stdout.write(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
