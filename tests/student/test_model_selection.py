"""Selection of an epoch: by next steps as published, or by generated trips, which do not affect the training."""

from __future__ import annotations

import json
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hoser_cities import TINY
from test_training import train, weights

from hoser_kd.common.distributed import DistributedContext
from hoser_kd.common.errors import ConfigError
from hoser_kd.common.tensor_files import read_tensors
from hoser_kd.config.loading import load_config
from hoser_kd.config.schema import CityConfig
from hoser_kd.config.student import StudentConfig
from hoser_kd.config.variants import SELECTION_RULES
from hoser_kd.evaluation.metrics import evaluate
from hoser_kd.evaluation.validation_trips import ValidationTrips, trip_score
from hoser_kd.generation.generator import generate
from hoser_kd.pipeline.settings import SETTINGS
from hoser_kd.student.model_selection import SelectionRule, best_epoch, patience_exhausted, score, selection_score

CONFIG_FOLDER = Path(__file__).resolve().parents[2] / "config"
LONGER = TINY.model_copy(update={"max_epochs": 5, "dropout": 0.1, "learning_rate": 0.02})
WATCHED = LONGER.model_copy(update={"select_num_ods": 12, "select_max_steps": 15})


def without_trips(history):
    return [{name: value for name, value in epoch.items() if not name.startswith("generation_")} for epoch in history]


def epochs_of(*values):
    return [
        {"accuracy": accuracy, "nll": nll, "generation_reached": reached, "generation_score": whole}
        for accuracy, nll, reached, whole in values
    ]


def test_each_rule_has_its_best_epoch_and_the_first_of_equals_wins():
    history = epochs_of(
        (0.9, 0.50, 0.25, 0.40),
        (0.8, 0.39, 0.25, 0.41),
        (0.8, 0.45, 0.50, 0.39),
        (0.9, 0.40, 0.50, 0.38),
        (0.9, 0.39, 0.25, 0.41),
        (0.9, 0.39, 0.25, 0.41),
    )
    best = {by: best_epoch(history, by) for by in SELECTION_RULES}
    # accuracy: epochs 1, 4, 5 and 6 are equal; 5 and 6 have the lower NLL
    assert best == {"accuracy": 5, "nll": 2, "arrival_rate": 3, "generation": 2}
    assert best_epoch(history) == best["nll"]


@pytest.mark.parametrize(
    ("nlls", "patience", "exhausted"),
    [
        ([], 1, False),
        ([0.5], 1, False),
        ([0.5, 0.4], 1, False),
        ([0.5, 0.4, 0.45], 1, True),
        # an equal epoch is no improvement
        ([0.5, 0.4, 0.4], 1, True),
        ([0.5, 0.4, 0.45], 2, False),
        ([0.5, 0.4, 0.45, 0.41], 2, True),
        ([0.5, 0.4, 0.45, 0.39], 2, False),
        ([0.5, 0.6, 0.7, 0.8], None, False),
    ],
)
def test_patience_counts_epochs_since_the_best_one(nlls, patience, exhausted):
    history = [{"nll": nll, "accuracy": 0.9} for nll in nlls]
    assert patience_exhausted(history, patience) is exhausted


def test_a_tie_in_accuracy_with_a_lower_nll_restarts_the_patience():
    history = [{"accuracy": 0.9, "nll": nll} for nll in (0.5, 0.4, 0.45)]
    assert not patience_exhausted(history, 2, "accuracy")
    assert patience_exhausted(history, 1, "accuracy")


def test_a_tie_never_outweighs_an_arrival():
    history = epochs_of((0, 0, 0.999, 1.0), (0, 0, 1.0, 0.0))
    assert best_epoch(history, "arrival_rate") == 2


def test_a_rule_without_its_metrics_names_the_setting():
    with pytest.raises(ValueError, match=r"generation_score.*select_num_ods"):
        score({"accuracy": 1.0, "nll": 0.1}, "generation")


def test_an_unknown_rule_is_refused():
    for by in ("arrival", "loss"):
        with pytest.raises(ConfigError, match=f"unknown selection rule '{by}'"):
            score({"accuracy": 1.0}, by)


def test_a_registered_rule_selects(small_city, tmp_path):
    SELECTION_RULES.register("worst", SelectionRule(lambda metrics: -metrics["accuracy"], "the lowest accuracy"))
    try:
        result = train(small_city, tmp_path, LONGER.model_copy(update={"select_by": "worst"}))
    finally:
        SELECTION_RULES.unregister("worst")
    assert result.best["accuracy"] == min(epoch["accuracy"] for epoch in result.history)


def test_students_are_compared_by_their_summaries():
    summary = {
        "val_accuracy": 0.9,
        "val_nll": 0.3,
        "val_generation_reached": 0.5,
        "val_generation_score": 0.6,
        "best_epoch": 2,
        "epochs": [{"accuracy": 1.0}],
    }
    assert selection_score(summary, "accuracy") == 0.9
    assert selection_score(summary) == selection_score(summary, "nll") == -0.3
    assert selection_score(summary, "generation") == 0.6


def test_the_score_is_1_for_the_real_trips_and_falls_with_each_part():
    same = {
        "requests": {"reached_share": 1.0},
        "paired": {"dtw_per_road": 0.0},
        **{name: {"jsd": 0.0} for name in ("distance", "radius", "duration")},
    }
    assert trip_score(same) == 1
    assert trip_score({**same, "requests": {"reached_share": 0.0}}) == 0.5
    assert trip_score({**same, "paired": {"dtw_per_road": 0.1}}) == 0.875
    assert trip_score({**same, "radius": {"jsd": math.log(2)}}) == pytest.approx(1 - 1 / 12)
    assert trip_score({**same, "radius": {}}) == pytest.approx(1 - 1 / 12)


