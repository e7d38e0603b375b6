"""The whole graph of a tiny city through a Dagster instance: its artifacts, their versions and staleness."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from dagster._core.definitions.data_version import StaleStatus
from homes import ROOT, start_module, wait_until

from dagster_project import demo
from hoser_kd.cli import main
from hoser_kd.common.side_by_side import Message
from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.store import read_artifact


def stale(found):
    return {name for name, (_, status) in found.items() if status != StaleStatus.FRESH}


def test_every_stage_is_materialized_and_fresh(town):
    found = town.stale_statuses("01")
    assert set(found) == {name for name, stage in STAGES.items() if not stage.per_seed} | {
        f"{name}/{seed}" for name, stage in STAGES.items() if stage.per_seed for seed in "01"
    }
    assert not stale(found)


def test_the_closing_screen_shows_the_results(town):
    for part in (
        "town: 253 roads",
        "seeds 0, 1",
        "Next road: ",
        "NLL",
        "EDR",
        "vanilla",
        "distilled",
        "Markov chain",
        "report.html",
        "map.html",
        "make dev",
    ):
        assert part in town.screen


def test_artifacts_hold_the_documented_files(town):
    def only(stage, *below):
        folders = [path for path in (town.store / "town" / stage).joinpath(*below).iterdir() if path.is_dir()]
        assert len(folders) == 1
        return folders[0]

    tokens = pq.read_table(only("grid_token_table") / "grid_token_table.parquet")
    assert {"road_id", "row", "column", "token", "clamped"} <= set(tokens.column_names)
    assert (only("teacher") / "model.safetensors").is_file()
    trips = pq.read_table(only("generated_trajectories", "seed-1") / "distilled.parquet")
    assert trips.num_rows == 5
    page = (only("distillation_report") / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    record = read_artifact(only("distillation_report"))
    assert record.inputs["distilled_student/seed-1"] == only("distilled_student", "seed-1").name
    assert record.summary["seeds"] == "0, 1"


def test_a_rerun_keeps_versions_and_a_changed_temperature_makes_only_distilled_students_stale(copy_of_town):
    home = copy_of_town
    first = home.stale_statuses("01")

    home.materialize("prepare_city", "train_teacher", "distill")
    assert home.stale_statuses("01") == first

    config = home.config / "town.yaml"
    config.write_text(config.read_text() + "distill: {temperature: 3.0}\n")
    home.materialize("prepare_city")
    changed = home.stale_statuses("01")
    assert stale(changed) == {"distilled_student/0", "distilled_student/1"}
    assert {name: version for name, (version, _) in changed.items()} == {
        name: version for name, (version, _) in first.items()
    }

    home.materialize("distill")
    after = home.stale_statuses("01")
    assert {name for name in after if after[name][0] != first[name][0]} == {"distilled_student/0"}
    assert stale(after) == {
        "distilled_student/1",
        "generated_trajectories/0",
        "trajectory_metrics/0",
        "ceilings",
        "distillation_report",
    }


def test_the_command_line_reuses_the_artifacts_of_dagster(town, monkeypatch, capsys):
    monkeypatch.setenv("HOSER_KD_STORE", str(town.store))
    [version] = [path.name for path in (town.store / "town" / "trajectory_metrics" / "seed-1").iterdir()]
    assert main(["evaluate", "--config", str(town.config / "town.yaml"), "--seed", "1"]) == 0
    assert f"version {version}" in capsys.readouterr().out
    assert [path.name for path in (town.store / "town" / "trajectory_metrics" / "seed-1").iterdir()] == [version]


def test_lineage_is_read_from_the_files_alone(town):
    report = next((town.store / "town" / "distillation_report").glob("*/report.html"))
    done = town.run("hoser_kd.cli", "lineage", str(report))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"distillation_report {report.parent.name} (code ")
    named = {line.split()[0] for line in lines}
    assert {"source_files", "teacher", "distilled_student/seed-0", "distilled_student/seed-1"} <= named


def test_a_typo_in_the_config_fails_the_run_with_the_fix(copy_of_town):
    config = copy_of_town.config / "town.yaml"
    config.write_text(config.read_text() + "distill: {temprature: 3.0}\n")
    done = copy_of_town.run("dagster_project.demo", "--city", "town")
    assert done.returncode != 0
    assert "`distill.temprature` is not a known setting. Did you mean `temperature`?" in done.stderr


# Dagster reads a property of its own that it has deprecated, where a resource holds another one
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_killed_run_leaves_the_last_version_and_the_next_one_resumes(copy_of_town, tmp_path, monkeypatch):
    home = copy_of_town
    students = home.store / "town" / "distilled_student" / "seed-1"
    [last] = students.iterdir()
    weights = (last / "model.safetensors").read_bytes()
    home.edit("max_epochs: 2, batch", "max_epochs: 8, batch")
    undisturbed = home.copy(tmp_path / "undisturbed")
    command = ("dagster_project.demo", "--city", "town", "--only", "distill", "--seeds", "1")
    with start_module(home, *command) as run:
        work = home.store / ".work" / "town" / "distilled_student"
        wait_until(lambda: list(work.rglob("state.pt")), 120, lambda: f"an epoch of training; status {run.poll()}")
        assert run.poll() is None, "the run ended before it could be killed"
        os.kill(run.pid, signal.SIGKILL)
        assert run.wait(10) == -signal.SIGKILL
    assert list(students.iterdir()) == [last]
    assert read_artifact(last).version == last.name
    assert (last / "model.safetensors").read_bytes() == weights

    # the runner frees the slot in the pool that the killed run still holds
    monkeypatch.setattr(demo, "build_defs", home.definitions)
    with home.instance() as instance:
        demo.run_all(instance, "town", ["1"], ["distill"])
    undisturbed.materialize("distill", seeds=["1"])
    [new] = set(students.iterdir()) - {last}
    expected = undisturbed.store / new.relative_to(home.store)
    assert (new / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()
    assert (new / "model.safetensors").read_bytes() != weights
    assert not list(work.rglob("state.pt"))


@pytest.mark.xdist_group("dev")
def test_dg_and_the_workspace_file_load_the_same_graph(dev_town):
    """`dagster dev -w workspace.yaml` serves the workspace, `dg dev` what pyproject names."""
    home, server = dev_town
    dg_tool = Path(sys.executable).with_name("dg")
    listed = subprocess.run(
        [dg_tool, "list", "defs", "--json"], cwd=ROOT, env=home.environment, capture_output=True, text=True, check=False
    )
    assert listed.returncode == 0, listed.stderr
    by_dg = json.loads(listed.stdout)
    served = server.query(
        "{assetNodes {assetKey {path}} repositoriesOrError {... on RepositoryConnection {nodes {jobs {name}}}}}"
    )
    assert {asset["asset_key"] for asset in by_dg["assets"]} == {
        "/".join(node["assetKey"]["path"]) for node in served["assetNodes"]
    }
    jobs = {job["name"] for node in served["repositoriesOrError"]["nodes"] for job in node["jobs"]}
    assert {job["name"] for job in by_dg["jobs"]} == {name for name in jobs if not name.startswith("__")}


@pytest.mark.parametrize("pooled", [False, True])
def test_the_distilled_student_of_the_demo_waits_for_the_vanilla_one_only_in_a_pool(monkeypatch, pooled):
    monkeypatch.setattr(demo, "load_config", lambda _: SimpleNamespace(reads_vanilla_student=pooled))
    plan = demo._plan("town", ["0", "1"], None, vanilla_first=True)
    waits = {(run.job, run.seed): {(other.job, other.seed) for other in others} for run, others in plan.items()}
    assert (("train_vanilla", "1") in waits["distill", "1"]) == pooled
    assert ("train_vanilla", "0") not in waits["distill", "1"]
    assert waits["evaluate", "1"] >= {("distill", "1"), ("train_vanilla", "1")}
    assert {run.assets for run in plan if run.job == "distill"} == {
        None if pooled else ("off_path_labels", "distilled_student")
    }


class Processes:
    """Stands for `SideBySide`: tasks end at once."""

    def __init__(self, preload: list[str]) -> None:
        self.started: list[object] = []
        self.aside: list[object] = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    @property
    def num_running(self) -> int:
        return len(self.started)

    def start(self, key, _function, *_arguments) -> None:
        self.started.append(key)

    def start_aside(self, function) -> None:
        self.aside.append(function)

    def receive(self) -> Message:
        return Message(self.started.pop(), None, is_result=True)


@pytest.mark.parametrize(
    ("only", "cores", "compiles"),
    [(None, 2, True), (["distill", "report"], 2, True), (["train_teacher", "distill"], 2, False), (None, 1, False)],
)
def test_the_demo_compiles_aside_where_a_later_job_generates_and_a_core_is_idle(monkeypatch, only, cores, compiles):
    processes = Processes([])
    monkeypatch.setattr(demo, "SideBySide", lambda _: processes)
    monkeypatch.setattr(demo, "available_cores", lambda: cores)
    demo._run_side_by_side(demo._plan("demo", ["0"], only, vanilla_first=False), 2)
    assert processes.aside == [demo._compile_loops] * compiles
    assert processes.num_running == 0
