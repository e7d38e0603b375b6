"""Run the experiment: does distillation help, where, and what does a mixture reach? Writes docs/results.md.

    python benchmarks/experiment.py --config config/demo.yaml --seeds 0 1 2 3 4
    python benchmarks/experiment.py --config config/porto.yaml --seeds 0 1 2 3 4
    python benchmarks/results_page.py        # only the page, from stored results

Uses the stages and the artifact store of the pipeline, so finished trainings are reused and an interrupted run
resumes. Lambda, temperature and sharing are chosen by the validation NLL of seeds that are not among the tested ones,
separately for each share of the training trips. The test split is read once, for the tables. Results are stored in
docs/results/<city>.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from results_page import write_page

from hoser_kd.common.progress import TimedLines
from hoser_kd.config.loading import load_config
from hoser_kd.config.schema import CityConfig
from hoser_kd.evaluation.statistics import paired_difference
from hoser_kd.hoser import load
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.run import make_with_inputs
from hoser_kd.pipeline.store import Artifact, Store
from hoser_kd.student.pools import PoolWeights, fit_pool, pool_metrics, student_probabilities, teacher_probabilities
from hoser_kd.teacher.soft_labels import SoftLabels

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
TINY = {"preset": "tiny", "max_epochs": 15, "learning_rate": 0.003, "dropout": 0.1}


def variant(config: CityConfig, **sections: dict[str, Any]) -> CityConfig:
    changed = {name: getattr(config, name).model_copy(update=values) for name, values in sections.items()}
    return config.model_copy(update=changed)


class Maker:
    """Runs stages and prints which."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.lines = TimedLines(lambda line: sys.stderr.write(f"    {line}\n"), every_s=30)

    def __call__(self, stage: str, config: CityConfig, seed: int = 0) -> Artifact:
        def say(started) -> None:
            seed_text = f" seed {seed}" if STAGES[started.name].per_seed else ""
            if started.name in ("teacher", "vanilla_student", "distilled_student"):
                sys.stderr.write(f"  {config.city}: {started.name}{seed_text}\n")

        return make_with_inputs(
            stage, config, self.store, seed=seed, on_stage=say, progress=self.lines, stop_at_checks=False
        )


