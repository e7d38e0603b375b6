"""Compare rules of model selection. Writes docs/results/selection_<city>.json and docs/selection.md.

    python benchmarks/selection.py --config config/porto.yaml --seeds 0 1 2
    python benchmarks/selection.py --config config/porto.yaml --student distilled_student
    python benchmarks/selection.py --page        # only the page, from stored results

Trains one student per seed and keeps the weights of every epoch. Each rule of `student.select_by` selects an epoch by
its metrics on the validation trips. Trips are then generated for all test ODs with the weights of the epochs, with
the settings of `generation` in the city's YAML. A rule is compared with the published one by the test metrics of the
selected epochs, paired by seed. An interrupted run resumes: store and folder keep finished work.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from hoser_kd import hoser
from hoser_kd.common.files import atomic_path, write_json
from hoser_kd.common.progress import TimedLines
from hoser_kd.common.tensor_files import read_tensors
from hoser_kd.config.loading import load_config
from hoser_kd.config.schema import CityConfig
from hoser_kd.config.variants import SELECTION_RULES
from hoser_kd.evaluation.metrics import evaluate
from hoser_kd.evaluation.statistics import paired_difference
from hoser_kd.evaluation.validation_trips import trip_score
from hoser_kd.generation.decoding import Decoding
from hoser_kd.generation.generator import generate
from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.run import make_all
from hoser_kd.pipeline.stage import StageRun
from hoser_kd.pipeline.stages.network import load_network, load_trips
from hoser_kd.pipeline.stages.student import train_here
from hoser_kd.pipeline.store import Store
from hoser_kd.student.model_selection import PREFIX, best_epoch, score
from hoser_kd.student.next_step_metrics import evaluate_student
from hoser_kd.student.training_checkpoint import STATE_FILE, TrainingResult

DOCS = Path(__file__).resolve().parent.parent / "docs"
RESULTS = DOCS / "results"
HEADING = "## Measured"
METRICS = {
    # on test: better direction, unit, label
    "reached": ("higher", "", "trips that arrive"),
    "score": ("higher", "", "score"),
    "distance_jsd": ("lower", "nat", "JSD of traveled distance"),
    "radius_jsd": ("lower", "nat", "JSD of radius"),
    "duration_jsd": ("lower", "nat", "JSD of time to the next road"),
    "dtw_per_road": ("lower", "km", "DTW per road"),
    "edr": ("lower", "", "EDR"),
    "edit_similarity": ("higher", "", "edit similarity of roads"),
    "accuracy": ("higher", "", "accuracy of the next road"),
    "nll": ("lower", "nat", "NLL of the next road"),
}


def train(run: StageRun, kept: Path) -> TrainingResult:
    """Train as the stage does, and keep the weights of each epoch."""

    def keep(_: Any = None) -> None:
        state = run.folder / STATE_FILE
        if state.is_file():  # also before training resumes, in case the run was killed between the two writes
            content = read_tensors(state)
            file = kept / f"epoch-{len(content['history']):03d}.pt"
            if not file.is_file():
                with atomic_path(file) as temporary:
                    torch.save(content["model"], temporary)

    keep()
    run.on_epoch = keep
    return train_here(run)


def on_test(run: StageRun, model: hoser.HOSER) -> dict[str, float]:
    """Return the metrics of generated test trips and of next steps."""
    network, test, settings = load_network(run), load_trips(run, "test"), run.config.generation
    decoding = Decoding(settings.decoder, settings.max_steps, settings.beam_width, settings.temperature, settings.seed)
    trips = generate(model, test.origins, test.start_times, test.destinations, decoding=decoding, progress=run.progress)
    metrics = evaluate(test, trips, network, run.config.evaluation, paired=True)
    steps = evaluate_student(model, test)
    return {
        "reached": metrics["requests"]["reached_share"],
        "score": trip_score(metrics),
        **{f"{name}_jsd": metrics[name]["jsd"] for name in ("distance", "radius", "duration")},
        **{name: metrics["paired"][name] for name in ("dtw_per_road", "edr", "edit_similarity")},
        "accuracy": steps["accuracy"],
        "nll": steps["nll"],
        "expansions": float(trips.expansions.mean()),
    }


def measure(config: CityConfig, seed: int, options: argparse.Namespace, lines: TimedLines) -> dict[str, Any]:
    """Train one seed and return the metrics of its epochs on validation and on test."""
    store = Store(options.store)
    stage = STAGES[options.student]
    made = make_all(stage.inputs, config, store, progress=lines, stop_at_checks=False)
    folder = options.work / config.city / options.student / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    inputs = {name: made[name] for name in stage.inputs}
    run = StageRun(stage, config, seed, inputs, folder / "training", lines, device=options.device)
    run.folder.mkdir(exist_ok=True)
    result = train(run, folder)
    file = folder / "test.json"
    tested = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    chosen = {by: best_epoch(result.history, by) for by in SELECTION_RULES}
    epochs = sorted(set(chosen.values())) if options.chosen_only else range(1, len(result.history) + 1)
    for epoch in epochs:
        if str(epoch) not in tested:
            result.model.load_state_dict(read_tensors(folder / f"epoch-{epoch:03d}.pt"))
            tested[str(epoch)] = on_test(run, result.model.to(options.device).eval())
            write_json(file, tested)
            sys.stderr.write(f"{config.city}, seed {seed}, epoch {epoch}: {tested[str(epoch)]}\n")
    return {"seed": seed, "chosen": chosen, "history": result.history, "test": tested}


def compared(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return test metrics of the epochs that each rule selected, and differences from the published rule."""
    values = {
        by: {name: [run["test"][str(run["chosen"][by])][name] for run in seeds] for name in METRICS}
        for by in SELECTION_RULES
    }
    differences = {
        by: {name: paired_difference(values[by][name], values["accuracy"][name])._asdict() for name in METRICS}
        for by in SELECTION_RULES
        if by != "accuracy"
    }
    return {"values": values, "differences": differences}


