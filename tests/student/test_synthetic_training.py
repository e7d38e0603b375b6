"""Training on synthetic trips (recipe `sequence`) and label smoothing: losses, times, budgets, bit-equal defaults."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hoser_cities import TINY
from small_city import random_trips
from test_training import teacher_labels, train, weights

from hoser_kd.config.distill import DistillConfig
from hoser_kd.generation.student_trips import sample_trips
from hoser_kd.hoser import HOSER, collate
from hoser_kd.network.class_speeds import ClassSpeeds, hour_of_day
from hoser_kd.network.trajectories import concatenate
from hoser_kd.student.losses import LossContext, StoredLabels, kl_loss, loss_terms, next_step_loss
from hoser_kd.student.training_budget import TrainingBudget
from hoser_kd.student.training_data import TrainingData, with_times
from hoser_kd.student.training_inputs import training_rows
from hoser_kd.student.training_key import training_key

SEQUENCE = DistillConfig(recipe=["sequence"])
BOTH = DistillConfig(recipe=["kl", "sequence"], lambda_kl=0.5)


def synthetic_trips(city, count=40, seed=9):
    trips = random_trips(city.network, count, seed, lengths=(3, 12))
    return replace(trips, times=np.zeros_like(trips.times))


def model_of(city):
    torch.manual_seed(0)
    return HOSER.build(TINY, city.network, city.zones, city.transitions, log1p_mean=2.0, log1p_std=1.0)


def terms_of(city, data, distill, config=TINY, model=None):
    source = None
    if distill is not None and distill.uses_kl:
        train_trips = city.trips["train"]
        source = data.labels(StoredLabels(teacher_labels(city.network, train_trips), train_trips))
    model = model or model_of(city)
    context = LossContext(model.time_scale, config, distill, source, first_synthetic=data.first_synthetic)
    return {term.name: term for term in loss_terms(context)}


def data_of(city, num_own=20, synthetic=None):
    rows = training_rows(len(city.trips["train"]), num_own / len(city.trips["train"]), 0)
    return rows, TrainingData.of(city.trips["train"], rows, synthetic, city.network, 0)


@pytest.mark.parametrize(
    ("config", "distill"),
    [
        ({}, None),
        ({"label_smoothing": 0.0}, None),
        ({}, DistillConfig(lambda_kl=0)),
        ({}, DistillConfig(lambda_kl=0.5)),
    ],
)
def test_without_the_recipe_weights_and_key_are_those_of_before(small_city, tmp_path, config, distill):
    """The losses are written out here as they were before synthetic trips; the trainer's must be equal bit for bit."""
    _, data = data_of(small_city)
    assert data.trips is small_city.trips["train"]
    model = model_of(small_city).train()
    batch = collate(data.trips, data.rows[:8])
    output = model(batch)
    terms = terms_of(small_city, data, distill, TINY.model_copy(update=config), model)
    rows = torch.log_softmax(output.logits[output.step_mask], dim=1)
    next_step = -rows.gather(1, output.label[output.step_mask][:, None]).mean()
    label = torch.log1p(output.seconds[output.step_mask])
    predicted = model.time_scale.log1p_seconds(output.time_pred[output.step_mask])
    time = ((predicted - label).abs() / label.clamp(min=1)).mean()
    assert torch.equal(terms["next_step"].compute(batch, output, 0), next_step)
    assert torch.equal(terms["time"].compute(batch, output, 0), time)
    assert ("kl" in terms) == (distill is not None and distill.lambda_kl > 0)


def test_the_key_of_a_training_without_the_recipe_has_no_new_part(small_city, monkeypatch):
    """A training that was interrupted before the update resumes after it."""
    hashed = []
    monkeypatch.setattr(
        "hoser_kd.student.training_key.digest_json", lambda value: hashed.append(value) or "0" * 64, raising=True
    )
    trips = small_city.trips
    labels = teacher_labels(small_city.network, trips["train"])
    city = (small_city.network, small_city.zones, small_city.transitions)
    training_key(TINY, 0, city, (trips["train"], trips["val"]), distill=DistillConfig(), labels=labels)
    assert "synthetic" not in hashed[-1]
    assert not {"recipe", "synthetic_weight"} & hashed[-1]["distill"].keys()
    assert "label_smoothing" not in hashed[-1]["student"]
    changed = TINY.model_copy(update={"label_smoothing": 0.1})
    training_key(
        changed, 0, city, (trips["train"], trips["val"]), distill=SEQUENCE, synthetic=synthetic_trips(small_city)
    )
    assert {"synthetic"} <= hashed[-1].keys()
    assert hashed[-1]["distill"]["recipe"] == ["sequence"]
    assert hashed[-1]["student"]["label_smoothing"] == 0.1


