"""The stage `generated_trajectories`: trips of both students for the requested ODs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from hoser_kd import hoser, plots
from hoser_kd.common.arrays import Int64Array, offsets_of
from hoser_kd.common.device import pick_device
from hoser_kd.common.progress import Progress
from hoser_kd.evaluation.baseline_settings import baseline_settings
from hoser_kd.generation import od_pairs as od
from hoser_kd.generation.decoding import Decoding
from hoser_kd.generation.generator import RATE, generate, generate_to
from hoser_kd.generation.output_files import read_chunks, write_lines, write_published_csv
from hoser_kd.generation.prior import Prior
from hoser_kd.generation.prior_tuning import choose_prior
from hoser_kd.generation.trajectories import GeneratedTrajectories
from hoser_kd.hoser import HOSER
from hoser_kd.hoser.checkpoint import CONFIG_FILE
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.pipeline.stage import StageRun
from hoser_kd.pipeline.stages.network import load_network, load_trips
from hoser_kd.student.training_inputs import training_rows

STUDENTS = {"vanilla": "vanilla_student", "distilled": "distilled_student"}
"""Stage of each kind of student."""
_WARM_UP = 8
"""Trips that are generated before the speed is measured."""


def student_folders(run: StageRun) -> dict[str, Path]:
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
    columns = requests.origins, requests.start_times, requests.destinations
    is_warm = False
    decoders: dict[str, str] = {}
    tried: list[dict[str, Any]] = []
    sample: dict[str, Trajectories] = {}
    shown = np.linspace(0, len(requests) - 1, min(4, len(requests))).astype(np.int64)
    for kind, folder in student_folders(run).items():
        file = run.folder / f"{kind}.parquet"
        speed = _Speed(run.progress)
        model = hoser.load(folder).to(pick_device(run.device))
        prior, rows = _prior(run, kind, model, network, decoding)
        tried += [{"student": kind, **row} for row in rows]
        decoders[kind] = decoding.describe(prior)
        if not file.is_file():  # a killed run of the same version may have finished this student
            if not is_warm:  # compilation and first use are no part of the speed, nor of the first student's alone
                origins, start_times, destinations = (each[:_WARM_UP] for each in columns)
                generate(model, origins, start_times, destinations, decoding=decoding, prior=prior)
                is_warm = True
            generate_to(
                file,
                run.folder / "parts",
                model,
                *columns,
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


def load_generated(folder: Path) -> tuple[dict[str, GeneratedTrajectories], dict[str, Any]]:
    """Return the generated trips of each student, and the columns of the requests by name, (n,) each."""
    table = pq.read_table(folder / "requests.parquet")
    requests = {name: table[name].to_numpy() for name in table.column_names}
    trips = {
        kind: GeneratedTrajectories.read_parquet(folder / f"{kind}.parquet")
        for kind in STUDENTS
        if (folder / f"{kind}.parquet").is_file()
    }
    return trips, requests
