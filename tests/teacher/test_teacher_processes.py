"""Several processes train the same teacher as one."""

from __future__ import annotations

import pytest
import torch
from process_group import in_process_group
from test_teacher_training import TRAIN, VAL, VOCABULARY, settings, weights

from hoser_kd.teacher.training import read_training, train

# 60 sequences in batches of 59 leave a batch of one, so that one process gets none
SAME = settings(dropout=0.0, batch_size=59, max_epochs=4)


def training(folder, **more):
    return train(TRAIN, VAL, VOCABULARY, SAME.model_copy(update=more), folder, "cpu")


def test_two_processes_have_the_losses_and_weights_of_one(tmp_path):
    alone = training(tmp_path / "alone")
    in_process_group(2, lambda: training(tmp_path / "together", num_processes=2), tmp_path / "group")
    together = read_training(tmp_path / "together", SAME)
    assert together.best_epoch == alone.best_epoch
    assert together.stopped_early == alone.stopped_early
    for ours, theirs in zip(together.history, alone.history, strict=True):
        without_speed = {name: value for name, value in theirs.items() if name != "tokens_per_s"}
        assert {name: ours[name] for name in without_speed} == pytest.approx(without_speed, rel=1e-4)
    for name, value in weights(alone).items():
        torch.testing.assert_close(weights(together)[name], value, rtol=0, atol=1e-4)


def test_an_interrupted_training_resumes_with_another_number_of_processes(tmp_path):
    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(TRAIN, VAL, VOCABULARY, SAME, tmp_path / "teacher", "cpu", on_epoch=stop)
    in_process_group(2, lambda: training(tmp_path / "teacher", num_processes=2), tmp_path / "group")
    resumed, whole = read_training(tmp_path / "teacher", SAME), training(tmp_path / "whole")
    assert [row["val_loss"] for row in resumed.history] == pytest.approx(
        [row["val_loss"] for row in whole.history], rel=1e-4
    )
