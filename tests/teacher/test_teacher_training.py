"""The teacher learns, keeps its best epoch, and resumes after a kill to the same weights."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from flipped_bit import flip_bit
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from hoser_kd.common.arrays import offsets_of
from hoser_kd.common.errors import StoreError, TrainingError
from hoser_kd.config.teacher import TeacherConfig
from hoser_kd.lmtad import LMTAD, load_checkpoint
from hoser_kd.lmtad.model import LMTADConfig
from hoser_kd.teacher.corpus import Corpus, length_batches
from hoser_kd.teacher.training import PRESETS, _model_config, _seed, train

VOCABULARY = 15


def ring(num, seed, longest=12):
    """Trips round a ring of 12 cells, one cell per step: predictable from the first cell."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, longest + 1, num)
    offsets = offsets_of(lengths)
    place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    return Corpus(offsets, (np.repeat(rng.integers(0, 12, num), lengths) + place) % 12)


TRAIN, VAL = ring(60, 0), ring(12, 1)


def settings(**changes):
    return TeacherConfig(
        **{
            "preset": "tiny",
            "n_embd": 16,
            "max_epochs": 3,
            "batch_size": 8,
            "learning_rate": 3e-3,
            "dropout": 0.2,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    epochs = []
    folder = tmp_path_factory.mktemp("teacher")
    result = train(
        TRAIN, VAL, VOCABULARY, settings(), folder, "cpu", on_epoch=epochs.append, dataset_config={"grip_size": (3, 4)}
    )
    return result, epochs


def weights(result):
    return result.checkpoint.model.state_dict()


def test_it_learns_and_reports(trained):
    result, epochs = trained
    assert epochs == result.history
    assert [row["epoch"] for row in result.history] == [1, 2, 3]
    assert [row["step"] for row in result.history] == [8, 16, 24]
    assert set(result.history[0]) == {
        "epoch",
        "step",
        "train_loss",
        "val_loss",
        "val_perplexity",
        "learning_rate",
        "tokens_per_s",
    }
    assert result.history[0]["val_loss"] < math.log(VOCABULARY)
    assert (
        result.best_val_loss
        == result.history[result.best_epoch - 1]["val_loss"]
        == min(row["val_loss"] for row in result.history)
    )
    assert result.history[0]["val_perplexity"] == pytest.approx(math.exp(result.history[0]["val_loss"]))
    assert not result.checkpoint.model.training
    assert not result.stopped_early


def test_the_folder_holds_teacher_history_and_curves(trained):
    result, _ = trained
    loaded = load_checkpoint(result.folder)
    assert loaded.dataset_config == {"grip_size": (3, 4)}
    assert loaded.config == LMTADConfig(14, VOCABULARY, 2, 2, 16, 0.2)
    assert json.loads((result.folder / "history.json").read_text()) == result.history
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = EventAccumulator(str(result.folder / "tensorboard")).Reload()
    assert [event.step for event in curves.Scalars("epoch/val_loss")] == [8, 16, 24]


def test_the_kept_weights_have_the_reported_validation_loss(trained):
    result, _ = trained
    batch = torch.from_numpy(VAL.batch(np.arange(VAL.num_sequences), result.checkpoint.config))
    with torch.no_grad():
        assert float(result.checkpoint.model.loss(batch)) == pytest.approx(result.best_val_loss, abs=1e-5)


def test_steps_are_those_of_the_recipe(tmp_path):
    config = settings(max_epochs=2, batch_size=60, dropout=0, max_norm=0.05, weight_decay=0.3, warmup_ratio=0)
    result = train(TRAIN, VAL, VOCABULARY, config, tmp_path, "cpu")
    assert result.best_epoch == 2
    torch.manual_seed(_seed(config.seed, 0))
    model = LMTAD(result.checkpoint.config)
    decayed = [p for name, p in model.named_parameters() if "ln_" not in name]
    others = [p for name, p in model.named_parameters() if "ln_" in name]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.3}, {"params": others, "weight_decay": 0}], betas=(0.9, 0.99)
    )
    tokens = torch.from_numpy(TRAIN.batch(np.arange(60), model.config))
    for rate in ((3e-3 + 3e-5) / 2, 3e-5):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        logits = model(tokens[:, :-1])
        cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=12).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        optimizer.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(weights(result)[name], value, atol=2e-5, rtol=0)


def test_the_training_loss_is_a_mean_over_tokens(tmp_path):
    result = train(TRAIN, VAL, VOCABULARY, settings(max_epochs=1, dropout=0, learning_rate=1e-9), tmp_path, "cpu")
    model = result.checkpoint.model
    tokens = torch.from_numpy(TRAIN.batch(np.arange(60), model.config))
    assert result.history[0]["train_loss"] == pytest.approx(float(model.loss(tokens).detach()), abs=1e-5)


class Killed(Exception):
    pass


