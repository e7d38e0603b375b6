"""Files of `torch.save`: every flipped bit is found, and nothing of a false size is allocated."""

from __future__ import annotations

import zipfile

import pytest
import torch

from hoser_kd.common.errors import CheckpointError
from hoser_kd.common.tensor_files import read_tensors
from hoser_kd.lmtad import load_checkpoint


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "state.pt"
    torch.save({"model": torch.arange(32.0), "key": "k"}, path)
    return path


def packed(source, target, method=zipfile.ZIP_DEFLATED, twice=False):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", method) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry.filename))
        if twice:
            with pytest.warns(UserWarning, match="Duplicate"):
                new.writestr(entry.filename, b"other")
    return target


@pytest.mark.parametrize("read", [read_tensors, load_checkpoint])
def test_every_flipped_bit_of_the_values_is_found(file, read):
    whole = file.read_bytes()
    place = whole.index(torch.arange(32.0).numpy().tobytes())
    for at in range(place, place + 128, 5):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        with pytest.raises(CheckpointError, match=r"differs from its checksum\. Copy or download it again"):
            read(file)


@pytest.mark.parametrize("read", [read_tensors, load_checkpoint])
def test_compressed_and_double_entries_are_refused(file, tmp_path, read):
    with pytest.raises(CheckpointError, match=r"its entry \S+ is compressed"):
        read(packed(file, tmp_path / "packed.pt"))
    with pytest.raises(CheckpointError, match="two entries of the same name"):
        read(packed(file, tmp_path / "twice.pt", zipfile.ZIP_STORED, twice=True))


@pytest.mark.parametrize("read", [read_tensors, load_checkpoint])
def test_a_small_file_that_claims_gigabytes_is_refused(tmp_path, read):
    huge = torch.zeros(1).expand(100_000, 30_000)
    path = tmp_path / "bomb.pt"
    content = {"model": {"transformer.wte.weight": huge}, "model_config": {"n_head": 1}}
    torch.save(content["model"] if read is read_tensors else content, path)
    assert path.stat().st_size < 3000
    with pytest.raises(CheckpointError, match=r"claim 12,000,000,000 bytes .*It was not loaded"):
        read(path)
