"""The first steps of a new user, in a real browser over `make dev`: launch the pipeline, repair it, open the report.

The teacher of the village fails its check first, and its student is canceled, so that the same chain of runs also shows
that `full_pipeline` continues, once, when a failed or canceled run is re-executed. A backfill over seeds follows.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import pytest
from chromium import new_window
from homes import REPOSITORY, TOWN, Server, stop_sensor, wait_until

from dagster_project.run_launcher import SERVER_TAG
from hoser_kd.pipeline.store import read_artifact

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.xdist_group("dev")

AGAIN = """mutation($params: ReexecutionParams!) { launchRunReexecution(reexecutionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
PARTITIONS = '{assetNodeOrError(assetKey: {path: ["source_files"]}) {... on AssetNode {partitionKeys}}}'
BACKFILL = """mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
BACKFILL_STATUS = """query($id: String!) { partitionBackfillOrError(backfillId: $id) {
  ... on PartitionBackfill { status error { message } } } }"""
BACKFILL_RUNS = """query($id: String!) { runsOrError(filter: {tags: [{key: "dagster/backfill", value: $id}]}) {
  ... on Runs { results { status jobName assetSelection { path } tags { key value } } } } }"""
PER_SEED = ("vanilla_student", "distilled_student", "generated_trajectories", "trajectory_metrics")
KEYS = [str(dg.MultiPartitionKey({"city": "village", "seed": seed})) for seed in ("0", "2")]
BAD_TEACHER, GOOD_TEACHER = "n_embd: 32, max_epochs: 1, learning_rate: 1.0", "n_embd: 32, max_epochs: 2"
ENDLESS, SHORT = "max_epochs: 100000, batch", "max_epochs: 2, batch"


class Chain:
    """The runs of one chain. They are watched in the instance itself: it costs less than queries of the web server."""

    def __init__(self, server: Server, instance: dg.DagsterInstance, first: str) -> None:
        self.server = server
        self.instance = instance
        self.first = first

    def again(self, run):
        """Press Re-execute, from failure, on a run."""
        params = {"parentRunId": run, "strategy": "FROM_FAILURE"}
        answer = self.server.query(AGAIN, params=params)["launchRunReexecution"]
        assert answer["__typename"] == "LaunchRunSuccess", answer

    def runs(self):
        """Return job and status of every run of the chain by its id."""
        mine = self.instance.get_runs(dg.RunsFilter(tags={"hoser_kd/full_pipeline": self.first}))
        return {run.run_id: (run.job_name, run.status.value) for run in mine}

    def counts(self):
        """Return the number of runs by job and status."""
        return Counter(self.runs().values())

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
        states = self.instance.all_instigator_state()
        [sensor] = [state for state in states if state.instigator_name == "full_pipeline_steps"]

        def latest():
            return self.instance.get_ticks(sensor.instigator_origin_id, sensor.selector_id, limit=1)[0].timestamp

        for _ in range(2):
            before = latest()
            wait_until(lambda before=before: latest() != before, 120, "a tick of the sensor")

    def has_logged(self, run, event):
        """Return whether a run has logged an event of this type; fails if the run has failed."""
        assert self.instance.get_run_by_id(run).status is not dg.DagsterRunStatus.FAILURE
        return bool(self.instance.all_logs(run, of_type=event))


def processes_of(run):
    """Return the processes of a run: its worker, whose command names the run, and all its descendants."""
    parents, found = {}, set()
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            if run.encode() in (place / "cmdline").read_bytes():
                found.add(int(place.name))
    while more := {process for process, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def alive(processes):
    """Return those that still run; zombies do not."""
    states = {}
    for process in processes:
        with contextlib.suppress(OSError):
            states[process] = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    return {process for process, state in states.items() if state != "Z"}


def select_partition(page, name):
    """Select a partition in the launchpad; the page is loaded again while its list does not have a new one yet."""

    def selected():
        page.get_by_placeholder("Partition").click()
        option = page.get_by_text(name, exact=True).last
        with contextlib.suppress(playwright.TimeoutError):
            option.click(timeout=10_000)
            return True
        page.reload()
        return False

    wait_until(selected, 90, f"partition {name} in the launchpad", every=0.5)
    page.get_by_text(f"partition: {name}").first.wait_for()


@pytest.fixture(scope="module")
def window(chromium):
    """A window with its own profile, and the errors of its pages."""
    with new_window(chromium) as opened:
        yield opened


@dataclass
class Past:
    """The runs of the chain, counted by job and status, at the points of its history that the tests look at."""

    chain: Chain
    failed: str
    """The run of `train_teacher` that has failed."""
    after_failure: Counter
    after_cancellation: Counter = field(default_factory=Counter)
    at_end: Counter = field(default_factory=Counter)
    left_by_canceled: set[int] = field(default_factory=set)
    """Processes of the canceled run that still live when its status is CANCELED."""


@pytest.fixture(scope="module")
def launched(shared_dev, window) -> Iterator[Past]:
    """A chain launched in the browser, which has stopped because the teacher has failed its check."""
    home = shared_dev.home
    settings = TOWN.replace(GOOD_TEACHER, BAD_TEACHER).replace(SHORT, ENDLESS)
    assert BAD_TEACHER in settings
    assert ENDLESS in settings
    _, ui = shared_dev.running()
    (home.config / "village.yaml").write_text(settings)

    def added():
        return "village" in ui.query(PARTITIONS)["assetNodeOrError"]["partitionKeys"]

    wait_until(added, 90, "the sensor to add the city", every=0.5)
    stop_sensor(home, "city_watch")  # it would prepare the new city itself, beside the chain

    page = window[0].new_page()
    page.goto(f"{ui.url}/asset-groups")
    for group in ("settings", "network", "grid", "teacher", "student", "evaluation"):
        page.get_by_text(group, exact=True).first.wait_for()
    page.goto(f"{ui.url}/jobs")
    page.get_by_role("link", name="full_pipeline").first.click()
    page.get_by_text("Launchpad", exact=True).first.click()
    select_partition(page, "village")
    page.get_by_role("button", name="Launch Run").click()
    page.wait_for_url(re.compile(r"/runs/[0-9a-f-]{36}"))
    page.get_by_text("Success", exact=True).first.wait_for()
    first = re.search(r"/runs/([0-9a-f-]{36})", page.url)[1]
    page.close()
    with home.instance() as instance:
        chain = Chain(ui, instance, first)
        failed = chain.until("train_teacher", "FAILURE")
        chain.sensor_looked()
        yield Past(chain, failed, after_failure=chain.counts())


@pytest.fixture(scope="module")
def past(shared_dev, launched) -> Past:
    """The same chain, continued over a canceled run to its end."""
    home, chain = shared_dev.home, launched.chain
    file = home.config / "village.yaml"
    file.write_text(file.read_text().replace(BAD_TEACHER, GOOD_TEACHER))
    chain.again(launched.failed)
    training = chain.until("distill", "STARTED")
    wait_until(lambda: chain.has_logged(training, dg.DagsterEventType.ASSET_OBSERVATION), 300, "an epoch of training")
    working = processes_of(training)
    assert len(working) > 1  # the run's own and that of the step
    chain.server.terminate(training)
    canceled = chain.until("distill", "CANCELED", 60)
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not alive(working), 45, "the end of its processes")
    launched.left_by_canceled = alive(working)
    chain.sensor_looked()
    launched.after_cancellation = chain.counts()

    file.write_text(file.read_text().replace(ENDLESS, SHORT))
    chain.again(canceled)
    chain.until("report", "SUCCESS")
    launched.at_end = chain.counts()
    return launched


PREPARED = [("prepare_city", "SUCCESS"), ("train_teacher", "FAILURE")]
DONE = [
    *PREPARED,
    ("train_teacher", "SUCCESS"),
    ("distill", "CANCELED"),
    ("distill", "SUCCESS"),
    ("evaluate", "SUCCESS"),
    ("report", "SUCCESS"),
]


def test_a_launch_in_the_browser_starts_a_chain_that_stops_at_a_failed_run(launched):
    assert launched.after_failure == Counter(PREPARED)


def test_a_canceled_run_ends_with_its_processes_and_stops_the_chain(past):
    assert not past.left_by_canceled
    assert past.after_cancellation == Counter([*PREPARED, ("train_teacher", "SUCCESS"), ("distill", "CANCELED")])


def test_a_re_executed_run_lets_the_chain_continue_to_the_report(past):
    assert past.at_end == Counter(DONE)
    [report] = [run for run, (job, _) in past.chain.runs().items() if job == "report"]
    assert past.chain.instance.get_run_by_id(report).tags[SERVER_TAG]  # a fork of the run server, long since ready


def test_a_click_opens_the_report(past, window):
    browser, errors = window
    page = browser.new_page()
    page.goto(f"{past.chain.server.url}/assets/distillation_report?partition=village")
    with browser.expect_page() as opened:
        page.locator("a[href$='/report.html']").first.click()
    report = opened.value
    report.get_by_role("heading").first.wait_for()
    assert "village" in report.locator("body").inner_text()
    assert report.evaluate("document.images.length > 0 && [...document.images].every(image => image.naturalWidth > 0)")
    assert not errors, errors
    for opened_page in (report, page):  # a page of Dagster asks its server all the time
        opened_page.close()


def backfill(server, seconds=480, **params):
    """Launch a backfill and wait for its end; returns partition, assets and status of its runs."""
    launched = server.query(BACKFILL, params=params)["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched

    def ended():
        state = server.query(BACKFILL_STATUS, id=launched["backfillId"])["partitionBackfillOrError"]
        return state if state["status"].startswith(("COMPLETED", "FAILED", "CANCELED")) else None

    state = wait_until(ended, seconds, "the end of the backfill", every=1)
    assert state["status"] == "COMPLETED_SUCCESS", state
    return [
        (
            {tag["key"]: tag["value"] for tag in run["tags"]}["dagster/partition"],
            {key["path"][-1] for key in run["assetSelection"] or ()},
            run["status"],
        )
        for run in server.query(BACKFILL_RUNS, id=launched["backfillId"])["runsOrError"]["results"]
    ]


def versions(home, stage, seed):
    """Artifacts of a stage and a seed."""
    folder = home.store / "village" / stage / f"seed-{seed}"
    return [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def test_backfills_over_seeds_train_missing_seeds_and_report_once_over_existing_seeds(past, shared_dev):
    """The backfill by assets contains a seed that the chain has trained, one that is missing, and the report."""
    home, server = shared_dev.home, past.chain.server
    reports = home.store / "village" / "distillation_report"
    before = set(reports.glob("*/report.html"))
    runs = backfill(
        server, assetSelection=[{"path": [name]} for name in (*PER_SEED, "distillation_report")], partitionNames=KEYS
    )
    assert sorted(runs, key=str) == sorted(
        [*((key, set(PER_SEED), "SUCCESS") for key in KEYS), ("village", {"distillation_report"}, "SUCCESS")], key=str
    )
    for seed, number in (("0", 1), ("1", 0), ("2", 1)):
        assert {stage: len(versions(home, stage, seed)) for stage in PER_SEED} == dict.fromkeys(PER_SEED, number)
    [report] = set(reports.glob("*/report.html")) - before
    record = read_artifact(report.parent)
    assert record.summary["seeds"] == "0, 2"
    named = {f"{stage}/seed-{seed}": versions(home, stage, seed)[0] for stage in PER_SEED for seed in "02"}
    assert named.items() <= record.inputs.items()
    assert not any("seed-1" in name for name in record.inputs)
    page = report.read_text()
    assert all(version in page for version in named.values())

    # a backfill of the job reuses the finished artifacts
    runs = backfill(
        server,
        partitionNames=KEYS[1:],
        selector={"partitionSetName": "distill_partition_set", "repositorySelector": REPOSITORY},
    )
    assert [(partition, status) for partition, _, status in runs] == [(KEYS[1], "SUCCESS")]
    assert {stage: len(versions(home, stage, "2")) for stage in PER_SEED} == dict.fromkeys(PER_SEED, 1)