def test_an_interrupted_run_resumes_to_the_same_weights(trained, tmp_path):
    whole, _ = trained

    def kill(stage, done, total, figures=None):
        if done == 13:
            raise Killed

    options = {"dataset_config": {"grip_size": (3, 4)}}
    with pytest.raises(Killed):
        train(TRAIN, VAL, VOCABULARY, settings(), tmp_path, "cpu", kill, **options)
    epochs, steps = [], []
    torch.rand(7)  # the caller's random numbers do not matter
    resumed = train(
        TRAIN,
        VAL,
        VOCABULARY,
        settings(),
        tmp_path,
        "cpu",
        lambda *call: steps.append(call[1]),
        on_epoch=epochs.append,
        **options,
    )
    assert steps[0] == 9
    assert [row["epoch"] for row in epochs] == [2, 3]
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(resumed).items())
    without_speed = [{**row, "tokens_per_s": 0} for row in whole.history]
    assert [{**row, "tokens_per_s": 0} for row in resumed.history] == without_speed


CHILD = """
import sys
from dataclasses import replace
sys.path[:0] = {path!r}
from test_teacher_training import TRAIN, VAL, VOCABULARY, settings, train

def tell(stage, done, total, figures=None):
    print(done, flush=True)
    if done == 13:
        sys.stdin.read()  # in the middle of epoch 2, until the kill

train(TRAIN, VAL, VOCABULARY, settings(), {folder!r}, "cpu", tell, dataset_config={{"grip_size": (3, 4)}})
"""


def test_a_killed_process_resumes_to_the_same_weights(trained, tmp_path):
    whole, _ = trained
    code = CHILD.format(path=[str(folder) for folder in Path(__file__).parents[:3]], folder=str(tmp_path))
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    for line in process.stdout:
        if line.strip() == "13":
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(json.loads((tmp_path / "history.json").read_text())) == 1
    epochs = []
    resumed = train(
        TRAIN,
        VAL,
        VOCABULARY,
        settings(),
        tmp_path,
        "cpu",
        on_epoch=epochs.append,
        dataset_config={"grip_size": (3, 4)},
    )
    assert [row["epoch"] for row in epochs] == [2, 3]
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(resumed).items())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in whole.folder.iterdir())


def test_a_finished_run_is_not_repeated(tmp_path):
    first = train(TRAIN, VAL, VOCABULARY, settings(max_epochs=1), tmp_path, "cpu")
    epochs = []
    again = train(TRAIN, VAL, VOCABULARY, settings(max_epochs=1), tmp_path, "cpu", on_epoch=epochs.append)
    assert epochs == []
    assert again.history == first.history
    assert all(torch.equal(value, weights(first)[name]) for name, value in weights(again).items())
    train(TRAIN, VAL, VOCABULARY, settings(max_epochs=1), tmp_path, "cpu", on_epoch=epochs.append, resume=False)
    assert len(epochs) == 1


def test_a_saved_teacher_with_a_flipped_bit_is_refused(tmp_path):
    train(TRAIN, VAL, VOCABULARY, settings(max_epochs=1), tmp_path, "cpu")
    flip_bit(tmp_path / "model.safetensors")
    with pytest.raises(StoreError, match=r"model\.safetensors: the content has changed .* resume=False"):
        train(TRAIN, VAL, VOCABULARY, settings(max_epochs=1), tmp_path, "cpu")


def test_a_state_of_another_run_is_refused(tmp_path):
    first = train(TRAIN, VAL, VOCABULARY, settings(max_epochs=1), tmp_path, "cpu")
    for config, corpus in ((settings(max_epochs=1, seed=1), TRAIN), (settings(max_epochs=1), ring(60, 5))):
        with pytest.raises(StoreError, match=r"training_state\.pt: .* other settings, data or seed.*resume=False"):
            train(corpus, VAL, VOCABULARY, config, tmp_path, "cpu")
    assert torch.equal(load_checkpoint(tmp_path).model.lm_head.weight, first.checkpoint.model.lm_head.weight)
    other = train(TRAIN, VAL, VOCABULARY, settings(max_epochs=1, seed=1), tmp_path, "cpu", resume=False)
    assert other.history != first.history


def test_patience_keeps_the_best_epoch(tmp_path):
    overfit = settings(max_epochs=30, patience=2, learning_rate=0.03, min_learning_rate=0.03, warmup_ratio=0)
    result = train(TRAIN.take(np.arange(2)), VAL, VOCABULARY, overfit, tmp_path, "cpu")
    losses = [row["val_loss"] for row in result.history]
    assert result.stopped_early
    assert result.best_epoch == int(np.argmin(losses)) + 1 == len(losses) - 2


def test_the_callers_random_numbers_are_left_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(TRAIN, VAL, VOCABULARY, settings(max_epochs=1), tmp_path, "cpu")
    assert torch.equal(torch.rand(3), expected)


