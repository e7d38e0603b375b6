"""The stage `distillation_report`: the report over all comparable seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import yaml

from hoser_kd.common.files import write_json
from hoser_kd.config.recipes import describe_recipe, settings_read
from hoser_kd.evaluation import metrics
from hoser_kd.evaluation.failures import failures
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.report_evidence import latency_rows, with_evidence, write_real_lines
from hoser_kd.pipeline.seed_selection import SeedSelection, comparable_seeds
from hoser_kd.pipeline.stage import StageRun
from hoser_kd.pipeline.stages.baselines import (
    BaselineMetrics,
    answers_same_requests,
    beside_students,
    mean_over_seeds,
)
from hoser_kd.pipeline.stages.evaluation import comparison_rows
from hoser_kd.pipeline.stages.generation import STUDENTS, load_generated
from hoser_kd.pipeline.stages.network import load_network, load_trips
from hoser_kd.pipeline.store import Artifact
from hoser_kd.report import Baselines, ReportData, StudentResult, verdict, write_report
from hoser_kd.report.data import NETWORK_CAPTION


def distillation_report(run: StageRun) -> dict[str, Any]:
    """Write the report over all comparable seeds; one HTML file."""
    selection = comparable_seeds(run)
    run = _restricted(run, selection)
    data = report_data(run, selection)
    write_report(run.folder / "report.html", data)
    write_real_lines(run.folder, data)
    write_json(run.folder / "seeds.json", list(selection.seeds))
    return {
        "seeds": ", ".join(map(str, selection.seeds)),
        "num_seeds": len(selection.seeds),
        "left_out": list(selection.left_out),
        "comparison": _over_seeds(data.students),
        **_baseline_tables(data),
        "verdict": "\n".join(verdict(data)),
        **latency_rows(data),
        "artifacts": _versions(run),
    }


def _restricted(run: StageRun, selection: SeedSelection) -> StageRun:
    """Return the run with the artifacts of the selected seeds only."""
    return replace(
        run,
        inputs={
            name: inputs if isinstance(inputs, Artifact) else {seed: inputs[seed] for seed in selection.seeds}
            for name, inputs in run.inputs.items()
        },
    )


def report_data(run: StageRun, selection: SeedSelection | None = None) -> ReportData:
    """Return what the report shows. `selection`: the seeds that the run is restricted to; None: select them here."""
    if selection is None:
        selection = comparable_seeds(run)
        run = _restricted(run, selection)
    network, real = load_network(run), load_trips(run, "test")
    students = {kind: _results(run, kind, stage, network, real) for kind, stage in STUDENTS.items()}
    data = ReportData(
        city=run.config.city,
        network=network,
        real=real,
        students={kind: results for kind, results in students.items() if results},
        teacher=_teacher(run),
        left_out=selection.left_out,
        settings_yaml=_settings_used(run),
        versions=_versions(run),
        seconds=_seconds(run),
        sizes={
            f"{row['split']} trips": row["trips"]
            for row in run.artifact("trajectories").summary["splits"]
            if row["split"] in {"train", "val"}
        },
        figures=_figures(run),
        decoder=_decoder(run),
        recipe=_recipes(run),
        student_trips=_student_trips(run),
        baselines=_baselines(run),
    )
    return with_evidence(run, data)


def _baselines(run: StageRun) -> Baselines:
    """Return the metrics of the baselines; those of trips only if they answer the students' requests."""
    artifact, generated = run.artifact("baseline_trips"), run.seeds("generated_trajectories")
    measured = BaselineMetrics.read(artifact.path)
    other = [seed for seed, each in generated.items() if not answers_same_requests(artifact, each)]
    if not other:
        return Baselines(measured.trips, measured.scenarios, measured.next_step)
    note = (
        "The baselines answer other requests than the students and are left out of this table: "
        "generated_trajectories ran with other `generation` settings than baseline_trips."
    )
    return Baselines(next_step=measured.next_step, note=note)


def _baseline_tables(data: ReportData) -> dict[str, list[dict[str, Any]]]:
    """Return the short comparison of the students' means over the seeds with the baselines, as tables."""
    students = {
        kind: mean_over_seeds(
            [
                {f"next_step.{name}": value for name, value in result.test.items()}
                | metrics.flatten(result.metrics or {})
                for result in results.values()
            ]
        )
        for kind, results in data.students.items()
    }
    tables = {"baselines": data.baselines.trips, "next_step_baselines": data.baselines.next_step}
    return {name: beside_students(students, baselines) for name, baselines in tables.items() if baselines}


def _settings_used(run: StageRun) -> str:
    """Return the settings recorded with the artifacts as YAML; the city's file may have changed since.

    Those that the recipe of distillation does not read are left out.
    """
    used: dict[str, Any] = {"city": run.config.city}
    for artifact in _all_artifacts(run):
        used |= artifact.settings
    if "distillation" in used:
        used["distillation"] = settings_read(used["distillation"])
    return yaml.safe_dump(used, sort_keys=False, allow_unicode=True)


