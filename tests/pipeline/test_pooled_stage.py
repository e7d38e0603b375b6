"""The stage `distilled_student` with the recipe `pooled`: its input, its record, and versions without the recipe."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_off_path_stage import TOWN, town

from hoser_kd.common.errors import CheckpointError, StoreError
from hoser_kd.config.loading import with_changes
from hoser_kd.lmtad import LMTAD, LMTADCheckpoint, LMTADConfig, save
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.run import make, make_all, version_of
from hoser_kd.pipeline.store import Artifact, Store

STAGE = STAGES["distilled_student"]


def test_the_student_is_trained_on_the_vanilla_student(tmp_path):
    """Without the teacher in the pool, neither labels nor their content are needed."""
    config = town(recipe=["pooled"], pooled={"members": ["student", "markov"]})
    store = Store(tmp_path)
    inputs = make_all(("vanilla_student", "grid_token_table"), config, store, stop_at_checks=False)
    labels = Artifact("teacher_soft_labels", "town", None, "1", tmp_path)
    student = make(STAGE, config, store, {**inputs, "teacher_soft_labels": labels}, seed=0, device="cpu")
    assert {"pool_student_exponent", "pool_markov_exponent", "pool_nll"} <= student.summary.keys()
    assert student.inputs["vanilla_student/seed-0"] == inputs["vanilla_student"].version
    assert student.summary["epochs"][0]["train_pooled"] > 0


def test_a_further_teacher_is_a_checkpoint_whose_content_is_a_part_of_the_version(tmp_path):
    store, plain = Store(tmp_path / "store"), town()
    inputs = make_all(("zone_transitions", "grid_token_table"), plain, store)
    network = RoadNetwork.load(inputs["road_network"].path)
    labels = Artifact("teacher_soft_labels", "town", None, "1", tmp_path)

    def config(folder):
        return town(recipe=["pooled"], pooled={"members": ["markov"], "other_teachers": [str(tmp_path / folder)]})

    for seed, folder in enumerate(("one", "two")):
        torch.manual_seed(seed)
        shape = LMTADConfig(64, network.num_roads + 3, n_layer=1, n_head=1, n_embd=8)
        save(LMTADCheckpoint(LMTAD(shape), shape, {"kind": "roads"}), tmp_path / folder)
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    given = {**inputs, "teacher_soft_labels": labels}
    versions = {folder: version_of(STAGE, config(folder), given, 0) for folder in ("one", "two", "copy")}
    assert versions["one"] == versions["copy"] != versions["two"]
    student = make(STAGE, config("one"), store, given, seed=0, device="cpu")
    assert {"pool_teacher_2_exponent", "pool_markov_exponent"} <= student.summary.keys()
    far = {"min_lat": 0, "max_lat": 1, "min_lng": 0, "max_lng": 1, "cell_lat": 0.5, "cell_lng": 0.5}
    save(LMTADCheckpoint(LMTAD(shape), shape, far), tmp_path / "far")
    required = with_changes(config("far"), {"grid.min_share_inside": 0.8})
    with pytest.raises(CheckpointError, match=r"far: .* roads lie outside its grid, and .* is 0.8"):
        make(STAGE, required, store, given, seed=0, device="cpu")
    with pytest.raises(CheckpointError, match=r"gone: no such file.*distill.pooled.other_teachers"):
        version_of(STAGE, config("gone"), given, 0)


def with_tiny_teacher(**distill):
    pooled = {"recipe": ["sequence", "pooled"], "pooled": {"members": ["teacher"]}}
    changes = {
        "teacher": {"preset": "tiny", "n_embd": 32, "max_epochs": 12, "learning_rate": 0.01},
        "synthetic_trips": {"count": 40, "length_correction": "none"},
        "distill": {**pooled, **distill},
    }
    return type(town()).model_validate({**TOWN, **changes})


def test_labels_of_synthetic_trips_are_stored_and_train_the_same_student(tmp_path):
    store, students = Store(tmp_path), {}
    for labels in ("stored", "online"):
        made = make_all(["distilled_student"], with_tiny_teacher(labels=labels), store, stop_at_checks=False)
        students[labels] = made["distilled_student"]
        folder = made["teacher_soft_labels"].path
        assert (folder / "synthetic.arrow").is_file() == (labels == "stored")
        read = "synthetic_trips" in made["teacher_soft_labels"].inputs
        assert read == (labels == "stored")
        if labels == "stored":
            rows = {row["split"]: row["steps"] for row in made["teacher_soft_labels"].summary["splits"]}
            trips = Trajectories.load(made["synthetic_trips"].path / "synthetic.arrow")
            assert rows["synthetic"] == trips.num_steps > 0
    stored, online = (each.summary["epochs"] for each in students.values())
    assert stored[0]["pool_teacher_exponent"] > 0
    assert [epoch["nll"] for epoch in stored] == pytest.approx([epoch["nll"] for epoch in online], abs=1e-4)


def test_labels_of_other_synthetic_trips_are_refused(tmp_path):
    config, store = with_tiny_teacher(), Store(tmp_path / "store")
    made = make_all(["teacher_soft_labels", "zone_transitions"], config, store, stop_at_checks=False)
    source = made["synthetic_trips"]
    trips = Trajectories.load(source.path / "synthetic.arrow")
    (tmp_path / "other").mkdir()
    trips.take(np.arange(len(trips) - 1)).save(tmp_path / "other" / "synthetic.arrow")
    other = Artifact("synthetic_trips", "town", None, "1", tmp_path / "other")
    with pytest.raises(StoreError, match=r"synthetic\.arrow.* the trips differ"):
        make(STAGE, config, store, {**made, "synthetic_trips": other}, seed=0, device="cpu")


@pytest.mark.parametrize(
    ("changes", "are_labeled"),
    [
        ({}, True),
        ({"labels": "online"}, False),
        ({"recipe": ["sequence"]}, False),
        ({"recipe": ["pooled"]}, False),
        ({"pooled": {"members": ["markov"]}}, False),
        ({"enabled": False}, False),
    ],
)
def test_labels_depend_on_synthetic_trips_only_where_a_pool_reads_them(changes, are_labeled):
    config, stage = with_tiny_teacher(**changes), STAGES["teacher_soft_labels"]
    inputs = artifacts_of(stage.inputs, "1")
    changed = {**inputs, **artifacts_of(["synthetic_trips"], "2")}
    assert (version_of(stage, config, inputs) != version_of(stage, config, changed)) == are_labeled
    as_before = replace(stage, inputs=tuple(set(stage.inputs) - {"synthetic_trips"}), optional_inputs={})
    assert (version_of(as_before, config, inputs) == version_of(stage, config, inputs)) != are_labeled


def artifacts_of(names, version):
    return {name: Artifact(name, "town", 0 if STAGES[name].per_seed else None, version, None) for name in names}


def test_without_the_recipe_no_version_depends_on_the_vanilla_student():
    plain, pooled = town(), town(recipe=["pooled"])
    control = town(recipe=["pooled"], pooled={"members": ["teacher", "markov"]})
    inputs = artifacts_of(STAGE.inputs, "1")
    changed = {**inputs, **artifacts_of(["vanilla_student"], "2")}
    for config, is_read in ((plain, False), (control, False), (pooled, True)):
        assert (version_of(STAGE, config, inputs, 0) != version_of(STAGE, config, changed, 0)) == is_read
    always = tuple(name for name in STAGE.inputs if name not in STAGE.optional_inputs)
    as_before = replace(STAGE, inputs=always, optional_inputs={})
    assert version_of(as_before, plain, inputs, 0) == version_of(STAGE, plain, inputs, 0)
    unread = town(pooled={"weight": 5.0}, time_loss_mean="all_steps")
    assert version_of(STAGE, unread, inputs, 0) == version_of(STAGE, plain, inputs, 0)
