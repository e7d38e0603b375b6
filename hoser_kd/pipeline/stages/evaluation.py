"""Stages of the evaluation group: generated trips, their metrics, the report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml

from hoser_kd import hoser, plots
from hoser_kd.common.arrays import Int64Array, offsets_of
from hoser_kd.common.device import pick_device
from hoser_kd.common.files import write_json
from hoser_kd.common.progress import Progress
from hoser_kd.evaluation import metrics
from hoser_kd.evaluation.baseline_settings import baseline_settings
from hoser_kd.evaluation.comparison import headline_rows
from hoser_kd.evaluation.failures import failures
from hoser_kd.evaluation.scenarios import evaluate_scenarios, next_step_by
from hoser_kd.evaluation.trip_values import write_step_sums
from hoser_kd.generation import od_pairs as od
from hoser_kd.generation.decoding import Decoding
from hoser_kd.generation.generator import RATE, generate_to
from hoser_kd.generation.output_files import read_chunks, write_lines, write_published_csv
from hoser_kd.generation.prior import Prior
from hoser_kd.generation.prior_tuning import choose_prior
from hoser_kd.generation.trajectories import GeneratedTrajectories
from hoser_kd.hoser import HOSER
from hoser_kd.hoser.checkpoint import CONFIG_FILE
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.pipeline.graph import STAGES, StageRun
from hoser_kd.pipeline.report_evidence import STEP_SUMS, latency_rows, with_evidence, write_real_lines
from hoser_kd.pipeline.seed_pooling import Pool, pool_seeds
from hoser_kd.pipeline.stages.baselines import (
    BaselineMetrics,
    answers_same_requests,
    beside_students,
    mean_over_seeds,
)
from hoser_kd.pipeline.stages.labels import load_labels
from hoser_kd.pipeline.stages.network import load_network, load_trips
from hoser_kd.pipeline.store import Artifact
from hoser_kd.report import Baselines, ReportData, StudentResult, verdict, write_report
from hoser_kd.report.data import NETWORK_CAPTION
from hoser_kd.student.next_step_metrics import step_table, summarize_steps
from hoser_kd.student.training import training_rows

STUDENTS = {"vanilla": "vanilla_student", "distilled": "distilled_student"}


def _students(run: StageRun) -> dict[str, Path]:
    """Return the folders of the students; without the distilled one if distillation is disabled."""
    folders = {kind: run.path(stage) for kind, stage in STUDENTS.items()}
    return {kind: folder for kind, folder in folders.items() if (folder / CONFIG_FILE).is_file()}


def generated_trajectories(run: StageRun) -> dict[str, Any]:
    """Generate the requested trips with both students; writes Parquet, CSV in the published layout, and lines."""
    network, test, settings = load_network(run), load_trips(run, "test"), run.config.generation
    requests = od.select_od_pairs(settings, load_trips(run, "train"), test, network.num_roads)
    pq.write_table(requests.to_table(), run.folder / "requests.parquet", compression="zstd")
    decoding = Decoding.from_config(settings)
    summary: dict[str, Any] = {"num_trips": len(requests), "od_source": settings.od_source}
    decoders: dict[str, str] = {}
    tried: list[dict[str, Any]] = []
    sample: dict[str, Trajectories] = {}
    shown = np.linspace(0, len(requests) - 1, min(4, len(requests))).astype(np.int64)
    for kind, folder in _students(run).items():
        file = run.folder / f"{kind}.parquet"
        speed = _Speed(run.progress)
        model = hoser.load(folder).to(pick_device(run.device))
        prior, rows = _prior(run, kind, model, network, decoding)
        tried += [{"student": kind, **row} for row in rows]
        decoders[kind] = decoding.describe(prior)
        if not file.is_file():  # a killed run of the same version may have finished this student
            generate_to(
                file,
                run.folder / "parts",
                model,
                requests.origins,
                requests.start_times,
                requests.destinations,
                decoding,
                prior=prior,
                progress=speed,
            )
        write_published_csv(read_chunks(file), run.folder / f"{kind}.csv")
        write_lines(read_chunks(file), network, run.folder / f"{kind}_lines.parquet")
        metrics_of, sample[kind] = _summarize(file, shown)
        summary |= {f"{kind}_{name}": value for name, value in (metrics_of | speed.metrics).items()}
    shutil.rmtree(run.folder / "parts", ignore_errors=True)
    same = len(set(decoders.values())) == 1
    texts = [text if same else f"{kind}: {text}" for kind, text in decoders.items()]
    summary |= {"decoder": "; ".join(dict.fromkeys(texts))} | ({"prior": tried} if tried else {})
    if requests.real_rows is not None:
        sample = {"real": test.take(requests.real_rows[shown]), **sample}
        figure = plots.trips_map(network, sample, range(len(shown)))
        (run.folder / "trips.png").write_bytes(plots.png(figure))
    return summary


def _prior(
    run: StageRun, kind: str, model: HOSER, network: RoadNetwork, decoding: Decoding
) -> tuple[Prior | None, list[dict[str, Any]]]:
    """Return the prior of a student and, with `generation.prior.tune`, a row per setting tried."""
    if not run.config.generation.prior.is_on:
        return None, []
    train = load_trips(run, "train")
    fraction = run.artifact(STUDENTS[kind]).settings["student"]["train_fraction"]
    return choose_prior(
        run.config.generation.prior,
        model,
        train.take(training_rows(len(train), fraction, run.seed or 0)),
        load_trips(run, "val"),
        network,
        decoding,
        # with its defaults, because the settings of the evaluation are not part of this stage's version
        baseline_settings(network).score,
        record=run.folder / f"{kind}_prior.json",
        progress=run.progress,
    )


class _Speed:
    """Forwards progress and keeps the last speed in trips/s; it does not count trips of an interrupted run."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.metrics: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
        self._progress(stage, done, total, metrics)
        if metrics:
            self.metrics = {"trips_a_second": round(metrics[RATE], 1)}


