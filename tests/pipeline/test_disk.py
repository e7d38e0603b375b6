"""A disk that is full, and a finished store that cannot be written: one error each, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_town import tiny_town

from hoser_kd.common.errors import StoreError
from hoser_kd.config.schema import CityConfig
from hoser_kd.network.synthetic.city import make_city
from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.run import make, make_with_inputs
from hoser_kd.pipeline.store import Store


def write_bytes(folder):
    Path("/dev/full").write_bytes(b"x")


def write_tensors(folder):
    torch.save({"x": torch.zeros(100_000)}, "/dev/full")


def replace_file(folder):
    raise RuntimeError('Error while serializing: IoError(Os { code: 28, message: "No space left on device" })')


@pytest.mark.parametrize("write", [write_bytes, write_tensors, replace_file])
def test_a_full_disk_is_one_error_and_finished_parts_stay(tmp_path, monkeypatch, write):
    def run(each):
        (each.folder / "part").write_text("finished")
        write(each.folder)

    monkeypatch.setattr("hoser_kd.pipeline.stage.Stage.function", lambda _: run)
    if write is write_tensors:  # torch says only that it failed; the disk itself is asked
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 0}))
    with pytest.raises(StoreError, match=r"the disk is full\. Free some space.*resumes"):
        make(STAGES["source_files"], tiny_town(), Store(tmp_path), {})
    assert [path.read_text() for path in tmp_path.rglob("part")] == ["finished"]


def test_a_finished_store_that_cannot_be_written_is_read(tmp_path):
    config = tiny_town()
    make_city(tmp_path / "raw", config.source.synthetic)
    config = CityConfig.model_validate(
        {**config.model_dump(), "source": {"kind": "hoser", "path": str(tmp_path / "raw")}}
    )
    finished = make_with_inputs("road_network", config, Store(tmp_path / "store"))
    work = tmp_path / "store" / ".work"
    for path in sorted(work.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    work.rmdir()
    work.write_text("")  # no folder can be created in it, for any user
    assert make_with_inputs("road_network", config, Store(tmp_path / "store")) == finished
    with (tmp_path / "raw" / "train.csv").open("a") as trips:
        trips.write("\n")
    with pytest.raises(
        StoreError, match="cannot be written, and has no source_files of town with the current raw files"
    ):
        make_with_inputs("road_network", config, Store(tmp_path / "store"))
