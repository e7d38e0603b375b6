"""The stage `off_path_labels`: the labels of online states, parts of a killed run, and versions without it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from flipped_bit import flip_bit
from label_town import random_teacher
from test_off_path_stage import TOWN

from hoser_kd.common.errors import StoreError
from hoser_kd.config.schema import CityConfig
from hoser_kd.hoser import load
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.pipeline.checks import run_checks
from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.run import make, make_all, version_of
from hoser_kd.pipeline.settings import SETTINGS, changed_settings
from hoser_kd.pipeline.stage import StageRun
from hoser_kd.pipeline.stages import off_path_labels as module
from hoser_kd.pipeline.store import Artifact, Store
from hoser_kd.student.off_path_labels import load_states, off_trip_share, save_states
from hoser_kd.student.training_key import states_digest

STAGE, STUDENT = STAGES["off_path_labels"], STAGES["distilled_student"]


def town(labels="stored", **off_path) -> CityConfig:
    off_path = {"max_steps": 20, "labels": labels, **off_path}
    return CityConfig.model_validate({**TOWN, "distill": {"recipe": ["off_path"], "off_path": off_path}})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("town"))


@pytest.fixture(scope="module")
def inputs(store):
    names = ("vanilla_student", "zone_transitions", "grid_token_table")
    return make_all(names, town(), store, stop_at_checks=False)


@pytest.fixture(scope="module")
def labels(inputs, store):
    return make(STAGE, town(), store, inputs, seed=0, device="cpu")


@pytest.fixture(scope="module")
def own(inputs):
    return Trajectories.load(inputs["trajectories"].path / "train.arrow")


def labeled(inputs, config, folder, **more):
    folder.mkdir(exist_ok=True)
    summary = STAGE.function()(StageRun(STAGE, config, 0, inputs, folder, device="cpu", **more))
    return summary, load_states(folder)


def test_a_student_of_stored_labels_is_that_of_online_labels(inputs, labels, store):
    """The vanilla student is where the epoch on off-path states begins, so that one epoch is the same, bit for bit."""
    nothing = {"teacher_soft_labels": Artifact("teacher_soft_labels", "town", None, "1", store.root)}
    assert all(result.passed for result in run_checks(labels, inputs))
    weights, states = {}, {}
    for kind in ("stored", "online"):
        student = make(
            STUDENT, town(kind), store, {**inputs, **nothing, "off_path_labels": labels}, seed=0, device="cpu"
        )
        weights[kind] = torch.cat([value.flatten() for value in load(student.path).state_dict().values()])
        states[kind] = student.summary["off_path_epochs"][0]["off_path_states"]
        assert ("off_path_labels/seed-0" in student.inputs) == (kind == "stored")
    assert torch.equal(weights["stored"], weights["online"])
    assert states["stored"] == states["online"] == labels.summary["states"]
    assert 0 < labels.summary["off_trip_share"] < 1
    assert labels.summary["sampling_seconds"] > 0


def test_a_killed_run_resumes_after_its_complete_parts(inputs, own, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PART_TRIPS", 16)
    whole, states = labeled(inputs, town(), tmp_path / "whole")
    assert whole["trips"] == 2 * len(own)

    def interrupt(stage, done, total, *_):
        if stage == module.STAGE and done > 16:
            raise KeyboardInterrupt

    folder = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        labeled(inputs, town(), folder, progress=interrupt)
    flip_bit(folder / ".parts" / "part-00000" / "targets.arrow")
    computed = []
    sample = module.sample_states
    monkeypatch.setattr(module, "sample_states", lambda *args, **more: computed.append(1) or sample(*args, **more))
    summary, resumed = labeled(inputs, town(), folder)
    # of three parts, the first is damaged and the second complete
    assert len(computed) == 2
    assert states_digest(resumed) == states_digest(states)
    counts = ("states", "trips", "arrived_share", "signal_share", "off_trip_share")
    assert [summary[name] for name in counts] == [whole[name] for name in counts]
    assert not (folder / ".parts").exists()


def test_parts_keep_the_order_of_the_requests(inputs, own, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PART_TRIPS", 7)
    _, states = labeled(inputs, town(temperatures=[1.0, 2.0, 3.0]), tmp_path)
    np.testing.assert_array_equal(states.destinations, np.tile(own.destinations, 3))
    np.testing.assert_array_equal(states.trips.origins, np.tile(own.origins, 3))
    np.testing.assert_array_equal(states.trips.start_times, np.tile(own.start_times, 3))


def test_states_off_the_real_trip_are_counted(labels, own):
    states = load_states(labels.path)
    at, trip = states.trips.step_positions()
    off = [
        states.trips.road_ids[p] not in own.roads(t % len(own)) for p, t in zip(at.tolist(), trip.tolist(), strict=True)
    ]
    assert off_trip_share(states, own, 10_000) == pytest.approx(np.mean(off))


def test_lmtad_has_a_part_in_stored_targets(inputs, store, tmp_path):
    """Its costs and its scores, over the histories of synthetic trips."""
    teacher = random_teacher(tmp_path, inputs["grid_token_table"], n_layer=1, n_embd=16)
    made = {}
    for name, weight in (("without", 0.0), ("with", 0.5)):
        config = town(costs="pool", teacher_weight=weight)
        few = {"count": 40, "length_correction": "none", "max_steps": 20}
        config = config.model_copy(update={"synthetic_trips": config.synthetic_trips.model_copy(update=few)})
        needed = {**inputs, "teacher": teacher}
        needed["synthetic_trips"] = make(STAGES["synthetic_trips"], config, store, needed, device="cpu")
        summary, made[name] = labeled(needed, config, tmp_path / name)
        assert 0 < summary["costs_teacher_share"] <= 1
        assert summary["costs_markov_exponent"] > 0
        assert ("teacher_seconds" in summary) == (weight > 0)
    np.testing.assert_array_equal(made["with"].trips.road_ids, made["without"].trips.road_ids)
    assert not np.allclose(made["with"].scores.scores, made["without"].scores.scores)


def artifacts_of(names, version="1"):
    return {name: Artifact(name, "town", 0 if STAGES[name].per_seed else None, version, None) for name in names}


def test_without_the_setting_nothing_depends_on_the_stage(tmp_path):
    online, stored = town("online"), town()
    assert STAGE.function()(StageRun(STAGE, online, 0, {}, tmp_path)) == {"enabled": False}
    assert not list(tmp_path.iterdir())
    control = town(weight=0.0)
    assert STAGE.inputs_read(online) == STAGE.inputs_read(control) == ()
    assert set(STAGE.inputs_read(stored)) == {"vanilla_student", "trajectories", "road_network"}
    assert set(STAGE.inputs_read(town(costs="lmtad"))) == set(STAGE.inputs)
    inputs = artifacts_of(STUDENT.inputs)
    changed = {**inputs, **artifacts_of(["off_path_labels"], "2")}
    assert version_of(STUDENT, online, inputs, 0) == version_of(STUDENT, online, changed, 0)
    assert version_of(STUDENT, stored, inputs, 0) != version_of(STUDENT, stored, changed, 0)
    as_before = replace(STUDENT, inputs=tuple(name for name in STUDENT.inputs if name != "off_path_labels"))
    assert version_of(as_before, online, inputs, 0) == version_of(STUDENT, online, inputs, 0)


def test_versions_depend_on_the_settings_of_states_and_targets_only():
    def changed(*args, **off_path):
        return changed_settings({"off_path_labels": SETTINGS["off_path_labels"](town(*args, **off_path))})

    assert changed("online", costs="markov", weight=2.0, smoothing=1.0) == {}
    assert changed(weight=2.0, epochs=3, learning_rate=1e-3) == changed()
    assert changed(smoothing=1.0) != changed()


@pytest.mark.parametrize("file", ["destinations.npy", "targets.arrow"])
def test_files_that_do_not_match_are_refused(labels, tmp_path, file):
    states = load_states(labels.path)
    save_states(states._replace(trips=states.trips.take(np.arange(3))), tmp_path)
    (tmp_path / file).write_bytes((labels.path / file).read_bytes())
    with pytest.raises(StoreError, match="Compute the off-path labels again"):
        load_states(tmp_path)


def test_the_check_names_destinations_that_cannot_be_reached(labels, tmp_path):
    states = load_states(labels.path)
    lost = states.destinations[states.trips.step_positions()[1]] == states.destinations[0]
    scores = states.scores.scores.copy()
    scores[np.repeat(lost, np.diff(states.scores.offsets))] = -np.inf
    save_states(states._replace(scores=states.scores._replace(scores=scores)), tmp_path)
    artifact = replace(labels, path=tmp_path, summary={**labels.summary, "signal_share": 0.4})
    (result,) = run_checks(artifact, {})
    assert not result.passed
    assert "40.0%" in result.message
    assert result.evidence.rows[0]["destination"] == states.destinations[0]
    assert result.evidence.rows[0]["without_target"] == int(lost.sum())
    (off,) = run_checks(replace(artifact, summary={"enabled": False}), {})
    assert off.passed
    assert json.dumps(result.metrics)
