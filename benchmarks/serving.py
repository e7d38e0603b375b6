"""Load test of `hoser-kd serve`: throughput, answer times and CPU time of the server, at several numbers of clients.

    python benchmarks/serving.py <student folder> <trajectories folder> [--seconds 5] [--cuda 0]

The folders are artifacts of a store. Requests are those of the test trips, in a random order. Each client keeps one
connection and sends a request when it has the answer to the last. CPU time is that of the server's process, so that it
depends less on other work on the machine than the answer times do. The last row sends more requests than may wait.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np

from hoser_kd.network.trajectories import Trajectories

CLIENTS = (1, 8, 32)
MAX_STEPS = 1000


@dataclass
class Load:
    """Answers to a load: statuses, and seconds of each."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", type=Path)
    parser.add_argument("trajectories", type=Path)
    parser.add_argument("--seconds", type=float, default=5.0, help="time of each load")
    parser.add_argument("--cuda", type=int, default=-1, help="number of the GPU; -1: the CPU")
    options = parser.parse_args()
    bodies = requests_of(options.trajectories)
    print("| request | clients | answers/s | p50 ms | p95 ms | server CPU ms per answer | other statuses |")
    print("|---|---|---|---|---|---|---|")
    with Server(options.student, options.cuda, max_waiting=64) as server:
        for path, texts in bodies.items():
            measure(server, path, texts, 1, 1.0)  # compiles and warms up
            for clients in CLIENTS:
                print(row(path, clients, options.seconds, *measure(server, path, texts, clients, options.seconds)))
    with Server(options.student, options.cuda, max_waiting=4) as server:
        path = "/generate"
        loads = measure(server, path, bodies[path], 32, options.seconds)
        print(row(f"{path}, 4 may wait", 32, options.seconds, *loads))


def requests_of(folder: Path) -> dict[str, list[bytes]]:
    """Return bodies by path: a trip each, or the first half of a trip each."""
    trips = Trajectories.load(folder / "test.arrow")
    rows = list(range(len(trips)))
    random.Random(0).shuffle(rows)
    generate, next_step = [], []
    for row_ in rows:
        roads, first = trips.roads(row_).tolist(), int(trips.offsets[row_])
        times, half = trips.times[first : first + len(roads)].tolist(), max(1, len(roads) // 2)
        trip = {"origin": roads[0], "destination": roads[-1], "start_time": times[0]}
        path = {"roads": roads[:half], "times": times[:half], "destination": roads[-1]}
        generate.append(json.dumps({"trips": [trip], "max_steps": MAX_STEPS}).encode())
        next_step.append(json.dumps({"paths": [path]}).encode())
    return {"/next_step": next_step, "/generate": generate}


class Server:
    """`hoser-kd serve` as a process."""

    def __init__(self, student: Path, cuda: int, max_waiting: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._command = [sys.executable, "-W", "ignore", "-m", "hoser_kd.cli", "serve", str(student)]
        self._command += ["--port", str(self.port), "--cuda", str(cuda), "--max-waiting", str(max_waiting)]

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL)
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/health")
                connection.getresponse().read()
            except OSError:
                assert self.process.poll() is None
                time.sleep(0.1)
            else:
                return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0

    def cpu_seconds(self) -> float:
        """Return user and system time of the process."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(server: Server, path: str, bodies: list[bytes], clients: int, seconds: float) -> tuple[Load, float]:
    """Return the answers within a time, and the server's CPU seconds."""
    before, end = server.cpu_seconds(), time.monotonic() + seconds
    with ThreadPoolExecutor(clients) as pool:
        loads = list(pool.map(lambda client: send(server.port, path, bodies[client::clients], end), range(clients)))
    total = Load()
    for load in loads:
        total.statuses += load.statuses
        total.seconds += load.seconds
    return total, server.cpu_seconds() - before


def send(port: int, path: str, bodies: list[bytes], end: float) -> Load:
    """Send requests one after the other until the end."""
    load = Load()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    while True:
        for body in bodies:
            if time.monotonic() > end:
                connection.close()
                return load
            started = time.monotonic()
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            load.statuses[answer.status] += 1
            if answer.status == 200:
                load.seconds.append(time.monotonic() - started)
            else:
                time.sleep(0.05)


def row(path: str, clients: int, seconds: float, load: Load, cpu: float) -> str:
    answers = load.statuses.pop(200, 0)
    p50, p95 = np.quantile(load.seconds, [0.5, 0.95]) * 1000
    other = ", ".join(f"{count} × {status}" for status, count in load.statuses.items()) or "none"
    return (
        f"| `{path}` | {clients} | {answers / seconds:.1f} | {p50:.0f} | {p95:.0f} | "
        f"{1000 * cpu / max(answers, 1):.1f} | {other} |"
    )


if __name__ == "__main__":
    main()
