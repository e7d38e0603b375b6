"""The notebook runs from top to bottom on two small students, and is stored without outputs."""

from __future__ import annotations

import html
import re
import shutil
from pathlib import Path

import nbformat
import pytest
import torch

import hoser_kd as hk
from hoser_kd.sharing.student import Student

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "notebooks" / "student.ipynb"


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_notebook_is_stored_without_outputs(notebook):
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) > 8
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)


def test_the_notebook_runs(notebook, old_bundle, tmp_path, monkeypatch):
    from nbclient import NotebookClient

    shutil.copytree(old_bundle, tmp_path / "students" / "first")
    other = hk.load_student(old_bundle)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in other.model.navigator.parameters():
            weight.mul_(1 + 0.5 * torch.randn_like(weight))
    hk.write_bundle(Student(other.model, other.network, other.about), tmp_path / "students" / "second")
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[2]))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "mpl"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONWARNINGS", "error::FutureWarning,error::DeprecationWarning:__main__")
    done = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in done.cells if cell.cell_type == "code" for output in cell.outputs]
    texts = "".join(output.get("text", "") for output in outputs)
    data = [output["data"] for output in outputs if "data" in output]
    assert any("image/png" in each for each in data)
    maps = [each["text/html"] for each in data if "<iframe srcdoc=" in each.get("text/html", "")]
    assert len(maps) == 1
    assert not re.search(r"<(script|link)[^>]*(src|href)=", html.unescape(maps[0]))
    assert "total variation distance of the next-road probabilities: mean 0." in texts
    assert "mean 0.000" not in texts
    assert not [output for output in outputs if output.output_type == "error"]
    assert all((tmp_path / name).is_file() for name in ("trips.geojson", "trips.parquet", "map.html"))
