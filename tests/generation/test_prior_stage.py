"""The stage `generated_trajectories` with a prior: its summary, its files, and the trips that the chain counts."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from small_city import grid_network, random_trips

from hoser_kd.config.schema import CityConfig
from hoser_kd.config.student import StudentConfig
from hoser_kd.generation.generator import generate
from hoser_kd.generation.prior import Prior
from hoser_kd.generation.trajectories import GeneratedTrajectories
from hoser_kd.hoser import HOSER, load, save
from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.stage import StageRun
from hoser_kd.pipeline.stages.generation import generated_trajectories
from hoser_kd.pipeline.store import Artifact
from hoser_kd.student.training_inputs import training_rows

SMALL = StudentConfig(hidden_dim=16, road_id_dim=8, attribute_dim=2)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Artifacts of a small city; the students have random weights and are trained on a quarter of the trips."""
    root, network = tmp_path_factory.mktemp("inputs"), grid_network(4)
    artifacts = {}
    for name in ("vanilla_student", "distilled_student", "road_network", "trajectories"):
        (root / name).mkdir()
        settings = {"student": {"train_fraction": 0.25}} if name.endswith("student") else {}
        artifacts[name] = Artifact(name, "town", 1 if settings else None, "0", root / name, settings=settings)
    network.save(root / "road_network")
    for seed, split in enumerate(("train", "val", "test")):
        random_trips(network, 40 if split == "train" else 5, seed).save(root / "trajectories" / f"{split}.arrow")
    for seed, kind in enumerate(("vanilla_student", "distilled_student")):
        torch.manual_seed(seed)
        zones = np.arange(network.num_roads) % 3
        model = HOSER.build(SMALL, network, zones, np.ones((3, 3), int), log1p_mean=3.0, log1p_std=0.5)
        save(model.eval(), root / kind)
    return artifacts


def run_stage(inputs, folder, **prior):
    folder.mkdir(exist_ok=True)
    config = CityConfig(city="town", source={"kind": "synthetic"}, generation={"prior": prior})
    run = StageRun(STAGES["generated_trajectories"], config, 1, inputs, folder, device="cpu")
    return generated_trajectories(run)


def test_without_a_prior_nothing_about_it_is_written(inputs, tmp_path):
    summary = run_stage(inputs, tmp_path / "run")
    assert summary["decoder"] == "published uniform-cost search, at most 5,000 expansions per trip"
    assert "prior" not in summary
    assert not list((tmp_path / "run").glob("*prior*"))


def test_the_chain_counts_the_trips_that_the_student_was_trained_on(inputs, tmp_path):
    summary = run_stage(inputs, tmp_path / "run", markov_weight=0.75, smoothing=0.1)
    assert summary["decoder"].endswith(
        "prior: Markov weight 0.75, smoothing 0.1, temperature 1, 0 per km, guided by its costs to go"
    )
    network, train = grid_network(4), random_trips(grid_network(4), 40, 0)
    test = random_trips(network, 5, 2)
    own = Prior.fit(train.take(training_rows(40, 0.25, 1)), network, smoothing=0.1, markov_weight=0.75)
    for kind in ("vanilla", "distilled"):
        model = load(inputs[f"{kind}_student"].path)
        expected = generate(model, test.origins, test.start_times, test.destinations, prior=own)
        trips = GeneratedTrajectories.read_parquet(tmp_path / "run" / f"{kind}.parquet")
        np.testing.assert_array_equal(trips.road_ids, expected.road_ids)
        assert summary[f"{kind}_expansions_a_trip"] == round(float(expected.expansions.mean()), 1)


def test_tuning_is_in_the_summary_and_is_not_repeated_by_a_resumed_run(inputs, tmp_path):
    folder = tmp_path / "run"
    summary = run_stage(inputs, folder, tune=True)
    assert [row["student"] for row in summary["prior"]] == ["vanilla"] * 8 + ["distilled"] * 8
    assert [row["chosen"] for row in summary["prior"]].count(True) == 2
    assert {"markov_weight", "temperature", "cost_per_km", "score", "reached"} <= summary["prior"][0].keys()
    # the work folder of a run that was killed while it generated the trips of the second student
    (folder / "distilled.parquet").unlink()
    record = json.loads((folder / "distilled_prior.json").read_text())
    changed = [{**row, "chosen": (row["markov_weight"], row["temperature"]) == (0.75, 2.0)} for row in record]
    (folder / "distilled_prior.json").write_text(json.dumps(changed))
    again = run_stage(inputs, folder, tune=True)
    assert [row for row in again["prior"] if row["student"] == "distilled"] == [
        {"student": "distilled", **row} for row in changed
    ]
    assert "distilled: uniform-cost search" in again["decoder"]
    assert again["decoder"].count("prior: ") == 1
    assert "Markov weight 0.75, smoothing 3, temperature 2" in again["decoder"]
