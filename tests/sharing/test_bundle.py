"""Bundles: complete without the store, equal for equal content, readable after upgrades, refused when damaged."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from hoser_cities import TINY
from safetensors.numpy import load_file, save_file

import hoser_kd as hk
from hoser_kd.cli import main
from hoser_kd.common.errors import CheckpointError, StoreError
from hoser_kd.common.files import write_json
from hoser_kd.common.hashing import digest_file
from hoser_kd.hoser import HOSER, save
from hoser_kd.pipeline.store import Artifact, Store
from hoser_kd.sharing import bundle as bundles
from hoser_kd.sharing.finding import find_student
from hoser_kd.sharing.student import Student

START = 1_683_000_000


@pytest.fixture(scope="module")
def city(small_city):
    return small_city


@pytest.fixture(scope="module")
def model(city):
    import torch

    torch.manual_seed(3)
    scale = {"log1p_mean": 3.0, "log1p_std": 0.5}
    return HOSER.build(TINY, city.network, city.zones, city.transitions, **scale).eval()


@pytest.fixture(scope="module")
def store_folder(city, model, tmp_path_factory):
    """A student in a store, with the records that a real one has; its raw files have OpenStreetMap's node ids."""
    root = tmp_path_factory.mktemp("store")
    raw = tmp_path_factory.mktemp("raw")
    lines = ["geo_id,type,coordinates,highway,length,u,v"]
    lines += [f'{road},LineString,"[]",primary,1.0,{900 + road},{800 + road}' for road in range(city.network.num_roads)]
    (raw / "roadmap.geo").write_text("\n".join(lines) + "\n")
    store = Store(root)

    def commit(stage, inputs, write, summary, seed=None):
        folder = root / ".work" / stage
        folder.mkdir(parents=True)
        write(folder)
        fields = {"inputs": inputs, "summary": summary, "code_version": "1", "created_at": "2026-11-27T00:00:00Z"}
        return store.commit(folder, Artifact(stage, "town", seed, "0123456789abcdef", folder, **fields))

    note = {"folder": str(raw), "files": {"roadmap.geo": [(raw / "roadmap.geo").stat().st_size, 0]}}
    version = "0123456789abcdef"
    commit("source_files", {}, lambda folder: write_json(folder / "source.json", note), {"folder": str(raw)})
    roads = {"num_roads": city.network.num_roads}
    commit("road_network", {"source_files": version}, city.network.save, roads)
    splits = [{"split": "train", "first": "2013-07-01T00:00:00", "last": "2013-07-02T00:00:00"}]
    commit("trajectories", {"road_network": version}, lambda _: None, {"splits": splits})
    inputs = {"road_network": version, "trajectories": version}
    student = commit("vanilla_student", inputs, lambda folder: save(model, folder), {"val_accuracy": 0.5}, seed=7)
    rows = [{"metric": "next_step.accuracy", "vanilla": 0.75, "distilled": 0.9}]
    commit("trajectory_metrics", {student.name: version}, lambda _: None, {"comparison": rows}, seed=7)
    return student.path


@pytest.fixture(scope="module")
def bundle(store_folder, tmp_path_factory):
    return hk.write_bundle(hk.load_student(store_folder), tmp_path_factory.mktemp("bundles") / "town", "cc-by-4.0")


def steps_of(student):
    return hk.next_step(student, [0, 5], [START, START], [9, 20]).to_pandas()


def test_a_store_folder_brings_roads_ids_metrics_and_lineage(store_folder, city):
    student = hk.load_student(store_folder)
    assert repr(student) == "Student(town, vanilla_student, seed 7, 120 roads)"
    np.testing.assert_array_equal(student.network.coords, city.network.coords)
    roads = student.roads()
    assert roads["geo_id"].tolist() == list(range(120))
    assert roads["u"].tolist() == list(range(900, 1020))
    assert student.about["metrics"]["test"] == {"next_step.accuracy": 0.75}
    assert student.about["time_convention"]["first_training_trip"] == "2013-07-01T00:00:00"
    names = [row["name"] for row in student.about["lineage"]]
    assert names == ["vanilla_student/seed-7", "road_network", "trajectories", "source_files"]


