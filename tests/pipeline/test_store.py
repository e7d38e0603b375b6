"""The artifact store: versions are complete or absent, survive a killed run, and can be in a bucket."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import threading
from pathlib import Path

import pytest
from tiny_town import tiny_town

from hoser_kd.cli.main import main
from hoser_kd.common.errors import StoreError
from hoser_kd.pipeline.integrity import file_error
from hoser_kd.pipeline.plan import plan
from hoser_kd.pipeline.run import make_steps, make_with_inputs
from hoser_kd.pipeline.store import Artifact, Store, read_artifact


def commit(store, version="v1", text="hello", seed=None):
    with store.work_folder("roads", "town", version, seed) as folder:
        (folder / "sub").mkdir(exist_ok=True)
        (folder / "sub" / "file.txt").write_text(text)
        return store.commit(folder, Artifact("roads", "town", seed, version, folder, summary={"count": 3}))


def test_an_artifact_is_found_by_its_version(tmp_path):
    store = Store(tmp_path)
    committed = commit(store, seed=4)
    artifact = store.find("roads", "town", "v1", 4)
    assert artifact == committed
    assert (artifact.path / "sub" / "file.txt").read_text() == "hello"
    assert artifact.name == "roads/seed-4"
    assert store.find("roads", "town", "v2", 4) is None
    with pytest.raises(StoreError, match=r"version v2 of town/roads/seed-4 does not exist\. Materialize roads again"):
        store.open("roads", "town", "v2", 4)


def test_an_interrupted_run_keeps_the_old_version_and_its_work_folder(tmp_path):
    store = Store(tmp_path)
    commit(store)

    def interrupted() -> None:
        with store.work_folder("roads", "town", "v2") as folder:
            (folder / "half").write_text("work")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert store.find("roads", "town", "v2") is None
    assert store.find("roads", "town", "v1") is not None
    with store.work_folder("roads", "town", "v2") as folder:
        assert (folder / "half").read_text() == "work"


def test_a_version_that_is_computed_again_replaces_the_old_copy(tmp_path):
    store = Store(tmp_path)
    commit(store, text="old")
    assert (commit(store, text="new").path / "sub" / "file.txt").read_text() == "new"
    assert [path.name for path in (tmp_path / "town" / "roads").iterdir()] == ["v1"]


def _hold(root, entered, release):
    with Store(root).work_folder("roads", "town", "v1"):
        entered.set()
        release.wait(60)


@pytest.fixture
def holder(tmp_path):
    """Another process that is in the work folder of v1; it leaves when `release` is set."""
    context = multiprocessing.get_context("spawn")
    entered, release = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path, entered, release))
    process.start()
    assert entered.wait(60)
    yield process, release
    process.kill()
    process.join()


@contextlib.contextmanager
def waiting(root, version="v1"):
    """A thread that waits for the work folder; yields the event of its entry."""
    inside = threading.Event()

    def enter():
        with Store(root).work_folder("roads", "town", version):
            inside.set()

    thread = threading.Thread(target=enter)
    thread.start()
    yield inside
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.parametrize("end", ["leaves", "is killed"])
def test_a_work_folder_belongs_to_one_process_until_it_leaves_or_is_killed(tmp_path, holder, end):
    process, release = holder
    with waiting(tmp_path) as inside:
        # an unlocked folder is entered within milliseconds
        assert not inside.wait(1)
        release.set() if end == "leaves" else process.kill()
        assert inside.wait(60)


def test_another_version_does_not_wait(tmp_path, holder):
    with waiting(tmp_path, "v2") as inside:
        assert inside.wait(60)


def test_a_remote_store_is_cached_when_read(tmp_path):
    remote = Store("memory://bucket/artifacts", cache=tmp_path / "writer")
    commit(remote)
    reader = Store("memory://bucket/artifacts", cache=tmp_path / "reader")
    artifact = reader.open("roads", "town", "v1")
    assert (artifact.path / "sub" / "file.txt").read_text() == "hello"
    assert artifact.path.is_relative_to(tmp_path / "reader")
    assert artifact.summary == {"count": 3}


def test_an_artifact_with_a_missing_or_truncated_file_is_not_found(tmp_path):
    store = Store(tmp_path)
    file = commit(store).path / "sub" / "file.txt"
    file.write_text("hell")
    assert store.find("roads", "town", "v1") is None
    with pytest.raises(StoreError, match=r"is damaged: sub/file\.txt has 4 bytes instead of 5\. Materialize"):
        store.open("roads", "town", "v1")
    file.unlink()
    with pytest.raises(StoreError, match=r"is damaged: sub/file\.txt is missing"):
        store.open("roads", "town", "v1")
    assert commit(store).integrity_error() is None


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("file", "cannot be written"),
        ("gs://bucket/x", "pip"),
        ("ftpx://x/y", r"^ftpx://x/y: cannot be opened as a store .*HOSER_KD_STORE or --store to a folder"),
    ],
)
def test_an_unusable_store_is_one_clear_error(tmp_path, root, message):
    (tmp_path / "file").write_text("")

    def use() -> None:
        with Store(root if ":" in root else tmp_path / root).work_folder("roads", "town", "v1"):
            pass

    with pytest.raises(StoreError, match=message):
        use()


def test_a_damaged_record_is_named(tmp_path):
    artifact = commit(Store(tmp_path))
    (artifact.path / "artifact.json").write_text("{")
    with pytest.raises(StoreError, match=r"artifact\.json: damaged"):
        read_artifact(artifact.path)
    with pytest.raises(StoreError, match="not an artifact"):
        read_artifact(tmp_path)


def test_a_record_with_old_key_names_is_read_under_the_new_ones(tmp_path):
    artifact = commit(Store(tmp_path))
    file = artifact.path / "artifact.json"
    record = json.loads(file.read_text())
    old = {"resolution": {"all_apart": 0.5}, "alignment": {"can_tell": True, "tried": [{"guess": 2.0}]}, "steps": 3}
    record = {key: value for key, value in record.items() if key not in {"digests", "record_digest"}}
    file.write_text(json.dumps({**record, "summary": old}))
    assert read_artifact(artifact.path).summary == {
        "resolution": {"all_distinguishable_share": 0.5},
        "alignment": {"is_conclusive": True, "tried": [{"uniform_loss": 2.0}]},
        "steps": 3,
    }


def flip(file, at=0):
    """Flip the lowest bit of a byte, as a failing disk or memory does; size and times stay."""
    status = file.stat()
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("at", [0, 2, 4])
def test_a_flipped_bit_is_found_when_the_artifact_is_opened(tmp_path, at):
    flip(commit(Store(tmp_path)).path / "sub" / "file.txt", at)
    assert Store(tmp_path).find("roads", "town", "v1") is None
    with pytest.raises(StoreError, match=r"is damaged: the content of sub/file\.txt has changed: .*Materialize"):
        Store(tmp_path).open("roads", "town", "v1")


def test_every_flipped_bit_of_a_record_is_found(tmp_path):
    record = commit(Store(tmp_path)).path / "artifact.json"
    whole = record.read_bytes()
    silent = []
    for at in range(len(whole)):
        record.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        if Store(tmp_path).find("roads", "town", "v1") is not None:
            silent.append(at)
    assert not silent
    record.write_bytes(whole)
    assert Store(tmp_path).find("roads", "town", "v1") is not None


def test_a_record_without_digests_is_compared_by_size(tmp_path):
    artifact = commit(Store(tmp_path))
    file = artifact.path / "artifact.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({key: record[key] for key in record if key not in {"digests", "record_digest"}}))
    assert Store(tmp_path).open("roads", "town", "v1").digests == {}
    (artifact.path / "sub" / "file.txt").write_text("hell")
    assert Store(tmp_path).find("roads", "town", "v1") is None


def test_a_file_of_zeros_is_found_without_a_digest(tmp_path):
    folder = commit(Store(tmp_path), text="x" * 100).path
    assert file_error(folder, "sub/file.txt", 100, None) is None
    (folder / "sub" / "file.txt").write_bytes(bytes(100))
    assert "begins with zeros" in file_error(folder, "sub/file.txt", 100, None)


def test_files_and_folders_reach_the_disk_before_the_artifact_gets_its_place(tmp_path, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda handle: (synced.append(str(Path(f"/proc/self/fd/{handle}").readlink())), real(handle))
    )
    artifact = commit(Store(tmp_path))
    work = tmp_path / ".work" / "town" / "roads" / "v1"
    before = [str(work / name) for name in ("artifact.json", "sub/file.txt", "sub", "")]
    assert {name.rstrip("/") for name in before} <= set(synced)
    assert synced[-1] == str(artifact.path.parent)


def test_verify_reads_every_file_and_names_what_is_damaged(tmp_path, capsys):
    store = Store(tmp_path)
    for version in ("v1", "v2", "v3"):
        commit(store, version, seed=1)
    folder = tmp_path / "town" / "roads" / "seed-1"
    assert main(["verify", str(tmp_path)]) == 0
    assert "3 artifacts, 3 files, 0.0 MiB; damaged: none" in capsys.readouterr().out
    flip(folder / "v1" / "sub" / "file.txt")
    flip(folder / "v3" / "artifact.json", 20)
    assert main(["verify", str(tmp_path)]) == 1
    output = capsys.readouterr().out
    assert "town/roads/seed-1/v1: the content of sub/file.txt has changed" in output
    assert "v3/artifact.json: damaged" in output
    assert "damaged: 2" in output


@pytest.mark.parametrize("harm", ["zeros", "a flipped bit", "a damaged record"])
def test_a_damaged_artifact_is_computed_again_with_a_sentence_about_it(tmp_path, harm):
    config = tiny_town()
    first = make_with_inputs("trajectories", config, Store(tmp_path))
    file = first.path / "train.arrow"
    if harm == "zeros":
        file.write_bytes(bytes(file.stat().st_size))
    else:
        flip(file if harm == "a flipped bit" else first.path / "artifact.json", 300)
    said = []
    again = make_steps(plan(["trajectories"]), config, Store(tmp_path), on_warning=said.append)["trajectories", None]
    assert (again.version, again.digests) == (first.version, first.digests)
    assert len(said) == 1
    assert f"trajectories of town, version {first.version}, is damaged and computed again: " in said[0]
    assert again.summary["replaced_damaged"] in said[0]
