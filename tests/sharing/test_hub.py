"""push and pull: the requests of huggingface_hub against a local server, and folders at file:// addresses."""

from __future__ import annotations

import json
import shutil

import pytest
from hub_server import Handler, running_hub
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

import hoser_kd as hk
from hoser_kd.cli import main
from hoser_kd.common.errors import CheckpointError
from hoser_kd.sharing.bundle import BUNDLE_FILES
from hoser_kd.sharing.hub import Address


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with running_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        disable_progress_bars()  # a changed constant has no effect once the library is imported
        yield server
        enable_progress_bars()


@pytest.fixture
def bundle(old_bundle, tmp_path):
    return shutil.copytree(old_bundle, tmp_path / "bundle")


def version_of(folder):
    return json.loads((folder / "manifest.json").read_text())["version"]


def test_a_bundle_travels_over_hugging_face(hub, bundle, tmp_path):
    (bundle / "secret.txt").write_text("not part of a bundle")
    first = version_of(bundle)
    assert hk.push(bundle, "people/town", token="secret") == f"people/town@{first}"
    repository = Handler.repositories["people/town"]
    assert repository.private
    assert set(repository.commits[repository.revisions[first]]) == set(BUNDLE_FILES)
    student = hk.load_student("people/town")
    assert student.about["version"] == first
    other = version_of(hk.write_bundle(student, bundle, "mit"))
    assert other != first
    assert hk.push(bundle, "hf://people/town", token="secret") == f"people/town@{other}"
    assert hk.load_student("people/town").about["version"] == other
    repository.commit({"virus.py": b"raise SystemExit"})
    Handler.served.clear()
    folder = hk.pull(f"people/town@{first}", tmp_path / "first")
    assert version_of(folder) == first
    assert set(Handler.served) <= set(BUNDLE_FILES)
    assert {file.name for file in folder.iterdir()} == set(BUNDLE_FILES)
    # the same version again: nothing changes
    assert hk.push(bundle, "people/town", token="secret") == f"people/town@{other}"
    # a tag that was moved
    repository.revisions[first] = repository.revisions[other]
    with pytest.raises(CheckpointError, match=f"holds version {other}. Do not use it"):
        hk.pull(f"people/town@{first}")


def test_what_the_server_refuses_is_one_error(hub, bundle, capsys):
    with pytest.raises(CheckpointError, match=r"people/town: cannot be published.*hf auth login"):
        hk.push(bundle, "people/town", token="wrong")
    with pytest.raises(CheckpointError, match=r"nobody/town: no such folder, and no such repository"):
        hk.load_student("nobody/town")
    hk.push(bundle, "people/town", token="secret")
    with pytest.raises(CheckpointError, match=r"people/town: it has no version v9"):
        hk.load_student("people/town@v9")
    Handler.repositories["people/town"].commit({"model.json": b"{}"})
    with pytest.raises(CheckpointError, match=r"model.json has 2 bytes"):
        hk.load_student("people/town")
    capsys.readouterr()
    assert main(["pull", "people/town"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_unreachable_server_is_one_error(hub, bundle, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"people/town: cannot be downloaded.*HF_HUB_OFFLINE"):
        hk.load_student("people/town")


def test_a_path_is_not_taken_for_a_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for path in ("data/porto", "data/porto/vanilla_student/seed-0", "./a/b", "a/b.pth", tmp_path / "a" / "b"):
        with pytest.raises(CheckpointError, match="no such file or folder"):
            hk.load_student(path)


def test_a_bundle_travels_over_a_folder(bundle, tmp_path, capsys):
    place = f"file://{tmp_path}/shelf"
    first = version_of(bundle)
    assert main(["push", str(bundle), place]) == 0
    assert capsys.readouterr().out == f"published: {place}@{first}\n"
    second = version_of(hk.write_bundle(hk.load_student(bundle), bundle, "mit"))
    assert hk.push(bundle, place) == f"{place}@{second}"
    assert hk.load_student(place).about["version"] == second
    assert hk.load_student(f"{place}@{first}").about["version"] == first
    assert main(["pull", f"{place}@{first}", "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/out\n"
    assert version_of(tmp_path / "out") == first
    assert hk.pull(place, tmp_path / "out") == tmp_path / "out"
    assert version_of(tmp_path / "out") == second
    assert hk.pull(f"file://{bundle}") == bundle
    with pytest.raises(
        CheckpointError, match=f"no version {'0' * 16}. A version has 16 hex digits. It has {min(first, second)}"
    ):
        hk.pull(f"{place}@{'0' * 16}")
    with pytest.raises(CheckpointError, match=r"no version \(none is pushed\)"):
        hk.pull(f"file://{tmp_path}/nothing")
    with pytest.raises(CheckpointError, match="A version has 16 hex digits"):
        hk.pull(f"{place}@../../etc")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="exists and is not a bundle"):
        hk.pull(place, tmp_path / "mine")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("town", "not an address"),
        ("a/b/c", "not an address"),
        ("file://server/shelf", "three slashes"),
        ("https://huggingface.co/a/b", "not an address"),
    ],
)
def test_a_wrong_address_shows_the_right_ones(address, message):
    with pytest.raises(ValueError, match=message):
        Address.of(address)
    with pytest.raises(TypeError, match="address is of type int"):
        Address.of(3)


def test_a_damaged_bundle_is_not_published(bundle, tmp_path):
    (bundle / "student.json").write_text("{}")
    with pytest.raises(CheckpointError, match="damaged"):
        hk.push(bundle, f"file://{tmp_path}/shelf")
    assert not (tmp_path / "shelf").exists()
    with pytest.raises(ValueError, match="the version follows from the content"):
        hk.push(bundle, f"file://{tmp_path}/shelf@{'0' * 16}")