def _summarize(file: Path, rows: Int64Array) -> tuple[dict[str, float], Trajectories]:
    """Return metrics of all trips of a file, read chunk by chunk, and the trips of these rows."""
    lengths: list[Int64Array] = []
    reached = expansions = first = 0
    some: list[Trajectories] = []
    for chunk in read_chunks(file):
        here = rows[(rows >= first) & (rows < first + len(chunk))] - first
        some += [chunk.take(here[i : i + 1]) for i in range(len(here))]
        lengths.append(chunk.lengths)
        reached, expansions = reached + int(chunk.reached.sum()), expansions + int(chunk.expansions.sum())
        first += len(chunk)
    summary = {
        "reached": round(reached / first, 4),
        "median_roads": float(np.median(np.concatenate(lengths))),
        "expansions_a_trip": round(expansions / first, 1),
    }
    return summary, Trajectories(
        offsets_of(np.array([len(trip.road_ids) for trip in some])),
        np.concatenate([trip.road_ids for trip in some]),
        np.concatenate([trip.times for trip in some]),
    )


def _load_generated(folder: Path) -> tuple[dict[str, GeneratedTrajectories], dict[str, Any]]:
    table = pq.read_table(folder / "requests.parquet")
    requests = {name: table[name].to_numpy() for name in table.column_names}
    trips = {
        kind: GeneratedTrajectories.read_parquet(folder / f"{kind}.parquet")
        for kind in STUDENTS
        if (folder / f"{kind}.parquet").is_file()
    }
    return trips, requests


def trajectory_metrics(run: StageRun) -> dict[str, Any]:
    """Evaluate both students on the next steps of all test trips and on their generated trips; writes JSON."""
    network, test = load_network(run), load_trips(run, "test")
    generated, requests = _load_generated(run.path("generated_trajectories"))
    real = test.take(requests["test_row"]) if "test_row" in requests else test
    [labels] = load_labels(run, "test")
    training = load_trips(run, "train")
    # a run can have trained the student at another temperature than the YAML's
    temperature = float(run.artifact("distilled_student").settings["distillation"]["temperature"])
    results: dict[str, dict[str, Any]] = {}
    for kind, folder in _students(run).items():
        model = hoser.load(folder).to(pick_device(run.device))
        steps = step_table(model, test, labels=labels, temperature=temperature, progress=run.progress)
        write_step_sums(run.folder / STEP_SUMS.format(kind=kind), steps, len(test))
        trips = metrics.evaluate(
            real,
            generated[kind],
            network,
            run.config.evaluation,
            destinations=requests["destination"],
            training=training,
            paired="test_row" in requests,
        )
        od_pairs = requests["origin"], requests["start_time"], requests["destination"]
        results[kind] = {
            "next_step": summarize_steps(steps),
            "trips": trips,
            "scenarios": evaluate_scenarios(
                real,
                generated[kind],
                network,
                run.config.evaluation,
                requests=od_pairs,
                training=training,
                paired="test_row" in requests,
            ),
            "next_step_by": next_step_by(steps, test, network, run.config.evaluation),
        }
    write_json(run.folder / "metrics.json", results)
    return {"test_trips": len(test), "generated_trips": len(real), "comparison": comparison_rows(results)}


