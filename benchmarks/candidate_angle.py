"""Compare students trained with the published candidate angle and with the true bearing.

    python benchmarks/candidate_angle.py config/demo.yaml config/porto.yaml

The published code swaps latitude and longitude when it computes the angle between a candidate and the destination.
Both variants are trained in full with the same seeds, which determine initial weights and batch order, and evaluated
on the test trips at the epoch selected on validation. Differences are paired by seed, with 95 % t intervals. Students
are stored in the artifact store (HOSER_KD_STORE), so an interrupted run resumes.
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

VARIANTS = ("published", "true_bearing")
METRICS = ("accuracy", "decision_accuracy", "nll", "time_mae_s")


def measure(file: Path, seeds: int, store: Store) -> dict[str, object]:
    config = load_config(file)
    test = Trajectories.load(make_with_inputs("trajectories", config, store).path / "test.arrow")
    results: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    for seed in range(seeds):
        for variant in VARIANTS:
            student = config.student.model_copy(update={"candidate_angle": variant})
            artifact = make_with_inputs(
                "vanilla_student",
                config.model_copy(update={"student": student}),
                store,
                seed=seed,
                stop_at_checks=False,
            )
            metrics = evaluate_student(load(artifact.path), test)
            results[variant].append(metrics)
            sys.stderr.write(
                f"{config.city}, seed {seed}, {variant}: accuracy {metrics['accuracy']:.4f}, nll {metrics['nll']:.4f}\n"
            )
    return {
        "test_steps": int(results["published"][0]["steps"]),
        "epochs": config.student.max_epochs,
        "seeds": seeds,
        **{name: compare(results, name) for name in METRICS},
    }


def compare(results: dict[str, list[dict[str, float]]], name: str) -> dict[str, float]:
    published, true = ([metrics[name] for metrics in results[variant]] for variant in VARIANTS)
    difference = paired_difference(published, true)
    return {
        "published": float(np.mean(published)),
        "true_bearing": float(np.mean(true)),
        "published_minus_true": difference.mean,
        "low": difference.low,
        "high": difference.high,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cities", nargs="+", help="YAML files of the cities")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    store = Store(os.environ.get("HOSER_KD_STORE") or "data")
    for city in args.cities:
        sys.stdout.write(json.dumps({Path(city).stem: measure(Path(city), args.seeds, store)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
