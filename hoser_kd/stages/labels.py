"""What the stages share of labels: those who make them, and those who read them whether they are stored or asked for.

Belongs here: the contents of a `teacher_soft_labels` artifact. Where `distill.labels` is `stored` it holds an Arrow
file a split. Where it is `online` it holds all that it takes to ask the teacher: its weights, the roads' tokens, the
window and the precision, so that whoever reads labels needs no other input in either case.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from hoser_kd.device import pick_device
from hoser_kd.lmtad import load_checkpoint
from hoser_kd.lmtad.checkpoint import save
from hoser_kd.online import OnlineTeacher
from hoser_kd.soft_labels import SoftLabels, data_fingerprint
from hoser_kd.stages.grid import load_tokens
from hoser_kd.stages.network import load_network, load_trips
from hoser_kd.store import write_json

if TYPE_CHECKING:
    from hoser_kd.lmtad import LMTADCheckpoint
    from hoser_kd.pipeline import StageRun
    from hoser_kd.ragged import Int64Array

ONLINE_FILE = "online.json"
"""How the teacher is asked; in an artifact without it, labels are stored."""
TEACHER_FOLDER, TOKENS_FILE = "teacher", "tokens.npy"


def keep_teacher(run: StageRun, teacher: LMTADCheckpoint, tokens: Int64Array) -> None:
    """Leave the teacher itself in place of its labels; `tokens` (N,) int64."""
    save(teacher, run.folder / TEACHER_FOLDER)
    np.save(run.folder / TOKENS_FILE, tokens)
    settings = run.config.distill
    write_json(run.folder / ONLINE_FILE, {"window": settings.window, "half": settings.teacher_fp16})


def load_labels(run: StageRun, *splits: str) -> list[SoftLabels | OnlineTeacher]:
    """Return the labels of these splits, or the teacher to ask, once for all of them.

    Raises StoreError where stored labels were made for other trips, roads or tokens than this run reads.
    """
    folder = run.path("teacher_soft_labels")
    network = load_network(run)
    if (folder / ONLINE_FILE).is_file():
        asked = json.loads((folder / ONLINE_FILE).read_text(encoding="utf-8"))
        teacher = OnlineTeacher(
            load_checkpoint(folder / TEACHER_FOLDER).model, np.load(folder / TOKENS_FILE, allow_pickle=False), network,
            asked["window"], device=pick_device(run.device), half=asked["half"],
        )
        return [teacher for _ in splits]
    tokens = load_tokens(run.path("grid_token_table")) if "grid_token_table" in run.inputs else None
    return [SoftLabels.load(folder / f"{split}.arrow", data_fingerprint(network, load_trips(run, split), tokens))
            for split in splits]