def comparison_rows(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the short comparison: a row per headline metric, a column per student."""
    return headline_rows(
        {
            kind: {
                **{f"next_step.{name}": value for name, value in result["next_step"].items()},
                **metrics.flatten(result["trips"]),
            }
            for kind, result in results.items()
        }
    )


def distillation_report(run: StageRun) -> dict[str, Any]:
    """Write the report over all comparable seeds; one HTML file."""
    pool = _pool(run)
    run = _pooled(run, pool)
    data = report_data(run, pool)
    write_report(run.folder / "report.html", data)
    write_real_lines(run.folder, data)
    write_json(run.folder / "seeds.json", list(pool.seeds))
    return {
        "seeds": ", ".join(map(str, pool.seeds)),
        "num_seeds": len(pool.seeds),
        "left_out": list(pool.left_out),
        "comparison": _over_seeds(data.students),
        **_baseline_tables(data),
        "verdict": "\n".join(verdict(data)),
        **latency_rows(data),
        "rests_on": _versions(run),
    }


def _pooled(run: StageRun, pool: Pool) -> StageRun:
    """Return the run with the artifacts of the pooled seeds only."""
    return replace(
        run,
        inputs={
            name: inputs if isinstance(inputs, Artifact) else {seed: inputs[seed] for seed in pool.seeds}
            for name, inputs in run.inputs.items()
        },
    )


def report_data(run: StageRun, pool: Pool | None = None) -> ReportData:
    """Return what the report shows. `pool` is that of a run whose inputs are pooled; None: pool them here."""
    if pool is None:
        pool = _pool(run)
        run = _pooled(run, pool)
    network, real = load_network(run), load_trips(run, "test")
    students = {kind: _results(run, kind, stage, network, real) for kind, stage in STUDENTS.items()}
    data = ReportData(
        city=run.config.city,
        network=network,
        real=real,
        students={kind: results for kind, results in students.items() if results},
        teacher=_teacher(run),
        left_out=pool.left_out,
        settings_yaml=_settings_used(run),
        versions=_versions(run),
        seconds=_seconds(run),
        sizes={f"{split} trips": len(load_trips(run, split)) for split in ("train", "val")},
        figures=_pictures(run),
        decoder=_decoder(run),
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


def _pool(run: StageRun) -> Pool:
    per_seed = {name: run.seeds(name) for name in run.stage.inputs if STAGES[name].per_seed}
    shared = {name: run.artifact(name) for name in run.stage.inputs if not STAGES[name].per_seed}
    return pool_seeds(per_seed, shared)


def _settings_used(run: StageRun) -> str:
    """Return the settings recorded with the artifacts as YAML; the city's file may have changed since."""
    used: dict[str, Any] = {"city": run.config.city}
    for artifact in _all_artifacts(run):
        used |= artifact.settings
    return yaml.safe_dump(used, sort_keys=False, allow_unicode=True)


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
        trips, requests = _load_generated(generated.path)
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
            "made": artifact.created_at,
            "inputs": ", ".join(f"{name} {version}" for name, version in artifact.inputs.items()),
        }
        for artifact in _all_artifacts(run)
    ]


def _seconds(run: StageRun) -> dict[str, float]:
    return {artifact.name: artifact.seconds for artifact in _all_artifacts(run)}


def _pictures(run: StageRun) -> dict[str, bytes]:
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
            per_seed.setdefault(row.pop("figure"), []).append(row)
    return [
        {"figure": figure, **{kind: float(np.mean([row[kind] for row in rows if kind in row])) for kind in students}}
        for figure, rows in per_seed.items()
    ]
