"""The stage `distilled_student` with the recipe `pooled`: its input, its record, and versions without the recipe."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from test_off_path_stage import town

from hoser_kd.common.errors import CheckpointError
from hoser_kd.config.loading import with_changes
from hoser_kd.lmtad import LMTAD, LMTADCheckpoint, LMTADConfig, save
from hoser_kd.network.road_network import RoadNetwork
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
