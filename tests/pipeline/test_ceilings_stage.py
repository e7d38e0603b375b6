"""The stage `ceilings` through the pipeline: one and several seeds, stored and online labels."""

from __future__ import annotations

import json

import pytest
from tiny_town import tiny_town

from hoser_kd.pipeline.run import make_with_inputs
from hoser_kd.pipeline.stages.ceilings import CEILINGS_FILE
from hoser_kd.pipeline.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def made(store, seeds, **distill):
    """The artifact of the stage, and the content of its file."""
    artifact = make_with_inputs(
        "ceilings", tiny_town(distill=distill), store, seed=seeds[0], seeds=seeds, device="cpu", stop_at_checks=False
    )
    return artifact, json.loads((artifact.path / CEILINGS_FILE).read_text())


def nll_of(content):
    return {(row["name"], row["kind"]): row["nll"] for row in content["rows"]}


def test_all_comparable_seeds_are_measured(store):
    artifact, content = made(store, [0, 1])
    assert content["seeds"] == [0, 1]
    assert content["notes"] == []
    nll = nll_of(content)
    for seed in (0, 1):
        [fit] = [fit for fit in content["fits"] if fit["name"] == "student" and fit["seeds"] == [seed]]
        assert fit["metrics"]["nll"] > 0
    assert nll["student_student", "log_linear"] > 0
    assert content["markov"]["order"] == 1
    assert artifact.summary["num_seeds"] == 2
    assert {"share_of_gap_closed", "teacher_beyond_markov_nll"} <= set(artifact.summary)
    assert len(artifact.summary["ceilings"]) == len(content["rows"])


def test_one_seed_leaves_the_ensemble_out_and_notes_it(store):
    artifact, content = made(store, [0])
    assert ("student_student", "log_linear") not in nll_of(content)
    assert "one seed" in artifact.summary["notes"]


def test_online_labels_give_the_same_ceilings(store):
    """The distilled student differs in the last bits, and so do its rows; pools without it are equal."""
    stored, online = (nll_of(made(store, [0], labels=labels)[1]) for labels in ("stored", "online"))
    assert online == pytest.approx(stored, abs=1e-3)


def test_without_distillation_the_teacher_is_still_measured(store):
    artifact, content = made(store, [0], enabled=False)
    assert ("student_teacher", "log_linear") in nll_of(content)
    assert content["share_of_gap_closed"] is None
    assert "no distilled student" in artifact.summary["notes"]
