"""load_student: the folder of a trained student, or a published checkpoint with its network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_city import grid_network

from hoser_kd.common.errors import CheckpointError
from hoser_kd.hoser import collate, load_checkpoint, load_student, save
from hoser_kd.network.road_network import read_hoser


@pytest.fixture
def folder(small_model, tmp_path):
    save(small_model, tmp_path / "student")
    return tmp_path / "student"


def test_a_folder_needs_nothing_else(small_city, small_model, folder):
    batch = collate(small_city.trips["test"], np.arange(6))
    expected = small_model.eval()(batch).logits
    for path in (folder, str(folder), folder / "model.safetensors", folder / "model.json"):
        student = load_student(path)
        assert not student.training
        assert torch.equal(student(batch).logits, expected)
    assert load_student(folder, small_city.network, zones=small_city.zones, zone_transitions=small_city.transitions)


def test_a_folder_is_compared_with_what_is_given(small_city, folder):
    with pytest.raises(CheckpointError, match="the network has 48"):
        load_student(folder, grid_network(4))
    with pytest.raises(CheckpointError, match="are in another zone"):
        load_student(folder, zones=(small_city.zones + 1) % 6)
    with pytest.raises(CheckpointError, match=r"`zones` has the shape \(119,\)"):
        load_student(folder, zones=small_city.zones[1:])
    with pytest.raises(CheckpointError, match="other zone transitions"):
        load_student(folder, zone_transitions=small_city.transitions * np.arange(1, 7))


def test_a_published_checkpoint_with_its_network(golden, golden_city):
    path, scale = golden / "hoser_ckpt_trained.pth", {"log1p_mean": 3.0, "log1p_std": 0.5}
    batch = collate(golden_city.trips["test"], np.arange(6))
    expected = load_checkpoint(path, golden_city.network, golden_city.zones, **scale)
    given = load_student(
        path, golden_city.network, zones=golden_city.zones, zone_transitions=golden_city.transitions, **scale
    )
    read = load_student(path, golden / "hoser_city", **scale)
    for student in (given, read):
        assert student.config == expected.config
        assert torch.equal(student(batch).logits, expected(batch).logits)


def test_a_published_checkpoint_is_compared_with_the_zones_beside_the_network(golden, golden_city, tmp_path):
    for name in ("roadmap.geo", "roadmap.rel", "zone_trans_mat.npy"):
        (tmp_path / name).write_bytes((golden / "hoser_city" / name).read_bytes())
    zones = golden_city.zones[::-1]
    (tmp_path / "road_network_partition").write_text("\n".join(map(str, zones)))
    with pytest.raises(CheckpointError, match="are in another zone"):
        load_student(golden / "hoser_ckpt.pth", tmp_path)
    assert load_student(golden / "hoser_ckpt.pth", read_hoser(tmp_path))
    assert load_student(golden / "hoser_ckpt.pth", tmp_path, zones=golden_city.zones)


def test_a_published_checkpoint_without_its_network_is_refused(golden):
    call = r'load_student\("hoser_ckpt.pth", network=hoser_kd.read_network\(folder\), zones=\.\.\.\)'
    with pytest.raises(TypeError, match=rf"a published \.pth holds no road network\. Call {call}"):
        load_student(golden / "hoser_ckpt.pth")
    with pytest.raises(TypeError, match=r"For an LM-TAD checkpoint, call load_teacher\(path\)"):
        load_student(golden / "lmtad_ckpt.pt")
    with pytest.raises(
        TypeError, match=r"network is of type list, not a RoadNetwork or a folder\. Call load_student\("
    ):
        load_student(golden / "hoser_ckpt.pth", [1, 2])


def test_arguments_that_do_not_belong_are_refused(small_city, folder, golden, golden_city):
    with pytest.raises(TypeError, match=r"holds its own configuration\. Leave out log1p_mean, num_heads: load_student"):
        load_student(folder, log1p_mean=3.0, num_heads=2)
    with pytest.raises(TypeError, match=r"no argument `heads`\. It takes path, network.* num_heads"):
        load_student(golden / "hoser_ckpt.pth", golden_city.network, heads=2)
    with pytest.raises(
        TypeError, match=r"path is of type RoadNetwork, not a path\. Call load_student\(path, network\)"
    ):
        load_student(small_city.network, folder)


def test_other_paths_are_named(folder, golden, tmp_path):
    with pytest.raises(CheckpointError, match="nothing: no such file or folder"):
        load_student(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match=r"For an LM-TAD checkpoint, call load_teacher\(path\)\.$"):
        load_student(golden / "lmtad_ckpt.pt", golden / "hoser_city")
    with pytest.raises(CheckpointError, match=r"It is a road network: load_student\(path, network="):
        load_student(golden / "hoser_city")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"It looks like a teacher: load_teacher\("):
        load_student(tmp_path)