def search(make: Maker, config: CityConfig, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Search lambda, then temperature, then sharing, each with the best values so far, by means over the search seeds.

    While the best lambda is the largest one tried, three times its value is tried too.
    """
    axes = {"lambda_kl": options.lambdas, "temperature": options.temperatures, "shared_cells": options.sharing}
    best: dict[str, Any] = {"lambda_kl": None, "temperature": 2.0, "shared_cells": "replicate"}
    tried: dict[tuple[Any, ...], dict[str, Any]] = {}

    def students(kind: str, changed: CityConfig, settings: dict[str, Any]) -> dict[str, Any]:
        made = [make(kind, changed, seed).summary for seed in options.search_seeds]
        return {
            **settings,
            "val_nlls": [summary["val_nll"] for summary in made],
            **{name: sum(summary[name] for summary in made) / len(made) for name in ("val_nll", "val_accuracy")},
        }

    def attempt(axis: str, values: list[Any]) -> dict[str, Any]:
        for value in values:
            settings = {**best, axis: value}
            place = tuple(settings.values())
            if place not in tried:
                tried[place] = students("distilled_student", variant(config, distill=settings), settings)
        return {name: min(tried.values(), key=lambda row: row["val_nll"])[name] for name in best}

    for axis, values in axes.items():
        best = attempt(axis, values)
    while best["lambda_kl"] == max(row["lambda_kl"] for row in tried.values()):
        best = attempt("lambda_kl", [3 * best["lambda_kl"]])
    vanilla = students("vanilla_student", config, {"lambda_kl": 0.0, "temperature": None, "shared_cells": None})
    return [*tried.values(), vanilla]


def comparison(make: Maker, config: CityConfig, seeds: list[int]) -> dict[str, Any]:
    """Compare vanilla and distilled students on test, paired by seed."""
    runs: dict[str, dict[str, list[float]]] = {}
    for seed in seeds:
        for row in make("trajectory_metrics", config, seed).summary["comparison"]:
            metric = runs.setdefault(row["metric"], {"vanilla": [], "distilled": []})
            for kind in metric:
                metric[kind].append(row[kind])
    table = {}
    for name, values in runs.items():
        difference = paired_difference(values["distilled"], values["vanilla"])
        table[name] = {**values, "difference": difference.mean, "low": difference.low, "high": difference.high}
    return {"seeds": seeds, "metrics": table}


def learnable(make: Maker, config: CityConfig, seed: int) -> dict[str, Any]:
    """Evaluate the teacher alone, and a mixture of vanilla student and teacher whose share is chosen on validation."""
    model = load(make("vanilla_student", config, seed).path)
    network = RoadNetwork.load(make("road_network", config).path)
    labels, trips = make("teacher_soft_labels", config).path, make("trajectories", config).path
    members = {}
    for split in ("val", "test"):
        trips_of = Trajectories.load(trips / f"{split}.arrow")
        members[split] = (
            student_probabilities(model, trips_of, network),
            teacher_probabilities(SoftLabels.load(labels / f"{split}.arrow"), trips_of, network),
        )
    weights = fit_pool(members["val"], "arithmetic")
    return {
        "seed": seed,
        "share": weights.values[1],
        "student": pool_metrics(members["test"], PoolWeights("arithmetic", (1.0, 0.0))),
        "teacher": pool_metrics(members["test"], PoolWeights("arithmetic", (0.0, 1.0))),
        "mixture": pool_metrics(members["test"], weights),
    }


def resolution(make: Maker, config: CityConfig, seeds: list[int], sizes: list[str]) -> list[dict[str, Any]]:
    """Train the same teacher and students at several cell sizes."""
    rows = []
    for size in sizes:
        grid = {"kind": "roads"} if size == "roads" else {"cell_size_m": float(size), "kind": "cells"}
        changed = variant(config, grid=grid)
        summary = make("grid_token_table", changed).summary
        students = [make("distilled_student", changed, seed).summary for seed in seeds]
        rows.append(
            {
                "cells": size,
                "tokens": summary["num_labels"],
                "distinguishable_share": summary["resolution"]["distinguishable_share"],
                "teacher_perplexity": make("teacher", changed).summary["val_perplexity"],
                "learnable": learnable(make, changed, seeds[0]),
                "student_val_nll": [student["val_nll"] for student in students],
                "student_val_accuracy": [student["val_accuracy"] for student in students],
            }
        )
    return rows


def run(options: argparse.Namespace) -> None:
    config = load_config(options.config)
    make = Maker(Store(os.environ.get("HOSER_KD_STORE") or "data"))
    file = RESULTS / f"{config.city}.json"
    RESULTS.mkdir(exist_ok=True)

    def kept() -> dict[str, Any]:
        return json.loads(file.read_text()) if file.is_file() else {}

    def keep(name: str, value: Any) -> None:
        results = {**kept(), name: value}
        file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    for fraction in options.fractions:
        part = variant(config, student={"train_fraction": fraction})
        rows = search(make, part, options)
        best = min((row for row in rows if row["lambda_kl"]), key=lambda row: row["val_nll"])
        chosen = variant(part, distill={name: best[name] for name in ("lambda_kl", "temperature", "shared_cells")})
        keep(
            f"fraction {fraction}",
            {
                "search": rows,
                "chosen": best,
                "learnable": learnable(make, chosen, options.seeds[0]),
                **comparison(make, chosen, options.seeds),
            },
        )
    if options.cells:
        best = kept()["fraction 1.0"]["chosen"]
        chosen = variant(
            config,
            distill={name: best[name] for name in ("lambda_kl", "temperature", "shared_cells")},
            teacher=TINY if options.cell_teacher == "tiny" else {},
        )
        keep("resolution", resolution(make, chosen, options.seeds[: options.cell_seeds], options.cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--search-seeds", type=int, nargs="+", default=[100, 101])
    parser.add_argument("--lambdas", type=float, nargs="+", default=[0.01, 0.1, 0.3, 1.0])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0, 2.0, 4.0])
    parser.add_argument("--sharing", nargs="+", default=["replicate", "split", "aggregate"])
    parser.add_argument("--fractions", type=float, nargs="+", default=[1.0, 0.3, 0.1])
    parser.add_argument("--cell-seeds", type=int, default=1, help="number of seeds for the comparison of cell sizes")
    parser.add_argument(
        "--cell-teacher",
        choices=["tiny", "as configured"],
        default="as configured",
        help="teacher for the comparison of cell sizes; tiny trains in minutes",
    )
    parser.add_argument("--cells", nargs="*", default=["100", "50", "25", "roads"])
    run(parser.parse_args())
    write_page()


if __name__ == "__main__":
    main()
