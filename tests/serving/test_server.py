"""The command `hoser-kd serve` as a process: it answers over HTTP and ends cleanly on SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import urllib.request
from pathlib import Path

from guarded_process import GuardedProcess
from ports import free_ports

from hoser_kd import hoser

ROOT = Path(__file__).resolve().parents[2]


def test_the_server_answers_and_ends_on_sigterm(small_model, tmp_path):
    hoser.save(small_model, tmp_path / "student")
    [port] = free_ports(1)
    command = ["hoser_kd.cli", "serve", str(tmp_path / "student"), "--port", str(port), "--cuda", "-1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    log = tmp_path / "log"
    with GuardedProcess(
        [sys.executable, "-W", "ignore", "-m", *command], cwd=tmp_path, environment=environment, log=log
    ) as server:
        deadline = time.monotonic() + 120
        while True:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:  # refused, or too slow on a busy machine
                time.sleep(0.1)
        body = json.dumps({"trips": [{"origin": 0, "destination": 5, "start_time": 0}]}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/generate", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert len(json.load(answer)["trips"]) == 1
        os.kill(server.pid, signal.SIGTERM)
        assert server.wait(60) == 0, log.read_text()
    assert "Traceback" not in log.read_text()
