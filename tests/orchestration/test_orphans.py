"""A run whose process is killed ends its step too; finished artifacts stay, and the next run starts."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from pathlib import Path

import pytest
from homes import wait_until
from stage_process import running

from hoser_kd.pipeline.store import read_artifact

pytestmark = pytest.mark.xdist_group("dev")
LOGS = """query($run: ID!) { logsForRun(runId: $run) { ... on EventConnection { events {
  ... on MessageEvent { message } } } } }"""
PID = re.compile(r"Started process for run \(pid: (\d+)\)")


def processes_of_runs(home, servers: set[int]) -> set[int]:
    """Return the processes of a home that a run has started; the code server keeps a tracker for all its runs."""
    numbers = set()
    for number in set(running(home.root)) - servers:
        with contextlib.suppress(OSError):
            if b"resource_tracker" not in Path(f"/proc/{number}/cmdline").read_bytes():
                numbers.add(number)
    return numbers


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_ends_its_step_and_the_processes_of_the_step(dev_town, processes):
    home, server = dev_town
    folder = home.store / "town" / "vanilla_student" / "seed-0"
    before = {path.name for path in folder.iterdir()}
    home.edit("max_epochs: 2, batch", f"num_processes: {processes}, max_epochs: 100000, batch")

    servers = set(running(home.root))
    run = server.launch("distill", "vanilla_student", partition="town|0")
    wait_until(lambda: list((home.store / ".work" / "town").rglob("state.pt")), 180, "an epoch of training", every=0.5)
    assert len(processes_of_runs(home, servers)) >= 2 + processes
    events = server.query(LOGS, run=run)["logsForRun"]["events"]
    [pid] = {int(match[1]) for event in events if (match := PID.search(event.get("message") or ""))}
    assert pid not in servers
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not processes_of_runs(home, servers), 30, "the end of the step")
    assert server.wait_for_end(run, 60) == "FAILURE"
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == before
    assert all(read_artifact(folder / name).version == name for name in before)
    assert list((home.store / ".work" / "town").rglob("state.pt"))  # from which the next run resumes
    with home.instance() as instance:
        wait_until(
            lambda: not instance.event_log_storage.get_concurrency_info("gpu").active_slot_count,
            90,
            "its slot in the pool to be free for the next run",
            every=1,
        )
    if processes == 1:
        home.edit("num_processes: 1, max_epochs: 100000, batch", "max_epochs: 3, batch")
        assert server.wait_for_end(server.launch("distill", "vanilla_student", partition="town|0"), 180) == "SUCCESS"