def test_bfloat16_trains_to_about_the_same_loss(trained, tmp_path):
    result = train(TRAIN, VAL, VOCABULARY, settings(max_epochs=3, precision="bf16"), tmp_path, "cpu")
    assert result.best_val_loss == pytest.approx(trained[0].best_val_loss, abs=0.1)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's tracer looks at its own tensors
def test_a_compiled_model_trains_to_the_same_weights(tmp_path, monkeypatch):
    small = {"max_epochs": 1, "dropout": 0, "n_layer": 1}
    plain = train(TRAIN, VAL, VOCABULARY, settings(**small), tmp_path / "a", "cpu")
    # without the compiler's own code generation, which takes 10 s and is not ours
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    compiled = train(TRAIN, VAL, VOCABULARY, settings(**small, compile=True), tmp_path / "b", "cpu")
    assert list(weights(compiled)) == list(weights(plain))
    assert all(torch.allclose(value, weights(plain)[name], atol=1e-6) for name, value in weights(compiled).items())


def test_sequences_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(TrainingError, match=r"training sequence .* has 1[012] tokens; `teacher.block_size` 11"):
        train(TRAIN, VAL, VOCABULARY, settings(block_size=11), tmp_path, "cpu")
    at = int(VAL.offsets[3])
    spoilt = Corpus(VAL.offsets, np.where(np.arange(len(VAL.tokens)) == at, 12, VAL.tokens))
    with pytest.raises(
        TrainingError, match="validation sequence 3 holds token 12, which is out of the range of cells, 0 to 11"
    ):
        train(TRAIN, spoilt, VOCABULARY, settings(), tmp_path, "cpu")
    with pytest.raises(TrainingError, match="no validation sequences"):
        train(TRAIN, VAL.take(np.zeros(0, np.int64)), VOCABULARY, settings(), tmp_path, "cpu")


def test_a_loss_that_is_not_finite_stops_the_run_with_its_batch(tmp_path, monkeypatch):
    monkeypatch.setattr("hoser_kd.lmtad.model.LMTAD.loss", lambda self, tokens: torch.tensor(math.nan))
    with pytest.raises(TrainingError, match=r"loss is nan in epoch 1, step 1, on training sequences \[\d+, .*…"):
        train(TRAIN, VAL, VOCABULARY, settings(batch_size=20), tmp_path, "cpu")


def test_a_damaged_state_is_named(tmp_path):
    train(TRAIN, VAL, VOCABULARY, settings(max_epochs=1), tmp_path, "cpu")
    (tmp_path / "training_state.pt").write_bytes(b"damaged")
    with pytest.raises(StoreError, match=r"training_state\.pt: damaged.*Delete it, or pass resume=False"):
        train(TRAIN, VAL, VOCABULARY, settings(max_epochs=1), tmp_path, "cpu")


@pytest.mark.parametrize(("preset", "shape"), PRESETS.items())
def test_presets_and_their_changes(preset, shape):
    config = _model_config(TRAIN, VAL, VOCABULARY, TeacherConfig(preset=preset))
    assert (config.n_layer, config.n_head, config.n_embd) == shape
    assert config.block_size == max(TRAIN.lengths.max(), VAL.lengths.max()) + 2
    changed = TeacherConfig(preset=preset, n_layer=1, n_head=1, n_embd=8, block_size=99)
    assert _model_config(TRAIN, VAL, VOCABULARY, changed) == LMTADConfig(99, VOCABULARY, 1, 1, 8, 0.2)


def test_batches_are_framed_and_padded():
    config = LMTADConfig(14, VOCABULARY, 1, 1, 4)
    corpus = Corpus(np.array([0, 2, 2, 5]), np.array([7, 8, 1, 2, 3]))
    pad, eot, sot = 12, 13, 14
    expected = [[sot, 1, 2, 3, eot], [sot, eot, pad, pad, pad], [sot, 7, 8, eot, pad]]
    np.testing.assert_array_equal(corpus.batch(np.array([2, 1, 0]), config), expected)
    with_destination = replace(config, destination_prefix=True)
    expected = [[sot, 3, 1, 2, 3, eot], [sot, 8, 7, 8, eot, pad]]
    np.testing.assert_array_equal(corpus.batch(np.array([2, 0]), with_destination), expected)


@given(st.lists(st.integers(1, 50), max_size=80), st.integers(1, 9), st.one_of(st.none(), st.integers(0, 99)))
def test_every_row_is_in_one_batch(lengths, batch_size, seed):
    lengths = np.array(lengths, np.int64)
    rng = None if seed is None else np.random.default_rng(seed)
    batches = length_batches(lengths, batch_size, rng, window_batches=3)
    assert sorted(np.concatenate([*batches, np.zeros(0, int)]).tolist()) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // batch_size)
    assert all(0 < len(rows) <= batch_size for rows in batches)