def test_a_store_without_its_roads_takes_a_given_network(store_folder, city, tmp_path):
    town = shutil.copytree(store_folder.parents[2], tmp_path / "town")
    shutil.rmtree(town / "road_network")
    folder = town / "vanilla_student" / "seed-7" / "0123456789abcdef"
    assert repr(hk.load_student(folder)).endswith("no road network)")
    student = hk.load_student(folder, city.network)
    assert student.network is city.network
    assert student.about["seed"] == 7


def test_a_city_of_the_store_names_its_newest_student(store_folder, tmp_path, capsys, monkeypatch):
    root = shutil.copytree(store_folder.parents[3], tmp_path / "store")
    folder = root / store_folder.relative_to(store_folder.parents[3])
    older = shutil.copytree(folder, folder.with_name("fedcba9876543210"))
    record = json.loads((older / "artifact.json").read_text())
    record.pop("record_digest", None)
    (older / "artifact.json").write_text(json.dumps({**record, "created_at": "2025-01-01T00:00:00Z"}))
    monkeypatch.setenv("HOSER_KD_STORE", str(root))
    store = Store(root)
    assert find_student(store, "town", "vanilla_student", 7) == folder
    assert main(["bundle", "--dataset", "town", "--vanilla", "--seed", "7", "--out", str(tmp_path / "new")]) == 0
    assert f"student: {folder}" in capsys.readouterr().err
    assert hk.load_student(tmp_path / "new").about["seed"] == 7
    with pytest.raises(
        StoreError, match=r"no distilled_student of town with seed 0\. It has vanilla_student of town with"
    ):
        find_student(store, "town", "distilled_student", 0)
    with pytest.raises(StoreError, match=r"no such folder\..*Without a store, give the folder"):
        find_student(Store(tmp_path / "nowhere"), "town", "distilled_student", 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no student given. Give its folder"),
        (["town", "--seed", "3"], "town and --seed: a student is named in one of both ways"),
        (["--seed", "3"], "no student given"),
    ],
)
def test_a_student_is_named_in_one_way(arguments, message, capsys):
    assert main(["bundle", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_of_students_names_them(store_folder, tmp_path):
    with pytest.raises(
        CheckpointError, match=r"a folder of students, not a student\. Give one of .*seed-7/0123456789ab"
    ):
        hk.load_student(store_folder.parents[1])
    with pytest.raises(CheckpointError, match=r"an artifact of road_network, not a student"):
        hk.load_student(store_folder.parents[2] / "road_network" / "0123456789abcdef")
    broken = shutil.copytree(store_folder.parents[2], tmp_path / "town") / "vanilla_student/seed-7/0123456789abcdef"
    (broken / "model.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"damaged: model\.json has 2 bytes"):
        hk.load_student(broken)


def test_a_bundle_predicts_as_the_student_of_the_store(bundle, store_folder):
    expected, found = steps_of(hk.load_student(store_folder)), steps_of(hk.load_student(bundle))
    assert found.equals(expected)


def test_the_content_of_a_bundle(bundle, store_folder):
    assert sorted(file.name for file in bundle.iterdir()) == sorted(bundles.BUNDLE_FILES)
    roads = pq.read_table(bundle / "roads.parquet")
    assert {"road_id", "geo_id", "u", "v", "highway", "length_m", "geometry"} <= set(roads.column_names)
    assert b"geo" in roads.schema.metadata
    about = json.loads((bundle / "student.json").read_text())
    assert about["license"] == "cc-by-4.0"
    assert about["lineage"][0]["inputs"]["road_network"] == "0123456789abcdef"
    for file in bundle.iterdir():
        assert str(store_folder.parents[2]).encode() not in file.read_bytes(), f"{file.name} names a folder here"
    student = hk.load_student(bundle)
    assert student.about["version"] == json.loads((bundle / "manifest.json").read_text())["version"]
    assert student.roads()["v"].tolist() == list(range(800, 920))


def test_the_model_card_has_front_matter_use_limits_and_metrics(bundle):
    card = (bundle / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "cc-by-4.0"
    for heading in ("Use", "Intended use", "Limits", "Times", "Training", "Metrics on test trips", "Lineage", "Files"):
        assert f"\n## {heading}\n" in body
    assert "| `next_step.accuracy` | 0.75 |" in body
    assert "2013-07-01T00:00:00 to 2013-07-02T00:00:00" in body


def test_text_of_a_record_stays_text_in_the_card(bundle, tmp_path):
    student = hk.load_student(bundle)
    about = {**student.about, "city": "a|b](http://x)<script>\n# c"}
    folder = hk.write_bundle(Student(student.model, student.network, about), tmp_path / "new")
    card = (folder / "README.md").read_text()
    assert "<script>" not in card
    assert "\n# c" not in card
    assert "](http" not in card


def test_equal_content_has_an_equal_version(bundle, store_folder, tmp_path):
    version = hk.load_student(bundle).about["version"]
    again = hk.write_bundle(hk.load_student(store_folder), tmp_path / "again", "cc-by-4.0")
    assert hk.load_student(again).about["version"] == version
    assert (
        hk.load_student(hk.write_bundle(hk.load_student(bundle), tmp_path / "copy", "cc-by-4.0")).about["version"]
        == version
    )
    other = hk.write_bundle(hk.load_student(store_folder), tmp_path / "again", "mit")
    assert hk.load_student(other).about["version"] != version
    (other / "README.md").write_text("an edited card")
    assert hk.load_student(other).about["license"] == "mit"


def test_a_bundle_of_format_1_loads_and_predicts_as_when_it_was_written(old_bundle, student):
    assert sum(file.stat().st_size for file in old_bundle.iterdir()) < 200_000
    expected = json.loads(old_bundle.with_name("bundle_1_predictions.json").read_text())
    assert repr(student) == expected["repr"]
    steps = hk.next_step(student, expected["roads"], expected["times"], expected["destinations"])
    assert steps.road_ids.tolist() == expected["candidates"]
    np.testing.assert_allclose(steps.probabilities, expected["probabilities"], atol=1e-5)
    np.testing.assert_allclose(steps.seconds, expected["seconds"], rtol=1e-4)
    trips = hk.generate(student, expected["roads"], expected["times"], expected["destinations"])
    assert trips.road_ids.tolist() == expected["trip_roads"]
    assert {"city", "license", "time_convention", "metrics", "settings", "lineage"} <= set(student.about)


def _with_digests(folder):
    """Let the manifest agree with changed files, as an attacker would."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = {name: bundles._entry(folder / name) for name in bundles.CONTENT_FILES}
    manifest["version"] = bundles.content_version(manifest["files"])
    write_json(folder / "manifest.json", manifest)


def _edit(folder, **changes):
    manifest = json.loads((folder / "manifest.json").read_text())
    write_json(folder / "manifest.json", {**manifest, **changes})


def _flip(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def _wild_candidates(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["tables.successor"] = tensors["tables.successor"] + 10**9
    save_file(tensors, folder / "model.safetensors")
    _with_digests(folder)


def _wild_connections(folder):
    table = pq.read_table(folder / "connections.parquet")
    column = table["following_road_id"].to_numpy() + 10**6
    pq.write_table(table.set_column(1, "following_road_id", [column]), folder / "connections.parquet")
    _with_digests(folder)


def _text(name, text):
    def damage(folder):
        (folder / name).write_text(text)
        _with_digests(folder)

    return damage


DAMAGES = {
    "a missing file": (lambda folder: (folder / "roads.parquet").unlink(), "roads.parquet is missing"),
    "a flipped bit": (lambda folder: _flip(folder / "model.safetensors"), "model.safetensors has another content"),
    "a truncated file": (lambda folder: (folder / "student.json").write_text("{"), "student.json has 1 bytes, not"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "a bundle without its manifest.json"),
    "a manifest that is no JSON": (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json: damaged"),
    "an empty manifest": (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json: damaged"),
    "no digests": (lambda folder: _edit(folder, files={}), "does not name all files"),
    "another version": (lambda folder: _edit(folder, version="0" * 16), "its version is"),
    "another format": (lambda folder: _edit(folder, format="zip"), "its format is 'zip'"),
    "a newer format": (lambda folder: _edit(folder, format_version=2), "Install a newer hoser-kd"),
    "candidates out of range": (_wild_candidates, "the candidates in model.safetensors are not those"),
    "connections out of range": (_wild_connections, "names roads that roads.parquet lacks"),
    "roads that are no Parquet": (_text("roads.parquet", "nothing"), "not a usable bundle"),
    "a record that is a list": (_text("student.json", "[1]"), "not a usable bundle"),
    "weights that are no safetensors": (_text("model.safetensors", "x" * 99), "is damaged"),
    "an empty configuration": (_text("model.json", "{}"), "not a student of this project"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_bundle_is_one_clear_error(bundle, tmp_path, name):
    damage, message = DAMAGES[name]
    folder = shutil.copytree(bundle, tmp_path / "copy")
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        hk.load_student(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_in_a_bundle_is_executed(bundle, tmp_path):
    """Code beside the files is neither imported nor copied, and a pickle in place of the weights is not opened."""
    import pickle

    folder = shutil.copytree(bundle, tmp_path / "copy")

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    (folder / "__init__.py").write_text(f"import os; os.mkdir({str(tmp_path / 'executed')!r})")
    (folder / "model.pkl").write_bytes(pickle.dumps(Trap()))
    hk.load_student(folder)
    (folder / "model.safetensors").write_bytes(pickle.dumps(Trap()))
    _with_digests(folder)
    with pytest.raises(CheckpointError, match="damaged"):
        hk.load_student(folder)
    assert not (tmp_path / "executed").exists()


def test_wrong_arguments_are_refused(bundle, model, city, tmp_path):
    student = hk.load_student(bundle)
    with pytest.raises(TypeError, match=r"student is of type HOSER, not Student. Call write_bundle\("):
        hk.write_bundle(model, tmp_path / "new")
    with pytest.raises(ValueError, match=r"license is 'CC BY'.*Call write_bundle\("):
        hk.write_bundle(student, tmp_path / "new", "CC BY")
    with pytest.raises(ValueError, match=r"A bundle holds the roads, but this student was loaded without"):
        hk.write_bundle(Student(model), tmp_path / "new")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"exists and is not a bundle"):
        hk.write_bundle(student, tmp_path / "mine")
    with pytest.raises(TypeError, match=r"a bundle holds its own configuration. Leave out num_heads"):
        hk.load_student(bundle, num_heads=2)
    from small_city import grid_network

    with pytest.raises(CheckpointError, match="trained on 120 roads, the network has"):
        hk.load_student(bundle, grid_network(4))
    assert hk.load_student(bundle, city.network).num_roads == 120
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]


def test_the_command_writes_a_bundle(store_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["bundle", str(store_folder)]) == 0
    out = capsys.readouterr().out
    assert "written: town_vanilla_student_seed7" in out
    assert "license: unknown. Set it with --license" in out
    assert digest_file("town_vanilla_student_seed7/model.json") == digest_file(store_folder / "model.json")
    assert main(["bundle", str(tmp_path / "nothing"), "--out", "new"]) == 2
    assert "no such file or folder" in capsys.readouterr().err
    assert main(["bundle", str(store_folder), "--out", "new", "--license", "?"]) == 2
    assert "not an identifier" in capsys.readouterr().err
