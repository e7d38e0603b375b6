"""The stage `off_path_labels`: states off any real trip with their targets, computed once from the vanilla student.

The student's own trips are labeled in parts, each written to files. A killed run resumes after the last complete part
and, on a CPU, ends with the same labels. With a single part these are the labels that `labels: online` has in the first
epoch, if `off_path` is the whole recipe: that epoch begins with the vanilla student too.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hoser_kd.common.device import pick_device
from hoser_kd.common.files import write_json
from hoser_kd.common.hashing import digest_arrays, digest_json
from hoser_kd.common.seals import is_sealed, seal, seal_of
from hoser_kd.generation.student_trips import sample_trips
from hoser_kd.lmtad import load_checkpoint
from hoser_kd.pipeline.stages.grid import load_tokens
from hoser_kd.pipeline.stages.network import load_network, load_trips
from hoser_kd.pipeline.stages.synthetic_trips import load_synthetic_trips
from hoser_kd.student.off_path import (
    OffPathStates,
    OffPathTeacher,
    sample_states,
    sampling_seed,
    with_teacher_scores,
)
from hoser_kd.student.off_path_labels import (
    FILES,
    PART_TRIPS,
    joined,
    load_states,
    off_trip_share,
    parts_of,
    save_states,
)
from hoser_kd.student.pooled import student_digest
from hoser_kd.student.training_checkpoint import read_result
from hoser_kd.student.training_inputs import training_rows
from hoser_kd.teacher.online_teacher import OnlineTeacher

if TYPE_CHECKING:
    from hoser_kd.hoser import HOSER
    from hoser_kd.network.trajectories import Trajectories
    from hoser_kd.pipeline.stage import StageRun

STAGE = "off-path labels"
_PARTS_FOLDER, _RECORD = ".parts", "record.json"
_NEXT_PART = 1 << 40
"""Difference of the seeds of consecutive parts; the seeds of epochs are far below it."""


def off_path_labels(run: StageRun) -> dict[str, Any]:
    """Label the states that the vanilla student visits; does nothing unless `distill.off_path.labels` is stored."""
    if not run.config.stores_off_path_labels:
        return {"enabled": False}
    started = time.perf_counter()
    job = _Job.of(run)
    parts, metrics = zip(*job.parts(run), strict=True)
    states = joined(parts, job.rows, len(run.config.distill.off_path.temperatures))
    save_states(states, run.folder)
    shutil.rmtree(run.folder / _PARTS_FOLDER)
    seconds = {name: sum(each.get(name, 0.0) for each in metrics) for name in metrics[0] if name.endswith("_seconds")}
    return {
        "enabled": True,
        "states": states.trips.num_steps,
        "trips": len(states.trips),
        "arrived_share": round(states.metrics["off_path_arrived_share"], 5),
        "signal_share": round(states.metrics["off_path_signal_share"], 5),
        "off_trip_share": round(off_trip_share(states, job.own, job.teacher.costs.network.num_roads), 5),
        **{name: round(value, 5) for name, value in job.teacher.metrics.items()},
        **{name: round(value, 3) for name, value in seconds.items()},
        "labeling_seconds": round(time.perf_counter() - started, 3),
        "states_per_s": round(states.trips.num_steps / max(sum(seconds.values()), 1e-9), 1),
    }


def load_off_path_states(run: StageRun) -> OffPathStates | None:
    """Return the stored states among the inputs of a run; None where its settings store none."""
    if "off_path_labels" not in run.inputs:
        return None
    return load_states(run.path("off_path_labels"))


@dataclass(frozen=True)
class _Job:
    """What the parts share."""

    model: HOSER
    """The vanilla student."""
    own: Trajectories
    """Its own trips."""
    rows: list[Any]
    """Rows of the own trips of each part."""
    teacher: OffPathTeacher
    """Costs and scores."""
    seed: int
    """Seed of the first part."""
    key: str
    """Digest of all that the parts depend on."""

    @classmethod
    def of(cls, run: StageRun) -> _Job:
        settings, seed = run.config.distill.off_path, run.seed or 0
        result = read_result(run.path("vanilla_student"))
        train, val, network = load_trips(run, "train"), load_trips(run, "val"), load_network(run)
        own = train.take_all_or(training_rows(len(train), run.config.student.train_fraction, seed))
        scores = _online_teacher(run) if settings.reads_teacher else None
        synthetic = load_synthetic_trips(run)
        teacher = OffPathTeacher.fit(own, val, network, settings, sample_trips, scores, synthetic)
        first = sampling_seed(seed, len(result.history))
        depends_on = {
            "student": student_digest(result.model),
            "settings": settings.model_dump(mode="json"),
            "trips": digest_arrays(own.offsets, own.road_ids, own.times),
            "costs": digest_arrays(teacher.costs.costs),
            "scores": None if scores is None else dict(scores.fingerprint),
            "seed": first,
            "part_trips": PART_TRIPS,
        }
        model = result.model.to(pick_device(run.device))
        return cls(model, own, parts_of(own.destinations, PART_TRIPS), teacher, first, digest_json(depends_on))

    def parts(self, run: StageRun) -> Iterator[tuple[OffPathStates, dict[str, float]]]:
        """Yield states and seconds of each part; complete parts of a killed run are read, not computed again."""
        done = 0
        for number, rows in enumerate(self.rows):
            folder = run.folder / _PARTS_FOLDER / f"part-{number:05d}"
            if not self._is_complete(folder):
                self._write(run, number, folder)
            record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
            yield load_states(folder), record["metrics"]
            done += len(rows)
            run.progress(STAGE, done, len(self.own))

    def _is_complete(self, folder: Path) -> bool:
        files = [folder / name for name in (*FILES, _RECORD)]
        if not is_sealed(seal_of(folder), *files):
            return False
        return bool(json.loads((folder / _RECORD).read_text(encoding="utf-8"))["key"] == self.key)

    def _write(self, run: StageRun, number: int, folder: Path) -> None:
        settings, network = run.config.distill.off_path, self.teacher.costs.network
        states, metrics = sample_states(
            self.model,
            self.own.take(self.rows[number]),
            settings,
            self.teacher,
            seed=self.seed + number * _NEXT_PART,
            progress=run.progress,
        )
        if settings.teacher_weight and self.teacher.scores is not None:
            started = time.perf_counter()
            states = with_teacher_scores(states, settings.teacher_weight, self.teacher.scores, network)
            metrics["teacher_seconds"] = time.perf_counter() - started
        folder.mkdir(parents=True, exist_ok=True)
        save_states(states, folder)
        write_json(folder / _RECORD, {"key": self.key, "metrics": metrics})
        seal(seal_of(folder), *(folder / name for name in (*FILES, _RECORD)))


def _online_teacher(run: StageRun) -> OnlineTeacher:
    """Return the teacher of a run, for its settings and device."""
    settings = run.config.distill
    return OnlineTeacher(
        load_checkpoint(run.path("teacher")).model,
        load_tokens(run.path("grid_token_table")),
        load_network(run),
        settings.window,
        device=pick_device(run.device),
        half=settings.teacher_fp16,
    )
