"""Imports run one way: hoser_kd ← assets ← dagster_project, and package by package inside `hoser_kd`."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hoser_kd

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "hoser_kd": {"dagster", "assets", "dagster_project", "dagster_pipes"},
    "assets": {"dagster_project", "torch", "geopandas"},
    "dagster_project": {"torch", "geopandas"},
}
LAYERS = (
    "common",
    "config",
    "network",
    "grid",
    "lmtad",
    "hoser",
    "teacher",
    "student",
    "generation",
    "evaluation",
    "plots",
    "report",
    "pipeline",
    "sharing",
    "serving",
    "cli",
)
"""Packages of `hoser_kd`; each imports only itself and those before it."""
GROUPS = ("network", "grid", "teacher", "student", "generation", "evaluation")
"""Packages that a newcomer finds again in the asset groups, the tests and the docs."""


def imported_modules(file: Path) -> set[str]:
    """Dotted names that a file imports, wherever in the file; `from a import b` counts as `a.b`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def modules() -> dict[str, Path]:
    """Every module of `hoser_kd` by its dotted name."""
    found = {}
    for file in sorted((ROOT / "hoser_kd").rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_run_one_way(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    wrong = {
        str(file): found
        for file in files
        if (found := {name.split(".")[0] for name in imported_modules(file)} & FORBIDDEN[package])
    }
    assert not wrong


def test_packages_import_only_packages_above_them():
    wrong = []
    for name, file in modules().items():
        own = name.split(".")[1] if "." in name else None
        if own is None:
            continue  # the public API imports lazily, from everywhere
        for target in imported_modules(file):
            parts = target.split(".")
            inside = parts[0] == "hoser_kd" and len(parts) > 1 and parts[1] in LAYERS
            if inside and LAYERS.index(parts[1]) > LAYERS.index(own):
                wrong.append(f"{name} imports {target}")
    assert not wrong


def api_imports(name: str, file: Path) -> list[str]:
    """Imports of the public API, which loads modules of all packages; `import hoser_kd` alone is one too."""
    wrong = {"hoser_kd", "hoser_kd.*", *(f"hoser_kd.{public}" for public in hoser_kd.__all__)}
    if name == "hoser_kd.pipeline.workers.launcher":
        wrong.remove("hoser_kd")  # the folder that the workers import from
    return sorted(imported_modules(file) & wrong)


def test_no_module_imports_the_public_api():
    known = modules()
    assert {name: found for name, file in known.items() if (found := api_imports(name, file))} == {}
    launcher = ast.parse(known["hoser_kd.pipeline.workers.launcher"].read_text(encoding="utf-8"))
    used = [
        node.attr
        for node in ast.walk(launcher)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "hoser_kd"
    ]
    assert set(used) == {"__file__"}


@pytest.mark.parametrize(
    "statement",
    [
        "from hoser_kd import train_student",
        "import hoser_kd as hk",
        "from hoser_kd import *",
        "import hoser_kd.generate",
        "def f():\n    from hoser_kd import hoser, evaluate",
    ],
)
def test_an_import_of_the_public_api_is_seen(tmp_path, statement):
    file = tmp_path / "module.py"
    file.write_text(statement)
    assert len(api_imports("hoser_kd.grid.module", file)) == 1


def test_every_package_has_its_place_in_the_order():
    inside = {path.name for path in (ROOT / "hoser_kd").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert inside == set(LAYERS)


def test_no_module_lies_loose():
    assert {path.name for path in (ROOT / "hoser_kd").glob("*.py")} == {"__init__.py"}


def test_no_import_cycle_between_modules():
    known = modules()
    graph = {
        name: {
            max(
                (module for module in known if target == module or target.startswith(f"{module}.")), key=len, default=""
            )
            for target in imported_modules(file)
        }
        - {"", name, "hoser_kd"}
        for name, file in known.items()
    }
    state: dict[str, int] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        state[name] = 1
        for target in sorted(graph[name]):
            # a package imports its modules for its users, and they import it in return: no cycle of concerns
            if known[target].name == "__init__.py" or known[name].name == "__init__.py":
                continue
            assert state.get(target) != 1, f"cycle: {' -> '.join((*path, name, target))}"
            if target not in state:
                visit(target, (*path, name))
        state[name] = 2

    for name in sorted(graph):
        if name not in state:
            visit(name, ())


@pytest.mark.parametrize("group", GROUPS)
def test_groups_have_a_package_tests_and_docs(group):
    assert (ROOT / "hoser_kd" / group / "__init__.py").is_file()
    assert list((ROOT / "tests" / group).glob("test_*.py"))
    assert (ROOT / "docs" / f"{group}.md").is_file()


def test_structure_is_counted_by_file_and_room(tmp_path):
    """`benchmarks/structure.py` counts a pair of files once, in functions and for type checkers too."""
    files = {
        "__init__.py": "from town.a.one import x\n",
        "a/__init__.py": "",
        "a/one.py": "from town.a import two\nfrom town.b.three import y, z\n",
        "a/two.py": "import numpy\n\ndef f():\n    from town import loose\n",
        "b/__init__.py": "from town.b.three import y\n",
        "b/three.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from town.a.one import x\n",
        "loose.py": "import town.b\n",
    }
    for name, text in files.items():
        file = tmp_path / "town" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    script = [sys.executable, str(ROOT / "benchmarks" / "structure.py"), str(tmp_path / "town")]
    lines = subprocess.run(script, capture_output=True, text=True, check=True).stdout.splitlines()
    counts = {line.rpartition(" ")[0].strip(): int(line.rpartition(" ")[2]) for line in lines}
    assert counts == {"rooms": 3, "imports": 6, "crossing imports": 4, "pairs of rooms": 4}


def test_definitions_load_without_heavy_libraries():
    script = (
        "import sys, dagster_project.definitions\n"
        "heavy = {'torch', 'geopandas', 'numba', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def imported_at_once(file: Path) -> set[str]:
    """Dotted names that a file imports when it is imported: not those in functions or for type checkers."""
    body = ast.Module([node for node in ast.parse(file.read_text(encoding="utf-8")).body if not _waits(node)], [])
    names = {alias.name for node in ast.walk(body) if isinstance(node, ast.Import) for alias in node.names}
    for node in ast.walk(body):
        if isinstance(node, ast.ImportFrom):
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def _waits(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef | ast.ClassDef) or (
        isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    )


def test_worker_processes_import_nothing_to_draw_with():
    """They start for every training and labeling in several processes; matplotlib would be a tenth of their start."""
    known, seen, waiting = modules(), set(), ["hoser_kd.pipeline.workers.worker"]
    while waiting:
        module = waiting.pop()
        seen.add(module)
        imported = imported_at_once(known[module])
        assert not {name for name in imported if name.split(".")[0] == "matplotlib"}, module
        waiting += [name for name in imported & known.keys() if name not in seen]
    assert "hoser_kd.pipeline.stages.labels" in seen
    assert not {name for name in seen if name.startswith("hoser_kd.plots")}