def test_the_recipe_trains_on_own_and_synthetic_trips(small_city, tmp_path):
    """The synthetic trips lower the NLL on trips like them, and a repetition gives the same weights."""
    config = TINY.model_copy(update={"train_fraction": 0.25, "max_epochs": 4})
    synthetic = synthetic_trips(small_city)
    results = [
        train(small_city, tmp_path / name, config, distill=SEQUENCE, synthetic=synthetic, seed=1) for name in ("a", "b")
    ]
    assert torch.equal(weights(results[0].model), weights(results[1].model))
    assert results[0].history == results[1].history
    plain = train(small_city, tmp_path / "plain", config, seed=1)
    assert not torch.equal(weights(results[0].model), weights(plain.model))
    own = training_rows(len(small_city.trips["train"]), 0.25, 1)
    trips = with_times(synthetic, small_city.trips["train"].take(own), small_city.network, 1)
    nlls = []
    for result in (plain, results[0]):
        batch = collate(trips, np.arange(len(trips)))
        with torch.no_grad():
            nlls.append(next_step_loss(result.model.eval()(batch)).item())
    assert nlls[1] < nlls[0]


def test_a_killed_training_with_the_recipe_resumes_to_the_same_weights(small_city, tmp_path):
    class Killed(Exception):
        pass

    def killer(stage, done, total, metrics=None):
        if done == total - 1:
            raise Killed

    labels = teacher_labels(small_city.network, small_city.trips["train"])
    more = {"distill": BOTH, "labels": labels, "synthetic": synthetic_trips(small_city)}
    whole = train(small_city, tmp_path / "whole", **more)
    with pytest.raises(Killed):
        train(small_city, tmp_path / "killed", progress=killer, **more)
    resumed = train(small_city, tmp_path / "killed", **more)
    assert torch.equal(weights(resumed.model), weights(whole.model))


def test_every_term_is_a_mean_over_all_steps(small_city):
    """Own steps alone have a time loss and a divergence; steps of synthetic trips have their weight."""
    synthetic = synthetic_trips(small_city)
    rows, data = data_of(small_city, 20, synthetic)
    assert (len(data.trips), data.first_synthetic) == (len(rows) + 40, len(rows))
    model = model_of(small_city).eval()
    distill = BOTH.model_copy(update={"synthetic_weight": 0.25})
    terms = terms_of(small_city, data, distill, model=model)
    chosen = np.array([3, len(rows) + 1, 0, len(rows) + 7])
    batch = collate(data.trips, chosen)
    output = model(batch)
    mask = output.step_mask
    own = (torch.tensor([True, False, True, False])[:, None] & mask)[mask]
    log_p = torch.log_softmax(output.logits[mask], 1)
    nll = -log_p.gather(1, output.label[mask][:, None])[:, 0]
    expected = torch.where(own, nll, 0.25 * nll).mean()
    torch.testing.assert_close(terms["next_step"].compute(batch, output, 0), expected)
    label = torch.log1p(output.seconds[mask])
    error = (model.time_scale.log1p_seconds(output.time_pred[mask]) - label).abs() / label.clamp(min=1)
    torch.testing.assert_close(terms["time"].compute(batch, output, 0), (error * own).sum() / len(own))
    # the labels of the own trips are those of their rows in the training split
    train_trips = small_city.trips["train"]
    alone = collate(train_trips, rows[[3, 0]])
    part = model(alone)
    scores = StoredLabels(teacher_labels(small_city.network, train_trips), train_trips)(alone, part.candidates)
    kl = kl_loss(part.logits, scores, part.candidate_mask, 2.0, reduction="none").sum() / len(own)
    torch.testing.assert_close(terms["kl"].compute(batch, output, 0), kl)


