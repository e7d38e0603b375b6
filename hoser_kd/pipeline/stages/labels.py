"""Reading and writing of `teacher_soft_labels` artifacts, for the stage that writes them and those that read them.

What belongs here: the contents of the artifact. With `distill.labels: stored` it has one Arrow file per split, and one
for synthetic trips if the student is trained on a pool with the teacher. With `online` it has what is needed to query
the teacher: its weights, the roads' tokens, the window and the precision. In both cases a stage that reads labels needs
no other input.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from hoser_kd.common.device import check_room_for, pick_device
from hoser_kd.common.files import write_json
from hoser_kd.common.progress import silent
from hoser_kd.common.seals import is_sealed, seal, seal_of
from hoser_kd.lmtad import load_checkpoint, save
from hoser_kd.network.trajectories import SPLITS
from hoser_kd.pipeline.stages.grid import load_tokens
from hoser_kd.pipeline.stages.network import load_network, load_trips
from hoser_kd.pipeline.stages.synthetic_trips import load_synthetic_trips
from hoser_kd.pipeline.workers.launcher import LABELS, job_of, run_together
from hoser_kd.teacher.label_scoring import SoftLabelScorer
from hoser_kd.teacher.online_teacher import OnlineTeacher
from hoser_kd.teacher.soft_labels import (
    SoftLabels,
    beyond,
    data_fingerprint,
    fingerprint_of,
    found_labels,
    make_shards,
    shared_shard_steps,
    write_labels,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from hoser_kd.common.arrays import Int64Array
    from hoser_kd.common.distributed import DistributedContext
    from hoser_kd.lmtad import LMTADCheckpoint
    from hoser_kd.network.trajectories import Trajectories
    from hoser_kd.pipeline.stage import StageRun

ONLINE_FILE = "online.json"
"""Settings of queries to the teacher; an artifact without this file has stored labels."""
TEACHER_FOLDER, TOKENS_FILE = "teacher", "tokens.npy"
SYNTHETIC = "synthetic"
"""Name of the synthetic trips beside the splits."""


def keep_teacher(run: StageRun, teacher: LMTADCheckpoint, tokens: Int64Array) -> None:
    """Write the teacher itself in place of its labels; `tokens` (N,) int64."""
    save(teacher, run.folder / TEACHER_FOLDER)
    np.save(run.folder / TOKENS_FILE, tokens)
    settings = run.config.distill
    write_json(run.folder / ONLINE_FILE, {"window": settings.window, "half": settings.teacher_fp16})


def soft_label_scorer(run: StageRun) -> SoftLabelScorer:
    """Return the scorer with the teacher of a run, for its settings and device."""
    settings = run.config.distill
    return SoftLabelScorer(
        load_checkpoint(run.path("teacher")).model,
        load_tokens(run.path("grid_token_table")),
        load_network(run),
        settings.window,
        device=pick_device(run.device),
        half=settings.teacher_fp16,
        outside_mass=settings.store_outside_mass,
    )


def stored_labels(run: StageRun, scorer: SoftLabelScorer) -> dict[str, SoftLabels]:
    """Label all trips, in `distill.label_processes` processes; writes one Arrow file per split and of synthetic trips.

    Complete files and complete shards of a killed run of the same version are reused, unless they are damaged. The
    files' seals stay in the folder.
    """
    done = {
        split: found_labels(_file(run, split), fingerprint_of(scorer, _trips(run, split)))
        if _is_unchanged(run, split)
        else None
        for split in _labeled(run)
    }
    missing = [split for split, labels in done.items() if labels is None]
    progress = run.progress
    if missing and run.config.distill.label_processes > 1:
        _write_shards_together(run, missing)
        progress = silent
    for split in missing:
        trips = _trips(run, split)
        done[split] = write_labels(
            scorer,
            trips,
            _file(run, split),
            _shards(run, split),
            progress=progress,
            shard_steps=_shard_steps(run, trips),
        )
        seal(seal_of(_file(run, split)), _file(run, split))
    for split in done:
        shutil.rmtree(_shards(run, split), ignore_errors=True)
    return {split: labels for split, labels in done.items() if labels is not None}


def write_shards(
    run: StageRun, splits: Sequence[str], context: DistributedContext, report: Callable[[int], object]
) -> None:
    """Write the shards of this process; calls `report` with its number of finished steps over all splits."""
    scorer = soft_label_scorer(run)
    before = 0
    for split in splits:
        trips = _trips(run, split)
        before += make_shards(
            scorer,
            trips,
            _shards(run, split),
            context,
            shard_steps=_shard_steps(run, trips),
            report=beyond(before, report),
        )


def _write_shards_together(run: StageRun, splits: Sequence[str]) -> None:
    count = run.config.distill.label_processes
    check_room_for(count, "distill.label_processes", run.device)
    total = sum(_trips(run, split).num_steps for split in splits)
    done: dict[int, int] = {}

    def relay(message: dict[str, Any]) -> None:
        done[message["rank"]] = message["steps"]
        run.progress("labels", min(sum(done.values()), total), total)

    run_together({**job_of(run), "splits": list(splits)}, count, relay, LABELS)


def _labeled(run: StageRun) -> list[str]:
    """Return the splits, and the synthetic trips if the student reads their labels."""
    return [*SPLITS, *([SYNTHETIC] if run.config.labels_synthetic_trips else [])]


def _trips(run: StageRun, split: str) -> Trajectories:
    if split != SYNTHETIC:
        return load_trips(run, split)
    trips = load_synthetic_trips(run)
    assert trips is not None, "an input where they are labeled"
    return trips


def _file(run: StageRun, split: str) -> Path:
    return run.folder / f"{split}.arrow"


def _is_unchanged(run: StageRun, split: str) -> bool:
    """Return whether the file of a split may be read: it equals its seal, or a finished stage has removed the seals."""
    sealed = seal_of(_file(run, split))
    return is_sealed(sealed, _file(run, split)) or not (sealed.is_file() or _shards(run, split).is_dir())


def _shards(run: StageRun, split: str) -> Path:
    return run.folder / f".{split}-shards"


def _shard_steps(run: StageRun, trips: Trajectories) -> int:
    return shared_shard_steps(trips.num_steps, run.config.distill.label_processes)


def load_labels(run: StageRun, *splits: str) -> list[SoftLabels | OnlineTeacher]:
    """Return the stored labels of these splits (or `SYNTHETIC`), or the same online teacher for each of them.

    Raises:
        StoreError: stored labels belong to other trips, roads or tokens than the inputs of this run.
    """
    folder = run.path("teacher_soft_labels")
    network = load_network(run)
    if (folder / ONLINE_FILE).is_file():
        settings = json.loads((folder / ONLINE_FILE).read_text(encoding="utf-8"))
        teacher = OnlineTeacher(
            load_checkpoint(folder / TEACHER_FOLDER).model,
            np.load(folder / TOKENS_FILE, allow_pickle=False),
            network,
            settings["window"],
            device=pick_device(run.device),
            half=settings["half"],
        )
        return [teacher for _ in splits]
    tokens = load_tokens(run.path("grid_token_table")) if "grid_token_table" in run.inputs else None
    return [
        SoftLabels.load(folder / f"{split}.arrow", data_fingerprint(network, _trips(run, split), tokens))
        for split in splits
    ]
