"""What the release checklist relies on: one version everywhere, and a pin for each dependency."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

import hoser_kd

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_one_version_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert hoser_kd.__version__ == PROJECT["version"] == citation["version"]


def test_the_dependencies_of_all_extras_are_pinned():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {plain(line.partition("==")[0]) for line in lines if "==" in line}
    needed = [
        *PROJECT["dependencies"],
        *(entry for extra in PROJECT["optional-dependencies"].values() for entry in extra),
    ]
    names = {plain(re.match(r"[\w.-]+", entry)[0]) for entry in needed}
    assert not names - pinned - {"hoser-kd"}  # an extra may contain another


def test_uv_installs_the_versions_of_the_constraints():
    """Also in `uv run` of a fresh clone. The lock also has packages of other systems and of CUDA."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {plain(name): version for name, _, version in (line.partition("==") for line in lines if "==" in line)}
    packages = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    locked = {package["name"]: package.get("version") for package in packages}
    assert {name: locked.get(name) for name in pinned} == pinned, "run `make lock`"
    [own] = [package for package in packages if package["name"] == "hoser-kd"]
    names = {plain(re.match(r"[\w.-]+", entry)[0]) for entry in PROJECT["dependencies"]}
    assert {entry["name"] for entry in own["dependencies"]} == names, "run `make lock`"


def test_every_extra_is_described():
    page = (ROOT / "docs" / "installing.md").read_text(encoding="utf-8")
    assert set(PROJECT["optional-dependencies"]) <= set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
