"""A run that works in several processes is canceled as the UI does it, and leaves none of them behind."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

WORKERS = b"hoser_kd.distributed_"
LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
TERMINATE = "mutation($run: String!) { terminateRun(runId: $run) { __typename } }"
STATUS = "query($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"


def workers(root: Path) -> list[str]:
    """Return the processes that work together in this home."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if (
                entry.name.isdigit()
                and WORKERS in (entry / "cmdline").read_bytes()
                and str(root).encode() in (entry / "environ").read_bytes()
            ):
                found.append(entry.name)
        except OSError:
            continue
    return found


def wait_for(what, seconds: float):
    deadline = time.monotonic() + seconds
    while not (found := what()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


@pytest.fixture
def endless(fresh_home):
    """A town whose plain student would train for hours, in two processes."""
    config = fresh_home.config / "town.yaml"
    config.write_text(config.read_text().replace("max_epochs: 2, batch", "num_processes: 2, max_epochs: 100000, batch"))
    assert "num_processes: 2" in config.read_text()
    fresh_home.demo("prepare_city")
    return fresh_home


@pytest.fixture
def unlabeled(fresh_home):
    """A town whose labels take a large teacher's pass a step, in two processes."""
    config = fresh_home.config / "town.yaml"
    text = config.read_text().replace("n_embd: 32, max_epochs: 2", "n_layer: 12, n_embd: 192, max_epochs: 1")
    assert "n_layer: 12" in text
    config.write_text(f"{text}distill: {{window: 12, label_processes: 2}}\n")
    fresh_home.demo("prepare_city")
    return fresh_home


def cancel(home, server, job: str, assets: list[str], tags: dict[str, str], sign: str) -> None:
    """Launch assets of a job, cancel the run once a file of this name is there, and see that all its processes end."""
    answer = server.query(
        LAUNCH,
        params={
            "selector": {
                "repositoryLocationName": "hoser_kd",
                "repositoryName": "__repository__",
                "jobName": job,
                "assetSelection": [{"path": [asset]} for asset in assets],
            },
            "runConfigData": {},
            "executionMetadata": {"tags": [{"key": k, "value": v} for k, v in tags.items()]},
        },
    )["launchRun"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    run = answer["run"]["runId"]
    assert wait_for(lambda: list(home.store.rglob(sign)), 300), f"{sign} never came"
    # torchrun and its two workers
    assert len(workers(home.root)) == 3
    assert server.query(TERMINATE, run=run)["terminateRun"]["__typename"] == "TerminateRunSuccess"
    assert wait_for(lambda: not workers(home.root), 60)
    assert wait_for(lambda: server.query(STATUS, run=run)["runOrError"]["status"] == "CANCELED", 60)


def test_a_canceled_training_leaves_no_process_behind(endless, dev):
    tags = {"dagster/partition": "town|0", "dagster/partition/city": "town", "dagster/partition/seed": "0"}
    cancel(endless, dev(endless), "distill", ["vanilla_student"], tags, "state.pt")


def test_canceled_labeling_leaves_no_process_behind_and_keeps_its_shards(unlabeled, dev):
    cancel(
        unlabeled,
        dev(unlabeled),
        "train_teacher",
        ["teacher_corpus", "teacher", "teacher_soft_labels"],
        {"dagster/partition": "town"},
        "shard-*.arrow",
    )
    assert list(unlabeled.store.rglob("shard-*.arrow"))
    assert not list((unlabeled.store / "town").glob("teacher_soft_labels/*"))
