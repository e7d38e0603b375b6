"""A run that trains in several processes is cancelled as the UI does it, and leaves none of them behind."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

WORKER = b"hoser_kd.distributed_student"
LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
TERMINATE = "mutation($run: String!) { terminateRun(runId: $run) { __typename } }"
STATUS = "query($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"


def workers(root: Path) -> list[str]:
    """Return the processes of trainings in this home."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and WORKER in (entry / "cmdline").read_bytes() \
                    and str(root).encode() in (entry / "environ").read_bytes():
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


def test_a_cancelled_run_leaves_no_process_behind(endless, dev):
    server = dev(endless)
    tags = {"dagster/partition": "town|0", "dagster/partition/city": "town", "dagster/partition/seed": "0"}
    answer = server.query(LAUNCH, params={
        "selector": {"repositoryLocationName": "hoser_kd", "repositoryName": "__repository__", "jobName": "distil",
                     "assetSelection": [{"path": ["vanilla_student"]}]},
        "runConfigData": {}, "executionMetadata": {"tags": [{"key": k, "value": v} for k, v in tags.items()]},
    })["launchRun"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    run = answer["run"]["runId"]
    state = next(iter(wait_for(lambda: list(endless.store.rglob("state.pt")), 300)), None)
    assert state is not None, "the first epoch never came"
    # torchrun and its two workers
    assert len(workers(endless.root)) == 3
    assert server.query(TERMINATE, run=run)["terminateRun"]["__typename"] == "TerminateRunSuccess"
    assert wait_for(lambda: not workers(endless.root), 60)
    assert wait_for(lambda: server.query(STATUS, run=run)["runOrError"]["status"] == "CANCELED", 60)
