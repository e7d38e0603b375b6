"""The whole graph of a tiny city through a Dagster instance: what it makes, how it is versioned, when it is stale."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.store import read_artifact

ROOT = Path(__file__).resolve().parents[2]
ASSETS = """query($partition: String!, $keys: [AssetKeyInput!]) {
  assetNodes(assetKeys: $keys) {
    assetKey { path }
    staleStatus(partition: $partition)
    staleCauses(partition: $partition) { key { path } reason }
    assetMaterializations(partitions: [$partition], limit: 1) { tags { key value } }
  }
}"""


def states(server, seeds=("0", "1")):
    """Data version and staleness of every stage's partitions."""
    found = {}
    for seed in (None, *seeds):
        names = [name for name, stage in STAGES.items() if stage.per_seed == (seed is not None)]
        partition = "town" if seed is None else f"town|{seed}"
        nodes = server.query(ASSETS, partition=partition, keys=[{"path": [name]} for name in names])["assetNodes"]
        for node in nodes:
            tags = {tag["key"]: tag["value"] for tag in node["assetMaterializations"][0]["tags"]}
            name = node["assetKey"]["path"][-1] + ("" if seed is None else f"/{seed}")
            found[name] = (tags["dagster/data_version"], node["staleStatus"])
    return found


def stale(found):
    return {name for name, (_, status) in found.items() if status != "FRESH"}


def test_every_stage_is_materialized_and_fresh(town, serve):
    found = states(serve(town))
    assert set(found) == {name for name, stage in STAGES.items() if not stage.per_seed} | {
        f"{name}/{seed}" for name, stage in STAGES.items() if stage.per_seed for seed in "01"
    }
    assert not stale(found)


def test_the_closing_screen_tells_what_matters(town):
    for part in (
        "town: 253 roads",
        "validation perplexity",
        "next_step.accuracy",
        "vanilla",
        "distilled",
        "report.html",
        "make dev",
    ):
        assert part in town.screen


def test_artifacts_hold_what_the_docs_say(town):
    def only(stage, *below):
        folders = [path for path in (town.store / "town" / stage).joinpath(*below).iterdir() if path.is_dir()]
        assert len(folders) == 1
        return folders[0]

    tokens = pq.read_table(only("grid_token_table") / "grid_token_table.parquet")
    assert {"road_id", "row", "column", "token", "clamped"} <= set(tokens.column_names)
    assert (only("teacher") / "model.safetensors").is_file()
    trips = pq.read_table(only("generated_trajectories", "seed-1") / "distilled.parquet")
    assert trips.num_rows == 8
    page = (only("distillation_report") / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    record = read_artifact(only("distillation_report"))
    assert record.inputs["distilled_student/seed-1"] == only("distilled_student", "seed-1").name
    assert record.summary["seeds"] == "0, 1"


def test_a_rerun_keeps_versions_and_a_changed_temperature_concerns_distilled_students_alone(copy_of_town, serve):
    home = copy_of_town
    server = serve(home)
    first = states(server)

    home.demo("prepare_city", "train_teacher", "distill", seeds=["0"])
    assert states(server) == first

    config = home.config / "town.yaml"
    config.write_text(config.read_text() + "distill: {temperature: 3.0}\n")
    home.demo("prepare_city")
    changed = states(server)
    assert stale(changed) == {"distilled_student/0", "distilled_student/1"}
    assert {name: version for name, (version, _) in changed.items()} == {
        name: version for name, (version, _) in first.items()
    }

    home.demo("distill", seeds=["0"])
    after = states(server)
    assert {name for name in after if after[name][0] != first[name][0]} == {"distilled_student/0"}
    assert stale(after) == {
        "distilled_student/1",
        "generated_trajectories/0",
        "trajectory_metrics/0",
        "distillation_report",
    }


def test_the_command_line_finds_what_dagster_made(town):
    done = town.run("hoser_kd.cli", "evaluate", "--config", str(town.config / "town.yaml"), "--seed", "1")
    assert done.returncode == 0, done.stderr
    made = {path.name for path in (town.store / "town" / "trajectory_metrics" / "seed-1").iterdir()}
    assert len(made) == 1
    assert f"version {made.pop()}" in done.stdout


def test_lineage_is_told_from_the_files_alone(town):
    report = next((town.store / "town" / "distillation_report").glob("*/report.html"))
    done = town.run("hoser_kd.cli", "lineage", str(report))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"distillation_report {report.parent.name} (code ")
    named = {line.split()[0] for line in lines}
    assert {"source_files", "teacher", "distilled_student/seed-0", "distilled_student/seed-1"} <= named


def test_a_typo_in_the_config_fails_the_run_with_the_mend(copy_of_town):
    config = copy_of_town.config / "town.yaml"
    config.write_text(config.read_text() + "distill: {temprature: 3.0}\n")
    done = copy_of_town.run("dagster_project.demo", "--city", "town")
    assert done.returncode != 0
    assert "`distill.temprature` is not a known setting. Did you mean `temperature`?" in done.stderr


def test_a_killed_run_leaves_the_last_version_and_does_not_block_the_next(copy_of_town):
    home = copy_of_town
    work = home.store / ".work" / "town" / "distilled_student" / "seed-2"
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "dagster_project.demo",
        "--city",
        "town",
        "--only",
        "distill",
        "--seeds",
        "2",
    ]
    run = subprocess.Popen(command, cwd=ROOT, env=home.environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(work.glob("*/")) and time.monotonic() < deadline:
        time.sleep(0.05)
    run.kill()
    run.wait()
    assert list(work.glob("*/")), "the run was over before it could be killed"
    assert not (home.store / "town" / "distilled_student" / "seed-2").exists()
    home.demo("distill", seeds=["2"])
    assert list((home.store / "town" / "distilled_student" / "seed-2").iterdir())


def test_dg_and_the_workspace_file_load_the_same_graph(town, serve):
    """`dagster dev -w workspace.yaml` serves the workspace, `dg dev` what pyproject names."""
    dg_tool = Path(sys.executable).with_name("dg")
    listed = subprocess.run(
        [dg_tool, "list", "defs", "--json"], cwd=ROOT, env=town.environment, capture_output=True, text=True, check=False
    )
    assert listed.returncode == 0, listed.stderr
    by_dg = json.loads(listed.stdout)
    served = serve(town).query(
        "{assetNodes {assetKey {path}} repositoriesOrError {... on RepositoryConnection {nodes {jobs {name}}}}}"
    )
    assert {asset["asset_key"] for asset in by_dg["assets"]} == {
        "/".join(node["assetKey"]["path"]) for node in served["assetNodes"]
    }
    jobs = {job["name"] for node in served["repositoriesOrError"]["nodes"] for job in node["jobs"]}
    assert {job["name"] for job in by_dg["jobs"]} == {name for name in jobs if not name.startswith("__")}
