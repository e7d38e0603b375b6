"""The stage `synthetic_trips`: its files and metrics, resuming after a kill, and versions without the recipe."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from flipped_bit import flip_bit
from label_town import teacher_inputs, town
from stage_process import stage_process

from hoser_kd.common.seals import seal, seal_of
from hoser_kd.config.schema import CityConfig
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.pipeline.checks import run_checks
from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.run import make, version_of
from hoser_kd.pipeline.settings import SETTINGS
from hoser_kd.pipeline.stage import StageRun
from hoser_kd.pipeline.stages.synthetic_trips import CORRECTION_FILE, TRIPS_FILE
from hoser_kd.pipeline.store import Artifact, Store

STAGE, STUDENT = STAGES["synthetic_trips"], STAGES["distilled_student"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return teacher_inputs(tmp_path_factory.mktemp("town"))


def settings(recipe=("sequence",), **synthetic) -> CityConfig:
    return town(recipe=list(recipe)).model_copy(
        update={"synthetic_trips": town().synthetic_trips.model_copy(update=synthetic)}
    )


def sampled(inputs, config, folder, **more):
    folder.mkdir(exist_ok=True)
    summary = STAGE.function()(StageRun(STAGE, config, None, inputs, folder, device="cpu", **more))
    return summary, Trajectories.load(folder / TRIPS_FILE)


def test_trips_have_the_format_of_the_trajectories_and_metrics(inputs, tmp_path):
    summary, trips = sampled(inputs, settings(count=300, length_correction="acceptance", max_steps=40), tmp_path)
    network = RoadNetwork.load(inputs["road_network"].path)
    at, _ = trips.step_positions()
    assert len(trips) == summary["trips"] == summary["requested"] == 300
    assert (network.candidate_index(trips.road_ids[at], trips.road_ids[at + 1]) >= 0).all()
    assert summary["mean_roads"] == pytest.approx(trips.lengths.mean(), abs=1e-3)
    assert len(np.unique(trips.ids)) == 300
    assert 0 < summary["ended_share"] <= 1
    ended = round(summary["ended_share"] * summary["attempts"])
    assert summary["attempts"] == ended + summary["too_long"] + summary["too_short"]
    real = {split: Trajectories.load(inputs["trajectories"].path / f"{split}.arrow") for split in ("train", "val")}
    pairs = {tuple(each.road_ids[i : i + 2]) for each in (trips,) for i in each.step_positions()[0]}
    steps = [tuple(real["val"].road_ids[i : i + 2]) for i in real["val"].step_positions()[0]]
    assert summary["val_pairs_covered"] == pytest.approx(np.mean([step in pairs for step in steps]), abs=1e-4)
    known = {tuple(real["train"].roads(i)) for i in range(len(real["train"]))}
    copies = np.mean([tuple(trips.roads(i)) in known for i in range(300)])
    assert summary["copied_share"] == pytest.approx(copies, abs=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == [CORRECTION_FILE, TRIPS_FILE, "use_map.png"]


def test_the_default_count_is_that_of_the_training_trips(inputs, tmp_path):
    train = Trajectories.load(inputs["trajectories"].path / "train.arrow")
    summary, trips = sampled(inputs, settings(length_correction="none"), tmp_path)
    assert len(trips) == len(train)
    assert (summary["length_correction"], summary["rejected_by_length"], summary["corrections"]) == ("none", 0, [])


def test_a_killed_run_resumes_to_the_same_trips(inputs, tmp_path):
    """The process gets no chance to clean up. Complete chunks and the length correction are not computed again."""
    config = settings(count=3500, length_correction="temperature", max_steps=30)
    _, whole = sampled(inputs, config, tmp_path / "whole")
    folder = tmp_path / "killed"
    folder.mkdir()
    with stage_process("synthetic_trips", config, inputs, folder, raises=False) as process:
        for line in process.stdout:
            done, total = map(int, line.split()[1:])
            if 0 < done < total:
                break
        process.send_signal(signal.SIGKILL)
        process.wait(20)
    assert not (folder / TRIPS_FILE).exists()
    chunks = {path: path.stat().st_mtime_ns for path in folder.glob(".chunks/*.json")}
    assert chunks
    during = {}

    def look(*_):
        during.update({path: path.stat().st_mtime_ns for path in chunks})

    summary, resumed = sampled(inputs, config, folder, progress=look)
    assert during == chunks
    assert len(resumed) == summary["trips"] == 3500
    for name in ("offsets", "road_ids", "ids"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(whole, name))
    assert (folder / TRIPS_FILE).read_bytes() == (tmp_path / "whole" / TRIPS_FILE).read_bytes()


def test_chunks_of_another_correction_are_not_used(inputs, tmp_path):
    config = settings(count=100, length_correction="none")
    _, expected = sampled(inputs, config, tmp_path / "expected")
    chunks = tmp_path / "other" / ".chunks"
    chunks.mkdir(parents=True)
    expected.take(np.arange(50)).save(chunks / "chunk-00000.arrow")
    counts = {"num_attempts": 100, "num_ended": 50, "too_long": 0, "too_short": 50}
    (chunks / "chunk-00000.json").write_text(json.dumps({"key": "another", **counts}))
    seal(seal_of(chunks / "chunk-00000"), chunks / "chunk-00000.arrow", chunks / "chunk-00000.json")
    _, trips = sampled(inputs, config, tmp_path / "other")
    np.testing.assert_array_equal(trips.road_ids, expected.road_ids)


def test_damaged_files_of_an_interrupted_run_are_not_used(inputs, tmp_path):
    config = settings(count=100, length_correction="acceptance")
    _, expected = sampled(inputs, config, tmp_path / "whole")

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sampled(inputs, config, tmp_path / "killed", progress=interrupt)
    for name in (".chunks/chunk-00000.arrow", CORRECTION_FILE):
        flip_bit(tmp_path / "killed" / name)
    _, trips = sampled(inputs, config, tmp_path / "killed")
    np.testing.assert_array_equal(trips.road_ids, expected.road_ids)
    assert (tmp_path / "killed" / CORRECTION_FILE).read_bytes() == (tmp_path / "whole" / CORRECTION_FILE).read_bytes()


def test_without_the_recipe_nothing_is_sampled(inputs, tmp_path):
    assert STAGE.function()(StageRun(STAGE, settings(["kl"]), None, inputs, tmp_path)) == {"enabled": False}
    disabled = settings().model_copy(update={"distill": settings().distill.model_copy(update={"enabled": False})})
    assert STAGE.function()(StageRun(STAGE, disabled, None, inputs, tmp_path)) == {"enabled": False}
    assert not list(tmp_path.iterdir())


def artifacts_of(names, version="1"):
    return {name: Artifact(name, "town", None, version, None) for name in names}


def test_without_the_recipe_no_version_depends_on_the_synthetic_trips():
    """The student's version is that of its other inputs; it needs no artifact of the stage."""
    plain, sequence = settings(["kl"]), settings(["kl", "sequence"])
    inputs = artifacts_of(STUDENT.inputs)
    others = {name: artifact for name, artifact in inputs.items() if name != "synthetic_trips"}
    changed = {**inputs, **artifacts_of(["synthetic_trips"], "2")}
    assert len({version_of(STUDENT, plain, each, 0) for each in (inputs, others, changed)}) == 1
    assert version_of(STUDENT, sequence, inputs, 0) != version_of(STUDENT, sequence, changed, 0)
    without = STAGES["distilled_student"]
    always = tuple(name for name in others if name not in without.optional_inputs)
    as_before = replace(without, inputs=always, optional_inputs={})
    assert version_of(as_before, plain, others, 0) == version_of(STUDENT, plain, inputs, 0)


