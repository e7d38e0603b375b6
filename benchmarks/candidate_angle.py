"""Which reading of the candidate angle trains the better student: the published one or the true bearing.

    python benchmarks/candidate_angle.py config/demo.yaml config/porto.yaml

The published code hands longitude over as latitude and the reverse when it computes the angle between a candidate and
the destination. Both readings are trained in full with the same seeds, which decide weights, order and nothing else,
and judged on the test trips at the epoch that validation chose. A difference is that of the same seed; its interval is
the paired t interval at 95 %. Students are kept in the store (HOSER_KD_STORE), so a run that was cut off goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch

from hoser_kd.config.loading import load_config
from hoser_kd.evaluation.statistics import paired_difference
from hoser_kd.hoser import load
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.pipeline.run import make_with_inputs
from hoser_kd.pipeline.store import Store
from hoser_kd.student.next_step_metrics import evaluate_student

READINGS = ("published", "true_bearing")
FIGURES = ("accuracy", "decision_accuracy", "nll", "time_mae_s")


def measure(file: Path, seeds: int, store: Store) -> dict[str, object]:
    config = load_config(file)
    test = Trajectories.load(make_with_inputs("trajectories", config, store).path / "test.arrow")
    found: dict[str, list[dict[str, float]]] = {reading: [] for reading in READINGS}
    for seed in range(seeds):
        for reading in READINGS:
            student = config.student.model_copy(update={"candidate_angle": reading})
            made = make_with_inputs(
                "vanilla_student",
                config.model_copy(update={"student": student}),
                store,
                seed=seed,
                stop_at_checks=False,
            )
            figures = evaluate_student(load(made.path), test)
            found[reading].append(figures)
            sys.stderr.write(
                f"{config.city}, seed {seed}, {reading}: accuracy {figures['accuracy']:.4f}, nll {figures['nll']:.4f}\n"
            )
    return {
        "test_steps": int(found["published"][0]["steps"]),
        "epochs": config.student.max_epochs,
        "seeds": seeds,
        **{name: compare(found, name) for name in FIGURES},
    }


def compare(found: dict[str, list[dict[str, float]]], name: str) -> dict[str, float]:
    published, true = ([figures[name] for figures in found[reading]] for reading in READINGS)
    difference = paired_difference(published, true)
    return {
        "published": float(np.mean(published)),
        "true_bearing": float(np.mean(true)),
        "published_less_true": difference.mean,
        "low": difference.low,
        "high": difference.high,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cities", nargs="+", help="settings of the cities, YAML")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    store = Store(os.environ.get("HOSER_KD_STORE") or "data")
    for city in args.cities:
        sys.stdout.write(json.dumps({Path(city).stem: measure(Path(city), args.seeds, store)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
