"""Checkpoints: published and own formats round-trip; other files are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_city import grid_network

from hoser_kd.common.errors import CheckpointError
from hoser_kd.hoser import collate, export_checkpoint, load, load_checkpoint, save


def test_state_dict_has_the_published_keys_and_shapes(golden, golden_city, tmp_path):
    listed = {}
    for line in (golden / "hoser_state_dict.txt").read_text().splitlines():
        if not line.startswith("#"):
            key, rest = line.split(" ", 1)
            shape, dtype = rest.rsplit(" ", 1)
            listed[key] = (tuple(int(n) for n in shape.strip("()").split(",") if n.strip()), dtype)
    model = load_checkpoint(golden / "hoser_ckpt.pth", golden_city.network)
    export_checkpoint(model, tmp_path / "out.pth")
    exported = torch.load(tmp_path / "out.pth", weights_only=True)
    assert {key: (tuple(value.shape), str(value.dtype)) for key, value in exported.items()} == listed
    original = torch.load(golden / "hoser_ckpt.pth", weights_only=True)
    assert all(torch.equal(exported[key], original[key]) for key in original)


def test_round_trips_keep_every_number(small_city, small_model, tmp_path):
    batch = collate(small_city.trips["test"], np.arange(6))
    small_model.eval()
    expected = small_model(batch).logits
    export_checkpoint(small_model, tmp_path / "model.pth")
    published = load_checkpoint(
        tmp_path / "model.pth", small_city.network, small_city.zones, log1p_mean=3.0, log1p_std=0.5, num_heads=2
    )
    assert published.config == small_model.config
    assert torch.equal(published(batch).logits, expected)
    save(small_model, tmp_path / "student")
    ours = load(tmp_path / "student", small_city.network)
    assert ours.config == small_model.config
    assert torch.equal(ours(batch).logits, expected)
    assert sorted(p.name for p in (tmp_path / "student").iterdir()) == ["model.json", "model.safetensors"]


def test_the_candidate_angle_is_an_argument(small_city, small_model, tmp_path):
    """A published file does not contain the variant of the angle; the caller sets it."""
    export_checkpoint(small_model, tmp_path / "model.pth")
    true = load_checkpoint(tmp_path / "model.pth", small_city.network, candidate_angle="true_bearing")
    batch = collate(small_city.trips["test"], np.arange(6))
    assert not torch.allclose(true(batch).logits[0], small_model(batch).logits[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "damaged"),
        (b"no checkpoint at all", "damaged|something other than weights"),
    ],
)
def test_unreadable_files_are_refused(small_city, tmp_path, content, message):
    path = tmp_path / "x.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path, small_city.network)
    assert "x.pth" in str(caught.value)


def test_truncated_file_is_refused(small_city, small_model, tmp_path):
    path = tmp_path / "x.pth"
    export_checkpoint(small_model, path)
    whole = path.read_bytes()
    for share in (0.3, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(CheckpointError, match="damaged"):
            load_checkpoint(path, small_city.network)


def test_code_in_a_file_is_not_run(small_city, tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"road2zone": Evil()}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="something other than weights"):
        load_checkpoint(tmp_path / "x.pth", small_city.network)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"model": {"a": torch.ones(1)}}, "bare state dict"),
        ({"transformer.wte.weight": torch.ones(3, 2)}, "not a state dict of HOSER"),
        ([torch.ones(1)], "bare state dict"),
    ],
)
def test_other_kinds_are_refused(small_city, tmp_path, state, message):
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "x.pth", small_city.network)


def test_missing_key_and_wrong_heads_are_refused(small_city, small_model, tmp_path):
    state = small_model.state_dict()
    del state["navigator.v_proj.weight"]
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="v_proj"):
        load_checkpoint(tmp_path / "x.pth", small_city.network)
    export_checkpoint(small_model, tmp_path / "y.pth")
    with pytest.raises(CheckpointError, match="2 heads, not 4"):
        load_checkpoint(tmp_path / "y.pth", small_city.network, num_heads=4)


def test_another_network_is_refused(small_city, small_model, tmp_path):
    export_checkpoint(small_model, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="120 roads, the network has 48"):
        load_checkpoint(tmp_path / "x.pth", grid_network(4))
    lengths = small_city.network.length_m * np.linspace(1, 2, small_city.network.num_roads)
    stretched = replace(small_city.network, length_m=lengths)
    with pytest.raises(CheckpointError, match="lengths of the roads differ"):
        load_checkpoint(tmp_path / "x.pth", stretched)
    with pytest.raises(CheckpointError, match="are in another zone"):
        load_checkpoint(tmp_path / "x.pth", small_city.network, (small_city.zones + 1) % 6)
    save(small_model, tmp_path / "student")
    with pytest.raises(CheckpointError, match="the network has 48"):
        load(tmp_path / "student", grid_network(4))


def test_damaged_folder_is_refused(small_model, tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load(tmp_path / "nothing")
    save(small_model, tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(weights)
    settings = json.loads((tmp_path / "model.json").read_text())
    del settings["num_roads"]
    (tmp_path / "model.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="num_roads"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["hidden_dim", "num_zones", "num_layers", "max_len"])
def test_sizes_that_differ_from_the_weights_are_refused_before_a_model_is_built(small_model, tmp_path, name):
    save(small_model, tmp_path)
    settings = json.loads((tmp_path / "model.json").read_text())
    more = {"road_id_dim": settings["road_id_dim"] + 10**9 - settings["hidden_dim"]} if name == "hidden_dim" else {}
    (tmp_path / "model.json").write_text(
        json.dumps({**settings, name: 10**9 if name != "num_zones" else 10**7, **more})
    )
    with pytest.raises(CheckpointError, match=rf"{name} is 1\d+ in model\.json"):
        load(tmp_path)
