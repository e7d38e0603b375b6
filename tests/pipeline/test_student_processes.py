"""Several processes train the same student as one, and report their errors to the one that started them.

That none keeps running however the training ends: tests/orchestration/test_cancel.py and test_orphans.py, over Dagster.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hoser_kd.common.arrays import offsets_of
from hoser_kd.common.errors import ConfigError, ProcessError, StoreError, TrainingError
from hoser_kd.common.files import write_json
from hoser_kd.config.schema import CityConfig
from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.run import make_all
from hoser_kd.pipeline.stage import StageRun
from hoser_kd.pipeline.stages.grid import load_tokens
from hoser_kd.pipeline.stages.network import load_network, load_trips
from hoser_kd.pipeline.stages.student import distilled_student, train_here
from hoser_kd.pipeline.store import Artifact, Store
from hoser_kd.pipeline.workers.launcher import run_together
from hoser_kd.student.model_selection import best_epoch
from hoser_kd.student.training_checkpoint import read_result
from hoser_kd.teacher.soft_labels import SoftLabels, data_fingerprint

TOWN = {
    "city": "town",
    "source": {"kind": "synthetic", "synthetic": {"blocks": [6, 6], "num_trips": 61}},
    "zones": {"count": 6},
    "grid": {"bounds": "roads", "cell_size_m": 80},
    # 47 training trips in batches of 23 leave a batch of one trip, so that one process gets none
    "student": {
        "hidden_dim": 16,
        "road_id_dim": 8,
        "attribute_dim": 2,
        "max_epochs": 3,
        "batch_size": 23,
        "micro_batch_size": 5,
        "learning_rate": 0.01,
        "select_by": "arrival_rate",
        "select_num_ods": 5,
    },
    "distill": {"lambda_kl": 0.5, "sample_steps_per_trace": 3, "shared_cells": "split"},
}


def in_processes(count: int, **student) -> CityConfig:
    return CityConfig.model_validate({**TOWN, "student": {**TOWN["student"], "num_processes": count, **student}})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, Artifact]:
    """Inputs of a student, with random labels."""
    root = tmp_path_factory.mktemp("town")
    artifacts = make_all(("zone_transitions", "grid_token_table"), in_processes(1), Store(root))
    folder = root / "labels"
    folder.mkdir()
    run = StageRun(STAGES["distilled_student"], in_processes(1), 0, artifacts, folder)
    network = load_network(run)
    for split in ("train", "val"):
        trips = load_trips(run, split)
        at, _ = trips.step_positions()
        offsets = offsets_of(network.successors.degrees[trips.road_ids[at]])
        scores = np.random.default_rng(0).normal(size=offsets[-1]).astype(np.float32)
        fingerprint = data_fingerprint(network, trips, load_tokens(run.path("grid_token_table")))
        SoftLabels(offsets, scores, fingerprint=fingerprint).save(folder / f"{split}.arrow")
    record = {
        "stage": "teacher_soft_labels",
        "city": "town",
        "seed": None,
        "version": "0",
        "code_version": "1",
        "inputs": {},
        "settings": {},
        "created_at": "",
        "seconds": 0.0,
        "summary": {},
    }
    write_json(folder / "artifact.json", record)
    labels = Artifact(path=folder, **record)
    return {name: artifacts[name] for name in STAGES["vanilla_student"].inputs} | {
        "grid_token_table": artifacts["grid_token_table"],
        "teacher_soft_labels": labels,
    }


def run_of(inputs, config: CityConfig, folder: Path, stage: str = "distilled_student") -> StageRun:
    folder.mkdir()
    return StageRun(STAGES[stage], config, 0, inputs, folder, device="cpu")


def test_two_processes_have_the_loss_curve_of_one_with_the_doubled_batch(inputs, tmp_path):
    """Each process has half of every batch; progress and epochs are reported to this process."""
    alone = train_here(run_of(inputs, in_processes(1), tmp_path / "alone"))
    run = run_of(inputs, in_processes(2), tmp_path / "together")
    epochs, progress = [], []
    run.on_epoch = epochs.append
    run.progress = lambda *report: progress.append(report)
    summary = distilled_student(run)
    together = read_result(run.folder)
    assert summary["epochs"] == together.history == epochs
    assert [metrics["epoch"] for metrics in epochs] == [1, 2, 3]
    for ours, theirs in zip(together.history, alone.history, strict=True):
        # generated trips differ as soon as rounding changes one choice
        assert next_steps(ours) == pytest.approx(next_steps(theirs), rel=1e-4)
        assert ours.keys() == theirs.keys()
    assert together.best_epoch == best_epoch(together.history, "arrival_rate")
    assert [report[:3] for report in progress if report[0] == "training"] == [
        ("training", step, 9) for step in range(1, 10)
    ]
    assert set(progress[0][3]) >= {"next_step", "time", "kl", "grad_norm"}
    for ours, theirs in zip(together.model.parameters(), alone.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)


def test_two_processes_stop_early_after_the_same_epoch(inputs, tmp_path):
    """Patience ends the training in both processes, and it ends after the epoch at which one process ends it."""
    early = {"max_epochs": 40, "patience": 1, "select_by": "nll", "select_num_ods": None, "learning_rate": 0.1}
    alone = train_here(run_of(inputs, in_processes(1, **early), tmp_path / "alone", "vanilla_student"))
    run = run_of(inputs, in_processes(2, **early), tmp_path / "together", "vanilla_student")
    summary = STAGES["vanilla_student"].function()(run)
    assert len(summary["epochs"]) == len(alone.history) == alone.best_epoch + 1 < 40
    assert summary["best_epoch"] == alone.best_epoch
    assert summary["training_warnings"][0]["kind"] == "few_steps_per_epoch"
    assert summary["steps"] == 3 * len(alone.history)


def next_steps(epoch):
    return {name: value for name, value in epoch.items() if not name.startswith("generation_")}


def test_a_workers_error_is_raised_here_with_its_text(inputs, tmp_path):
    """One process stops at labels that are not numbers; the other, which waits for it, exits too."""
    folder = tmp_path / "labels"
    folder.mkdir()
    source = inputs["teacher_soft_labels"].path
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    good = SoftLabels.load(folder / "train.arrow")
    scores = good.scores.copy()
    scores[:] = np.nan
    SoftLabels(good.offsets, scores, fingerprint=good.fingerprint).save(folder / "train.arrow")
    bad = {**inputs, "teacher_soft_labels": Artifact(**{**vars(inputs["teacher_soft_labels"]), "path": folder})}
    with pytest.raises(TrainingError, match=r"epoch 1, step 1: the loss is not finite.*Trajectories of the batch"):
        distilled_student(run_of(bad, in_processes(2), tmp_path / "student"))


def test_an_unexpected_error_of_a_worker_has_its_traceback(tmp_path):
    with pytest.raises(ProcessError, match=r"(?s)one of the processes failed:.*KeyError: 'device'"):
        run_together({"no": "job"}, 1, lambda message: None)


def test_a_single_gpu_cannot_be_named_for_several_processes(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    run = run_of(inputs, in_processes(2), tmp_path / "a", "vanilla_student")
    for device, message in (("cuda:0", "names one"), ("cuda", "there are 1")):
        run.device = device
        with pytest.raises(ConfigError, match=message):
            STAGES["vanilla_student"].function()(run)


@pytest.mark.parametrize(("part", "message"), [("grid", "the roads' tokens"), ("trajectories", "the trips")])
def test_labels_of_other_inputs_are_rejected_before_training(inputs, tmp_path, part, message):
    folder = tmp_path / "labels"
    folder.mkdir()
    source = inputs["teacher_soft_labels"].path
    for split in ("train", "val"):
        labels = SoftLabels.load(source / f"{split}.arrow")
        labels.save(folder / f"{split}.arrow", {**labels.fingerprint, part: "another"})
    other = {**inputs, "teacher_soft_labels": Artifact(**{**vars(inputs["teacher_soft_labels"]), "path": folder})}
    with pytest.raises(StoreError, match=f"computed from other inputs: {message} differ"):
        distilled_student(run_of(other, in_processes(1), tmp_path / "student"))
