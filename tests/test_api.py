"""The public API: lazy, complete, documented with examples that run, and strict about its arguments."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hoser_kd
from hoser_kd.common.errors import ConfigError, DataError

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "api.md"
CITY = ROOT / "tests" / "golden" / "hoser_city"


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


def _wrong_calls():
    """Yield (name, arguments, keywords, error, message) of wrong calls."""
    network = hoser_kd.read_network(CITY)
    config = hoser_kd.SyntheticConfig(num_trips=30)
    csv = CITY / "test.csv"
    grid = (41.1, 41.2, -8.7, -8.6, 0.001, 0.001)
    city_call, trips_call = r"Call read_city\(folder, on_bad_row='drop'\)", r"Call read_trips\(csv_path, network"
    synthetic_call, grid_call = r"Call make_synthetic_city\(folder, Synt", r"Call GridSpec\(min_lat, max_lat, min_lng"
    student_call = r"Call load_student\(path, network, zones="
    for value in (None, 3, b"x", network):
        yield "read_network", (value,), {}, TypeError, r"folder is a .*Call read_network\(folder\)"
        yield "load_config", (value,), {}, TypeError, r"path is a .*Call load_config\('config/porto.yaml'\)"
        yield "read_city", (value,), {}, TypeError, f"folder is a .*{city_call}"
        yield "read_trips", (value, network), {}, TypeError, f"csv_path is a .*{trips_call}"
        yield "make_synthetic_city", (value, config), {}, TypeError, f"folder is a .*{synthetic_call}"
    yield "read_network", (CITY / "missing",), {}, DataError, "no such file"
    yield "read_city", (CITY / "missing",), {}, DataError, "no such folder"
    yield "read_city", (CITY, "drop"), {}, TypeError, f"zones_config is a str, not a ZonesConfig.*{city_call}"
    yield "read_city", (CITY,), {"on_bad_row": "skip"}, ValueError, f"'refuse' or 'drop', not 'skip'.*{city_call}"
    yield "read_trips", (network, csv), {}, TypeError, f"csv_path is a RoadNetwork.*{trips_call}"
    for value in (None, str(CITY)):
        yield "read_trips", (csv, value), {}, TypeError, r"network is a .*with network = read_network\(folder\)"
    yield "read_trips", (csv, network, None), {}, ValueError, f"on_bad_row must be .*not None.*{trips_call}"
    for value in ({"num_trips": 30}, None, "city", hoser_kd.DistillConfig()):
        yield "make_synthetic_city", ("new", value), {}, TypeError, f"config is a .*{synthetic_call}"
    yield "make_synthetic_city", (config, "new"), {}, TypeError, f"folder is a SyntheticConfig.*{synthetic_call}"
    for value in ("41.1", None, np.array([41.1]), True):
        yield "GridSpec", (value, *grid[1:]), {}, TypeError, f"min_lat is a .*not a number.*{grid_call}"
        yield "GridSpec", grid, {"downsample_factor": value}, TypeError, f"downsample_factor is a .*{grid_call}"
    yield "GridSpec", (41.1, 116.4, *grid[2:]), {}, ConfigError, f"max_lat 116.4 is beyond ±90°.*{grid_call}"
    yield "GridSpec", (-91.0, *grid[1:]), {}, ConfigError, f"min_lat -91.0 is beyond ±90°.*{grid_call}"
    path = CITY.parent / "hoser_ckpt_trained.pth"
    for value in ("x", [["a"]], object()):
        yield (
            "load_student",
            (path, network),
            {"zone_transitions": value},
            TypeError,
            f"transitions is a.*{student_call}",
        )
    yield "load_student", (path, network), {"zone_transitions": [1, 2]}, ValueError, rf"\(2,\), not .*{student_call}"
    for value in ("x", [0.5], 3):
        yield "load_student", (path, network), {"zones": value}, TypeError, f"zones is a .*{student_call}"


def test_wrong_arguments_are_refused_with_the_right_call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, arguments, keywords, error, message in _wrong_calls():
        with pytest.raises(error, match=message):
            pytest.fail(f"{name} accepts {arguments} {keywords}: {getattr(hoser_kd, name)(*arguments, **keywords)!r}")
    assert not list(tmp_path.iterdir())


def test_the_examples_of_the_page_run(tmp_path):
    """In one process and one namespace, from top to bottom, as a reader would run them."""
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks()), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
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
