"""`make dev`: three servers that start together, and are gone together after Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from stage_process import left_after, running

ROOT = Path(__file__).resolve().parents[2]


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whatever_make_dev_has_started_ends_with_it(fresh_home, three_ports, sent):
    ports = three_ports
    environment = fresh_home.environment | {
        "HOSER_KD_FILES": f"http://127.0.0.1:{ports[1]}",
        "HOSER_KD_TENSORBOARD": f"http://127.0.0.1:{ports[2]}",
        "PYTHONWARNINGS": "ignore",
    }
    # a background job of a shell has interrupts ignored; the servers must end all the same
    process = subprocess.Popen(
        [
            "sh",
            "-c",
            'trap "" INT; exec "$@"',
            "sh",
            sys.executable,
            "-m",
            "dagster_project.dev",
            "--port",
            str(ports[0]),
        ],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not all(map(answers, ports)):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.5)
        assert len(running(fresh_home.root)) >= 5
        os.killpg(process.pid, sent)
        process.wait(60)
        assert not left_after(fresh_home.root, 10)
        assert not any(map(answers, ports))
    finally:
        for left in running(fresh_home.root):
            os.kill(left, signal.SIGKILL)
