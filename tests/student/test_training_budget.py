"""Length of a training: a minimum number of steps, early stopping, a share of the trips, and warnings."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hoser_cities import TINY, count_transitions
from test_training import train, weights

from hoser_kd.common.distributed import DistributedContext
from hoser_kd.config.distill import DistillConfig
from hoser_kd.config.student import StudentConfig
from hoser_kd.hoser.features import zone_graph
from hoser_kd.student import training
from hoser_kd.student.training_budget import TrainingBudget, training_warnings

FAST = TINY.model_copy(update={"max_epochs": 12, "learning_rate": 0.05})
"""Overfits within a few epochs, so that early stopping ends it."""


@pytest.mark.parametrize(
    ("student", "trips", "steps_per_epoch", "epochs"),
    [
        ({"max_epochs": 6, "batch_size": 16}, 2400, 150, 6),
        ({"max_epochs": 6, "batch_size": 16, "min_steps": 900}, 2400, 150, 6),
        ({"max_epochs": 6, "batch_size": 16, "min_steps": 901}, 2400, 150, 7),
        ({"max_epochs": 6, "batch_size": 16, "min_steps": 900, "train_fraction": 0.1}, 240, 15, 60),
        ({"max_epochs": 6, "batch_size": 16, "min_steps": 900, "train_fraction": 0.3}, 720, 45, 20),
        ({"max_epochs": 2, "batch_size": 16, "min_steps": 5, "train_fraction": 1e-6}, 1, 1, 5),
        ({"max_epochs": 2, "batch_size": 2, "train_fraction": 0.0012}, 3, 2, 2),
    ],
)
def test_min_steps_raise_the_number_of_epochs(student, trips, steps_per_epoch, epochs):
    budget = TrainingBudget.of(StudentConfig(**student), 2400)
    assert (budget.num_trips, budget.steps_per_epoch, budget.num_epochs) == (trips, steps_per_epoch, epochs)
    assert budget.total_steps == steps_per_epoch * epochs


def test_every_share_of_the_trips_gets_the_same_steps_and_the_whole_schedule(small_city, tmp_path):
    """48 trips in batches of 8: 6 steps per epoch, or 2 with a quarter of the trips."""
    rates = {}
    for fraction, epochs in ((1.0, 4), (0.25, 12)):
        config = TINY.model_copy(update={"min_steps": 24, "train_fraction": fraction, "max_epochs": 1})
        steps = []

        def progress(stage, done, total, metrics=None, steps=steps):
            if stage == "training":
                steps.append((done, total, metrics["learning_rate"]))

        result = train(small_city, tmp_path / str(fraction), config, progress=progress)
        assert len(result.history) == epochs
        assert [step[:2] for step in steps] == [(done, 24) for done in range(1, 25)]
        rates[fraction] = [step[2] for step in steps]
    assert rates[1.0] == rates[0.25]
    assert rates[1.0][-1] == pytest.approx(0, abs=1e-9)
    assert all(a >= b for a, b in pairwise(rates[1.0][3:]))


def stopped_early(small_city, folder, **student):
    config = FAST.model_copy(update={"patience": 2, **student})
    return config, train(small_city, folder, config)


def test_training_stops_after_epochs_without_improvement(small_city, tmp_path):
    """All epochs up to the stop, and the epoch kept, are those of the training without patience."""
    whole = train(small_city, tmp_path / "whole", FAST)
    _, result = stopped_early(small_city, tmp_path / "early")
    assert 3 <= len(result.history) == result.best_epoch + 2 < FAST.max_epochs
    assert result.history == whole.history[: len(result.history)]


def test_early_stopping_waits_for_the_minimum_of_steps(small_city, tmp_path):
    """6 steps per epoch: 61 steps are reached after 11 of 12 epochs."""
    _, result = stopped_early(small_city, tmp_path, min_steps=61)
    assert len(result.history) == 11


class _Killed(Exception):
    pass


@pytest.mark.parametrize("epochs_before_the_end", [0, 1])
def test_an_early_stopped_training_that_was_killed_resumes_to_the_same_result(
    small_city, tmp_path, epochs_before_the_end
):
    """Killed after the epoch that exhausts the patience, or one epoch before: no epoch is trained too many."""
    config, whole = stopped_early(small_city, tmp_path / "whole")
    end = len(whole.history)
    epochs = []

    def killer(metrics):
        epochs.append(metrics["epoch"])
        if len(epochs) == end - epochs_before_the_end:
            raise _Killed

    with pytest.raises(_Killed):
        train(small_city, tmp_path / "killed", config, on_epoch=killer)
    resumed = train(small_city, tmp_path / "killed", config, on_epoch=killer)
    assert epochs == [float(epoch) for epoch in range(1, end + 1)]
    assert resumed.history == whole.history
    assert resumed.best_epoch == whole.best_epoch
    assert torch.equal(weights(resumed.model), weights(whole.model))


@pytest.mark.parametrize(("main_stops", "this_stops"), [(True, False), (False, True)])
def test_the_main_process_decides_when_to_stop(monkeypatch, main_stops, this_stops):
    """A validator may return slightly different metrics in another process."""
    history = {stops: [{"nll": nll} for nll in ((0.4, 0.5) if stops else (0.5, 0.4))] for stops in (True, False)}
    config = TINY.model_copy(update={"patience": 1})
    budget = TrainingBudget.of(config, 48)
    sent = {}

    def add(context, values, device):
        sent[context.rank] = values
        return sum(sent.values())

    monkeypatch.setattr(DistributedContext, "sum", add)
    for rank, stops in ((0, main_stops), (1, this_stops)):
        monkeypatch.setattr(DistributedContext, "current", classmethod(lambda cls, rank=rank: cls(rank, 2)))
        decision = training._stops_early(history[stops], config, budget, torch.device("cpu"))
    assert decision is main_stops


def test_the_zone_graph_of_a_share_counts_the_students_own_trips(small_city, tmp_path):
    """Also where the given counts are those that a data set ships."""
    shipped = np.ones_like(small_city.transitions)
    rows = []

    def teacher(batch, candidates):
        rows.extend(batch.rows.tolist())
        return torch.zeros(candidates.shape)

    def graph_of(fraction, **more):
        config = TINY.model_copy(update={"train_fraction": fraction, "max_epochs": 1})
        return train(replace(small_city, transitions=shipped), tmp_path / str(fraction), config, **more).model

    own = graph_of(0.25, distill=DistillConfig(), labels=teacher)
    assert len(set(rows)) == 12
    trips = small_city.trips["train"].take(np.unique(rows))
    assert_graph(own, count_transitions(small_city.zones, trips, len(shipped)))
    assert_graph(graph_of(1.0), shipped)


def assert_graph(model, transitions):
    edges, edge_weights = zone_graph(transitions)
    np.testing.assert_array_equal(model.road_network_encoder.zone_edge_index.numpy(), edges)
    np.testing.assert_array_equal(model.road_network_encoder.zone_edge_weight.numpy(), edge_weights)


def test_a_share_without_zone_changes_can_be_trained(small_city, tmp_path):
    config = TINY.model_copy(update={"train_fraction": 0.01, "max_epochs": 1})
    city = replace(small_city, zones=np.zeros_like(small_city.zones))
    result = train(city, tmp_path, config)
    assert np.isfinite(result.best["nll"])
    assert result.model.road_network_encoder.zone_edge_index.shape == (2, 0)


def kinds(num_trained, best, num_trips=2400, **student):
    config = StudentConfig(**{"batch_size": 16, "max_epochs": 20, **student})
    return [warning["kind"] for warning in training_warnings(config, num_trips, num_trained, best)]


def test_a_training_with_an_interior_best_epoch_has_no_warnings():
    assert kinds(20, 3) == kinds(20, 19) == kinds(8, 5, patience=3) == []


def test_warnings_of_training():
    assert kinds(20, 2) == ["best_epoch_in_warmup"]
    assert kinds(20, 20) == kinds(3, 3, max_epochs=3) == ["last_epoch_is_best"]
    assert kinds(20, 9, num_trips=144) == ["few_steps_per_epoch"]
    assert kinds(20, 9, num_trips=145) == []
    assert kinds(20, 9, num_trips=1450, train_fraction=0.09) == ["few_steps_per_epoch"]
    assert kinds(20, 1, num_trips=30) == ["few_steps_per_epoch", "best_epoch_in_warmup"]
    # 240 steps of min_steps are 24 epochs, whose warm-up is 2.4 epochs
    assert kinds(24, 2, num_trips=160, min_steps=240) == ["best_epoch_in_warmup"]
    assert kinds(24, 24, num_trips=160, min_steps=240) == ["last_epoch_is_best"]


def test_the_warm_up_is_a_share_of_the_epochs_after_min_steps():
    """400 steps of 10 per epoch: 40 epochs, whose warm-up is 4 epochs; 20 epochs would have 2."""
    config = StudentConfig(batch_size=16, max_epochs=20, min_steps=400)
    (warning,) = training_warnings(config, 160, 40, 4)
    assert (warning["kind"], warning["best_epoch"], warning["warmup_epochs"]) == ("best_epoch_in_warmup", 4, 4.0)
    assert training_warnings(config, 160, 40, 5) == []


def test_early_stopping_is_allowed_from_the_epoch_that_reaches_the_minimum():
    budget = TrainingBudget.of(StudentConfig(batch_size=16, min_steps=60), 96)
    assert budget.steps_per_epoch == 6
    assert [budget.allows_stop_after(epochs) for epochs in (9, 10, 11)] == [False, True, True]


def test_warnings_hold_the_numbers_behind_them():
    few, last = training_warnings(StudentConfig(batch_size=16, max_epochs=20), 144, 20, 20)
    assert (few["steps_per_epoch"], few["train_trips"], last["best_epoch"]) == (9, 144, 20)


def message(num_trained, best, num_trips=2400, **student):
    config = StudentConfig(**{"batch_size": 256, "max_epochs": 20, **student})
    (warning,) = training_warnings(config, num_trips, num_trained, best)
    return warning["message"]


def test_a_warning_names_the_setting_to_change():
    few = message(20, 9, num_trips=354)
    assert "2 for 354 training trips in batches of 256" in few
    assert few.endswith("Set `student.batch_size` to 35 or less.")
    assert TrainingBudget.of(StudentConfig(batch_size=35), 354).steps_per_epoch >= 10
    assert message(20, 9, num_trips=9, batch_size=1).endswith("Use more training trips.")
    assert "`student.select_by: nll`" in message(20, 2, num_trips=5000, select_by="accuracy")
    assert "`student.learning_rate`" in message(20, 2, num_trips=5000)
    assert "Raise `student.max_epochs`" in message(20, 20, num_trips=5000)
    assert "Raise `student.min_steps`" in message(25, 25, num_trips=5000, min_steps=500)
