"""A run whose process is killed takes its step along; what was there stays, and the next run starts."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from pathlib import Path

import pytest
from stage_process import running

from hoser_kd.pipeline.store import read_artifact

LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
STATUS = "query($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"
LOGS = """query($run: ID!) { logsForRun(runId: $run) { ... on EventConnection { events {
  ... on MessageEvent { message } } } } }"""
PID = re.compile(r"Started process for run \(pid: (\d+)\)")
TAGS = {"dagster/partition": "town|0", "dagster/partition/city": "town", "dagster/partition/seed": "0"}
PARAMS = {
    "selector": {
        "repositoryLocationName": "hoser_kd",
        "repositoryName": "__repository__",
        "jobName": "distill",
        "assetSelection": [{"path": ["vanilla_student"]}],
    },
    "runConfigData": {},
    "executionMetadata": {"tags": [{"key": k, "value": v} for k, v in TAGS.items()]},
}


def wait_for(what, seconds: float):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


def of_runs(home, servers: set[int]) -> set[int]:
    """Return the processes of a home that a run has started; the code server keeps a tracker for all its runs."""
    found = set()
    for number in set(running(home.root)) - servers:
        with contextlib.suppress(OSError):
            if b"resource_tracker" not in Path(f"/proc/{number}/cmdline").read_bytes():
                found.add(number)
    return found


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_takes_its_step_along(copy_of_town, dev, processes):
    home = copy_of_town
    folder = home.store / "town" / "vanilla_student" / "seed-0"
    before = {path.name for path in folder.iterdir()}
    config = home.config / "town.yaml"
    right = config.read_text()
    config.write_text(right.replace("max_epochs: 2, batch", f"num_processes: {processes}, max_epochs: 100000, batch"))
    ui = dev(home)

    def launch():
        answer = ui.query(LAUNCH, params=PARAMS)["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return answer["run"]["runId"]

    def status(run):
        return ui.query(STATUS, run=run)["runOrError"]["status"]

    servers = set(running(home.root))
    run = launch()
    wait_for(lambda: list(home.store.rglob("state.pt")), 180)
    assert len(of_runs(home, servers)) >= 2 + processes
    said = ui.query(LOGS, run=run)["logsForRun"]["events"]
    [pid] = {int(found[1]) for event in said if (found := PID.search(event.get("message") or ""))}
    assert pid not in servers
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not of_runs(home, servers), 30)
    wait_for(lambda: status(run) == "FAILURE", 60)
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == before
    assert all(read_artifact(folder / name).version == name for name in before)

    if processes == 1:  # its place in the pool is free within a minute
        config.write_text(right.replace("max_epochs: 2, batch", "max_epochs: 3, batch"))
        run = launch()
        wait_for(lambda: status(run) in ("SUCCESS", "FAILURE"), 180)
        assert status(run) == "SUCCESS"