def foresight(seeds: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return rank correlations over epochs of each rule's validation metric with test metrics, mean over seeds."""
    correlations: dict[str, dict[str, float]] = {}
    whole = [run for run in seeds if len(run["test"]) == len(run["history"])]
    for by, name in itertools.product(SELECTION_RULES, ("reached", "score")):
        on_validation = [[score(epoch, by) for epoch in run["history"]] for run in whole]
        tested = [[run["test"][str(i + 1)][name] for i in range(len(run["history"]))] for run in whole]
        # a constant metric has no ranks
        each = [
            float(spearmanr(*pair).statistic)
            for pair in zip(on_validation, tested, strict=True)
            if all(np.ptp(values) > 0 for values in pair)
        ]
        if each:
            correlations.setdefault(by, {})[name] = float(np.mean(each))
    return correlations


_ABOUT = (
    "`python benchmarks/selection.py --config config/<city>.yaml` trains one student per seed and keeps the weights",
    "of every epoch. Each rule selects an epoch by its metrics on the validation trips. The table shows the test",
    "metrics of the selected epochs: the mean over seeds, and the difference from the published rule, paired by seed,",
    "with the 95 % t interval (none for a single seed).",
)


def page() -> str:
    """Return docs/selection.md with the measurements below their heading."""
    text = (DOCS / "selection.md").read_text(encoding="utf-8").partition(HEADING)[0].rstrip()
    files = sorted(RESULTS.glob("selection_*.json"))
    if not files:
        return text + "\n"
    lines = [text, "", HEADING, "", *_ABOUT]
    for file in files:
        lines += _city(json.loads(file.read_text(encoding="utf-8")))
    return "\n".join(lines) + "\n"


def _city(results: dict[str, Any]) -> list[str]:
    runs, values, differences = results["seeds"], results["compared"]["values"], results["compared"]["differences"]
    num_train, num_test = (f"{results['trips'][split]:,}" for split in ("train", "test"))
    size = [
        f"{results['roads']:,} roads, {num_train} training trips; {results['sample']} validation ODs, at most",
        (
            f"{results['sample_steps']:,} expansions each; {num_test} test ODs, at most {results['test_steps']:,}; "
            f"{len(runs)}"
        ),
        f"seed{'s' if len(runs) > 1 else ''} of {len(runs[0]['history'])} epochs.",
    ]
    chosen = (", ".join(str(run["chosen"][by]) for run in runs) for by in SELECTION_RULES)
    lines = [
        "",
        f"### {results['city']}, {results['student'].replace('_', ' ')}",
        "",
        *size,
        "",
        "| test metric | " + " | ".join(f"by {by}" for by in SELECTION_RULES) + " |",
        "|---" * (len(SELECTION_RULES.names()) + 1) + "|",
        "| selected epochs | " + " | ".join(chosen) + " |",
    ]
    for name, (better, unit, label) in METRICS.items():
        cells = [f"{np.mean(values['accuracy'][name]):.4f}"]
        for by, of in differences.items():
            cells.append(_cell(float(np.mean(values[by][name])), of[name], better))
        lines.append(f"| {label}{f' ({unit})' if unit else ''}, {better} is better | " + " | ".join(cells) + " |")
    if results["foresight"]:
        lines += [
            "",
            "Rank correlation (Spearman) over all epochs between the metric of a rule on validation and metrics on",
            "test, mean over the seeds whose epochs were all tested:",
            "",
            "| rule | trips that arrive on test | score on test |",
            "|---|---|---|",
        ]
        for by, of in results["foresight"].items():
            cells = [f"{of[name]:+.2f}" if name in of else "–" for name in ("reached", "score")]
            lines.append(f"| `{by}` | " + " | ".join(cells) + " |")
    return lines


def _cell(mean: float, difference: dict[str, float], better: str) -> str:
    if not any(difference[end] for end in ("mean", "low", "high")):
        return f"{mean:.4f}, the same"
    if not np.isfinite(difference["low"]):
        return f"{mean:.4f}, {difference['mean']:+.4f}"
    clear = difference["low"] > 0 or difference["high"] < 0
    word = "" if not clear else ", better" if (difference["mean"] > 0) == (better == "higher") else ", worse"
    return f"{mean:.4f}, {difference['mean']:+.4f} [{difference['low']:+.4f}, {difference['high']:+.4f}]{word}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="config/<city>.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--student", choices=("vanilla_student", "distilled_student"), default="vanilla_student")
    parser.add_argument("--ods", type=int, default=200, help="validation ODs")
    parser.add_argument("--max-steps", type=int, help="expansions per validation trip (default: the city's setting)")
    parser.add_argument("--epochs", type=int, help="epochs (default: the city's setting)")
    parser.add_argument("--chosen-only", action="store_true", help="test only the epochs that a rule selects")
    parser.add_argument("--store", default=os.environ.get("HOSER_KD_STORE", "data"), help="artifact store")
    parser.add_argument("--work", type=Path, help="folder of the trainings (default: beside the store)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--page", action="store_true", help="only write the page")
    options = parser.parse_args()
    if not options.page:
        if options.config is None:
            parser.error("--config is required")
        options.work = options.work or Path(f"{options.store}-selection")
        torch.set_num_threads(1)
        city = load_config(options.config)
        changes = {
            "select_num_ods": options.ods,
            "num_processes": 1,
            **({"select_max_steps": options.max_steps} if options.max_steps else {}),
            **({"max_epochs": options.epochs} if options.epochs else {}),
        }
        config = city.model_copy(update={"student": city.student.model_copy(update=changes)})
        lines = TimedLines(lambda line: sys.stderr.write(f"  {line}\n"), every_s=60)
        seeds: list[dict[str, Any]] = []
        for seed in options.seeds:
            seeds.append(measure(config, seed, options, lines))
            write(config, options, seeds)  # results so far are readable at any time
    (DOCS / "selection.md").write_text(page(), encoding="utf-8")


def write(config: CityConfig, options: argparse.Namespace, seeds: list[dict[str, Any]]) -> None:
    """Write the results of the seeds finished so far."""
    made = make_all(("road_network", "trajectories"), config, Store(options.store), stop_at_checks=False)
    run = StageRun(STAGES[options.student], config, None, made, Path())
    trips = {split: len(load_trips(run, split)) for split in ("train", "val", "test")}
    RESULTS.mkdir(exist_ok=True)
    short = [
        {
            **run,
            "history": [
                {name: epoch[name] for name in epoch if name.startswith(PREFIX) or name in ("epoch", "accuracy", "nll")}
                for epoch in run["history"]
            ],
        }
        for run in seeds
    ]
    suffix = "" if options.student == "vanilla_student" else "_distilled"
    write_json(
        RESULTS / f"selection_{config.city}{suffix}.json",
        {
            "city": config.city,
            "student": options.student,
            "roads": load_network(run).num_roads,
            "trips": trips,
            "sample": min(options.ods, trips["val"]),
            "sample_steps": config.student.select_max_steps,
            "test_steps": config.generation.max_steps,
            "compared": compared(seeds),
            "foresight": foresight(seeds),
            "seeds": short,
        },
    )


if __name__ == "__main__":
    main()
