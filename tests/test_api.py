"""The public API: lazy, complete, documented with examples that run, and strict about its arguments."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hoser_kd

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "api.md"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_importing_the_package_loads_no_heavy_library():
    script = (
        "import sys, hoser_kd\n"
        "heavy = {'torch', 'geopandas', 'numba', 'pandas', 'scipy', 'dagster'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there_and_documented():
    text = PAGE.read_text(encoding="utf-8")
    for name in hoser_kd.__all__:
        value = getattr(hoser_kd, name)
        assert value.__doc__, name
        assert f"hk.{name}(" in text or f"`{name}" in text, f"docs/api.md does not show {name}"


def test_the_table_of_names_equals_the_imports_for_type_checkers():
    tree = ast.parse((ROOT / "hoser_kd" / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = {
        alias.asname or alias.name: f"{node.module}:{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imports == hoser_kd._API
    assert sorted(hoser_kd.__all__) == sorted(hoser_kd._API)


def test_dir_lists_the_public_names_alone():
    names = {name for name in dir(hoser_kd) if not name.startswith("__")}
    assert names == set(hoser_kd.__all__)
    assert "__version__" in dir(hoser_kd)


def test_an_unknown_name_lists_the_public_ones():
    with pytest.raises(AttributeError, match=r"no attribute 'generat'.*generate"):
        _ = hoser_kd.generat


def test_the_examples_of_the_page_run(tmp_path):
    """In one process and one namespace, from top to bottom, as a reader would run them."""
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks()), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:hoser_kd", str(script)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "labeled steps" in done.stdout
    assert "of the trips reach their destination" in done.stdout
    # the last block shows the error of a wrong call
    assert "generate(" in done.stdout.splitlines()[-1]
