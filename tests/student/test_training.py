"""Training: the first 75 steps of the published code, seeds, resuming, and invariants of a run."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from flipped_bit import flip_bit
from hoser_cities import TINY, city_of_streets
from scipy.sparse import csr_array
from small_city import random_trips

from hoser_kd.common.arrays import offsets_of
from hoser_kd.common.errors import ConfigError, StoreError, TrainingError
from hoser_kd.common.optimizer import Optimizer, autocast, resolve_precision, warmup_cosine
from hoser_kd.config.distill import DistillConfig
from hoser_kd.config.student import StudentConfig
from hoser_kd.evaluation.validation_trips import validators_for
from hoser_kd.hoser import load, load_checkpoint
from hoser_kd.student.losses import LossContext, StoredLabels, loss_terms
from hoser_kd.student.training import StudentTrainer, bucketed_batches, train_student
from hoser_kd.student.training_key import training_key
from hoser_kd.teacher.soft_labels import SoftLabels


def teacher_labels(network, trips, seed=0):
    at, _ = trips.step_positions()
    offsets = offsets_of(network.successors.degrees[trips.road_ids[at]])
    scores = np.random.default_rng(seed).normal(size=offsets[-1]).astype(np.float32)
    return SimpleNamespace(offsets=offsets, scores=scores)


def train(city, folder, config=TINY, **more):
    return train_student(
        city.network,
        city.zones,
        city.transitions,
        city.trips["train"],
        city.trips["val"],
        config,
        folder=folder,
        **{"validators": validators_for(city.trips["val"], city.network, config), **more},
    )


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_75_published_steps(golden, golden_city, golden_io):
    """Losses, gradient norm and learning rate of every step, and the weights after the last one."""
    published = yaml.safe_load((golden / "hoser_config.yaml").read_text())["optimizer_config"]
    config = StudentConfig(
        hidden_dim=32,
        road_id_dim=16,
        attribute_dim=4,
        max_epochs=published["max_epoch"],
        **{key: published[key] for key in ("batch_size", "learning_rate", "weight_decay", "warmup_ratio", "max_norm")},
    )
    model = load_checkpoint(
        golden / "hoser_ckpt.pth",
        golden_city.network,
        golden_city.zones,
        log1p_mean=float(golden_io["log1p_mean"]),
        log1p_std=float(golden_io["log1p_std"]),
    )
    expected = golden_io["train_hist"]
    trainer = StudentTrainer(model, config, len(expected))
    trips = golden_city.trips["train"]
    for k, (next_step, time, grad_norm, learning_rate) in enumerate(expected):
        metrics = trainer.step(trips, np.arange(8) + 8 * (k % 25), epoch=k // 25)
        assert metrics["next_step"] == pytest.approx(next_step, rel=1e-4), k
        assert metrics["time"] == pytest.approx(time, rel=1e-4), k
        assert metrics["grad_norm"] == pytest.approx(grad_norm, rel=1e-4), k
        assert metrics["learning_rate"] == pytest.approx(learning_rate, rel=1e-9, abs=1e-15), k
    trained = torch.load(golden / "hoser_ckpt_trained.pth", weights_only=True)
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.detach(), trained[name], rtol=0, atol=1e-3, msg=name)


def test_result_is_the_best_epoch(small_city, tmp_path):
    epochs = []
    result = train(small_city, tmp_path, TINY.model_copy(update={"max_epochs": 4}), on_epoch=epochs.append)
    nlls = [metrics["nll"] for metrics in result.history]
    assert epochs == result.history
    assert result.best_epoch == 1 + int(np.argmin(nlls))
    assert result.best["nll"] == min(nlls)
    assert torch.equal(weights(load(tmp_path)), weights(result.model))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "history.json",
        "model.json",
        "model.safetensors",
        "tensorboard",
    ]
    assert json.loads((tmp_path / "history.json").read_text())["best_epoch"] == result.best_epoch
    assert result.history[-1]["train_next_step"] < result.history[0]["train_next_step"]
    mean, std = result.model.config.log1p_mean, result.model.config.log1p_std
    trips = small_city.trips["train"]
    at, _ = trips.step_positions()
    seconds = np.log1p(trips.times[at + 1] - trips.times[at])
    assert (mean, std) == pytest.approx((seconds.mean(), seconds.std()))


def test_metrics_of_validators_are_part_of_the_history(small_city, tmp_path):
    """Each validator gets the model and the progress callback once per epoch."""
    calls = []

    def validator(model, progress):
        calls.append((model, progress))
        return {"mine": float(len(calls))}

    def progress(*_):
        pass

    result = train(small_city, tmp_path, validators=[validator], progress=progress)
    assert [epoch["mine"] for epoch in result.history] == [float(i + 1) for i in range(TINY.max_epochs)]
    assert all(call[1] is progress for call in calls)
    assert (tmp_path / "tensorboard").is_dir()


def test_a_rule_that_needs_generated_trips_needs_a_validator(small_city, tmp_path):
    config = TINY.model_copy(update={"select_by": "generation"})
    with pytest.raises(ValueError, match=r"validators=.*validators_for"):
        train(small_city, tmp_path, config, validators=())
    assert not any(tmp_path.iterdir())


def test_seeds_repeat_and_differ(small_city, tmp_path):
    config = TINY.model_copy(update={"dropout": 0.1})
    first, again, other = (
        train(small_city, tmp_path / name, config, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert torch.equal(weights(first.model), weights(again.model))
    assert first.history == again.history
    assert not torch.equal(weights(first.model), weights(other.model))


def test_training_leaves_the_generator_alone(small_city, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(small_city, tmp_path, TINY.model_copy(update={"max_epochs": 1}))
    assert torch.equal(torch.rand(3), expected)


class _Killed(Exception):
    pass


@pytest.mark.parametrize("distilled", [False, True])
def test_a_killed_run_resumes_to_the_same_weights(small_city, tmp_path, distilled):
    config = TINY.model_copy(update={"max_epochs": 3, "dropout": 0.1})
    more = (
        {
            "distill": DistillConfig(lambda_kl=0.5, sample_steps_per_trace=2),
            "labels": teacher_labels(small_city.network, small_city.trips["train"]),
        }
        if distilled
        else {}
    )
    whole = train(small_city, tmp_path / "whole", config, **more)

    def killer(stage, done, total, metrics=None):
        if done == killer.at:
            raise _Killed

    steps = []
    for at in (9, 10, 17):
        killer.at = at
        with pytest.raises(_Killed):
            train(small_city, tmp_path / "killed", config, progress=killer, **more)
        steps.append((tmp_path / "killed" / "state.pt").exists())
    assert steps == [True, True, True]
    resumed = train(small_city, tmp_path / "killed", config, **more)
    assert resumed.history == whole.history
    assert torch.equal(weights(resumed.model), weights(whole.model))
    assert not (tmp_path / "killed" / "state.pt").exists()


def test_a_saved_student_with_a_flipped_bit_is_refused(small_city, tmp_path, monkeypatch):
    # the student of the first epoch is kept, so that no later one replaces the damaged file
    monkeypatch.setattr("hoser_kd.student.training_checkpoint.best_epoch", lambda *_: 1)
    config = TINY.model_copy(update={"max_epochs": 2})

    def kill(_stage, done, *_):
        if done == 9:
            raise _Killed

    with pytest.raises(_Killed):
        train(small_city, tmp_path, config, progress=kill)
    flip_bit(tmp_path / "model.safetensors")
    for _ in range(2):  # nothing that the first attempt writes makes the second one pass
        with pytest.raises(StoreError, match=r"model\.safetensors: the content has changed .* resume=False"):
            train(small_city, tmp_path, config)
    train(small_city, tmp_path, config, resume=False)
    flip_bit(tmp_path / "model.json")
    with pytest.raises(StoreError, match=r"model\.json: the content has changed"):
        train(small_city, tmp_path, config)


TRAINING_PROCESS = """
import sys
sys.path[:0] = sys.argv[2:]
from test_training import HARD, city_of_streets, train
train(city_of_streets(), sys.argv[1], HARD, on_epoch=lambda metrics: print(metrics["epoch"], flush=True))
"""
HARD = TINY.model_copy(update={"max_epochs": 8, "dropout": 0.1})


def test_a_process_killed_by_sigkill_resumes_to_the_same_weights(tmp_path):
    """The process gets no chance to clean up."""
    tests = Path(__file__).parents[1]
    paths = [str(tests.parent), str(tests), str(tests / "student")]
    with subprocess.Popen(
        [sys.executable, "-c", TRAINING_PROCESS, str(tmp_path / "killed"), *paths], stdout=subprocess.PIPE
    ) as process:
        assert [float(process.stdout.readline()) for _ in range(2)] == [1, 2]
        process.kill()
    assert not (tmp_path / "killed" / "history.json").exists()
    epochs = []
    resumed = train(city_of_streets(), tmp_path / "killed", HARD, on_epoch=epochs.append)
    assert epochs[0]["epoch"] >= 3
    assert epochs[-1]["epoch"] == 8
    whole = train(city_of_streets(), tmp_path / "whole", HARD)
    assert resumed.history == whole.history
    assert torch.equal(weights(resumed.model), weights(whole.model))


def memory_held(folder):
    """Train on shapes that differ from batch to batch; bytes the process holds after each epoch."""
    torch.set_num_threads(1)
    city = city_of_streets()
    city = replace(city, trips={**city.trips, "train": random_trips(city.network, 64, lengths=(2, 120))})
    held = []

    def note(_):
        held.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))

    train(city, folder, TINY.model_copy(update={"max_epochs": 12}), on_epoch=note)
    return held


def test_memory_does_not_grow_with_changing_shapes(tmp_path, monkeypatch):
    """Every batch has other shapes, and their memory is reused. Runs in its own process, to count no other memory."""
    # freed arrays are returned to the system at once, so that the resident size is the memory in use
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        held = pool.apply(memory_held, (tmp_path,))
    assert max(held[8:]) - max(held[:8]) < 4 * 2**20


def test_a_finished_run_is_loaded_and_a_foreign_one_refused(small_city, tmp_path):
    first = train(small_city, tmp_path)
    calls = []
    again = train(small_city, tmp_path, on_epoch=calls.append)
    assert not calls
    assert again.history == first.history
    with pytest.raises(StoreError, match="other settings"):
        train(small_city, tmp_path, seed=1)
    restarted = train(small_city, tmp_path, seed=1, resume=False)
    assert restarted.history != first.history


def test_a_finished_run_of_other_counts_is_refused(small_city, tmp_path):
    config = TINY.model_copy(update={"max_epochs": 1})
    train(small_city, tmp_path, config)
    train(replace(small_city, transitions=csr_array(small_city.transitions)), tmp_path, config)
    with pytest.raises(StoreError, match="other settings"):
        train(replace(small_city, transitions=small_city.transitions + 1), tmp_path, config)


def test_the_key_depends_on_every_input(small_city):
    """A change of any array that the result depends on changes the key; the storage of the counts does not."""
    network, trips = small_city.network, small_city.trips
    labels, other = (teacher_labels(network, trips["train"], seed) for seed in (0, 1))
    cells = np.arange(network.num_roads)

    def key(network=network, zones=small_city.zones, transitions=small_city.transitions, **more):
        options = {"distill": DistillConfig(shared_cells="split"), "labels": labels, "grid_tokens": cells, **more}
        return training_key(TINY, 0, (network, zones, transitions), (trips["train"], trips["val"]), **options)

    highway = network.highway.copy()
    highway[3] = "motorway"
    successors = network.successors
    reversed_rows = successors._replace(indices=successors.indices[::-1].copy())
    keys = [
        key(),
        key(transitions=small_city.transitions + 1),
        key(transitions=np.pad(small_city.transitions, (0, 1))),
        key(zones=small_city.zones[::-1].copy()),
        key(network=replace(network, coords=network.coords + 1e-4)),
        key(network=replace(network, coord_offsets=network.coord_offsets + 1)),
        key(network=replace(network, length_m=network.length_m * 2)),
        key(network=replace(network, highway=highway)),
        key(network=replace(network, successors=reversed_rows)),
        key(labels=other),
        key(labels=SimpleNamespace(offsets=labels.offsets + 1, scores=labels.scores)),
        key(labels=SimpleNamespace(offsets=labels.offsets, scores=labels.scores, fingerprint={"teacher": "a"})),
        key(val_labels=labels),
        key(val_labels=other),
        key(grid_tokens=cells + 1),
    ]
    assert len(set(keys)) == len(keys)
    assert key(transitions=csr_array(small_city.transitions)) == keys[0]
    assert key(transitions=small_city.transitions.astype(np.float64)) == keys[0]
    assert key(zones=small_city.zones.astype(np.int32)) == keys[0]


def test_a_damaged_state_is_refused(small_city, tmp_path):
    (tmp_path / "state.pt").write_bytes(b"half a file")
    with pytest.raises(StoreError, match="damaged"):
        train(small_city, tmp_path)


def test_weight_zero_is_plain_hoser_bit_for_bit(small_city, tmp_path):
    plain = train(small_city, tmp_path / "a")
    labels = teacher_labels(small_city.network, small_city.trips["train"])
    zero = train(small_city, tmp_path / "b", distill=DistillConfig(lambda_kl=0.0), labels=labels)
    distilled = train(small_city, tmp_path / "c", distill=DistillConfig(lambda_kl=1.0), labels=labels)
    assert torch.equal(weights(plain.model), weights(zero.model))
    assert plain.history == zero.history
    assert not torch.equal(weights(plain.model), weights(distilled.model))
    assert "train_kl" in distilled.history[0]
    assert "train_kl" not in zero.history[0]


def test_distillation_pulls_towards_the_teacher(small_city, tmp_path):
    config = TINY.model_copy(update={"max_epochs": 6, "learning_rate": 2e-2})
    center = torch.from_numpy(small_city.network.centroids.copy())

    def contrary(batch, candidates):
        """A teacher that prefers roads away from the destination, unlike every trip."""
        away = (center[candidates] - center[batch.destinations][:, None, None]).norm(dim=-1)
        return (away * 1000).float().masked_fill(candidates < 0, -torch.inf)

    plain = train(small_city, tmp_path / "a", config, val_labels=contrary)
    near = train(
        small_city,
        tmp_path / "b",
        config,
        val_labels=contrary,
        labels=contrary,
        distill=DistillConfig(lambda_kl=5.0, temperature=1.0),
    )
    assert near.history[-1]["teacher_kl"] < 0.5 * plain.history[-1]["teacher_kl"]
    assert near.history[-1]["teacher_agreement"] > plain.history[-1]["teacher_agreement"] + 0.1


@pytest.mark.parametrize("sample", ["all", 3])
def test_micro_batches_add_up(small_city, small_model, sample):
    """Losses and gradients of micro-batches equal those of the whole batch, including distilled steps."""
    trips = small_city.trips["train"]
    state = {key: value.clone() for key, value in small_model.state_dict().items()}
    steps = []
    for micro in (None, 3):
        small_model.load_state_dict(state)
        config = TINY.model_copy(update={"micro_batch_size": micro})
        context = LossContext(
            small_model.time_scale,
            config,
            DistillConfig(lambda_kl=0.7, sample_steps_per_trace=sample),
            StoredLabels(teacher_labels(small_city.network, trips), trips),
        )
        trainer = StudentTrainer(small_model, config, 10, loss_terms(context))
        steps.append(trainer.step(trips, np.arange(8), 0))
    assert steps[0] == pytest.approx(steps[1], rel=1e-5)


def test_non_finite_loss_names_the_batch(small_city, tmp_path):
    trips = replace(small_city.trips["train"], ids=np.array([f"trip-{i}" for i in range(48)], object))
    labels = teacher_labels(small_city.network, trips)
    bad_step = int(offsets_of(trips.lengths - 1)[11])
    scores = labels.scores.copy()
    scores[labels.offsets[bad_step]] = np.nan
    city = replace(small_city, trips={**small_city.trips, "train": trips})
    with pytest.raises(TrainingError, match=r"epoch 1, step \d+: .*trip-11\b"):
        train(
            city,
            tmp_path,
            TINY.model_copy(update={"batch_size": 4}),
            distill=DistillConfig(),
            labels=SimpleNamespace(offsets=labels.offsets, scores=scores),
        )


def test_non_finite_gradient_stops_without_touching_weights(small_city, small_model):
    trainer = StudentTrainer(small_model, TINY, 10)
    trainer.model.navigator.v_proj.weight.register_hook(lambda grad: grad * torch.inf)
    before = weights(small_model)
    with pytest.raises(TrainingError, match="norm"):
        trainer.step(small_city.trips["train"], np.arange(4), 0)
    assert torch.equal(weights(small_model), before)


def test_wrong_arguments_are_refused_before_training(small_city, tmp_path):
    city, labels = small_city, teacher_labels(small_city.network, small_city.trips["train"])
    cases = [
        (
            {"network": "porto"},
            TypeError,
            r"network is of type str, not RoadNetwork. Call train_student\(network, zones",
        ),
        ({"config": {"max_epochs": 1}}, TypeError, "config is of type dict, not StudentConfig"),
        ({"val": None}, TypeError, "val is of type NoneType, not Trajectories"),
        ({"zones": city.zones[:5]}, ValueError, r"zones has shape \(5,\)"),
        ({"zone_transitions": np.ones((2, 3))}, ValueError, r"zone_transitions has shape \(2, 3\)"),
        ({"train": city.trips["train"].take(np.zeros(0, np.int64))}, ValueError, "train has no trips"),
        ({"distill": DistillConfig()}, ValueError, "labels="),
        ({"distill": DistillConfig(shared_cells="split"), "labels": labels}, ValueError, "pass grid_tokens="),
        (
            {"distill": DistillConfig(), "labels": labels, "grid_tokens": np.zeros(3, np.int64)},
            ValueError,
            r"grid_tokens has shape \(3,\)",
        ),
        ({"validators": [3]}, TypeError, "validators are functions"),
        ({"labels": labels}, ValueError, r"labels= is read only with distill=. Call train_student\(..., distill="),
        (
            {"distill": {"lambda_kl": 1}, "labels": labels},
            TypeError,
            r"distill is of type dict.*Config\(\*\*distill\)",
        ),
        ({"distill": True, "labels": labels}, TypeError, "distill is of type bool, not a DistillConfig"),
        (
            {"distill": DistillConfig(), "labels": "a.arrow"},
            TypeError,
            r"labels is of type str.*SoftLabels.load\(path\)",
        ),
        ({"distill": DistillConfig(), "labels": SoftLabels}, TypeError, "labels is the class SoftLabels"),
        ({"val_labels": labels.scores}, TypeError, "val_labels is of type ndarray, not labels"),
        ({"zones": city.zones.astype(float)}, TypeError, r"zones has dtype float64.*zones.astype\('int64'\)"),
        ({"zones": city.zones > 0}, TypeError, "zones has dtype bool"),
        ({"zones": np.where(np.arange(120) == 7, -1, city.zones)}, ValueError, r"zones\[7\] is -1.*partition\("),
        ({"zone_transitions": city.transitions[:5, :5]}, ValueError, "zones has 6 zones"),
        ({"zone_transitions": -city.transitions}, ValueError, r"the value -\d+.*transitions\(zones, train, num_zones"),
        ({"zone_transitions": csr_array(-city.transitions)}, ValueError, r"the value -\d+"),
        ({"zone_transitions": city.transitions * np.nan}, ValueError, "the value nan"),
        ({"zone_transitions": city.transitions.astype(str)}, TypeError, "zone_transitions has dtype <U"),
        ({"device": "gpu"}, ConfigError, "device 'gpu' is unknown: use auto"),
        ({"device": 0}, TypeError, "device is of type int.*device='auto'"),
        ({"seed": "a"}, TypeError, r"seed is 'a', not an integer. Call train_student\(network"),
        ({"seed": 1.0}, TypeError, "seed is 1.0, not an integer"),
        ({"seed": True}, TypeError, "seed is True, not an integer"),
        ({"seed": -1}, ValueError, "seed is -1, not an integer of 0 or more"),
        ({"progress": True}, TypeError, r"progress is True, not a function \(stage, done, total"),
        ({"on_epoch": 3}, TypeError, "on_epoch is 3, not a function"),
        ({"resume": "no"}, TypeError, "resume is 'no', not True or False"),
    ]
    right = {
        "network": city.network,
        "zones": city.zones,
        "zone_transitions": city.transitions,
        "train": city.trips["train"],
        "val": city.trips["val"],
        "config": TINY,
    }
    for wrong, error, message in cases:
        with pytest.raises(error, match=message):
            train_student(**{**right, **wrong}, folder=tmp_path)
    assert not any(tmp_path.iterdir())


def test_lists_and_small_integers_are_converted(small_city, tmp_path):
    """The result is the same, so that the finished training is loaded."""
    config = TINY.model_copy(update={"max_epochs": 1})
    train(small_city, tmp_path, config)
    lists = replace(small_city, zones=small_city.zones.tolist(), transitions=small_city.transitions.tolist())
    small = replace(small_city, zones=small_city.zones.astype(np.int8))
    epochs = []
    for city in (lists, small):
        train(city, tmp_path, config, device="auto", on_epoch=epochs.append)
    assert not epochs
    result = train(lists, tmp_path / "lists", config)
    assert torch.equal(weights(result.model), weights(load(tmp_path)))


def test_a_label_source_may_be_a_teacher(small_city, tmp_path):
    """Any function that returns scores of the candidates of a batch is a label source."""
    requests = []

    def teacher(batch, candidates):
        requests.append(batch.rows.tolist())
        return torch.zeros(candidates.shape)

    train(small_city, tmp_path, TINY.model_copy(update={"max_epochs": 1}), distill=DistillConfig(), labels=teacher)
    assert sorted(row for rows in requests for row in rows) == list(range(48))


def test_train_fraction_is_a_seeded_choice(small_city, tmp_path):
    rows_seen = []

    def teacher(batch, candidates):
        rows_seen.extend(batch.rows.tolist())
        return torch.zeros(candidates.shape)

    config = TINY.model_copy(update={"max_epochs": 2, "train_fraction": 0.25})
    train(small_city, tmp_path / "a", config, distill=DistillConfig(), labels=teacher)
    first = sorted(rows_seen)
    assert len(first) == 2 * 12
    assert len(set(first)) == 12
    rows_seen.clear()
    train(small_city, tmp_path / "b", config, distill=DistillConfig(), labels=teacher, seed=1)
    assert sorted(rows_seen) != first


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns(small_city, small_model, precision):
    config = TINY.model_copy(update={"precision": precision, "learning_rate": 3e-3})
    trainer = StudentTrainer(small_model, config, 40)
    losses = [trainer.step(small_city.trips["train"], np.arange(24), 0)["next_step"] for _ in range(30)]
    assert losses[-1] < losses[0] - 0.05
    assert all(p.dtype == torch.float32 for p in small_model.parameters())


def test_fp16_overflow_skips_the_step_and_shrinks_the_scale():
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = Optimizer(
        [weight],
        learning_rate=0.1,
        weight_decay=0.0,
        total_steps=10,
        warmup_ratio=0.0,
        max_norm=1.0,
        precision="fp16",
        device=torch.device("cpu"),
    )
    scale = optimizer.state_dict()["scaler"]["scale"]
    optimizer.backward((weight * torch.inf).sum())
    assert not np.isfinite(optimizer.step().grad_norm)
    assert torch.equal(weight.detach(), torch.ones(3))
    assert optimizer.state_dict()["scaler"]["scale"] == scale / 2
    optimizer.backward((weight * 100).sum())
    # clipping sees the true gradient, not the scaled one
    assert optimizer.step().grad_norm == pytest.approx(100 * np.sqrt(3), rel=1e-5)
    assert (weight < 1).all()


def test_precision_on_a_cpu():
    cpu = torch.device("cpu")
    assert resolve_precision("auto", cpu) == "fp32"
    with autocast("bf16", cpu):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with autocast("auto", cpu):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_schedule():
    rates = [warmup_cosine(k, total_steps=100, warmup_ratio=0.1) for k in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.0)
    assert all(a >= b for a, b in pairwise(rates[9:]))
    assert warmup_cosine(0, total_steps=1, warmup_ratio=0.0) == pytest.approx(0.0)
    assert warmup_cosine(99, total_steps=100, warmup_ratio=0.1, floor=0.1) == pytest.approx(0.1)


def test_batches_hold_all_trips_once_and_have_similar_lengths():
    lengths = np.random.default_rng(0).integers(2, 200, 1000)
    batches = list(bucketed_batches(lengths, 16, seed=0, epoch=0))
    assert sorted(np.concatenate(batches).tolist()) == list(range(1000))
    assert max(len(batch) for batch in batches) == 16
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    assert padded < 1.1 * lengths.sum()
    again = list(bucketed_batches(lengths, 16, seed=0, epoch=0))
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))
    other = list(bucketed_batches(lengths, 16, seed=0, epoch=1))
    assert not np.array_equal(np.concatenate(batches), np.concatenate(other))
    # long and short batches alternate at random, so that no epoch ends on the longest trips
    means = [lengths[batch].mean() for batch in batches]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.4
