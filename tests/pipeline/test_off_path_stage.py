"""The stage `distilled_student` with the recipe `off_path`."""

from __future__ import annotations

import pytest

from hoser_kd.config.schema import CityConfig
from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.run import make, make_all
from hoser_kd.pipeline.settings import SETTINGS, changed_settings
from hoser_kd.pipeline.stage import StageRun
from hoser_kd.pipeline.stages.student import distilled_student
from hoser_kd.pipeline.store import Artifact, Store
from hoser_kd.student.training_checkpoint import read_result

TOWN = {
    "city": "town",
    "source": {"kind": "synthetic", "synthetic": {"blocks": [5, 5], "num_trips": 50}},
    "zones": {"count": 4},
    "grid": {"bounds": "roads", "cell_size_m": 80},
    "student": {"hidden_dim": 16, "road_id_dim": 8, "attribute_dim": 2, "max_epochs": 1, "batch_size": 16},
}


def town(**distill) -> CityConfig:
    return CityConfig.model_validate({**TOWN, "distill": distill})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """All inputs but the labels, which the recipe does not read."""
    stages = ("vanilla_student", "grid_token_table")
    made = make_all(stages, town(), Store(tmp_path_factory.mktemp("town")), stop_at_checks=False)
    return {name: made[name] for name in (*STAGES["vanilla_student"].inputs, *stages)}


def test_the_record_has_both_students_and_the_seconds(inputs, tmp_path):
    config = town(recipe=["off_path"], off_path={"epochs": 2, "max_steps": 20})
    stages = []
    run = StageRun(STAGES["distilled_student"], config, 0, inputs, tmp_path, device="cpu")
    run.progress = lambda stage, *_: stages.append(stage)
    summary = distilled_student(run)
    result = read_result(tmp_path)
    assert summary["off_path_epochs"] == result.off_path
    assert len(result.off_path) == 2
    assert summary["val_nll"] == round(result.off_path[-1]["nll"], 5)
    assert summary["before_off_path_val_nll"] == round(result.history[0]["nll"], 5)
    for part in ("sampling", "cost_to_go", "training"):
        assert summary[f"off_path_{part}_seconds"] == pytest.approx(
            sum(epoch[f"{part}_seconds"] for epoch in result.off_path), abs=0.05
        )
    assert {"sampling off-path trips", "costs to go", "training"} <= set(stages)
    assert summary["steps"] == 3  # the phase is not counted as epochs of the training


def test_the_stage_fine_tunes_the_vanilla_student(tmp_path):
    config, store = town(recipe=["off_path"], off_path={"max_steps": 20}), Store(tmp_path)
    made = make_all(("vanilla_student", "grid_token_table"), config, store, stop_at_checks=False)
    labels = Artifact("teacher_soft_labels", "town", None, "1", tmp_path)
    stages = []
    student = make(
        STAGES["distilled_student"],
        config,
        store,
        {**made, "teacher_soft_labels": labels},
        seed=0,
        device="cpu",
        progress=lambda stage, done, total, *_: stages.append((stage, done, total)),
    )
    assert student.inputs["vanilla_student/seed-0"] == made["vanilla_student"].version
    assert student.summary["epochs"] == made["vanilla_student"].summary["epochs"]
    assert "off_path_epochs" in student.summary
    assert ("training", 3, 3) not in stages  # those of the training before the phase


def test_versions_depend_on_the_settings_of_a_recipe_in_use_only():
    def changed(**distill):
        return changed_settings({"distillation": SETTINGS["distillation"](town(**distill))})

    assert changed(off_path={"weight": 3.0}) == changed() == {}
    used = changed(recipe=["off_path"], off_path={"weight": 3.0})
    assert used["distillation"]["off_path"] == {"weight": 3.0}
    assert used != changed(recipe=["off_path"])