def _recipes(run: StageRun) -> str:
    """Return the recipe of the distilled students."""
    settings = (artifact.settings.get("distillation", {}) for artifact in run.seeds("distilled_student").values())
    return "; ".join(dict.fromkeys(describe_recipe(each) for each in settings if each.get("enabled", True)))


def _student_trips(run: StageRun) -> tuple[int, int] | None:
    """Return the training trips of a student and of the city; None if the students have all."""
    splits = run.artifact("trajectories").summary["splits"]
    every = next(row["trips"] for row in splits if row["split"] == "train")
    own = max(artifact.summary["train_trips"] for artifact in run.seeds("vanilla_student").values())
    return (own, every) if own < every else None


def _decoder(run: StageRun) -> str:
    artifacts = run.seeds("generated_trajectories")
    return "; ".join(dict.fromkeys(str(artifact.summary["decoder"]) for artifact in artifacts.values()))


def _results(
    run: StageRun, kind: str, stage: str, network: RoadNetwork, test: Trajectories
) -> dict[int, StudentResult]:
    """Return the result of each seed's student of a kind; empty if distillation is disabled."""
    results: dict[int, StudentResult] = {}
    for seed, metrics_of in run.seeds("trajectory_metrics").items():
        measured = json.loads((metrics_of.path / "metrics.json").read_text(encoding="utf-8")).get(kind)
        if measured is None:
            continue
        student, generated = run.seeds(stage)[seed], run.seeds("generated_trajectories")[seed]
        trips, requests = load_generated(generated.path)
        results[seed] = StudentResult(
            history=student.summary["epochs"],
            test=measured["next_step"],
            metrics=measured["trips"],
            generated=trips[kind],
            reached=trips[kind].reached,
            scenarios=measured["scenarios"],
            next_step_by=measured["next_step_by"],
            training_warnings=student.summary.get("training_warnings", ()),
            real_rows=requests.get("test_row"),
            failures=failures(
                trips[kind],
                requests["destination"],
                generated.settings["generation"]["max_steps"],
                network,
                test.take(requests["test_row"]) if "test_row" in requests else None,
            ),
        )
    return results


def _teacher(run: StageRun) -> dict[str, Any]:
    artifacts = {
        name: run.artifact(name)
        for name in ("teacher", "teacher_evaluation", "teacher_soft_labels", "grid_token_table")
    }
    sample = np.load(artifacts["teacher_soft_labels"].path / "diagnostics.npz", allow_pickle=False)
    return {
        "history": artifacts["teacher"].summary.get("epochs", []),
        "label_values": {
            "teacher's probability of the candidates' cells": sample["candidate_mass"],
            "entropy of the next cell (nats)": sample["entropy_nats"],
            "probability of the true next cell": sample["true_probability"],
        },
        **{name: artifact.summary for name, artifact in artifacts.items()},
    }


def _all_artifacts(run: StageRun) -> list[Artifact]:
    """Return all inputs in the order of the pipeline, then by seed."""
    artifacts: list[Artifact] = []
    for inputs in run.inputs.values():
        artifacts += [inputs] if isinstance(inputs, Artifact) else list(inputs.values())
    return sorted(artifacts, key=lambda artifact: (list(STAGES).index(artifact.stage), artifact.seed or 0))


def _versions(run: StageRun) -> list[dict[str, str]]:
    return [
        {
            "asset": artifact.name,
            "version": artifact.version,
            "created_at": artifact.created_at,
            "inputs": ", ".join(f"{name} {version}" for name, version in artifact.inputs.items()),
        }
        for artifact in _all_artifacts(run)
    ]


def _seconds(run: StageRun) -> dict[str, float]:
    return {artifact.name: artifact.seconds for artifact in _all_artifacts(run)}


def _figures(run: StageRun) -> dict[str, bytes]:
    files = {
        NETWORK_CAPTION: run.path("road_network") / "map.png",
        "The teacher's grid: number of roads per cell.": run.path("grid_token_table") / "cells.png",
        "Mean negative log-likelihood of the teacher by cell.": run.path("teacher_evaluation") / "nll_map.png",
    }
    return {caption: file.read_bytes() for caption, file in files.items() if file.is_file()}


def _over_seeds(students: Mapping[str, Mapping[int, StudentResult]]) -> list[dict[str, Any]]:
    """Return the short comparison with means over the seeds."""
    per_seed: dict[str, list[dict[str, Any]]] = {}
    for seed in students["vanilla"]:
        measured = {
            kind: {"next_step": results[seed].test, "trips": results[seed].metrics or {}}
            for kind, results in students.items()
            if seed in results
        }
        for row in comparison_rows(measured):
            per_seed.setdefault(row.pop("metric"), []).append(row)
    return [
        {"metric": metric, **{kind: float(np.mean([row[kind] for row in rows if kind in row])) for kind in students}}
        for metric, rows in per_seed.items()
    ]
