"""A store in a bucket of a real S3 server: uploads that are cut off, damage, leases, and work that moves to another
machine. A machine is a store with a cache of its own."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
import threading
import time
from http.client import HTTPConnection

import pytest
from guarded_process import GuardedProcess
from ports import free_ports
from tiny_town import tiny_town

from dagster_project import files
from dagster_project.bucket_files import BucketFiles
from hoser_kd.common.errors import StoreError
from hoser_kd.common.files import atomic_path
from hoser_kd.pipeline import remote
from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.run import make
from hoser_kd.pipeline.store import Artifact, Store

pytest.importorskip("s3fs")
pytest.importorskip("moto.server")

KEY = ("roads", "town", "v1")


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """A file system of the bucket `store` on a separate server."""
    import s3fs

    folder = tmp_path_factory.mktemp("s3")
    [port] = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-p", str(port)]
    secrets = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    with (
        pytest.MonkeyPatch.context() as patch,
        GuardedProcess(command, cwd=folder, environment=os.environ, log=folder / "log") as server,
    ):
        for name, value in {**secrets, "AWS_ENDPOINT_URL": address}.items():
            patch.setenv(name, value)
        wait_for(port, server)
        fs = s3fs.S3FileSystem()
        fs.mkdir("store")
        yield fs


def wait_for(port, server):
    deadline = time.monotonic() + 60
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert server.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def root(s3, request):
    """A fresh address in the bucket."""
    return f"s3://store/{request.node.name.replace('[', '-').rstrip(']')}"


@pytest.fixture
def machine(root, tmp_path):
    """Open the store as the machine of that name."""

    def at(name, **times):
        return Store(root, cache=tmp_path / name, **{"beat_s": 0.1, "patience_s": 1.0, **times})

    return at


def fill(folder, text="hello"):
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "sub" / "file.txt").write_text(text)
    (folder / "other.txt").write_text("other")


def commit(store, text="hello"):
    with store.work_folder(*KEY) as folder:
        fill(folder, text)
        return store.commit(folder, Artifact(*KEY[:2], None, "v1", folder))


def text_of(store):
    return (store.open(*KEY).path / "sub" / "file.txt").read_text()


def names(s3, root):
    base = root.removeprefix("s3://")
    s3.invalidate_cache()
    return sorted(name.removeprefix(f"{base}/") for name in s3.find(base))


def test_another_machine_reads_what_one_has_written_and_nothing_else_stays(machine, s3, root):
    commit(machine("one"))
    assert text_of(machine("two")) == "hello"
    assert names(s3, root) == [f"town/roads/v1/{name}" for name in ("artifact.json", "other.txt", "sub/file.txt")]


def test_two_addresses_have_two_private_caches(s3, root, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    commit(Store(root))
    assert Store(f"{root}-b").find(*KEY) is None
    caches = list((tmp_path / "hoser-kd").iterdir())
    assert [stat.S_IMODE(cache.stat().st_mode) for cache in caches] == [0o700, 0o700]


@pytest.fixture
def cut_off(monkeypatch):
    """Fail the upload of the n-th file from now, with half of it in the bucket."""
    real = remote.RemoteFolder.upload

    left = [None]

    def upload(self, file, name):
        if left[0] is not None:
            left[0] -= 1
            if left[0] == 0:
                self.write(name, file.read_bytes()[: file.stat().st_size // 2])
                raise StoreError("the connection was cut off")
        real(self, file, name)

    monkeypatch.setattr(remote.RemoteFolder, "upload", upload)
    return lambda count: left.__setitem__(0, count)


@pytest.mark.parametrize("number", [1, 3])
def test_an_upload_that_is_cut_off_is_no_artifact_and_the_next_run_repairs_it(machine, cut_off, number, monkeypatch):
    calls = []

    def run(each):
        calls.append(each)
        fill(each.folder)
        return {}

    with monkeypatch.context() as patch:
        patch.setattr("hoser_kd.pipeline.stage.Stage.function", lambda _: run)
        cut_off(number)
        with pytest.raises(StoreError, match="cut off"):
            make(STAGES["source_files"], tiny_town(), machine("one", beat_s=60), {})
        assert not any(isinstance(artifact, Artifact) for _, artifact in machine("two").artifacts())
        cut_off(None)
        artifact = make(STAGES["source_files"], tiny_town(), machine("one"), {})
        assert make(STAGES["source_files"], tiny_town(), machine("two"), {}).digests == artifact.digests
    assert len(calls) == 1  # the finished files of the first run were used


def test_a_forced_run_shows_readers_the_old_files_or_the_new_ones(machine, cut_off):
    commit(machine("one"), "old")
    reader = machine("reader")
    assert text_of(reader) == "old"
    cut_off(2)
    with pytest.raises(StoreError, match="cut off"):
        commit(machine("two"), "new")
    assert reader.find(*KEY) is None
    cut_off(None)
    commit(machine("two"), "new")
    assert text_of(reader) == "new"


def test_a_file_that_is_damaged_in_the_cache_is_downloaded_again(machine):
    commit(machine("one"))
    reader = machine("reader")
    (reader.open(*KEY).path / "sub" / "file.txt").write_text("jello")
    assert text_of(reader) == "hello"


def test_a_file_that_is_damaged_in_the_bucket_is_named(machine, s3, root):
    commit(machine("one"))
    s3.pipe_file(f"{root}/town/roads/v1/sub/file.txt", b"jello")
    with pytest.raises(StoreError, match=r"is damaged: the content of sub/file\.txt has changed"):
        machine("two").open(*KEY)
    [(name, artifact)] = machine("two").artifacts()
    assert "sub/file.txt has changed" in machine("two").verify(name, artifact)


def test_a_missing_bucket_is_an_error_before_any_stage_runs(s3, tmp_path, monkeypatch):
    monkeypatch.setattr("hoser_kd.pipeline.stage.Stage.function", lambda _: pytest.fail)
    for bucket in ("absent", "Bad_Name!"):
        with pytest.raises(StoreError, match=f"there is no bucket '{bucket}'.*HOSER_KD_STORE or --store"):
            make(STAGES["source_files"], tiny_town(), Store(f"s3://{bucket}/x", cache=tmp_path), {})


def test_a_version_belongs_to_one_machine_until_it_gives_it_back(machine):
    inside, entered = threading.Event(), []

    def other():
        with machine("two").work_folder(*KEY):
            entered.append(inside.is_set())

    thread = threading.Thread(target=other)
    with machine("one").work_folder(*KEY):
        thread.start()
        thread.join(2.0)  # longer than the patience: signs of life keep the lease
        assert thread.is_alive()
        inside.set()
    thread.join(30)
    assert entered == [True]


def interrupted(store, files):
    """Write files in the work folder of `store`, then stop as an interrupted run does."""
    with contextlib.suppress(KeyboardInterrupt), store.work_folder(*KEY) as folder:
        for name, content in files.items():
            with atomic_path(folder / name) as beside:
                beside.write_text(content)
        raise KeyboardInterrupt


def test_another_machine_resumes_interrupted_work(machine):
    interrupted(machine("one"), {"state.pt": "epoch 1", ".train-shards/0.arrow": "labels"})
    interrupted(machine("two"), {"state.pt": "epoch 2"})
    with machine("one").work_folder(*KEY) as folder:
        assert (folder / "state.pt").read_text() == "epoch 2"
        assert (folder / ".train-shards" / "0.arrow").read_text() == "labels"


def test_another_machine_takes_over_from_one_that_has_died(machine, s3, root):
    one, two = machine("one"), machine("two")
    with contextlib.suppress(KeyboardInterrupt), one.work_folder(*KEY) as folder:
        with atomic_path(folder / "state.pt") as beside:
            beside.write_text("epoch 7")
        deadline = time.monotonic() + 20
        while ".work/town/roads/v1/state.pt" not in names(s3, root):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        [work] = one._works.values()
        work._ended.set()  # no sign of life any more, as after a power cut
        work._thread.join()
        with two.work_folder(*KEY) as other:
            assert (other / "state.pt").read_text() == "epoch 7"
            fill(other)
            two.commit(other, Artifact(*KEY[:2], None, "v1", other))
        raise KeyboardInterrupt
    assert text_of(machine("three")) == "hello"


def test_a_machine_that_lost_its_lease_does_not_write(machine, monkeypatch):
    monkeypatch.setattr(remote.RemoteWork, "_beat", lambda self: None)  # a suspended machine gives no sign of life
    one = machine("one")
    with one.work_folder(*KEY) as folder:
        commit(machine("two"), "two")
        fill(folder, "one")
        with pytest.raises(StoreError, match="another machine took town/roads/v1 over"):
            one.commit(folder, Artifact(*KEY[:2], None, "v1", folder))
    assert text_of(machine("three")) == "two"


def curves(store, version):
    with store.work_folder("teacher", "town", version) as folder:
        (folder / "tensorboard").mkdir()
        (folder / "tensorboard" / "events").write_text(version)
        (folder / "report.html").write_text("<p>report")
        return store.commit(folder, Artifact("teacher", "town", None, version, folder))


def test_the_file_server_of_another_machine_has_the_reports_of_a_bucket(machine):
    """A file is copied when it is requested; hidden names and unknown versions are not found."""
    curves(machine("one"), "v1")
    two = machine("two")
    with files.server(two.local_root, 0, BucketFiles(two).provide) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def status(path):
            connection = HTTPConnection(files.HOST, server.server_port)
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()

        assert status("/files/town/teacher/v1/report.html") == (200, b"<p>report")
        assert status("/files/town/teacher/v2/report.html")[0] == 404
        assert status("/files/.work/teacher/v1/report.html")[0] == 404
        assert status("/files/town/teacher/seed-x/v1")[0] == 404
        server.shutdown()


def test_the_curves_of_a_bucket_are_copied_without_its_models_and_an_artifact_replaces_them(machine):
    curves(machine("one"), "v1")
    two = machine("two")
    two.copy_folders("tensorboard")
    folder = two.local_root / "town" / "teacher" / "v1"
    assert [file.relative_to(folder).as_posix() for file in folder.rglob("*")] == ["tensorboard", "tensorboard/events"]
    assert two.open("teacher", "town", "v1").path == folder
    assert (folder / "report.html").is_file()
