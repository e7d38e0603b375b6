"""`make dev`: three servers that start together, and all of whose processes end together."""

from __future__ import annotations

import os
import signal
import sys
import urllib.error
import urllib.request

import pytest
from guarded_process import GuardedProcess
from homes import ROOT, wait_until
from stage_process import left_after, running


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


@pytest.mark.parametrize(
    ("sent", "serving"),
    [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGHUP, False)],
    ids=["interrupted", "terminated-at-start", "terminal-closed-at-start"],
)
def test_everything_that_make_dev_starts_ends_with_it(fresh_home, three_ports, sent, serving):
    """`serving`: the signal comes when all servers answer, otherwise as soon as all processes have been started."""
    ports = three_ports
    environment = fresh_home.environment | {
        "HOSER_KD_FILES": f"http://127.0.0.1:{ports[1]}",
        "HOSER_KD_TENSORBOARD": f"http://127.0.0.1:{ports[2]}",
        "PYTHONWARNINGS": "ignore",
    }
    # a background job of a shell ignores interrupts; the servers must end all the same
    shell = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]
    command = [*shell, sys.executable, "-m", "dagster_project.dev", "--port", str(ports[0])]
    log = fresh_home.root / "dev.log"
    with GuardedProcess(command, cwd=ROOT, environment=environment, log=log) as process:

        def started() -> bool:
            assert process.poll() is None, log.read_text()
            # dagster dev, its web server and daemon, the files, TensorBoard, and this one
            return all(map(answers, ports)) if serving else len(running(fresh_home.root)) >= 6

        wait_until(started, 120, log.read_text)
        assert len(running(fresh_home.root)) >= 6
        os.killpg(process.pid, sent)
        assert process.wait(60) is not None
        assert not left_after(fresh_home.root, 10)
        assert not any(map(answers, ports))
