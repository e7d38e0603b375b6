"""A `full_pipeline` chain that stops at a failed or canceled run continues, once, when that run is re-executed."""

from __future__ import annotations

from collections import Counter

from homes import REPOSITORY, wait_until

AGAIN = """mutation($params: ReexecutionParams!) { launchRunReexecution(reexecutionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
RUNS = "{runsOrError(limit: 50) {... on Runs {results {runId jobName status tags {key value}}}}}"
PARTITIONS = '{assetNodeOrError(assetKey: {path: ["source_files"]}) {... on AssetNode {partitionKeys}}}'
TICKS = """query($sensor: SensorSelector!) { sensorOrError(sensorSelector: $sensor) { ... on Sensor {
  sensorState { ticks(limit: 1) { timestamp } } } } }"""
ENDLESS = "max_epochs: 100000, batch"
RIGHT = "max_epochs: 2, batch"


class Chain:
    """The runs of one chain, as the UI lists them."""

    def __init__(self, server):
        self.server = server
        self.first = server.launch("full_pipeline", partition="town")

    def again(self, run, strategy="FROM_FAILURE"):
        """Press Re-execute on a run."""
        params = {"parentRunId": run, "strategy": strategy}
        answer = self.server.query(AGAIN, params=params)["launchRunReexecution"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return answer["run"]["runId"]

    def runs(self):
        """Return job and status of every run of the chain by its id."""
        found = self.server.query(RUNS)["runsOrError"]["results"]
        mine = {"key": "hoser_kd/full_pipeline", "value": self.first}
        return {run["runId"]: (run["jobName"], run["status"]) for run in found if mine in run["tags"]}

    def until(self, job, status, seconds=400):
        """Wait for a run of a job in a status; returns its id."""

        def reached():
            runs = self.runs()
            if status == "SUCCESS" and (job, "FAILURE") in runs.values():
                assert Counter(name for name, _ in runs.values())[job] > 1, runs
            return next((run for run, state in runs.items() if state == (job, status)), None)

        return wait_until(reached, seconds, self.runs)

    def sensor_looked(self):
        """Wait until the chain's sensor has begun another two ticks."""

        def latest():
            ticks = self.server.query(TICKS, sensor={**REPOSITORY, "sensorName": "full_pipeline_steps"})
            return ticks["sensorOrError"]["sensorState"]["ticks"][0]["timestamp"]

        for _ in range(2):
            before = latest()
            wait_until(lambda before=before: latest() != before, 120, "a tick of the sensor")


def test_a_re_executed_run_lets_the_chain_continue_once(fresh_home, dev):
    home = fresh_home
    home.edit("n_embd: 32, max_epochs: 2", "n_embd: 32, max_epochs: 1, learning_rate: 1.0")  # its check fails
    home.edit(RIGHT, ENDLESS)
    server = dev(home)
    wait_until(lambda: server.query(PARTITIONS)["assetNodeOrError"]["partitionKeys"], 120, "the partition of the city")
    chain = Chain(server)
    failed = chain.until("train_teacher", "FAILURE")
    chain.sensor_looked()
    assert Counter(chain.runs().values()) == Counter([("prepare_city", "SUCCESS"), ("train_teacher", "FAILURE")])

    home.edit(", learning_rate: 1.0}", "}")
    chain.again(failed)
    training = chain.until("distill", "STARTED")
    wait_until(lambda: list(home.store.rglob("state.pt")), 300, "an epoch of training")
    server.terminate(training)
    canceled = chain.until("distill", "CANCELED")
    chain.sensor_looked()
    assert not any(job == "evaluate" for job, _ in chain.runs().values())

    home.edit(ENDLESS, RIGHT)
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
    wait_until(lambda: chain.runs()[once_more][1] == "SUCCESS", 300, chain.runs)
    chain.sensor_looked()
    assert Counter(chain.runs().values()) == Counter([*done, ("evaluate", "SUCCESS")])
