"""The stage `synthetic_trips`: trips sampled from the teacher, with metrics and a map.

Attempts are sampled in chunks of a fixed size, each written to a file, until enough trips are accepted. A killed run
resumes after the last complete chunk and, on a CPU, ends with the same trips.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hoser_kd.common.arrays import Int64Array
from hoser_kd.common.device import pick_device
from hoser_kd.common.files import atomic_path, write_json
from hoser_kd.common.hashing import digest_json
from hoser_kd.common.seals import is_sealed, seal, seal_of
from hoser_kd.evaluation.flows import turns
from hoser_kd.evaluation.memorization import copied
from hoser_kd.lmtad import load_checkpoint
from hoser_kd.network.trajectories import Trajectories, concatenate
from hoser_kd.pipeline.stages.grid import load_tokens
from hoser_kd.pipeline.stages.network import load_network, load_trips
from hoser_kd.teacher.length_correction import (
    LengthCorrection,
    choose_correction,
    length_divergence,
    length_edges,
    shares,
)
from hoser_kd.teacher.soft_labels import teacher_fingerprint
from hoser_kd.teacher.trip_sampling import SampledTrips, TripSampler, uniform

if TYPE_CHECKING:
    from hoser_kd.pipeline.stage import StageRun

TRIPS_FILE = "synthetic.arrow"
CORRECTION_FILE = "length_correction.json"
PILOT_ATTEMPTS = 1024
"""Attempts per sample from which the length correction is chosen."""
_FIRST_PILOT = 1 << 40
"""Number of the first of these attempts; none of them becomes a synthetic trip."""
_ACCEPTANCE_STEP = (1 << 32) - 1
"""Step whose random number decides on acceptance."""
_MOST_ATTEMPTS_PER_TRIP = 20
"""Sampling stops after this many attempts per requested trip; the check `synthetic_trips_end` then explains why."""


def synthetic_trips(run: StageRun) -> dict[str, Any]:
    """Sample trips from the teacher; does nothing if neither `sequence` nor off-path costs need them."""
    if not run.config.uses_synthetic_trips:
        return {"enabled": False}
    train = load_trips(run, "train")
    count = run.config.synthetic_trips.count or len(train)
    started = time.perf_counter()
    correction, tried = _correction(run)
    chunks = list(_chunks(run, correction, count))
    trips = concatenate([chunk.trips for chunk in chunks])
    trips = trips.take(np.arange(min(count, len(trips))))
    seconds = time.perf_counter() - started
    trips.save(run.folder / TRIPS_FILE)
    shutil.rmtree(_folder(run))
    if len(trips):
        from hoser_kd import plots

        figure = plots.use_map(load_network(run), {"training trips": train, "synthetic trips": trips})
        (run.folder / "use_map.png").write_bytes(plots.png(figure))
    return {
        "enabled": True,
        "requested": count,
        "trips": len(trips),
        **_attempts(chunks),
        "length_correction": correction.kind,
        "temperature": round(correction.temperature, 4),
        **_metrics(run, trips),
        "sampling_seconds": round(seconds, 3),
        "trips_per_s": round(len(trips) / max(seconds, 1e-9), 2),
        "corrections": tried,
    }


def load_synthetic_trips(run: StageRun) -> Trajectories | None:
    """Return the synthetic trips among the inputs of a run, without times; None where the recipe has none."""
    if "synthetic_trips" not in run.inputs:
        return None
    return Trajectories.load(run.path("synthetic_trips") / TRIPS_FILE)


@dataclass(frozen=True)
class _Chunk:
    """The accepted trips of some attempts, and the counts of these attempts."""

    trips: Trajectories
    num_attempts: int
    num_ended: int
    too_long: int
    too_short: int
    ended_elsewhere: int = 0

    @classmethod
    def of(cls, sampled: SampledTrips, correction: LengthCorrection, seed: int) -> _Chunk:
        accepted = correction.accepts(sampled.lengths, uniform(seed, sampled.attempt, _ACCEPTANCE_STEP))
        return cls(
            sampled.trajectories().take(np.flatnonzero(accepted)),
            sampled.num_attempts,
            len(sampled.attempt),
            sampled.too_long,
            sampled.too_short,
            sampled.ended_elsewhere,
        )


def _chunks(run: StageRun, correction: LengthCorrection, count: int) -> Iterator[_Chunk]:
    """Yield chunks until they have `count` trips; complete files of a killed run are read, not sampled again."""
    sampler = _sampler(run, correction.temperature)
    key = digest_json([teacher_fingerprint(sampler.model, _tokens(run), sampler.network), correction.to_json()])
    size = min(sampler.attempts_at_once, count)
    trips = first = 0
    while trips < count and first < max(_MOST_ATTEMPTS_PER_TRIP * count, size):
        path = _folder(run) / f"chunk-{first // size:05d}"
        chunk = _read(path, key)
        if chunk is None:
            chunk = _Chunk.of(sampler.sample(first, size), correction, run.config.synthetic_trips.seed)
            _write(path, key, chunk)
        yield chunk
        trips, first = trips + len(chunk.trips), first + size
        run.progress("synthetic_trips", min(trips, count), count)


def _write(path: Path, key: str, chunk: _Chunk) -> None:
    """Write a chunk; its digests are written last and mark it as complete."""
    with atomic_path(path.with_suffix(".arrow")) as beside:
        chunk.trips.save(beside)
    counts = {
        name: getattr(chunk, name) for name in ("num_attempts", "num_ended", "too_long", "too_short", "ended_elsewhere")
    }
    write_json(path.with_suffix(".json"), {"key": key, **counts})
    seal(seal_of(path), path.with_suffix(".arrow"), path.with_suffix(".json"))


def _read(path: Path, key: str) -> _Chunk | None:
    """Return a complete chunk of the same teacher and correction, or None."""
    record = path.with_suffix(".json")
    if not is_sealed(seal_of(path), path.with_suffix(".arrow"), record):
        return None
    counts = json.loads(record.read_text(encoding="utf-8"))
    if counts.pop("key") != key:
        return None
    return _Chunk(Trajectories.load(path.with_suffix(".arrow")), **counts)


def _folder(run: StageRun) -> Path:
    return run.folder / ".chunks"


def _tokens(run: StageRun) -> Int64Array:
    return load_tokens(run.path("grid_token_table"))


def _sampler(run: StageRun, temperature: float) -> TripSampler:
    """Return the sampler for the settings and device of a run."""
    settings = run.config.synthetic_trips
    return TripSampler(
        load_checkpoint(run.path("teacher")).model,
        _tokens(run),
        load_network(run),
        run.config.distill.window,
        temperature=temperature,
        max_steps=settings.max_steps,
        seed=settings.seed,
        device=pick_device(run.device),
        half=run.config.distill.teacher_fp16,
    )


def _correction(run: StageRun) -> tuple[LengthCorrection, list[dict[str, Any]]]:
    """Return the length correction and a row for each one tried; that of a killed run is read from its file."""
    path = run.folder / CORRECTION_FILE
    sealed = seal_of(_folder(run) / CORRECTION_FILE)
    if is_sealed(sealed, path):
        stored = json.loads(path.read_text(encoding="utf-8"))
        return LengthCorrection.from_json(stored["chosen"]), stored["tried"]

    def sample_lengths(temperature: float) -> Int64Array:
        sampler = _sampler(run, temperature)
        size = min(PILOT_ATTEMPTS, sampler.attempts_at_once)
        parts = [sampler.sample(_FIRST_PILOT + first, size).lengths for first in range(0, PILOT_ATTEMPTS, size)]
        return np.concatenate(parts)

    settings = run.config.synthetic_trips
    chosen, tried = choose_correction(
        settings.length_correction,
        sample_lengths,
        load_trips(run, "train").lengths,
        load_trips(run, "val").lengths,
        settings.temperature,
    )
    write_json(path, {"chosen": chosen.to_json(), "tried": tried})
    seal(sealed, path)
    return chosen, tried


def _attempts(chunks: list[_Chunk]) -> dict[str, Any]:
    """Return the number of attempts and what became of them."""
    attempts, ended = (sum(getattr(chunk, name) for chunk in chunks) for name in ("num_attempts", "num_ended"))
    accepted = sum(len(chunk.trips) for chunk in chunks)
    elsewhere = sum(chunk.ended_elsewhere for chunk in chunks)
    return {
        "attempts": attempts,
        "ended_share": round(ended / attempts, 5),
        "too_long": sum(chunk.too_long for chunk in chunks),
        "too_short": sum(chunk.too_short for chunk in chunks),
        "rejected_by_length": ended - accepted,
        **({"ended_elsewhere": elsewhere} if elsewhere else {}),
    }


def _metrics(run: StageRun, trips: Trajectories) -> dict[str, Any]:
    """Return lengths, copies and coverage of the synthetic trips; empty without trips."""
    if len(trips) == 0:
        return {}
    network, train, val = load_network(run), load_trips(run, "train"), load_trips(run, "val")
    edges = length_edges(val.lengths)
    divergence = length_divergence(shares(trips.lengths, edges), shares(val.lengths, edges))
    known = {"": np.unique(turns(trips, network.num_roads)), "_by_training": np.unique(turns(train, network.num_roads))}
    coverage = {
        f"{split}_pairs_covered{name}": round(float(np.isin(turns(real, network.num_roads), pairs).mean()), 5)
        for split, real in (("val", val), ("test", load_trips(run, "test")))
        for name, pairs in known.items()
    }
    return {
        "mean_roads": round(float(trips.lengths.mean()), 3),
        "mean_roads_val": round(float(val.lengths.mean()), 3),
        "length_jsd_val": round(divergence, 6),
        "copied_share": round(float(copied(trips, train).mean()), 5),
        **coverage,
    }
