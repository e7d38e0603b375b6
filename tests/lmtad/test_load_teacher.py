"""load_teacher: reads any LM-TAD file and refuses a student."""

from __future__ import annotations

import pytest

from hoser_kd.common.errors import CheckpointError
from hoser_kd.lmtad import load_checkpoint, load_teacher
from hoser_kd.lmtad.checkpoint import save


@pytest.mark.parametrize("name", ["lmtad_ckpt.pt", "lmtad_ckpt_orig_mod.pt", "lmtad_ckpt_official_vocab.pt"])
def test_published_files_and_our_folder(golden, tmp_path, name):
    teacher = load_teacher(golden / name)
    assert teacher.config == load_checkpoint(golden / name).config
    save(teacher, tmp_path)
    assert load_teacher(str(tmp_path)).config == teacher.config


def test_other_files_are_refused(golden, tmp_path):
    with pytest.raises(TypeError, match=r"path is of type int, not a path\. Call load_teacher\(path\)"):
        load_teacher(3)
    with pytest.raises(CheckpointError, match="not an LM-TAD checkpoint"):
        load_teacher(golden / "hoser_ckpt.pth")
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"It looks like a student: load_student\("):
        load_teacher(tmp_path)
