"""Asking the teacher during training gives the loss that stored labels give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_city import grid_network, random_trips

from hoser_kd.config import DistillConfig, StudentConfig
from hoser_kd.distillation import Distillation, StoredLabels
from hoser_kd.hoser import HOSER, collate
from hoser_kd.lmtad import LMTAD, LMTADConfig
from hoser_kd.online import OnlineTeacher
from hoser_kd.soft_labels import label
from hoser_kd.training import train_student

SMALL = StudentConfig(hidden_dim=16, road_id_dim=8, attribute_dim=2, max_epochs=2, batch_size=8)


@pytest.fixture(scope="module")
def city():
    network = grid_network(5)
    torch.manual_seed(0)
    teacher = LMTAD(LMTADConfig(block_size=32, vocab_size=network.num_roads // 2 + 3, n_layer=2, n_head=2,
                                n_embd=16, dropout=0.0)).eval()
    return network, teacher, np.arange(network.num_roads) // 2, random_trips(network, 24)


@pytest.mark.parametrize("window", ["full", 4])
@pytest.mark.parametrize("steps", ["all", 2])
def test_the_loss_is_that_of_stored_labels(city, window, steps):
    network, teacher, tokens, trips = city
    torch.manual_seed(1)
    model = HOSER.build(SMALL, network, np.zeros(network.num_roads, np.int64), np.zeros((1, 1), np.int64),
                        log1p_mean=3.0, log1p_std=0.5)
    stored = StoredLabels(label(teacher, tokens, trips, network, window), trips)
    asked = OnlineTeacher(teacher, tokens, network, window)
    config = DistillConfig(window=window, sample_steps_per_trace=steps)
    for rows in (np.arange(8), np.array([23, 3, 11])):
        batch = collate(trips, rows)
        output = model(batch)
        losses = [Distillation(config, source).loss(batch, output, epoch=0) for source in (stored, asked)]
        torch.testing.assert_close(losses[0], losses[1], atol=1e-4, rtol=0)


def test_a_student_trains_with_the_teacher_in_the_loop(city, tmp_path):
    network, teacher, tokens, trips = city
    zones, transitions = np.zeros(network.num_roads, np.int64), np.zeros((1, 1), np.int64)
    histories = [
        train_student(network, zones, transitions, trips, trips, SMALL, distill=DistillConfig(lambda_kl=0.5),
                      labels=source, folder=tmp_path / name).history
        for name, source in (("stored", label(teacher, tokens, trips, network)),
                             ("online", OnlineTeacher(teacher, tokens, network)))
    ]
    for stored, online in zip(*histories, strict=True):
        assert online["train_kl"] == pytest.approx(stored["train_kl"], abs=1e-4)
        assert online["nll"] == pytest.approx(stored["nll"], abs=1e-4)
