"""`hoser-kd import-teacher` describes and converts a file, lists missing settings, and refuses other files."""

from __future__ import annotations

import os
import shutil
import warnings
from dataclasses import asdict

import pytest
import torch

from hoser_kd.cli import main
from hoser_kd.lmtad import LMTAD, LMTADCheckpoint, LMTADConfig, load_checkpoint
from hoser_kd.lmtad.checkpoint import save
from hoser_kd.teacher.importing import report

CONFIG = LMTADConfig(block_size=12, vocab_size=28, n_layer=2, n_head=2, n_embd=8)
BOUNDS = {"min_lat": 41.0, "max_lat": 41.0045, "min_lng": -8.0, "max_lng": -7.9955}


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    """Runs the command in an empty folder; returns status, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = main(["import-teacher", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return LMTAD(CONFIG).eval()


GOLDEN = {
    "lmtad_ckpt": (
        "positions: learned",
        "vocabulary: 103 tokens: cells 0 to 99, PAD 100, EOT 101, SOT 102",
        "grid: 10 × 10 = 100 cells, as written in the file\n",
    ),
    "lmtad_ckpt_orig_mod": ("positions: learned", "vocabulary: 103 tokens", "grid: 10 × 10 = 100 cells"),
    "lmtad_ckpt_integer_poe": ("positions: sinusoidal", "vocabulary: 103 tokens", "note: LM-TAD with integer_poe"),
    "lmtad_ckpt_official_vocab": (
        "positions: learned",
        "vocabulary: 114 tokens: cells 0 to 110, PAD 111",
        "grid: 51 × 158 = 8058 cells, as written in the file, do not fit its 111 labels",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_published_files_are_described_and_converted(golden, call, tmp_path, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning is a line of the answer, not one of Python's
        status, output, error = call(golden / f"{name}.pt", "--out", tmp_path / "teacher")
    assert (status, error) == (0, "")
    for part in (
        *GOLDEN[name],
        "model: 2 layers, 2 heads, width 32",
        "context: 96 tokens",
        "bounds: not in the file",
        "needs: `bounds` (min_lat, max_lat, min_lng, max_lng) and `cell_size_m`, or `cell_lat`",
    ):
        assert part in output
    assert {file.name for file in (tmp_path / "teacher").iterdir()} == {"model.safetensors", "config.json"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, after = load_checkpoint(golden / f"{name}.pt"), load_checkpoint(tmp_path / "teacher")
        tokens = torch.tensor([[before.config.sot_token, 3, 4, 4, 17]])
        with torch.no_grad():
            assert torch.equal(before.model(tokens), after.model(tokens))
    assert (after.config, after.dataset_config) == (before.config, before.dataset_config)


def test_the_folder_is_named_as_the_file_and_importing_it_changes_nothing(golden, call, tmp_path):
    assert call(golden / "lmtad_ckpt.pt")[0] == 0
    written = (tmp_path / "lmtad_ckpt" / "model.safetensors").stat()
    for again in ("lmtad_ckpt", "lmtad_ckpt/model.safetensors", "lmtad_ckpt/config.json"):
        status, output, _ = call(again)
        assert status == 0
        assert "10 × 10 = 100 cells" in output
        assert output.endswith("written: nothing, it is in this format already\n")
    assert (tmp_path / "lmtad_ckpt" / "model.safetensors").stat() == written


def weights_only(path, model, **dataset_config):
    content = {"state_dict": model.state_dict(), "model_config": asdict(CONFIG), "dataset_config": dataset_config}
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("about", "lines"),
    [
        (
            {},
            [
                "grid: rows and columns not in the file; 25 labels",
                "bounds: not in the file",
                "needs: `bounds`",
                "H · W or H · W + W + 1 = 25 labels",
            ],
        ),
        (
            {**BOUNDS, "grip_size": (5, 5)},
            ["bounds: known", "needs: `cell_size_m`, or `cell_lat` and `cell_lng` of its training"],
        ),
        (
            {**BOUNDS, "grip_size": (4, 4), "grid_size": 0.001},
            ["bounds: known", "9 labels unused", "needs: nothing"],
        ),  # the number of labels contradicts grip_size
        ({**BOUNDS, "grip_size": (4, 5), "grid_size": 0.001}, ["20 cells, as written in the file, 5 labels unused"]),
        ({**BOUNDS, "grip_size": (5, 5), "grid_size": 0.001}, ["extent: 41 to 41.0045 north", "needs: nothing"]),
        (
            {**BOUNDS, "grip_size": (5, 5), "grid_size": 0.0007},
            ["needs: a grid that fits. The grid has 7 × 7 cells, but the teacher's checkpoint has grip_size 5 × 5"],
        ),
        (
            {**BOUNDS, "grid_size": 0.0007},
            ["needs: a grid that fits; these are 7 × 7 = 49 cells, more than its 25 labels"],
        ),
        ({**BOUNDS, "grid_size": 0.00044, "downsample_factor": 2}, ["2 × 2 of them merged", "needs: nothing"]),
        ({"min_lat": "north"}, ["needs: a file whose settings can be read. The grid's min_lat is 'north'"]),
        ({"grip_size": 7}, ["The grid's grip_size is 7; it must be rows and columns"]),
        ({"grip_size": ("a", "b")}, ["grip_size is 'a'; it must be a number"]),
        ({"kind": "roads", "grip_size": (1, 25)}, ["tokens: one per road", "needs: `kind: roads`"]),
        (
            {**BOUNDS, "cell_lat": 0.001, "cell_lng": 0.001, "occupied_cells": list(range(25))},
            ["cells: 25 cells of the grid have a token", "needs: nothing"],
        ),
    ],
)
def test_missing_settings_are_listed_even_if_the_grid_does_not_fit(call, tmp_path, model, about, lines):
    status, out, error = call(weights_only(tmp_path / "a.pt", model, **about))
    assert (status, error) == (0, "")
    for part in lines:
        assert part in out
    assert (tmp_path / "a" / "config.json").is_file()


class Call:
    """An object that pickles as a function call."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def hostile(path, model):
    torch.save(
        {"state_dict": model.state_dict(), "model_config": Call(os.system, f"touch {path.parent / 'harmed'}")}, path
    )


