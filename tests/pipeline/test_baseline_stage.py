"""The stage of the baselines: trips for the students' requests, metrics by definition, what its version depends on."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from test_run import town

from hoser_kd.evaluation.metrics import evaluate
from hoser_kd.evaluation.trip_values import read_step_values
from hoser_kd.generation.baselines import BASELINES
from hoser_kd.generation.od_pairs import select_od_pairs
from hoser_kd.generation.trajectories import GeneratedTrajectories
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.run import make_all, version_of
from hoser_kd.pipeline.stages.baselines import BaselineMetrics, answers_same_requests
from hoser_kd.pipeline.store import Store
from hoser_kd.student.next_step_baselines import counting_models, next_step_baselines

CONFIG = town(generation={"num_trips": 6, "seed": 3})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_all(["baseline_trips"], CONFIG, Store(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def city(made):
    trips = {
        split: Trajectories.load(made["trajectories"].path / f"{split}.arrow") for split in ("train", "val", "test")
    }
    return RoadNetwork.load(made["road_network"].path), trips


def test_every_baseline_answers_the_requests_of_the_students(made, city):
    network, trips = city
    requests = select_od_pairs(CONFIG.generation, trips["train"], trips["test"], network.num_roads)
    folder = made["baseline_trips"].path
    assert pq.read_table(folder / "requests.parquet").equals(requests.to_table())
    for name in BASELINES:
        answers = GeneratedTrajectories.read_parquet(folder / f"{name}.parquet")
        assert answers.start_times.tolist() == requests.start_times.tolist()
        arrived = answers.destinations == requests.destinations
        assert answers.reached.tolist() == arrived.tolist()
        if name != "retrieval":
            assert answers.origins.tolist() == requests.origins.tolist()


def test_metrics_are_those_of_the_students_with_the_same_options(made, city):
    network, trips = city
    artifact = made["baseline_trips"]
    requests = select_od_pairs(CONFIG.generation, trips["train"], trips["test"], network.num_roads)
    stored = json.loads((artifact.path / "metrics.json").read_text())
    assert list(stored["trips"]) == list(BASELINES.names())
    for name in BASELINES:
        expected = evaluate(
            trips["test"].take(requests.real_rows),
            GeneratedTrajectories.read_parquet(artifact.path / f"{name}.parquet"),
            network,
            CONFIG.evaluation,
            destinations=requests.destinations,
            training=trips["train"],
            paired=True,
        )
        assert stored["trips"][name]["trips"] == expected
        assert {"requests", "paired", "training"} <= set(expected)
        assert set(stored["trips"][name]["scenarios"]) <= {"weekday", "weekend", "peak", "off_peak"} | {
            "within_center",
            "to_center",
            "from_center",
            "center",
            "suburb",
        }
    chains = counting_models(trips["train"], trips["val"], network)
    assert stored["next_step"] == next_step_baselines(chains, trips["test"], network)
    for name, expected in stored["next_step"].items():
        values = read_step_values(artifact.path / f"{name}_step_sums.parquet")
        assert {each: values[f"next_step.{each}"].mean for each in ("nll", "accuracy", "top_3")} == pytest.approx(
            {each: expected[each] for each in ("nll", "accuracy", "top_3")}
        )
        assert values["next_step.decision_accuracy"].mean == pytest.approx(expected["decision_accuracy"])
        assert len(values["next_step.nll"].totals) == len(trips["test"])
        assert not [each for each in values if "time" in each]


def test_the_summary_says_what_was_chosen_and_how_requests_are_answered(made):
    summary = made["baseline_trips"].summary
    assert (summary["num_trips"], summary["od_source"]) == (6, "test")
    assert summary["markov_smoothing"] > 0
    shares = ("same_od_share", "same_cells_share", "fallback_share")
    assert sum(summary[f"retrieval_{share}"] for share in shares) == pytest.approx(1)
    for name in BASELINES:
        assert summary[f"{name}_seconds"] >= 0
        assert 0 <= summary[f"{name}_reached"] <= 1
    assert summary["comparison"][0]["metric"] == "paired.edr"
    assert set(summary["comparison"][0]) == {"metric", *(BASELINES[name].label for name in BASELINES)}
    assert {row["metric"] for row in summary["next_step"]} >= {"next_step.nll", "next_step.accuracy"}


def test_the_shortest_path_is_the_shortest(made):
    measured = BaselineMetrics.read(made["baseline_trips"].path)
    lengths = {name: values["trip_length.generated_mean"] for name, values in measured.trips.items()}
    assert lengths["Shortest path"] == min(lengths[name] for name in ("Shortest path", "Fastest path", "Markov chain"))


@pytest.mark.parametrize(
    ("sections", "same"),
    [
        ({"generation": {"num_trips": 6, "seed": 3, "decoder": "beam", "max_steps": 7}}, True),
        ({"generation": {"num_trips": 6, "seed": 3}, "student": {"max_epochs": 1}}, True),
        ({"generation": {"num_trips": 5, "seed": 3}}, False),
        ({"generation": {"num_trips": 6, "seed": 4}}, False),
        ({"generation": {"num_trips": 6, "seed": 3}, "evaluation": {"od_cell_m": 300}}, False),
    ],
)
def test_its_version_depends_on_requests_and_evaluation_and_on_no_student(made, sections, same):
    stage = STAGES["baseline_trips"]
    inputs = {name: made[name] for name in stage.inputs}
    assert (version_of(stage, town(**sections), inputs) == made["baseline_trips"].version) == same


def test_other_requests_are_noticed(made, tmp_path):
    artifact = made["baseline_trips"]
    assert answers_same_requests(artifact, artifact)
    from dataclasses import replace

    table = pq.read_table(artifact.path / "requests.parquet")
    pq.write_table(table.slice(0, 5), tmp_path / "requests.parquet")
    assert not answers_same_requests(artifact, replace(artifact, path=tmp_path))


def test_requests_that_are_not_of_test_trips_are_not_paired(tmp_path):
    config = town(generation={"od_source": "train", "num_trips": 7})
    artifact = make_all(["baseline_trips"], config, Store(tmp_path))["baseline_trips"]
    measured = BaselineMetrics.read(artifact.path).trips["Markov chain"]
    assert "paired.edr" not in measured
    assert measured["counts.generated"] == 7
    assert "requests.reached_share" in measured
