"""Checkpoints of all known layouts load; anything else is refused with its name, and no code is run."""

from __future__ import annotations

import argparse
import io
import json
import os
import pathlib
import pickle
import sys
import types
import zipfile
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from hoser_kd.common.errors import CheckpointError
from hoser_kd.lmtad import LMTAD, LMTADCheckpoint, LMTADConfig, load_checkpoint
from hoser_kd.lmtad.checkpoint import check_grid, save
from hoser_kd.teacher.importing import describe

CONFIG = LMTADConfig(block_size=12, vocab_size=28, n_layer=2, n_head=2, n_embd=8, dropout=0.2)


@pytest.fixture
def model():
    torch.manual_seed(1)
    return LMTAD(CONFIG).eval()


@pytest.fixture
def foreign(monkeypatch):
    """Instances that pickle under the names of the published code."""

    def instance(module, name, **fields):
        for package in (module.split(".")[0], module):
            if package not in sys.modules:
                monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
        cls = type(name, (), {"__module__": module})
        monkeypatch.setattr(sys.modules[module], name, cls, raising=False)
        made = cls()
        made.__dict__.update(fields)
        return made

    return instance


def write(path, content, **options):
    torch.save(content, path, **options)
    return path


def same_weights(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("module", ["models", "models.LMTAD"])
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
@pytest.mark.parametrize("zipped", [True, False])
def test_training_layout(tmp_path, model, foreign, module, prefix, zipped):
    path = write(
        tmp_path / "a.pt",
        {
            "model": {prefix + name: value for name, value in model.state_dict().items()},
            "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3}]},
            "model_config": foreign(
                module,
                "LMTADConfig",
                **{**asdict(CONFIG), "block_size": np.int64(12)},
                pad_token=25,
                log_file="",
                logging=True,
            ),
            "iter_num": 3,
            "best_val_loss": torch.tensor(1.5),
            "dataset_config": foreign(
                "datasets", "PortoConfig", grip_size=(5, 5), min_lat=np.float64(41.25), block_size=np.int64(12)
            ),
            "args": argparse.Namespace(lr=np.float32(0.5), debug=np.True_),
        },
        _use_new_zipfile_serialization=zipped,
    )
    checkpoint = load_checkpoint(path)
    assert same_weights(checkpoint.model, model)
    assert checkpoint.config == CONFIG
    assert not checkpoint.model.training
    assert checkpoint.dataset_config == {"grip_size": (5, 5), "min_lat": 41.25, "block_size": 12}
    assert type(checkpoint.config.block_size) is int


def test_weights_only_layout(tmp_path, model):
    weights = {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    path = write(tmp_path / "a.pt", {"state_dict": weights, "model_config": {"n_head": 2, "dropout": 0.2}})
    checkpoint = load_checkpoint(path)
    assert checkpoint.config == CONFIG
    assert checkpoint.dataset_config == {}
    tokens = torch.tensor([[27, 3, 4]])
    assert torch.equal(checkpoint.model(tokens), model(tokens))


def test_stored_causal_masks_are_ignored(tmp_path, model):
    weights = {**model.state_dict(), "transformer.h.0.attn.bias": torch.ones(1, 1, 12, 12)}
    path = write(tmp_path / "a.pt", {"state_dict": weights, "model_config": asdict(CONFIG)})
    assert same_weights(load_checkpoint(path).model, model)


@pytest.mark.parametrize("name", ["lmtad_ckpt", "lmtad_ckpt_orig_mod", "lmtad_ckpt_official_vocab"])
def test_published_files_round_trip(golden, tmp_path, name):
    before = load_checkpoint(golden / f"{name}.pt")
    save(before, tmp_path / "teacher")
    for path in (tmp_path / "teacher", tmp_path / "teacher" / "model.safetensors"):
        after = load_checkpoint(path)
        assert same_weights(after.model, before.model)
        assert (after.config, after.dataset_config) == (before.config, before.dataset_config)
    assert {file.name for file in (tmp_path / "teacher").iterdir()} == {"model.safetensors", "config.json"}


def test_a_teacher_that_reads_the_destination_says_so_in_its_files(tmp_path, model):
    named = LMTADCheckpoint(model, CONFIG, {})
    save(named, tmp_path / "plain")
    assert "destination_prefix" not in (tmp_path / "plain" / "config.json").read_text()
    config = replace(CONFIG, destination_prefix=True)
    other = LMTAD(config)
    save(LMTADCheckpoint(other, config, {}), tmp_path / "destination")
    assert load_checkpoint(tmp_path / "destination").config == config


def test_published_keys_are_kept(golden):
    with pytest.warns(UserWarning, match="integer_poe"):
        keys = set(load_checkpoint(golden / "lmtad_ckpt_integer_poe.pt").model.state_dict())
    assert {
        "transformer.wpe.pe",
        "lm_head.weight",
        "transformer.wte.weight",
        "transformer.h.1.ln_2.weight",
        "transformer.h.0.attn.c_attn.weight",
        "transformer.h.0.mlp.c_fc.weight",
        "transformer.ln_f.weight",
    } < keys


def test_a_failed_write_leaves_the_previous_version(tmp_path, model, monkeypatch):
    save(LMTADCheckpoint(model, CONFIG, {}), tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()

    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pathlib.Path, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        save(LMTADCheckpoint(LMTAD(CONFIG), CONFIG, {}), tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


class Touch:
    """An object that pickles as a function call."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (os.system, "posix.system"),
        (open, "open"),
        (eval, "eval"),
        (pathlib.Path, "pathlib"),
        (np.load, "numpy.load"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_is_refused_and_harmless(tmp_path, model, function, named, zipped):
    victim = tmp_path / "made-by-the-pickle"
    command = {os.system: f"touch {victim}", eval: f"open({str(victim)!r}, 'w')"}.get(function, str(victim))
    args = (command, "w") if function is open else (command,)
    path = write(
        tmp_path / "a.pt",
        {"state_dict": model.state_dict(), "model_config": asdict(CONFIG), "extra": Touch(function, *args)},
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(CheckpointError, match=f"a.pt: refused, because it names `[a-z_.]*{named}"):
        load_checkpoint(path)
    assert not victim.exists()


def test_object_scalars_are_refused(tmp_path):
    scalar, (dtype, _) = np.float64(1).__reduce__()
    path = write(tmp_path / "a.pt", {"state_dict": Touch(scalar, np.dtype("O"), b"x" * 8)})
    with pytest.raises(CheckpointError, match="NumPy scalar of type 'O8'"):
        load_checkpoint(path)
    assert dtype == np.float64


def test_the_allow_list_ends_with_the_load(tmp_path, model):
    path = write(tmp_path / "a.pt", {"model_config": argparse.Namespace()})
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    with pytest.raises(pickle.UnpicklingError, match="Namespace"):
        torch.load(path, weights_only=True)


def garbage(path, model):
    path.write_bytes(b"not a pickle at all" * 50)


def truncated(path, model):
    write(path, {"state_dict": model.state_dict(), "model_config": asdict(CONFIG)})
    path.write_bytes(path.read_bytes()[:-4000])


def truncated_old_kind(path, model):
    write(
        path, {"state_dict": model.state_dict(), "model_config": asdict(CONFIG)}, _use_new_zipfile_serialization=False
    )
    path.write_bytes(path.read_bytes()[:-500])


def other_archive(path, model):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/b.txt", "no weights")


def a_students_file(path, model):
    write(path, model.state_dict())


def a_number(path, model):
    write(path, 7)


def other_architecture(path, model):
    write(path, {"state_dict": {"road_emb.weight": torch.ones(2)}, "model_config": {}})


def missing_weight(path, model):
    weights = {name: value for name, value in model.state_dict().items() if not name.endswith("h.1.ln_2.weight")}
    write(path, {"state_dict": weights, "model_config": asdict(CONFIG)})


def wrong_config(path, model):
    write(path, {"state_dict": model.state_dict(), "model_config": {**asdict(CONFIG), "n_embd": 16}})


def unusable_config(path, model):
    write(path, {"state_dict": model.state_dict(), "model_config": {**asdict(CONFIG), "n_head": 3}})


def too_many_layers(path, model):
    write(path, {"state_dict": model.state_dict(), "model_config": {**asdict(CONFIG), "n_layer": 10**9}})


def no_heads(path, model):
    write(path, {"state_dict": model.state_dict(), "model_config": {}})


def untied(path, model):
    weights = {**model.state_dict(), "lm_head.weight": torch.zeros(28, 8)}
    write(path, {"state_dict": weights, "model_config": asdict(CONFIG)})


def not_finite(path, model):
    weights = {**model.state_dict(), "transformer.ln_f.weight": torch.full((8,), torch.nan)}
    write(path, {"state_dict": weights, "model_config": asdict(CONFIG)})


def with_weight(change):
    """Return a function that writes a checkpoint with one changed weight."""

    def spoil(path, model):
        weights = model.state_dict()
        weights["transformer.h.0.ln_1.weight"] = change(weights["transformer.h.0.ln_1.weight"])
        write(path, {"state_dict": weights, "model_config": asdict(CONFIG)})

    return spoil


def with_field(**fields):
    """Return a function that writes a checkpoint with changed fields of the config."""
    return lambda path, model: write(
        path, {"state_dict": model.state_dict(), "model_config": {**asdict(CONFIG), **fields}}
    )


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (with_weight(lambda weight: weight.to(torch.complex64)), "holds complex numbers"),
        (with_weight(lambda weight: weight.to_sparse()), "holds a sparse tensor"),
        (with_weight(lambda weight: weight.long()), "torch.int64, not floating-point"),
        (with_field(n_head=2.7), "n_head is 2.7, not a whole number"),
        (with_field(n_head="2"), "n_head is '2', not a whole number"),
        (with_field(n_layer=True), "n_layer is True, not a whole number"),
        (with_field(dropout=1.5), "dropout is 1.5, not a number from 0 to 1"),
        (with_field(bias="False"), "bias is 'False', not true or false"),
        (with_field(n_embd=10**9), "give no model"),
        (with_field(n_embd=10**30), "too large for a model"),
        (garbage, "not a readable torch.save file"),
        (truncated, "truncated"),
        (truncated_old_kind, "not a readable torch.save file"),
        (other_archive, "not a readable torch.save file"),
        (a_students_file, "not an LM-TAD checkpoint.*it holds transformer.wte.weight"),
        (a_number, "not an LM-TAD checkpoint.*it holds int"),
        (other_architecture, "not weights of LM-TAD"),
        (missing_weight, r"`transformer.h.1.ln_2.weight` has shape none: it is missing.*\(8,\)"),
        (wrong_config, r"has shape \(28, 8\); the model's config requires \(28, 16\)"),
        (unusable_config, "n_embd 8 is not a multiple of n_head 3"),
        (no_heads, "has no `n_head`"),
        (too_many_layers, "states 1000000000 layers, the weights have 2"),
        (untied, "differ"),
        (not_finite, "`transformer.ln_f.weight` holds values that are not finite"),
    ],
)
def test_other_files_are_refused(tmp_path, model, spoil, text):
    spoil(tmp_path / "a.pt", model)
    with pytest.raises(CheckpointError, match=f"^{tmp_path / 'a.pt'}: .*{text}"):
        load_checkpoint(tmp_path / "a.pt")


def test_missing_files_are_named(tmp_path, model):
    with pytest.raises(
        CheckpointError, match=r"a\.pt: no such file\. Give the path of an LM-TAD.*\(in YAML: `distill\.ckpt_path`\)"
    ):
        load_checkpoint(tmp_path / "a.pt")
    save(LMTADCheckpoint(model, CONFIG, {}), tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: not readable"):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json: no such file"):
        load_checkpoint(tmp_path)


def test_another_pad_token_is_warned_of(tmp_path, model):
    path = write(
        tmp_path / "a.pt", {"state_dict": model.state_dict(), "model_config": {**asdict(CONFIG), "pad_token": 0}}
    )
    with pytest.warns(UserWarning, match="pad_token is 0"):
        assert load_checkpoint(path).config.pad_token == 25


def test_grids_that_do_not_fit_are_refused_naming_both(golden):
    checkpoint = load_checkpoint(golden / "lmtad_ckpt_official_vocab.pt")
    assert checkpoint.dataset_config["grip_size"] == (51, 158)
    with pytest.raises(CheckpointError, match=r"51 × 158 = 8058 cells does not fit .* 114 tokens"):
        check_grid(checkpoint.config.vocab_size, (51, 158))
    check_grid(8220, (51, 158))
    check_grid(103, (10, 10))
    with pytest.raises(CheckpointError):
        check_grid(102, (10, 10))


def test_description(golden, model):
    about = describe(load_checkpoint(golden / "lmtad_ckpt_official_vocab.pt"))
    assert about["missing"] == ["min_lat", "max_lat", "min_lng", "max_lng", "cell_lat", "cell_lng"]
    sizes = [about[name] for name in ("layers", "heads", "width", "vocabulary", "grid")]
    assert sizes == [2, 2, 32, 114, (51, 158)]
    assert not about["bounds_known"]
    assert about["grid_fits"] is False
    known = {"min_lat": 1.0, "max_lat": 2.0, "min_lng": 1.0, "max_lng": 2.0}
    about = describe(LMTADCheckpoint(model, CONFIG, known))
    assert (about["bounds_known"], about["missing"]) == (True, ["cell_lat", "cell_lng"])
    about = describe(LMTADCheckpoint(model, CONFIG, {**known, "grid_size": 0.1}))
    assert about["bounds_known"]
    assert (about["missing"], about["grid"], about["grid_fits"]) == ([], None, None)
    assert about["parameters"] == 28 * 8 + 12 * 8 + 2 * (2 * 8 + 12 * 8 * 8) + 8
    json.dump(about, io.StringIO())


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"dataset_config": {"cell": torch.nan}}, "`dataset_config` has a number that is not finite: cell = nan"),
        ({"model_config": {**asdict(CONFIG), "dropout": torch.nan}}, "dropout is nan, not a number from 0 to 1"),
    ],
)
def test_a_number_that_is_not_finite_is_refused_before_anything_is_written(tmp_path, model, changes, text):
    write(tmp_path / "a.pt", {"state_dict": model.state_dict(), "model_config": asdict(CONFIG), **changes})
    with pytest.raises(CheckpointError, match=text):
        load_checkpoint(tmp_path / "a.pt")
    unwritable = LMTADCheckpoint(model, CONFIG, {"cell": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        save(unwritable, tmp_path / "teacher")
    assert not (tmp_path / "teacher").exists()
