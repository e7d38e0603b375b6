"""The recipe `pooled`: targets against the pool of `student.pools`, the term, arguments, key and resumption."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hoser_cities import TINY
from test_synthetic_training import synthetic_trips
from test_training import teacher_labels, train, weights

from hoser_kd.common.arrays import take_rows
from hoser_kd.common.errors import ConfigError, StoreError
from hoser_kd.config.distill import DistillConfig
from hoser_kd.config.pooled import PooledConfig
from hoser_kd.hoser import collate, load
from hoser_kd.network.markov import MarkovChain
from hoser_kd.student.losses import LossContext, StoredLabels, kl_loss, loss_terms
from hoser_kd.student.pooled import PooledTargets
from hoser_kd.student.pools import (
    PoolWeights,
    fit_pool,
    markov_probabilities,
    pool,
    pool_metrics,
    student_probabilities,
    teacher_probabilities,
)
from hoser_kd.student.training_inputs import training_rows
from hoser_kd.student.training_key import training_key
from hoser_kd.teacher.soft_labels import SoftLabels

POOLED = DistillConfig(recipe=["pooled"])
ONE_EPOCH = TINY.model_copy(update={"max_epochs": 1})


@pytest.fixture(scope="module")
def first(small_city, tmp_path_factory):
    """A vanilla student, as a folder: a training changes the mode of the model it is given."""
    folder = tmp_path_factory.mktemp("first")
    train(small_city, folder, ONE_EPOCH)
    return folder


def informed_labels(network, trips, seed=0):
    """Labels of a teacher that is better than chance, so that its exponent is above 0."""
    labels = teacher_labels(network, trips, seed)
    at, _ = trips.step_positions()
    taken = labels.offsets[:-1] + network.candidate_index(trips.road_ids[at], trips.road_ids[at + 1])
    labels.scores[taken] += 1.0
    return labels


def arguments(city, first, distill=POOLED):
    return {
        "distill": distill,
        "labels": informed_labels(city.network, city.trips["train"]),
        "val_labels": informed_labels(city.network, city.trips["val"], 1),
        "first_generation": load(first),
    }


def fitted(city, first, settings=POOLED.pooled):
    train_trips, val = city.trips["train"], city.trips["val"]
    more = arguments(city, first)
    labels = StoredLabels(more["labels"], train_trips)
    student = load(first)
    return PooledTargets.fit(
        settings, train_trips, val, city.network, student=student, labels=labels, val_labels=more["val_labels"]
    )


def test_targets_are_the_pool_of_the_members(small_city, first):
    """Per batch as in `student.pools` over all steps; the exponents are those of its fit on validation."""
    trips, network = small_city.trips["train"], small_city.network
    targets = fitted(small_city, first)
    assert list(targets.exponents) == ["teacher", "student", "markov"]
    assert targets.exponents["teacher"] > 0
    chain = MarkovChain.tune(trips, small_city.trips["val"], network)
    members = [
        teacher_probabilities(informed_labels(network, trips), trips, network),
        student_probabilities(load(first), trips, network),
        markov_probabilities(chain, trips),
    ]
    expected = pool(members, PoolWeights("log_linear", tuple(targets.exponents.values())))
    batch = collate(trips, np.arange(len(trips)))
    candidates = load(first)(batch).candidates
    mask = candidates >= 0
    log_q = targets(batch, candidates).log_softmax(-1)[mask].double().numpy()
    np.testing.assert_allclose(log_q, expected.log_p, atol=1e-4)


def test_the_pool_is_no_worse_than_its_members_on_validation(small_city, first):
    alone = [
        fitted(small_city, first, PooledConfig(members=[name])).val_nll for name in ("teacher", "student", "markov")
    ]
    whole = fitted(small_city, first)
    assert whole.val_nll <= min(alone) + 1e-9
    assert whole.metrics["pool_nll"] == whole.val_nll


def test_the_term_is_the_divergence_to_the_targets(small_city, first):
    trips = small_city.trips["train"]
    targets = fitted(small_city, first)
    distill = POOLED.model_copy(update={"pooled": PooledConfig(weight=0.5)})
    model = load(first)
    [term] = [t for t in loss_terms(LossContext(model.time_scale, TINY, distill, pooled=targets)) if t.name == "pooled"]
    assert term.weight == 0.5
    batch = collate(trips, np.arange(5))
    output = model(batch)
    steps = output.step_mask
    scores = targets(batch, output.candidates)[steps]
    rows = kl_loss(output.logits[steps], scores, output.candidate_mask[steps], 1.0, reduction="none")
    torch.testing.assert_close(term.compute(batch, output, 0), rows.sum() / steps.sum())
    assert rows.sum() > 0


def test_a_trip_left_out_is_predicted_by_the_chain_of_all_other_trips(small_city, first):
    trips, network = small_city.trips["train"].take(np.arange(12)), small_city.network
    settings = PooledConfig(members=["markov"], smoothing=0.5, leave_trip_out=True)
    # the trips themselves for validation, so that the chain has an exponent above 0
    targets = PooledTargets.fit(settings, trips, trips, network)
    batch = collate(trips, np.arange(len(trips)))
    output = load(first)(batch)
    found = (targets(batch, output.candidates) / targets.exponents["markov"]).log_softmax(-1)
    for row in range(len(trips)):
        others = MarkovChain.fit(trips.take(np.delete(np.arange(len(trips)), row)), network, 0.5)
        expected = markov_probabilities(others, trips.take(np.array([row]))).log_p
        valid = output.candidate_mask[row] & output.step_mask[row][:, None]
        np.testing.assert_allclose(found[row][valid].double().numpy(), expected, atol=1e-5)


def test_only_counted_trips_are_left_out(small_city, first):
    """Synthetic trips follow the own trips in the rows of a training, and are not counted."""
    trips, network = small_city.trips["train"], small_city.network
    batch = collate(trips, np.arange(10))
    candidates = load(first)(batch).candidates

    def targets(num_counted_rows, *, leave_trip_out):
        settings = PooledConfig(members=["markov"], smoothing=0.5, leave_trip_out=leave_trip_out)
        fitted = PooledTargets.fit(settings, trips, trips, network, num_counted_rows=num_counted_rows)
        return fitted(batch, candidates).log_softmax(-1)

    counted, left_out = targets(None, leave_trip_out=False), targets(None, leave_trip_out=True)
    part = targets(4, leave_trip_out=True)
    torch.testing.assert_close(part[:4], left_out[:4], equal_nan=True)
    torch.testing.assert_close(part[4:], counted[4:], equal_nan=True)
    assert not torch.allclose(left_out.nan_to_num(0, neginf=0), counted.nan_to_num(0, neginf=0), atol=1e-3)


def test_the_chain_counts_the_own_share_or_all_trips(small_city, first, tmp_path):
    """The fit on validation shows what was counted."""
    tenth, val = TINY.model_copy(update={"train_fraction": 0.1, "max_epochs": 1}), small_city.trips["val"]
    for chain_trips in ("own", "all"):
        pooled = {"members": ["markov"], "smoothing": 1.0, "chain_trips": chain_trips}
        distill = DistillConfig(recipe=["pooled"], pooled=pooled)
        history = train(small_city, tmp_path / chain_trips, tenth, distill=distill).history
        counted = small_city.trips["train"]
        if chain_trips == "own":
            counted = counted.take(training_rows(len(counted), 0.1, 0))
        chain = markov_probabilities(MarkovChain.fit(counted, small_city.network, 1.0), val)
        assert history[-1]["pool_nll"] == pytest.approx(pool_metrics([chain], fit_pool([chain], "log_linear"))["nll"])


def test_further_teachers_are_members_of_the_pool(small_city, first):
    """The first teacher is better than chance, the second one knows less."""
    trips, val, network = small_city.trips["train"], small_city.trips["val"], small_city.network
    more = arguments(small_city, first)

    def second(batch, candidates):
        return torch.where(candidates >= 0, (candidates % 5).float(), -torch.inf)

    fit = partial(PooledTargets.fit, PooledConfig(members=["teacher"]), trips, val, network)
    labels = {"labels": StoredLabels(more["labels"], trips), "val_labels": more["val_labels"]}
    targets, alone = fit(**labels, other_teachers=[second]), fit(**labels)
    assert list(targets.exponents) == ["teacher", "teacher_2"]
    assert targets.val_nll <= alone.val_nll
    members = [teacher_probabilities(each, trips, network) for each in (more["labels"], second)]
    expected = pool(members, PoolWeights("log_linear", tuple(targets.exponents.values())))
    batch = collate(trips, np.arange(len(trips)))
    candidates = load(first)(batch).candidates
    log_q = targets(batch, candidates).log_softmax(-1)[candidates >= 0].double().numpy()
    np.testing.assert_allclose(log_q, expected.log_p, atol=1e-4)


@pytest.mark.parametrize("chunk", [7, 8192])
def test_scores_computed_once_are_those_of_the_batches(small_city, first, tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("hoser_kd.student.pooled.CHUNK_TRIPS", chunk)
    targets, trips = fitted(small_city, first), small_city.trips["train"]
    assert targets.exponents["student"] > 0
    done = []
    once = targets.with_scores_computed_once(
        trips, small_city.network, tmp_path / "new", lambda *numbers: done.append(numbers)
    )
    assert not list((tmp_path / "new").iterdir())
    assert done[-1][1:] == (len(trips), len(trips))
    for rows in (np.array([5, 0, 40]), np.arange(30)):
        batch = collate(trips, rows)
        candidates = load(first)(batch).candidates
        expected, scores = (torch.where(candidates >= 0, each(batch, candidates), 0.0) for each in (targets, once))
        torch.testing.assert_close(scores, expected, atol=2e-5, rtol=0)
    without = replace(targets, members={"markov": targets.members["markov"]})
    assert without.with_scores_computed_once(trips, small_city.network, tmp_path / "none") is without
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(("epochs", "share", "times"), [(1, 1.0, 0), (2, 1.0, 1), (2, 0.5, 0), (3, 0.5, 1)])
def test_scores_are_computed_once_where_that_is_less_work(
    small_city, first, tmp_path, monkeypatch, epochs, share, times
):
    calls = []
    original = PooledTargets.with_scores_computed_once

    def counted(self, *arguments):
        calls.append(arguments)
        return original(self, *arguments)

    monkeypatch.setattr(PooledTargets, "with_scores_computed_once", counted)
    config = TINY.model_copy(update={"max_epochs": epochs, "train_fraction": share})
    train(small_city, tmp_path, config, **arguments(small_city, first))
    assert len(calls) == times


def test_the_student_comes_closer_to_the_pool(small_city, first, tmp_path):
    """After the same epochs as a vanilla student, its divergence from the pool on validation is smaller."""
    targets = fitted(small_city, first)
    heavy = DistillConfig(recipe=["pooled"], pooled={"weight": 20.0})
    pooled = train(small_city, tmp_path / "pooled", TINY, **arguments(small_city, first, heavy))
    vanilla = train(small_city, tmp_path / "vanilla", TINY)
    batch = collate(small_city.trips["train"], np.arange(20))
    divergences = []
    for result in (pooled, vanilla):
        output = result.model.eval()(batch)
        steps = output.step_mask
        scores = targets(batch, output.candidates)[steps]
        divergences.append(kl_loss(output.logits[steps], scores, output.candidate_mask[steps], 1.0).item())
    assert divergences[0] < divergences[1]
    assert {"train_pooled", "pool_nll", "pool_teacher_exponent"} <= pooled.history[-1].keys()


def test_synthetic_trips_have_targets_too(small_city, first, tmp_path):
    """With a teacher that scores any trip, in this test a function of the candidates."""

    def scores(batch, candidates):
        return torch.where(candidates >= 0, (candidates % 5).float(), -torch.inf)

    both = DistillConfig(recipe=["sequence", "pooled"], labels="online")
    more = {**arguments(small_city, first, both), "labels": scores, "val_labels": scores}
    result = train(small_city, tmp_path, ONE_EPOCH, synthetic=synthetic_trips(small_city), **more)
    assert result.history[-1]["train_pooled"] > 0
    stored = {**more, "labels": informed_labels(small_city.network, small_city.trips["train"])}
    with pytest.raises(ValueError, match=r"synthetic_labels=label\(.*OnlineTeacher"):
        train(small_city, tmp_path / "stored", ONE_EPOCH, synthetic=synthetic_trips(small_city), **stored)


def scores_of_roads(network, trips):
    """Stored labels that equal `road_scores`."""
    at, _ = trips.step_positions()
    offsets, places = take_rows(network.successors.indptr, trips.road_ids[at])
    return SoftLabels(offsets, _score(network.successors.indices[places]).astype(np.float32))


def _score(roads):
    return roads * 7 % 5 - roads * 3 % 4


def road_scores(batch, candidates):
    """Scores that depend on the candidate only, so that any trip has them."""
    return torch.where(candidates >= 0, _score(candidates).float(), -torch.inf)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_stored_labels_of_synthetic_trips_train_the_same_student(small_city, first, tmp_path, share):
    """Own and synthetic trips are mixed in a batch, and their labels counted each from their own first row."""
    config = TINY.model_copy(update={"max_epochs": 2, "train_fraction": share})
    network, synthetic = small_city.network, synthetic_trips(small_city)
    results = {}
    for labels in ("online", "stored"):
        both = DistillConfig(recipe=["sequence", "pooled"], labels=labels)
        more = arguments(small_city, first, both) | {"labels": road_scores}
        if labels == "stored":
            more |= {"labels": scores_of_roads(network, small_city.trips["train"])}
            more |= {"synthetic_labels": scores_of_roads(network, synthetic)}
        results[labels] = train(small_city, tmp_path / labels, config, synthetic=synthetic, **more)
    stored, online = (results[name].model for name in ("stored", "online"))
    assert results["stored"].history[-1]["pool_teacher_exponent"] > 0
    assert torch.equal(weights(stored), weights(online))


def test_stored_labels_of_synthetic_trips_are_read_by_their_recipe_only(small_city, first, tmp_path):
    synthetic = synthetic_trips(small_city)
    more = {"synthetic": synthetic, "synthetic_labels": scores_of_roads(small_city.network, synthetic)}
    with pytest.raises(ValueError, match="synthetic_labels= is read only with"):
        train(small_city, tmp_path, distill=DistillConfig(recipe=["sequence"]), **more)
    with pytest.raises(ValueError, match="synthetic_labels= is read only with"):
        train(small_city, tmp_path, **arguments(small_city, first), synthetic_labels=more["synthetic_labels"])
    both = arguments(small_city, first, DistillConfig(recipe=["sequence", "pooled"]))
    with pytest.raises(StoreError, match="the labels belong to other trips"):
        train(small_city, tmp_path, **both, **{**more, "synthetic_labels": both["val_labels"]})
    with pytest.raises(TypeError, match="synthetic_labels"):
        train(small_city, tmp_path, **both, **{**more, "synthetic_labels": 3})


def test_without_teacher_and_student_neither_is_read(small_city, tmp_path):
    chain_alone = DistillConfig(recipe=["pooled"], pooled={"members": ["markov"], "smoothing": 1.0})
    result = train(small_city, tmp_path, ONE_EPOCH, distill=chain_alone)
    assert [name for name in result.history[-1] if name.startswith("pool_")] == ["pool_markov_exponent", "pool_nll"]


def test_a_killed_training_resumes_to_the_same_weights(small_city, first, tmp_path):
    class Killed(Exception):
        pass

    def killer(stage, done, total, metrics=None):
        if done == total - 1:
            raise Killed

    whole = train(small_city, tmp_path / "whole", **arguments(small_city, first))
    with pytest.raises(Killed):
        train(small_city, tmp_path / "killed", progress=killer, **arguments(small_city, first))
    resumed = train(small_city, tmp_path / "killed", **arguments(small_city, first))
    assert torch.equal(weights(resumed.model), weights(whole.model))


def test_the_key_has_the_pool_only_with_the_recipe(small_city, first, monkeypatch):
    hashed = []
    monkeypatch.setattr(
        "hoser_kd.student.training_key.digest_json", lambda value: hashed.append(value) or "0" * 64, raising=True
    )
    city = (small_city.network, small_city.zones, small_city.transitions)
    splits = (small_city.trips["train"], small_city.trips["val"])
    training_key(TINY, 0, city, splits, distill=DistillConfig(pooled={"weight": 2.0}))
    assert "pooled" not in {*hashed[-1], *hashed[-1]["distill"]}
    training_key(TINY, 0, city, splits, distill=POOLED, first_generation=load(first))
    assert hashed[-1]["pooled"]["members"] == ["teacher", "student", "markov"]
    assert len(hashed[-1]["pooled"]["student"]) == 64
    # keys of an earlier release, so that its trainings resume
    assert hashed[-1]["pooled"].keys() == {"weight", "members", "smoothing", "student"}
    all_trips = POOLED.model_copy(update={"pooled": PooledConfig(chain_trips="all", leave_trip_out=True)})
    training_key(TINY, 0, city, splits, distill=all_trips, first_generation=load(first))
    assert {"chain_trips", "leave_trip_out"} <= hashed[-1]["pooled"].keys()


@pytest.mark.parametrize(
    ("without", "error", "message"),
    [
        ("labels", ValueError, "requires the teacher's labels"),
        ("val_labels", ValueError, "fitted on validation trips"),
        ("first_generation", ValueError, "first_generation=load_student"),
    ],
)
def test_missing_arguments_name_the_right_call(small_city, first, tmp_path, without, error, message):
    more = {name: value for name, value in arguments(small_city, first).items() if name != without}
    with pytest.raises(error, match=message):
        train(small_city, tmp_path, **more)
    assert not any(tmp_path.iterdir())


def test_further_teachers_are_those_of_the_settings(small_city, first, tmp_path):
    named = DistillConfig(recipe=["pooled"], pooled={"members": ["markov"], "other_teachers": ["a.pt"]})
    with pytest.raises(ValueError, match=r"names 1 checkpoints and other_teachers= has 0 .* load_other_teacher"):
        train(small_city, tmp_path, distill=named)
    with pytest.raises(ValueError, match="names 0 checkpoints"):
        train(small_city, tmp_path, **arguments(small_city, first), other_teachers=[abs])
    assert not any(tmp_path.iterdir())


def test_a_student_without_the_recipe_and_of_another_type_is_refused(small_city, first, tmp_path):
    with pytest.raises(ValueError, match="only with the recipe `pooled`"):
        train(small_city, tmp_path, first_generation=load(first))
    with pytest.raises(TypeError, match="first_generation is of type"):
        train(small_city, tmp_path, **{**arguments(small_city, first), "first_generation": first})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recipe": ["pooled"], "pooled": {"members": []}}, "members is empty"),
        ({"recipe": ["pooled"], "pooled": {"members": ["markov", "markov"]}}, "each at most once"),
        ({"recipe": ["pooled"], "pooled": {"other_teachers": ["a.pt", "a.pt"]}}, "names a.pt more than once"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        DistillConfig(**settings)


def test_stored_labels_are_typed_as_sources(small_city):
    """The stage passes labels read from files."""
    trips = small_city.trips["val"]
    labels = teacher_labels(small_city.network, trips)
    stored = SoftLabels(labels.offsets, labels.scores)
    targets = PooledTargets.fit(
        PooledConfig(members=["teacher"]),
        trips,
        trips,
        small_city.network,
        labels=StoredLabels(stored, trips),
        val_labels=stored,
    )
    assert set(targets.exponents) == {"teacher"}
