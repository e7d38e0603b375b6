"""The examples of docs/how_to_change.md, applied to a copy of the project, reach every place that the page names.

The module is also the program that runs in the copy: it prints what it finds there as JSON, and the tests read that.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "how_to_change.md"
BLOCK = re.compile(r"^```py\n(.*?)^```", re.MULTILINE | re.DOTALL)
SNAPSHOT_TEST = Path("tests", "pipeline", "test_stage_defaults.py")
CHANGES = ("setting", "metric", "loss term", "decoder", "source kind", "stage")


def edits(section: str) -> list[tuple[str, str, str]]:
    """Return (place, file, code) of each block of a section: place is `end`, or a class or tuple."""
    result = []
    at = 0
    for block in BLOCK.finditer(section):
        before = section[at : block.start()]
        file = re.findall(r"`(hoser_kd/[\w/]+\.py)`", before)[-1]
        inside = re.findall(r"In the (?:class|tuple) `(\w+)`", before)
        result.append((inside[-1] if inside else "end", file, block[1]))
        at = block.end()
    return result


def sections() -> dict[str, list[tuple[str, str, str]]]:
    """Return the edits of the page by change."""
    parts = re.split(r"^## An? (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {name: edits(text) for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def apply(root: Path, place: str, file: str, code: str) -> None:
    """Put the code at the end of a file, of a class, or of the generator's tuple in the value of a constant."""
    path = root / file
    source = path.read_text(encoding="utf-8")
    if place == "end":
        path.write_text(f"{source}\n\n{code}", encoding="utf-8")
        return
    lines = source.splitlines(keepends=True)
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name == place:
            methods = [item.lineno - 1 - len(item.decorator_list) for item in node.body if hasattr(item, "args")]
            lines.insert(min(methods, default=node.end_lineno), textwrap.indent(code, " " * 4) + "\n")
        elif isinstance(node, ast.AnnAssign) and node.target.id == place:
            last = node.value.generators[0].iter.elts[-1].end_lineno
            lines.insert(last, textwrap.indent(code.rstrip() + ",\n", " " * 8))
    changed = "".join(lines)
    assert changed != source, f"{file} has no {place}"
    path.write_text(changed, encoding="utf-8")


def test_the_page_has_an_example_of_each_change():
    assert tuple(sections()) == CHANGES
    assert {name: len(blocks) for name, blocks in sections().items()} == {
        name: 1 + (name == "stage") for name in CHANGES
    }
    assert len(PAGE.read_text().splitlines()) < 200


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the project with all examples applied."""
    root = tmp_path_factory.mktemp("changed")
    for folder in ("hoser_kd", "assets", "dagster_project", "config", "docs"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", "*.png"))
    for blocks in sections().values():
        for edit in blocks:
            apply(root, *edit)
    return root


def run(root: Path, *command: str, status: int = 0) -> str:
    """Run Python in a folder with its packages, which must exit with a status; returns the standard output."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "HOSER_KD_STORE": str(root / "store"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def result(copy):
    """What the program below finds in the copy, in which it also generates the docs again."""
    return json.loads(run(copy, str(Path(__file__).resolve())).splitlines()[-1])


