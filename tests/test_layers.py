"""Imports run one way: hoser_kd ← assets ← dagster_project; heavy libraries stay out of the definitions."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "hoser_kd": {"dagster", "assets", "dagster_project", "dagster_pipes"},
    "assets": {"dagster_project", "torch", "geopandas"},
    "dagster_project": {"torch", "geopandas"},
}


def imported(file: Path) -> set[str]:
    """Top-level packages a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_run_one_way(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    wrong = {str(file): found for file in files if (found := imported(file) & FORBIDDEN[package])}
    assert not wrong


def test_definitions_load_without_heavy_libraries():
    script = (
        "import sys, dagster_project.definitions\n"
        "heavy = {'torch', 'geopandas', 'numba', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
