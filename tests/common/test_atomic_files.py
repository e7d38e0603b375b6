"""Atomic writes: the target has its old or its new content, never a part of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hoser_kd.common.files import atomic_path, write_json


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def half_write(path):
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("disk full")


def test_the_target_is_replaced_when_the_block_ends(tmp_path):
    target = tmp_path / "new" / "folder" / "file.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("one")
        assert temporary.parent == target.parent
        assert not target.exists()
    with atomic_path(target) as temporary:
        temporary.write_text("two")
        assert target.read_text() == "one"
    assert target.read_text() == "two"
    assert names(target.parent) == ["file.txt"]


def test_a_failed_block_keeps_the_previous_content(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="full"):
        half_write(target)
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_a_killed_process_keeps_the_previous_content(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")
    script = (
        "import os, signal, sys\n"
        "from hoser_kd.common.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).resolve().parents[2]
    process = subprocess.run([sys.executable, "-c", script, str(target)], cwd=root, check=False)
    assert process.returncode == -signal.SIGKILL
    assert target.read_text() == "old"


def test_invalid_json_keeps_the_previous_content(tmp_path):
    target = tmp_path / "values.json"
    write_json(target, {"b": [1, 2.5], "a": None})
    assert json.loads(target.read_text()) == {"b": [1, 2.5], "a": None}
    with pytest.raises(TypeError):
        write_json(target, {"a": object()})
    assert json.loads(target.read_text())["b"] == [1, 2.5]
    assert names(tmp_path) == ["values.json"]
