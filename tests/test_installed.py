"""What a wheel of the project holds: all that `hoser-kd init` and the code location need, without the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from hoser_kd.cli import main
from hoser_kd.cli.main import _parser
from hoser_kd.cli.project_commands import SKELETON

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("hoser_kd", "assets", "dagster_project")
SOURCES = (*PACKAGES, "config", "pyproject.toml", "README.md", "dagster.yaml-template")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
LOAD = """
import sys, warnings
warnings.simplefilter("ignore")
import hoser_kd
from hoser_kd.cli import main
assert main(["init", "project"]) == 0
import os
os.chdir("project")
sys.path.insert(0, "")
from distillation.definitions import defs
from assets.partitions import CONFIG_FOLDER, cities
from dagster_project.paths import store_root
assert "torch" not in sys.modules
keys = defs.get_repository_def().asset_graph.get_all_asset_keys()
print("RESULT", hoser_kd.__file__, CONFIG_FOLDER, store_root(), ",".join(cities()), len(keys), sep="|")
"""
SYNTAX = """
import pathlib, sys, warnings
warnings.simplefilter("error")
for package in sys.argv[1:]:
    for file in pathlib.Path(package).rglob("*.py"):
        compile(file.read_text(encoding="utf-8"), str(file), "exec")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build the wheel from a copy of the sources, and unpack it into a folder."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, sources / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, sources / name)
    command = [sys.executable, "-W", "ignore", "-c", BUILD, str(folder)]
    done = subprocess.run(command, cwd=sources, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    [file] = folder.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_a_project_is_written_and_loaded_without_the_checkout(wheel, tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HOSER_KD", "DAGSTER"))}
    done = subprocess.run(
        [sys.executable, "-P", "-c", LOAD],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(wheel)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    [line] = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    _, package, config, store, cities, assets = line.split("|")
    project = tmp_path / "project"
    assert Path(package).is_relative_to(wheel)
    assert (Path(config), Path(store)) == (project / "config", project / "data")
    assert cities == "demo"
    assert int(assets) > 20


def test_the_wheel_holds_the_files_that_are_not_code(wheel):
    for package in PACKAGES:
        data = {
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / package).rglob("*")
            if path.is_file() and path.suffix != ".py" and path.parent.name != "__pycache__"
        }
        missing = {name for name in data if not (wheel / name).is_file()}
        assert not missing, f"add to package-data in pyproject.toml: {missing}"
    for file in (ROOT / "config").glob("*.yaml"):
        assert (wheel / "hoser_kd/cli/skeleton/examples" / file.name).read_bytes() == file.read_bytes()
    template = (wheel / "hoser_kd/cli/skeleton/dagster.yaml").read_bytes()
    assert template == (ROOT / "dagster.yaml-template").read_bytes()


@pytest.mark.parametrize("folder", [ROOT, SKELETON], ids=["checkout", "project"])
def test_dagster_dev_with_and_without_the_workspace_file_opens_the_same_code_location(folder):
    """`dagster dev` alone reads pyproject.toml. With another name, it could re-execute no run of `make dev`."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["dg"]["project"]
    [entry] = yaml.safe_load((folder / "workspace.yaml").read_text(encoding="utf-8"))["load_from"]
    module = entry["python_module"]
    assert module["location_name"] == project["code_location_name"]
    assert module["module_name"] == project["code_location_target_module"]


def test_init_replaces_no_file(tmp_path, capsys):
    (tmp_path / "pyproject.toml").write_text("mine")
    assert main(["init", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"hoser-kd: {tmp_path}/pyproject.toml: exists already")
    assert [path.name for path in tmp_path.iterdir()] == ["pyproject.toml"]


def test_commands_in_the_readme_of_a_project_exist(tmp_path):
    text = (SKELETON / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^hoser-kd (.+)$|`hoser-kd (show-config[^`]*)`", text, re.MULTILINE)
    assert len(commands) > 1
    for pair in commands:
        assert _parser().parse_args("".join(pair).split()).run


@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_the_code_compiles_in_newer_versions_of_python(version):
    """Only syntax and warnings of the compiler; the suite itself runs with the Python of this environment."""
    python = shutil.which(f"python{version}")
    if python is None or subprocess.run([python, "--version"], capture_output=True, check=False).returncode:
        pytest.skip(f"no python{version} here")
    done = subprocess.run(
        [python, "-c", SYNTAX, *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
