"""Online distillation has the same loss as stored labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_city import grid_network, random_trips
from tiny_town import tiny_town

from hoser_kd.config.distill import DistillConfig
from hoser_kd.config.schema import CityConfig
from hoser_kd.config.student import StudentConfig
from hoser_kd.hoser import HOSER, collate
from hoser_kd.lmtad import LMTAD, LMTADConfig
from hoser_kd.pipeline.checks import run_checks
from hoser_kd.pipeline.run import make_all
from hoser_kd.pipeline.settings import SETTINGS
from hoser_kd.pipeline.store import Store
from hoser_kd.student.losses import Distillation, StoredLabels
from hoser_kd.student.training import train_student
from hoser_kd.teacher.online_teacher import OnlineTeacher
from hoser_kd.teacher.soft_labels import fingerprint, label

SMALL = StudentConfig(hidden_dim=16, road_id_dim=8, attribute_dim=2, max_epochs=2, batch_size=8)


@pytest.fixture(scope="module")
def city():
    network = grid_network(5)
    torch.manual_seed(0)
    teacher = LMTAD(
        LMTADConfig(block_size=32, vocab_size=network.num_roads // 2 + 3, n_layer=2, n_head=2, n_embd=16, dropout=0.0)
    ).eval()
    return network, teacher, np.arange(network.num_roads) // 2, random_trips(network, 24)


@pytest.mark.parametrize("window", ["full", 4])
@pytest.mark.parametrize("steps", ["all", 2])
def test_the_loss_is_that_of_stored_labels(city, window, steps):
    network, teacher, tokens, trips = city
    torch.manual_seed(1)
    model = HOSER.build(
        SMALL, network, np.zeros(network.num_roads, np.int64), np.zeros((1, 1), np.int64), log1p_mean=3.0, log1p_std=0.5
    )
    stored = StoredLabels(label(teacher, tokens, trips, network, window), trips)
    online = OnlineTeacher(teacher, tokens, network, window)
    config = DistillConfig(window=window, sample_steps_per_trace=steps)
    for rows in (np.arange(8), np.array([23, 3, 11])):
        batch = collate(trips, rows)
        output = model(batch)
        losses = [Distillation(config, source).loss(batch, output, epoch=0) for source in (stored, online)]
        torch.testing.assert_close(losses[0], losses[1], atol=1e-4, rtol=0)


def test_a_teacher_reads_the_destination_of_a_batch(city):
    """For a trip that the student samples, the destination is that of its request, not the road where it is."""
    network, _, tokens, trips = city
    torch.manual_seed(0)
    teacher = LMTAD(LMTADConfig(32, network.num_roads // 2 + 3, 2, 2, 16, destination_prefix=True)).eval()
    online = OnlineTeacher(teacher, tokens, network)
    batch = collate(trips, np.arange(4))
    candidates = torch.from_numpy(padded(network, torch.where(batch.step_mask, batch.road_ids[:, :-1], -1).numpy()))
    of_last_roads = online(batch, candidates)
    torch.testing.assert_close(online(replace(batch, own_destinations=batch.destinations), candidates), of_last_roads)
    elsewhere = replace(batch, own_destinations=(batch.destinations + 7) % network.num_roads)
    assert (online(elsewhere, candidates) - of_last_roads)[candidates >= 0].abs().max() > 1e-4


def padded(network, roads):
    """Candidates of each road, -1 where there is none; rows of padding have none."""
    width = int(network.successors.degrees.max())
    rows = np.full((*roads.shape, width), -1, np.int64)
    for at, road in np.ndenumerate(roads):
        if road >= 0:
            successors = network.successors.row(road)
            rows[at][: len(successors)] = successors
    return rows


def test_a_student_trains_with_an_online_teacher(city, tmp_path):
    network, teacher, tokens, trips = city
    zones, transitions = np.zeros(network.num_roads, np.int64), np.zeros((1, 1), np.int64)
    histories = [
        train_student(
            network,
            zones,
            transitions,
            trips,
            trips,
            SMALL,
            distill=DistillConfig(lambda_kl=0.5),
            labels=source,
            folder=tmp_path / name,
        ).history
        for name, source in (
            ("stored", label(teacher, tokens, trips, network)),
            ("online", OnlineTeacher(teacher, tokens, network)),
        )
    ]
    for stored, online in zip(*histories, strict=True):
        assert online["train_kl"] == pytest.approx(stored["train_kl"], abs=1e-4)
        assert online["nll"] == pytest.approx(stored["nll"], abs=1e-4)


def test_the_students_autocast_does_not_apply_to_the_teacher(city):
    network, teacher, tokens, trips = city
    torch.manual_seed(1)
    model = HOSER.build(
        SMALL, network, np.zeros(network.num_roads, np.int64), np.zeros((1, 1), np.int64), log1p_mean=3.0, log1p_std=0.5
    )
    batch = collate(trips, np.arange(8))
    candidates = model(batch).candidates
    online = OnlineTeacher(teacher, tokens, network)
    plain = online(batch, candidates)
    with torch.autocast("cpu", torch.bfloat16):
        inside = online(batch, candidates)
    assert torch.equal(inside, plain)


def test_the_fingerprint_of_an_online_teacher(city):
    network, teacher, tokens, trips = city
    stored = fingerprint(teacher, tokens, trips, network, 4)
    online = OnlineTeacher(teacher, tokens, network, 4).fingerprint
    assert online == {part: stored[part] for part in ("teacher", "grid", "roads", "window")}


def test_a_batch_does_not_digest_the_teacher_again(city, monkeypatch):
    network, teacher, tokens, trips = city
    torch.manual_seed(1)
    model = HOSER.build(
        SMALL, network, np.zeros(network.num_roads, np.int64), np.zeros((1, 1), np.int64), log1p_mean=3.0, log1p_std=0.5
    )
    batch = collate(trips, np.arange(8))
    online = OnlineTeacher(teacher, tokens, network)

    def refuse(*_):
        raise AssertionError("a digest in the training loop")

    monkeypatch.setattr("hoser_kd.teacher.soft_labels.digest_arrays", refuse)
    online(batch, model(batch).candidates)


def town(**distill) -> CityConfig:
    return tiny_town(
        distill={"window": 4, "shared_cells": "split", "sample_steps_per_trace": 3} | distill,
        generation={"num_trips": 3, "max_steps": 100},
    )


def test_online_and_stored_labels_train_the_same_students(tmp_path):
    """Through the stages: only the setting differs, and no label file is written."""
    store, made = Store(tmp_path), {}
    for labels in ("stored", "online"):
        made[labels] = make_all(["trajectory_metrics"], town(labels=labels), store, device="cpu", stop_at_checks=False)
    stored, online = made["stored"], made["online"]
    assert not list(online["teacher_soft_labels"].path.glob("*.arrow"))
    assert (online["teacher_soft_labels"].path / "diagnostics.png").is_file()
    assert online["teacher_soft_labels"].summary["labels"] == "online"
    for name in ("sample_candidate_mass", "sample_entropy_nats", "sample_top_is_true"):
        assert online["teacher_soft_labels"].summary[name] == stored["teacher_soft_labels"].summary[name]
    assert all(result.passed for result in run_checks(online["teacher_soft_labels"], online))
    [ours], [theirs] = (each["distilled_student"].summary["epochs"] for each in (online, stored))
    assert {"train_kl", "teacher_kl", "teacher_agreement"} <= set(ours)
    assert ours == pytest.approx(theirs, abs=1e-4, rel=0)
    shown = [
        {row["metric"]: row["distilled"] for row in each["trajectory_metrics"].summary["comparison"]}
        for each in (online, stored)
    ]
    assert shown[0]["next_step.teacher_agreement"] == pytest.approx(shown[1]["next_step.teacher_agreement"], abs=1e-3)
    # the teacher and all in front of it serve both
    assert {name for name in stored if stored[name].version != online[name].version} == {
        "teacher_soft_labels",
        "distilled_student",
        "generated_trajectories",
        "trajectory_metrics",
    }


def test_stored_labels_keep_the_version_they_had_before_there_was_a_choice():
    section = SETTINGS["labels"]
    assert section.changed(section(town())) == {"window": 4}
    assert section.changed(section(town(labels="online"))) == {"window": 4, "labels": "online"}
    assert "labels" not in SETTINGS["distillation"](town(labels="online"))