def test_a_batch_of_synthetic_trips_alone_has_no_time_loss_and_no_divergence(small_city):
    rows, data = data_of(small_city, 20, synthetic_trips(small_city))
    model = model_of(small_city)
    terms = terms_of(small_city, data, BOTH, model=model)
    batch = collate(data.trips, len(rows) + np.arange(4))
    output = model(batch)
    values = {name: term.compute(batch, output, 0) for name, term in terms.items()}
    assert (values["time"].item(), values["kl"].item()) == (0, 0)
    sum(values.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_times_come_from_the_own_trips_alone(small_city):
    train_trips, network = small_city.trips["train"], small_city.network
    synthetic = synthetic_trips(small_city)
    rows, data = data_of(small_city, 20, synthetic)
    own = train_trips.take(rows)
    filled = data.trips.take(np.arange(len(rows), len(data.trips)))
    np.testing.assert_array_equal(filled.road_ids, synthetic.road_ids)
    assert set(filled.start_times) <= set(own.start_times)
    assert len(set(filled.start_times)) > 5
    speeds = ClassSpeeds.fit(own, network)
    for trip in (0, 17):
        times = filled.times[filled.offsets[trip] : filled.offsets[trip + 1]]
        roads = filled.roads(trip)[:-1]
        speed = speeds.by_hour[hour_of_day(times[:1])[0], network.road_type[roads]]
        np.testing.assert_allclose(times[1:] - times[0], np.cumsum(network.length_m[roads] / speed), atol=0.51)
    # other trips of the split have no influence
    others = np.setdiff1d(np.arange(len(train_trips)), rows)
    slower = train_trips.times.copy()
    at = np.concatenate([np.arange(train_trips.offsets[row], train_trips.offsets[row + 1]) for row in others])
    slower[at] += 1000 * np.arange(len(at))
    again = TrainingData.of(replace(train_trips, times=slower), rows, synthetic, network, 0)
    np.testing.assert_array_equal(again.trips.times, data.trips.times)
    assert not np.array_equal(with_times(synthetic, own, network, 1).times, filled.times)


def test_the_mean_of_the_time_loss_over_own_steps(small_city, tmp_path):
    """Over an epoch in batches of equal steps, it is that of the own trips alone, however many are synthetic."""
    _, data = data_of(small_city, 20, synthetic_trips(small_city))
    own_alone = SEQUENCE.model_copy(update={"time_loss_mean": "own_steps"})
    model = model_of(small_city)
    context = LossContext(
        model.time_scale, TINY, own_alone, first_synthetic=data.first_synthetic, own_step_share=data.own_step_share
    )
    [term] = [term for term in loss_terms(context) if term.name == "time"]

    def mean(rows):
        batch = collate(data.trips, rows)
        with torch.no_grad():
            return term.compute(batch, model.eval()(batch), 0).item()

    everything = mean(data.rows)
    share = data.own_step_share
    steps = data.trips.lengths - 1
    assert share == pytest.approx(steps[:20].sum() / steps.sum())
    assert everything == pytest.approx(mean(np.arange(20)) * share, rel=1e-5)
    assert data.own.own_step_share == 1
    # the factor does not apply to the epochs on own trips alone, after the training
    both = own_alone.model_copy(update={"recipe": ("sequence", "off_path")})
    more = {"distill": both, "synthetic": synthetic_trips(small_city), "sampler": sample_trips}
    result = train(small_city, tmp_path, TINY.model_copy(update={"max_epochs": 1}), **more)
    assert result.off_path[0]["train_time"] < 3 * result.history[0]["train_time"]


def test_epochs_have_fresh_synthetic_trips(small_city, tmp_path):
    """In turn, from the first again when all have been used; own trips are in every epoch."""
    train_trips = small_city.trips["train"]
    rows = training_rows(len(train_trips), 20 / len(train_trips), 0)
    data = TrainingData.of(train_trips, rows, synthetic_trips(small_city), small_city.network, 0, 15)
    taken = [np.split(data.rows_of(epoch), [20])[1] - 20 for epoch in range(3)]
    assert all((data.rows_of(epoch)[:20] == np.arange(20)).all() for epoch in range(3))
    assert np.concatenate(taken).tolist() == [*range(40), *range(5)]
    steps = data.trips.lengths - 1
    assert data.own_step_share == pytest.approx(steps[:20].sum() / (steps[:20].sum() + 15 / 40 * steps[20:].sum()))
    everything = TrainingData.of(train_trips, rows, synthetic_trips(small_city), small_city.network, 0, 99)
    assert everything.per_epoch is None
    few = SEQUENCE.model_copy(update={"synthetic_per_epoch": 8})
    config = TINY.model_copy(update={"train_fraction": 0.5, "max_epochs": 1})
    finished = []
    train(
        small_city,
        tmp_path,
        config,
        distill=few,
        synthetic=synthetic_trips(small_city),
        progress=lambda *report: finished.append(report[1:3]),
    )
    assert finished[-1] == (4, 4)  # 24 own and 8 synthetic trips, 8 to a step


def test_an_epoch_counts_own_and_synthetic_trips():
    config = TINY.model_copy(update={"batch_size": 8, "train_fraction": 0.1, "max_epochs": 1, "min_steps": 100})
    with_synthetic, plain = TrainingBudget.of(config, 400, 150), TrainingBudget.of(config, 400)
    assert (plain.num_trips, plain.steps_per_epoch, plain.num_epochs, plain.total_steps) == (40, 5, 20, 100)
    assert (with_synthetic.num_trips, with_synthetic.steps_per_epoch) == (40, 24)
    assert (with_synthetic.num_epochs, with_synthetic.total_steps) == (5, 120)


def test_label_smoothing_is_cross_entropy_with_a_spread_label(small_city):
    model = model_of(small_city)
    output = model(collate(small_city.trips["train"], np.arange(6)))
    mask, candidates = output.step_mask, output.candidate_mask[output.step_mask]
    label = torch.nn.functional.one_hot(output.label[mask], candidates.shape[1])
    target = 0.8 * label + 0.2 * candidates / candidates.sum(1, keepdim=True)
    log_p = output.logits[mask].log_softmax(1)
    expected = -(target * torch.where(candidates, log_p, 0.0)).sum(1).mean()
    loss = next_step_loss(output, 0.2)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_the_trainer_reads_the_label_smoothing(small_city, tmp_path):
    """The first reported loss is the smoothed one, since both trainings start with the same weights and batches."""
    losses = {}
    for smoothing in (0.0, 0.5):
        config = TINY.model_copy(update={"label_smoothing": smoothing, "max_epochs": 1})
        reports = []
        train(
            small_city,
            tmp_path / str(smoothing),
            config,
            progress=lambda *report, seen=reports: seen.append(report[3]["next_step"]) if report[3:] else None,
        )
        losses[smoothing] = reports[0]
    assert losses[0.0] != losses[0.5]


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"distill": SEQUENCE}, ValueError, "requires trips sampled from the teacher"),
        ({"synthetic": "trips"}, ValueError, "only with the recipe `sequence`"),
        ({"distill": DistillConfig(lambda_kl=0), "synthetic": "trips"}, ValueError, "only with the recipe `sequence`"),
        ({"distill": SEQUENCE, "synthetic": [[1, 2]]}, TypeError, "synthetic is of type list"),
        ({"distill": BOTH, "synthetic": "trips"}, ValueError, "requires the teacher's labels"),
    ],
)
def test_wrong_arguments_name_the_right_call(small_city, tmp_path, more, error, message):
    more = {name: synthetic_trips(small_city) if value == "trips" else value for name, value in more.items()}
    with pytest.raises(error, match=message):
        train(small_city, tmp_path, **more)
    assert not any(tmp_path.iterdir())


def test_synthetic_trips_of_another_network_are_refused(small_city, tmp_path):
    trips = synthetic_trips(small_city)
    wrong = concatenate([trips, replace(trips, road_ids=trips.road_ids + small_city.network.num_roads)])
    with pytest.raises(ValueError, match="synthetic has road"):
        train(small_city, tmp_path, distill=SEQUENCE, synthetic=wrong)
