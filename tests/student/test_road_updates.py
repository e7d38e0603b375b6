"""`student.road_updates: touched_rows` trains the same student, in one process and in two, interrupted or not."""

from __future__ import annotations

import pytest
import torch
from hoser_cities import TINY
from process_group import in_process_group

from hoser_kd.common.distributed import DistributedContext
from hoser_kd.config.student import StudentConfig
from hoser_kd.hoser import load
from hoser_kd.student.training import train_student
from hoser_kd.student.training_checkpoint import read_result

DENSE = TINY.model_copy(update={"micro_batch_size": 3, "weight_decay": 0.3, "learning_rate": 0.01})
TOUCHED = DENSE.model_copy(update={"road_updates": "touched_rows"})


def train(city, folder, config, **more):
    return train_student(
        city.network,
        city.zones,
        city.transitions,
        city.trips["train"],
        city.trips["val"],
        config,
        folder=folder,
        **more,
    )


@pytest.fixture(scope="module")
def touched(small_city, tmp_path_factory):
    return train(small_city, tmp_path_factory.mktemp("touched"), TOUCHED)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def assert_same_student(one, other):
    for ours, theirs in zip(one.history, other.history, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    torch.testing.assert_close(weights(one.model), weights(other.model), rtol=0, atol=1e-3)


def test_the_student_is_that_of_dense_updates(small_city, touched, tmp_path):
    assert_same_student(touched, train(small_city, tmp_path, DENSE))


def test_two_processes_train_the_same_student(small_city, touched, tmp_path):
    in_process_group(2, lambda: train(small_city, tmp_path / "student", TOUCHED), tmp_path / "group")
    assert_same_student(touched, read_result(tmp_path / "student"))


def test_an_interrupted_training_ends_with_the_same_bits(small_city, touched, tmp_path):
    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(small_city, tmp_path, TOUCHED, on_epoch=stop)
    resumed = train(small_city, tmp_path, TOUCHED)
    assert torch.equal(weights(resumed.model), weights(touched.model))
    assert torch.equal(weights(load(tmp_path)), weights(touched.model))


def test_the_mean_of_rows_is_that_of_dense_gradients(tmp_path):
    """Three processes give other rows, one of them none."""

    def compare():
        context = DistributedContext.current()
        torch.manual_seed(context.rank)
        rows = torch.randperm(30)[: (7, 0, 12)[context.rank]].sort().values
        values = torch.randn(len(rows), 4)
        dense = torch.zeros(30, 4).index_copy_(0, rows, values)
        torch.distributed.all_reduce(dense)
        mean_rows, mean = context.mean_rows(rows, values)
        assert mean_rows.tolist() == dense.any(1).nonzero()[:, 0].tolist()
        torch.testing.assert_close(mean, dense[mean_rows] / 3)

    in_process_group(3, compare, tmp_path)


def test_the_default_leaves_the_key_of_a_training_as_it_was():
    assert "road_updates" not in StudentConfig().of_the_result()
    assert StudentConfig(road_updates="touched_rows").of_the_result()["road_updates"] == "touched_rows"