def truncated(path, model):
    weights_only(path, model)
    path.write_bytes(path.read_bytes()[:-3000])


def empty(path, model):
    path.touch()


def missing(path, model):
    pass


def folder_of_something_else(path, model):
    path.mkdir()


def text(path, model):
    path.write_text("epoch,loss\n1,2\n")


def students(path, model):
    torch.save({"road2zone": torch.zeros(3)}, path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (hostile, "refused, because it names `posix.system`"),
        (truncated, "truncated"),
        (empty, "not a readable"),
        (missing, "no such file"),
        (folder_of_something_else, "A teacher's folder holds"),
        (text, "not a readable"),
        (students, "not an LM-TAD checkpoint"),
    ],
)
def test_other_files_are_refused_and_nothing_is_written(call, tmp_path, model, spoil, message):
    path = tmp_path / "a.pt"
    spoil(path, model)
    before = set(tmp_path.iterdir())
    status, out, error = call(path)
    assert (status, out) == (2, "")
    assert error.startswith(f"hoser-kd: {path}")
    assert message in error
    assert error.count("\n") == 1
    assert set(tmp_path.iterdir()) == before


def test_other_files_in_the_folder_are_not_replaced(call, tmp_path, model):
    file = weights_only(tmp_path / "a.pt", model)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    (tmp_path / "name").write_text("")
    for out, message in (
        ("mine", "holds other files"),
        ("name", "a file of this name exists"),
        ("name/below", "cannot be written"),
    ):
        status, _, error = call(file, "--out", out)
        assert status == 2
        assert message in error
    assert (tmp_path / "mine" / "config.json").read_text() == "{}"
    shutil.rmtree(tmp_path / "mine")
    assert call(file, "--out", "mine")[0] == call(file, "--out", "mine")[0] == 0


def test_a_teacher_trained_here_needs_nothing(model, tmp_path):
    about = {**BOUNDS, "cell_lat": 0.001, "cell_lng": 0.001, "downsample_factor": 1, "grip_size": [5, 5]}
    save(LMTADCheckpoint(model, CONFIG, about), tmp_path)
    assert report(load_checkpoint(tmp_path))[-1] == "needs: nothing"
