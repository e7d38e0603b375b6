"""The artifact store: versions are found, never half written, and survive being killed or moved to a bucket."""

from __future__ import annotations

import multiprocessing
import time

import pytest

from hoser_kd.common.errors import StoreError
from hoser_kd.pipeline.store import Artifact, Store, read_artifact


def commit(store, version="v1", text="hello", seed=None):
    with store.work_folder("roads", "town", version, seed) as folder:
        (folder / "sub").mkdir(exist_ok=True)
        (folder / "sub" / "file.txt").write_text(text)
        return store.commit(folder, Artifact("roads", "town", seed, version, folder, summary={"count": 3}))


def test_what_is_committed_is_found_by_its_version(tmp_path):
    store = Store(tmp_path)
    made = commit(store, seed=4)
    found = store.find("roads", "town", "v1", 4)
    assert found == made
    assert (found.path / "sub" / "file.txt").read_text() == "hello"
    assert found.name == "roads/seed-4"
    assert store.find("roads", "town", "v2", 4) is None
    with pytest.raises(StoreError, match=r"version v2 of town/roads/seed-4 is not there\. Materialize roads again"):
        store.open("roads", "town", "v2", 4)


def test_an_interrupted_run_leaves_the_old_version_and_its_own_work(tmp_path):
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


def test_making_a_version_again_replaces_it_whole(tmp_path):
    store = Store(tmp_path)
    commit(store, text="old")
    assert (commit(store, text="new").path / "sub" / "file.txt").read_text() == "new"
    assert [path.name for path in (tmp_path / "town" / "roads").iterdir()] == ["v1"]


def _hold(root, started, seconds):
    with Store(root).work_folder("roads", "town", "v1"):
        started.set()
        time.sleep(seconds)


def test_two_processes_take_turns_at_one_version(tmp_path):
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    other = context.Process(target=_hold, args=(tmp_path, started, 0.5))
    other.start()
    assert started.wait(30)
    store = Store(tmp_path)
    assert store.is_being_made("roads", "town", "v1")
    with store.work_folder("roads", "town", "v1"):
        assert not other.is_alive() or other.join(5) is None
    other.join(10)
    assert not store.is_being_made("roads", "town", "v1")


def test_a_remote_store_is_cached_when_read(tmp_path):
    remote = Store("memory://bucket/artifacts", cache=tmp_path / "writer")
    commit(remote)
    reader = Store("memory://bucket/artifacts", cache=tmp_path / "reader")
    found = reader.open("roads", "town", "v1")
    assert (found.path / "sub" / "file.txt").read_text() == "hello"
    assert found.path.is_relative_to(tmp_path / "reader")
    assert found.summary == {"count": 3}


def test_an_artifact_with_a_file_missing_or_cut_short_is_none(tmp_path):
    store = Store(tmp_path)
    file = commit(store).path / "sub" / "file.txt"
    file.write_text("hell")
    assert store.find("roads", "town", "v1") is None
    with pytest.raises(StoreError, match=r"is damaged: sub/file\.txt has 4 bytes instead of 5\. Materialize"):
        store.open("roads", "town", "v1")
    file.unlink()
    with pytest.raises(StoreError, match=r"is damaged: sub/file\.txt is missing"):
        store.open("roads", "town", "v1")
    assert commit(store).damage() is None


@pytest.mark.parametrize("root", ["file", "s3://bucket/x"])
def test_a_store_that_cannot_be_used_is_one_clear_error(tmp_path, root):
    (tmp_path / "file").write_text("")

    def use() -> None:
        with Store(root if ":" in root else tmp_path / root).work_folder("roads", "town", "v1"):
            pass

    with pytest.raises(StoreError, match="pip" if ":" in root else "cannot be written"):
        use()


def test_a_damaged_record_is_named(tmp_path):
    made = commit(Store(tmp_path))
    (made.path / "artifact.json").write_text("{")
    with pytest.raises(StoreError, match=r"artifact\.json: damaged"):
        read_artifact(made.path)
    with pytest.raises(StoreError, match="so this is no artifact"):
        read_artifact(tmp_path)