def test_the_examples_follow_the_linter(copy):
    files = sorted({file for blocks in sections().values() for _, file, _ in blocks})
    ruff = ["-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), *files]
    run(copy, *ruff)


def test_a_setting_reaches_yaml_versions_and_docs(copy, result):
    assert result["confidence_penalty"] == 0.1
    assert result["versions"]["changed"] != result["versions"]["default"]
    assert result["versions"]["default"] == result["versions"]["without"]
    assert "| `confidence_penalty` | float | `0.0` | Weight of the" in (copy / "docs" / "settings.md").read_text()


def test_a_metric_reaches_evaluation_comparison_report_and_docs(copy, result):
    assert result["metric"] == pytest.approx(result["expected_metric"])
    assert "trip_length.mean_roads_error" in result["compared"]
    assert "error of the mean number of roads" in result["page"]
    row = "| `trip_length.mean_roads_error` | roads | lower | Absolute difference between"
    assert row in (copy / "docs" / "evaluation.md").read_text()


def test_the_metric_of_the_example_passes_the_tests_of_all_records(result):
    assert result["tests_of_records"] == "passed"


def test_a_loss_term_reaches_history_tensorboard_and_curves(result):
    assert all(value < 0 for value in result["train_confidence"])
    assert {"step/confidence", "epoch/train_confidence"} <= set(result["scalars"])
    assert "confidence" in result["panels"]
    assert result["terms_without"] == ["next_step", "time"]


def test_a_decoder_reaches_settings_command_line_and_generation(result):
    assert result["decoder"] == "greedy"
    assert "greedy: the most probable next road" in result["generate_help"]
    assert result["greedy_steps"] == result["most_probable_steps"]
    assert len(result["greedy_steps"]) > 3


def test_a_source_kind_reaches_settings_and_its_stage(result):
    assert result["source_files"]["kind"] == "archive"
    assert {row["file"] for row in result["source_files"]["files"]} >= {"roadmap.geo", "train.csv"}
    assert "town.yaml, line 1: `source`: kind archive needs `path`" in result["source_error"]


def test_a_stage_reaches_command_line_graph_job_and_docs(copy, result):
    assert "class_lengths of town" in result["made"]
    assert result["asset"] == {
        "group": "network",
        "parents": ["road_network"],
        "description": "Total length of the roads of each class, km (JSON).",
        "in prepare_city": True,
    }
    row = "| `class_lengths` | `road_network` | | Total length of the roads of each class, km (JSON). |"
    assert row in (copy / "docs" / "stages.md").read_text().splitlines()


@pytest.fixture
def copy_with_snapshot(copy, tmp_path):
    """A copy of `copy` with the test of the defaults, whose snapshot already has the setting of the examples."""
    root = tmp_path / "raised"
    shutil.copytree(copy, root, ignore=shutil.ignore_patterns("__pycache__", "store"))
    (root / SNAPSHOT_TEST).parent.mkdir(parents=True)
    for file in (SNAPSHOT_TEST, SNAPSHOT_TEST.with_name("stage_defaults.json")):
        shutil.copy(ROOT / file, root / file)
    run(root, str(SNAPSHOT_TEST))
    return root


def test_a_raised_code_version_needs_only_the_command_of_the_page(copy_with_snapshot):
    root = copy_with_snapshot
    assert f"`python {SNAPSHOT_TEST.as_posix()}`" in PAGE.read_text(encoding="utf-8")
    pytest_command = ("-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider", "-p", "no:xdist")
    run(root, *pytest_command, str(root / SNAPSHOT_TEST))
    graph = root / "hoser_kd" / "pipeline" / "graph.py"
    stage = re.compile(r'("trajectory_metrics",\n\s+"evaluation",.*?code_version=)"(\d+)"', re.DOTALL)
    raised, number = stage.subn(lambda match: f'{match[1]}"{int(match[2]) + 1}"', graph.read_text(encoding="utf-8"))
    assert number == 1
    graph.write_text(raised, encoding="utf-8")
    assert "code versions differ" in run(root, *pytest_command, str(root / SNAPSHOT_TEST), status=1)
    run(root, str(SNAPSHOT_TEST))
    run(root, *pytest_command, str(root / SNAPSHOT_TEST))


# the program that runs in the copy


def look_at_metric() -> dict[str, object]:
    from small_city import grid_network, random_trips

    from hoser_kd.evaluation.comparison import compare
    from hoser_kd.evaluation.metrics import evaluate, flatten
    from hoser_kd.report import ReportData, StudentResult, render

    network = grid_network()
    real, generated = random_trips(network, 20, seed=0), random_trips(network, 20, seed=1)
    metrics = evaluate(real, generated, network)
    flat = flatten(metrics)
    student = StudentResult(history=[], test={}, metrics=metrics, generated=generated)
    data = ReportData("town", network, real, {"vanilla": {0: student}, "distilled": {0: student}})
    return {
        "metric": flat["trip_length.mean_roads_error"],
        "expected_metric": abs(len(generated.road_ids) / 20 - len(real.road_ids) / 20),
        "compared": [row.name for row in compare({0: flat}, {0: flat})],
        "page": render(data, with_figures=False).replace("\N{NO-BREAK SPACE}", " "),
    }


def look_at_training(folder: Path) -> dict[str, object]:
    from small_city import grid_network, random_trips
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from hoser_kd.config.student import StudentConfig
    from hoser_kd.generation.generator import generate
    from hoser_kd.report import ReportData, StudentResult
    from hoser_kd.report.figures import training_figures
    from hoser_kd.student.losses import LossContext, loss_terms
    from hoser_kd.student.training import train_student

    network = grid_network(4)
    trips = random_trips(network, 30, lengths=(3, 9))
    zones = np.zeros(network.num_roads, np.int64), np.zeros((1, 1), np.int64)
    small = StudentConfig(hidden_dim=16, road_id_dim=8, attribute_dim=2, max_epochs=2, confidence_penalty=0.1)
    result = train_student(network, *zones, trips, trips, small, folder=folder)
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    data = ReportData("town", network, trips, {"vanilla": {0: StudentResult(history=result.history, test={})}})
    [(figure, _)] = training_figures(data)
    model = result.model.eval()
    request = (trips.origins[:5], trips.start_times[:5], trips.destinations[:5])
    # greedy decoding is beam search with one path, apart from its early end
    from hoser_kd.generation.decoding import Decoding

    greedy = generate(model, *request, decoding=Decoding("greedy", max_steps=15))
    beam = generate(model, *request, decoding=Decoding("beam", beam_width=1, max_steps=15))
    return {
        "train_confidence": [epoch["train_confidence"] for epoch in result.history],
        "scalars": events.Tags()["scalars"],
        "panels": [axes.get_title(loc="left") for axes in figure.axes],
        "terms_without": [
            term.name
            for term in loss_terms(LossContext(model.time_scale, small.model_copy(update={"confidence_penalty": 0.0})))
        ],
        "greedy_steps": greedy.road_ids.tolist(),
        "most_probable_steps": beam.road_ids.tolist(),
    }


def look_at_city(folder: Path) -> dict[str, object]:
    from hoser_kd.cli import main
    from hoser_kd.common.errors import ConfigError
    from hoser_kd.config.loading import load_config
    from hoser_kd.config.source import SyntheticConfig
    from hoser_kd.network.synthetic.city import make_city

    city = make_city(folder / "raw", SyntheticConfig(blocks=(5, 5), num_trips=30))
    archive = shutil.make_archive(str(folder / "archive"), "zip", city)
    file = folder / "town.yaml"
    file.write_text("source: {kind: archive}\n")
    try:
        load_config(file)
    except ConfigError as error:
        message = str(error)
    student, decoder = "student: {confidence_penalty: 0.1}\n", "generation: {decoder: greedy}\n"
    file.write_text(f"source: {{kind: archive, path: {archive}}}\n{student}{decoder}")
    config = load_config(file)
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        assert main(["make", "class_lengths", "--config", str(file)]) == 0
        main(["generate", "--help"])
    [artifact] = (Path(os.environ["HOSER_KD_STORE"]) / "town" / "source_files").glob("*/artifact.json")
    return {
        "source_error": message,
        "source_files": json.loads(artifact.read_text())["summary"],
        "confidence_penalty": config.student.confidence_penalty,
        "decoder": config.generation.decoder,
        "made": output.getvalue(),
        "generate_help": " ".join(output.getvalue().split()),
        "versions": versions(config),
    }


def versions(config) -> dict[str, object]:
    """Return what the version of a student hashes of its settings: as given, by default, and without the new key."""
    from hoser_kd.config.student import StudentConfig
    from hoser_kd.pipeline.settings import SETTINGS, changed_settings

    def hashed(student, *, without: str = "") -> dict[str, object]:
        settings = SETTINGS["student"](config.model_copy(update={"student": student}))
        settings.pop(without, None)
        return changed_settings({"student": settings})

    return {
        "changed": hashed(config.student),
        "default": hashed(StudentConfig()),
        "without": hashed(StudentConfig(), without="confidence_penalty"),
    }


def look_at_graph() -> dict[str, object]:
    import dagster as dg

    from dagster_project.definitions import build_defs

    repository = build_defs().get_repository_def()
    key = dg.AssetKey("class_lengths")
    node = repository.asset_graph.get(key)
    return {
        "asset": {
            "group": node.group_name,
            "parents": sorted(parent.to_user_string() for parent in node.parent_keys),
            "description": node.description,
            "in prepare_city": key in repository.get_job("prepare_city").asset_layer.executable_asset_keys,
        }
    }


class Outcomes:
    """A plugin of pytest that counts the tests by outcome."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.failed:
            self.counts[report.outcome] += 1


def result_of_tests(file: Path, group: str) -> str:
    """Run tests of the project on the copy; returns `passed` if there are any and all pass."""
    outcomes = Outcomes()
    options = ["-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider", "-p", "no:xdist"]
    status = pytest.main([*options, f"{file}::{group}"], plugins=[outcomes])
    return "passed" if status == 0 and set(outcomes.counts) == {"passed"} else f"{status}: {dict(outcomes.counts)}"


if __name__ == "__main__":
    import runpy
    import tempfile

    import hoser_kd

    assert Path(hoser_kd.__file__).is_relative_to(Path.cwd()), "the copy is not what runs"
    runpy.run_path("docs/build.py", run_name="__main__")
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "student").mkdir()
        found = {
            **look_at_metric(),
            **look_at_training(Path(scratch) / "student"),
            **look_at_city(Path(scratch)),
            **look_at_graph(),
            "tests_of_records": result_of_tests(ROOT / "tests" / "evaluation" / "test_metrics.py", "TestRecords"),
        }
    print(json.dumps(found))