def test_metrics_are_those_of_the_published_search(small_city, small_model):
    val = small_city.trips["val"]
    sample = ValidationTrips.draw(val, small_city.network, WATCHED)
    assert len(sample.real) == 12
    small_model.train()
    metrics = sample.metrics(small_model)
    assert small_model.training
    trips = generate(small_model.eval(), sample.real.origins, sample.real.start_times, sample.real.destinations, 15)
    results = evaluate(sample.real, trips, small_city.network, paired=True)
    assert metrics["generation_reached"] == trips.reached.mean() < 1
    assert metrics["generation_distance_jsd"] == results["distance"]["jsd"]
    assert metrics["generation_score"] == trip_score(results)
    assert 0 < metrics["generation_score"] < 1


def test_all_trainings_use_the_same_requests(small_city):
    val, network = small_city.trips["val"], small_city.network
    first, again = (ValidationTrips.draw(val, network, WATCHED) for _ in range(2))
    assert np.array_equal(first.real.road_ids, again.real.road_ids)
    assert len(ValidationTrips.draw(val, network, TINY.model_copy(update={"select_num_ods": 999})).real) == len(val)
    assert ValidationTrips.draw(val, network, TINY) is None
    assert ValidationTrips.draw(val, network, TINY.model_copy(update={"select_by": "nll"})) is None


def test_validation_trips_do_not_affect_the_training(small_city, tmp_path):
    plain = train(small_city, tmp_path / "plain", LONGER)
    watched = train(small_city, tmp_path / "watched", WATCHED)
    assert without_trips(watched.history) == plain.history
    assert torch.equal(weights(watched.model), weights(plain.model))
    assert watched.best_epoch == plain.best_epoch
    assert all(0 <= epoch["generation_reached"] <= 1 for epoch in watched.history)


@pytest.mark.parametrize("by", ["nll", "arrival_rate", "generation"])
def test_the_best_epoch_by_the_rule_is_kept(small_city, tmp_path, by):
    kept = {}

    def keep(metrics):
        state = read_tensors(tmp_path / "state.pt")
        kept[metrics["epoch"]] = state["model"]

    result = train(small_city, tmp_path, WATCHED.model_copy(update={"select_by": by}), on_epoch=keep)
    scores = [score(epoch, by) for epoch in result.history]
    assert len(set(scores)) > 1
    assert result.best_epoch == 1 + int(np.argmax(scores))
    assert all(torch.equal(value, kept[result.best_epoch][name]) for name, value in result.model.state_dict().items())
    assert json.loads((tmp_path / "history.json").read_text())["best_epoch"] == result.best_epoch


class _Killed(Exception):
    pass


def test_a_run_killed_while_generating_resumes_to_the_same_epoch(small_city, tmp_path):
    config = WATCHED.model_copy(update={"select_by": "generation"})
    whole = train(small_city, tmp_path / "whole", config)
    totals = []

    def killer(stage, done, total, metrics=None):
        if stage == "generating validation trips" and done == 7:
            totals.append(total)
            if len(totals) in (2, 5):
                raise _Killed

    for _ in range(2):
        with pytest.raises(_Killed):
            train(small_city, tmp_path / "killed", config, progress=killer)
        assert (tmp_path / "killed" / "state.pt").is_file()
    resumed = train(small_city, tmp_path / "killed", config, progress=killer)
    assert resumed.history == whole.history
    assert resumed.best_epoch == whole.best_epoch
    assert torch.equal(weights(resumed.model), weights(whole.model))


def test_settings_at_their_defaults_do_not_change_the_version():
    """A rule other than the default is part of the version, the published one too."""

    def settings(**student):
        config = CityConfig.model_validate({"city": "town", "source": {"kind": "synthetic"}, "student": student})
        return SETTINGS["student"].changed(SETTINGS["student"](config))

    assert settings() == settings(select_max_steps=7) == {}
    assert settings(select_by="nll", min_steps=None, patience=None) == {}
    assert settings(select_by="accuracy", select_max_steps=7) == {"select_by": "accuracy"}
    assert settings(min_steps=5, patience=2) == {"min_steps": 5, "patience": 2}
    for chosen in ({"select_num_ods": 5, "select_max_steps": 7}, {"select_by": "arrival_rate", "select_max_steps": 7}):
        assert settings(**chosen) == chosen
    assert StudentConfig(select_by="arrival_rate").num_validation_ods == 200


@pytest.mark.parametrize("path", sorted(CONFIG_FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_published_cities_keep_the_published_rule(path):
    config = load_config(path)
    published = config.source.kind == "huggingface"
    assert config.student.select_by == ("accuracy" if published else "nll")
    assert SETTINGS["student"].changed(SETTINGS["student"](config)).get("select_by") == (
        "accuracy" if published else None
    )


def test_shares_of_several_processes_are_combined(small_city, small_model, monkeypatch):
    """Three processes, here threads, generate a third each: all return the metrics of all trips."""
    sample = ValidationTrips.draw(small_city.trips["val"], small_city.network, WATCHED)
    small_model.eval()
    alone = sample.metrics(small_model)
    here, all_here, added = threading.local(), threading.Barrier(3), {}

    def add(_, values, device):
        added[here.rank] = values
        all_here.wait()
        total = sum(added.values())
        all_here.wait()
        return total

    def process(rank):
        here.rank = rank
        return sample.metrics(small_model)

    monkeypatch.setattr(DistributedContext, "sum", add)
    monkeypatch.setattr(DistributedContext, "current", classmethod(lambda cls: cls(here.rank, 3)))
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(process, range(3))) == [alone] * 3