def test_the_student_reads_the_trips_only_with_the_recipe(tmp_path, monkeypatch):
    read = []
    function = lambda run: read.append(sorted(run.inputs)) or {}  # noqa: E731
    monkeypatch.setattr(type(STUDENT), "function", lambda _: function)
    for recipe in (["kl"], ["sequence"]):
        artifact = make(STUDENT, settings(recipe), Store(tmp_path), artifacts_of(STUDENT.inputs), seed=0)
        assert ("synthetic_trips" in artifact.inputs) == ("synthetic_trips" in read[-1]) == (recipe == ["sequence"])


def test_settings_count_only_with_the_recipe():
    section = SETTINGS["synthetic_trips"]
    assert section.changed(section(settings(["kl"], count=5, seed=3))) == {}
    changed = section.changed(section(settings(count=5, length_correction="auto")))
    assert changed == {"count": 5, "used": True, "window": "full", "teacher_fp16": True}
    plain, sequence = settings(["kl"]), settings(["kl", "sequence"])
    assert {name for name, each in SETTINGS.items() if each(plain) != each(sequence)} == {
        "distillation",
        "synthetic_trips",
    }


def test_a_teacher_without_an_end_gives_no_trips_and_fails_the_check(inputs, tmp_path, monkeypatch):
    """The stage finishes, so that the check can say why."""
    from hoser_kd.teacher.trip_sampling import TripSampler

    class Endless(TripSampler):
        def __init__(self, *args, **more):
            super().__init__(*args, **more)
            self._tables.log_sharing[:, -1] = np.inf

    monkeypatch.setattr("hoser_kd.pipeline.stages.synthetic_trips.TripSampler", Endless)
    summary, trips = sampled(inputs, settings(count=20, max_steps=5, length_correction="acceptance"), tmp_path)
    assert (len(trips), summary["trips"]) == (0, 0)
    (result,) = run_checks(SimpleNamespace(stage="synthetic_trips", summary=summary, path=tmp_path), {})
    assert not result.passed
