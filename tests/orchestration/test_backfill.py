"""Backfills over seeds, launched as the UI does and executed by the daemon: students for each seed, one report."""

from __future__ import annotations

import dagster as dg
import pytest
from homes import REPOSITORY, wait_until

from hoser_kd.pipeline.store import read_artifact

BACKFILL = """mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
STATUS = """query($id: String!) { partitionBackfillOrError(backfillId: $id) {
  ... on PartitionBackfill { status error { message } } } }"""
RUNS = """query($id: String!) { runsOrError(filter: {tags: [{key: "dagster/backfill", value: $id}]}) {
  ... on Runs { results { status jobName assetSelection { path } tags { key value } } } } }"""
PER_SEED = ("vanilla_student", "distilled_student", "generated_trajectories", "trajectory_metrics")
KEYS = [str(dg.MultiPartitionKey({"city": "town", "seed": seed})) for seed in ("0", "2")]


def backfill(server, seconds=480, **params):
    """Launch a backfill and wait for its end; returns partition, assets and status of its runs."""
    launched = server.query(BACKFILL, params=params)["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched

    def ended():
        state = server.query(STATUS, id=launched["backfillId"])["partitionBackfillOrError"]
        return state if state["status"].startswith(("COMPLETED", "FAILED", "CANCELED")) else None

    state = wait_until(ended, seconds, "the end of the backfill")
    assert state["status"] == "COMPLETED_SUCCESS", state
    return [
        (
            {tag["key"]: tag["value"] for tag in run["tags"]}["dagster/partition"],
            {key["path"][-1] for key in run["assetSelection"] or ()},
            run["status"],
        )
        for run in server.query(RUNS, id=launched["backfillId"])["runsOrError"]["results"]
    ]


def versions(home, stage, seed):
    """Artifacts of a stage and a seed."""
    folder = home.store / "town" / stage / f"seed-{seed}"
    return [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


# Dagster reads a property of its own that it has deprecated, where a resource holds another one
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_backfills_over_seeds_train_every_seed_and_report_once_over_existing_seeds(taught, dev):
    with taught.instance() as instance:  # it has no seed, so a backfill over seeds cannot include it
        taught.definitions().resolve_job_def("report").execute_in_process(
            instance=instance, partition_key="town", asset_selection=[dg.AssetKey("baseline_trips")]
        )
    server = dev(taught)
    runs = backfill(
        server, assetSelection=[{"path": [name]} for name in (*PER_SEED, "distillation_report")], partitionNames=KEYS
    )
    assert sorted(runs, key=str) == sorted(
        [*((key, set(PER_SEED), "SUCCESS") for key in KEYS), ("town", {"distillation_report"}, "SUCCESS")], key=str
    )
    for seed, made in (("0", 1), ("1", 0), ("2", 1)):
        assert {stage: len(versions(taught, stage, seed)) for stage in PER_SEED} == dict.fromkeys(PER_SEED, made)
    (report,) = (taught.store / "town" / "distillation_report").glob("*/report.html")
    record = read_artifact(report.parent)
    assert record.summary["seeds"] == "0, 2"
    named = {f"{stage}/seed-{seed}": versions(taught, stage, seed)[0] for stage in PER_SEED for seed in "02"}
    assert named.items() <= record.inputs.items()
    assert not any("seed-1" in name for name in record.inputs)
    page = report.read_text()
    assert all(version in page for version in named.values())

    # a backfill of the job reuses the finished artifacts
    runs = backfill(
        server,
        partitionNames=KEYS,
        selector={"partitionSetName": "distill_partition_set", "repositorySelector": REPOSITORY},
    )
    assert sorted((partition, status) for partition, _, status in runs) == [(key, "SUCCESS") for key in KEYS]
    assert {stage: len(versions(taught, stage, "2")) for stage in PER_SEED} == dict.fromkeys(PER_SEED, 1)
