"""A chain of `full_pipeline` that stops at a failed and at a canceled run goes on, once, when they are re-executed."""

from __future__ import annotations

import time
from collections import Counter

LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
AGAIN = """mutation($params: ReexecutionParams!) { launchRunReexecution(reexecutionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
TERMINATE = "mutation($run: String!) { terminateRun(runId: $run) { __typename } }"
RUNS = "{runsOrError(limit: 50) {... on Runs {results {runId jobName status tags {key value}}}}}"
PARTITIONS = '{assetNodeOrError(assetKey: {path: ["source_files"]}) {... on AssetNode {partitionKeys}}}'
TICKS = """query($sensor: SensorSelector!) { sensorOrError(sensorSelector: $sensor) { ... on Sensor {
  sensorState { ticks(limit: 1) { timestamp } } } } }"""
REPOSITORY = {"repositoryLocationName": "hoser_kd", "repositoryName": "__repository__"}
ENDLESS = "max_epochs: 100000, batch"
RIGHT = "max_epochs: 2, batch"


class Chain:
    """The runs of one chain, as the UI lists them."""

    def __init__(self, server):
        self.server = server
        self.first = self._launched(
            LAUNCH,
            "launchRun",
            {
                "selector": {**REPOSITORY, "jobName": "full_pipeline"},
                "runConfigData": {},
                "executionMetadata": {"tags": [{"key": "dagster/partition", "value": "town"}]},
            },
        )

    def _launched(self, mutation, field, params):
        answer = self.server.query(mutation, params=params)[field]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return answer["run"]["runId"]

    def again(self, run, strategy="FROM_FAILURE"):
        """Press Re-execute on a run."""
        return self._launched(AGAIN, "launchRunReexecution", {"parentRunId": run, "strategy": strategy})

    def runs(self):
        """Job and status of every run of the chain, by its id."""
        found = self.server.query(RUNS)["runsOrError"]["results"]
        mine = {"key": "hoser_kd/full_pipeline", "value": self.first}
        return {run["runId"]: (run["jobName"], run["status"]) for run in found if mine in run["tags"]}

    def until(self, job, status, seconds=400):
        """Wait for a run of a job in a status; returns its id."""
        deadline = time.monotonic() + seconds
        while (job, status) not in (runs := self.runs()).values():
            assert time.monotonic() < deadline, runs
            assert (
                (job, "FAILURE") not in runs.values()
                or status != "SUCCESS"
                or Counter(name for name, _ in runs.values())[job] > 1
            ), runs
            time.sleep(0.5)
        return next(run for run, state in runs.items() if state == (job, status))

    def sensor_looked(self):
        """Wait until the chain's sensor has begun another two ticks."""

        def latest():
            ticks = self.server.query(TICKS, sensor={**REPOSITORY, "sensorName": "full_pipeline_steps"})
            return ticks["sensorOrError"]["sensorState"]["ticks"][0]["timestamp"]

        for _ in range(2):
            before, deadline = latest(), time.monotonic() + 120
            while latest() == before:
                assert time.monotonic() < deadline
                time.sleep(0.5)


def edit(home, old, new):
    text = (home.config / "town.yaml").read_text()
    assert old in text
    (home.config / "town.yaml").write_text(text.replace(old, new))


def test_a_re_executed_run_lets_the_chain_go_on_once(fresh_home, dev):
    home = fresh_home
    edit(home, "n_embd: 32, max_epochs: 2", "n_embd: 32, max_epochs: 1, learning_rate: 1.0")  # its check fails
    edit(home, RIGHT, ENDLESS)
    server = dev(home)
    deadline = time.monotonic() + 120
    while not server.query(PARTITIONS)["assetNodeOrError"]["partitionKeys"]:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    chain = Chain(server)
    failed = chain.until("train_teacher", "FAILURE")
    chain.sensor_looked()
    assert Counter(chain.runs().values()) == Counter([("prepare_city", "SUCCESS"), ("train_teacher", "FAILURE")])

    edit(home, ", learning_rate: 1.0}", "}")
    chain.again(failed)
    training = chain.until("distill", "STARTED")
    deadline = time.monotonic() + 300
    while not list(home.store.rglob("state.pt")):  # an epoch
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert server.query(TERMINATE, run=training)["terminateRun"]["__typename"] == "TerminateRunSuccess"
    canceled = chain.until("distill", "CANCELED")
    chain.sensor_looked()
    assert not any(job == "evaluate" for job, _ in chain.runs().values())

    edit(home, ENDLESS, RIGHT)
    chain.again(canceled)
    chain.until("report", "SUCCESS")
    done = [
        ("prepare_city", "SUCCESS"),
        ("train_teacher", "FAILURE"),
        ("train_teacher", "SUCCESS"),
        ("distill", "CANCELED"),
        ("distill", "SUCCESS"),
        ("evaluate", "SUCCESS"),
        ("report", "SUCCESS"),
    ]
    assert Counter(chain.runs().values()) == Counter(done)

    # a link that has succeeded already, re-executed, starts nothing
    once_more = chain.again(chain.until("evaluate", "SUCCESS"), "ALL_STEPS")
    deadline = time.monotonic() + 300
    while chain.runs()[once_more][1] != "SUCCESS":
        assert time.monotonic() < deadline, chain.runs()
        time.sleep(0.5)
    chain.sensor_looked()
    assert Counter(chain.runs().values()) == Counter([*done, ("evaluate", "SUCCESS")])
