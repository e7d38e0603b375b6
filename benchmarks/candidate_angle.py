"""Which reading of the candidate angle trains the better student: the published one or the true bearing.

    python benchmarks/candidate_angle.py config/demo.yaml config/porto.yaml --epochs 3

The published code hands longitude over as latitude and the reverse when it computes the angle between a candidate and
the destination. Both readings are trained with the same seeds, which decide weights, order and nothing else, and judged
on the test trips at the epoch that validation chose. A difference is that of the same seed; its interval is the paired
t interval at 95 %.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from hoser_kd import sources
from hoser_kd.config import load_config
from hoser_kd.next_step import evaluate_student
from hoser_kd.road_network import read_hoser
from hoser_kd.statistics import paired_difference
from hoser_kd.training import train_student
from hoser_kd.trajectories import read_hoser as read_trips
from hoser_kd.zones import partition, read_shipped, transitions

READINGS = ("published", "true_bearing")
FIGURES = ("accuracy", "decision_accuracy", "nll", "time_mae_s")


def measure(file: Path, epochs: int, seeds: int) -> dict[str, object]:
    config = load_config(file)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        folder = sources.fetch(config.source, work / "city")
        network = read_hoser(folder)
        train, val, test = (read_trips(folder / f"{split}.csv", network) for split in ("train", "val", "test"))
        shipped = read_shipped(folder, network) if config.zones.use_shipped else None
        zones = partition(network, config.zones) if shipped is None else shipped.zones
        counts = transitions(zones, train, int(zones.max()) + 1)
        found: dict[str, list[dict[str, float]]] = {reading: [] for reading in READINGS}
        for seed in range(seeds):
            for reading in READINGS:
                began = time.process_time()
                student = config.student.model_copy(update={"candidate_angle": reading, "max_epochs": epochs})
                result = train_student(network, zones, counts, train, val, student, seed=seed,
                                       folder=work / f"{reading}-{seed}")
                figures = evaluate_student(result.model, test)
                found[reading].append(figures)
                sys.stderr.write(f"{config.city}, seed {seed}, {reading}: accuracy {figures['accuracy']:.4f}, nll "
                                 f"{figures['nll']:.4f}, {time.process_time() - began:.0f} s\n")
    return {"roads": network.num_roads, "train_trips": len(train), "test_steps": int(found["published"][0]["steps"]),
            "epochs": epochs, "seeds": seeds, **{name: compare(found, name) for name in FIGURES}}


def compare(found: dict[str, list[dict[str, float]]], name: str) -> dict[str, float]:
    published, true = ([figures[name] for figures in found[reading]] for reading in READINGS)
    difference = paired_difference(published, true)
    return {"published": float(np.mean(published)), "true_bearing": float(np.mean(true)),
            "published_less_true": difference.mean, "low": difference.low, "high": difference.high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cities", nargs="+", help="settings of the cities, YAML")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for city in args.cities:
        sys.stdout.write(json.dumps({Path(city).stem: measure(Path(city), args.epochs, args.seeds)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
