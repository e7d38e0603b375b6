"""`make dev`: servers that start together, and all of whose processes end together."""

from __future__ import annotations

import os
import signal
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from homes import Dev, wait_until
from ports import free_ports
from stage_process import left_after, running

from dagster_project.dev import _start as start


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def ends_everything(dev, sent):
    """Send a signal to the group of `make dev`, as the terminal does; all its processes and servers must end."""
    os.killpg(dev.process.pid, sent)
    assert dev.process.wait(60) == 0, dev.log.read_text()
    assert not left_after(dev.home.root, 10)
    assert not any(map(answers, dev.ports))


def test_dagster_waits_longer_for_its_code_server_on_a_busy_machine(monkeypatch):
    """With Dagster's 60 s, a run fails whose process starts later; a variable that is set stays."""
    for given, expected in ((None, b"300"), ("20", b"20")):
        if given is not None:
            monkeypatch.setenv("DAGSTER_GRPC_TIMEOUT_SECONDS", given)
        process = start("http.server", "--bind", "127.0.0.1", "0")
        try:
            variables = Path(f"/proc/{process.pid}/environ")
            # empty for a moment: Popen returns before the kernel has written it
            environment = wait_until(variables.read_bytes, 30, "the environment").split(b"\0")
        finally:
            process.kill()
            process.wait()
        assert b"DAGSTER_GRPC_TIMEOUT_SECONDS=" + expected in environment


@pytest.mark.xdist_group("dev")
@pytest.mark.last
def test_everything_that_make_dev_starts_ends_when_it_is_interrupted(dev_town, shared_dev):
    dev, _ = shared_dev.running()
    # this process, the gateway, files, TensorBoard, Dagster's three servers, what forks them, and the code location
    wait_until(lambda: len(running(dev.home.root)) >= 9, 120, dev.log.read_text)
    assert all(map(answers, dev.ports))
    ends_everything(dev, signal.SIGINT)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP], ids=["terminated", "terminal-closed"])
def test_everything_that_make_dev_starts_ends_when_it_is_ended_at_its_start(fresh_home, sent):
    """The signal comes as soon as Dagster's code server loads the code location; the web server has not started."""
    with Dev(fresh_home, free_ports(1)) as dev:

        def started() -> bool:
            assert dev.process.poll() is None, dev.log.read_text()
            return len(running(fresh_home.root)) >= 5

        wait_until(started, 120, dev.log.read_text)
        ends_everything(dev, sent)
