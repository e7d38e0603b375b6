"""Faults of a cluster in mid-training, and what becomes of the run.

    python deploy/celery/cluster.py up FOLDER --set lost_after_seconds=12 poll_interval_seconds=3
    python benchmarks/cluster_faults.py FOLDER [--city demo] [--epochs 4] [--faults worker,process,...]

Trains the vanilla student of a city without a fault, and then again with each fault, which strikes when the first
checkpoint has been written: the worker is killed (SIGKILL), the process of the run is killed, all processes of the
worker's machine are killed, the broker or the database is stopped for some time, the run is canceled. Prints a row per
fault. The exit status is 1 if the weights differ, or a canceled run leaves a process behind.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_spec = importlib.util.spec_from_file_location("cluster", ROOT / "deploy" / "celery" / "cluster.py")
assert _spec is not None
assert _spec.loader is not None
cluster_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cluster_module)
FAULTS = ("worker", "process", "node", "redis", "postgres", "cancel")
ENDED = {"SUCCESS", "FAILURE", "CANCELED"}


def main() -> int:
    parser = argparse.ArgumentParser(description="Faults of a cluster in mid-training.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--city", default="demo")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--away", type=float, default=30, help="seconds without the broker or the database")
    options = parser.parse_args()
    return Campaign(cluster_module.Cluster(options.folder), options).run()


class Campaign:
    """Trains the same student again and again."""

    def __init__(self, cluster, options: argparse.Namespace) -> None:
        self.cluster, self.options = cluster, options
        self.store = cluster.folder / "store"

    def run(self) -> int:
        self.wait(self.cluster.launch("prepare_city", self.options.city), 1800)
        expected, seconds = self.train(lambda _: None)[1:3]
        print(f"without a fault: {seconds:.0f} s, weights {expected}", flush=True)
        wrong = 0
        for name in self.options.faults.split(","):
            status, weights, seconds, remarks = self.train(getattr(self, name))
            good = weights == expected if name != "cancel" else (status, weights) == ("CANCELED", "none")
            wrong += not good
            print(f"{name:<9} {status:<9} {seconds:4.0f} s  weights {weights:<17} {remarks}", flush=True)
        return 1 if wrong else 0

    def train(self, fault: Callable[[str], str | None]) -> tuple[str, str, float, str]:
        """Train, with a fault in mid-training; returns status, digest of the weights, seconds, and what was seen."""
        shutil.rmtree(self.store / self.options.city / "vanilla_student", ignore_errors=True)
        shutil.rmtree(self.store / ".work", ignore_errors=True)
        config = {"ops": {"vanilla_student": {"config": {"max_epochs": self.options.epochs}}}}
        run = self.cluster.launch("train_vanilla", f"{self.options.city}|0", config)
        started = time.monotonic()
        self.until(lambda: list((self.store / ".work").rglob("state.pt")), 1800, "a checkpoint")
        remarks = fault(run) or ""
        status = self.wait(run, 1800)
        seconds = time.monotonic() - started
        for name in self.cluster.workers:
            if not self.processes(name):
                self.cluster.start(name)
        files = list((self.store / self.options.city / "vanilla_student").glob("seed-0/*/model.safetensors"))
        digest = hashlib.sha256(files[0].read_bytes()).hexdigest()[:16] if files else "none"
        return status, digest, seconds, f"{remarks} {self.resumed(run)}"

    def worker(self, run: str) -> str:
        os.kill(self.cluster.pid(name := self.worker_of(run)), signal.SIGKILL)
        started = time.monotonic()
        self.until(lambda: not self.processes(name), 60, "the end of its processes")
        return f"its processes ended after {time.monotonic() - started:.0f} s;"

    def process(self, run: str) -> None:
        name = self.worker_of(run)
        worker = self.cluster.pid(name)
        [process] = [pid for pid in self.processes(name) if parent_of(pid) == worker]
        os.kill(process, signal.SIGKILL)

    def node(self, run: str) -> None:
        for pid in self.processes(self.worker_of(run)):
            os.kill(pid, signal.SIGKILL)

    def redis(self, _: str) -> None:
        self.away("redis")

    def postgres(self, _: str) -> None:
        self.away("postgres")

    def away(self, service: str) -> None:
        self.cluster.stop(service)
        time.sleep(self.options.away)
        self.cluster.start(service)

    def cancel(self, run: str) -> str:
        name = self.worker_of(run)
        started = time.monotonic()
        self.cluster.cancel(run)
        self.until(lambda: len(self.processes(name)) == 1, 60, "the end of its processes")
        return f"its processes ended after {time.monotonic() - started:.0f} s;"

    def worker_of(self, run: str) -> str:
        """Return the worker that has a run."""
        answer = self.cluster.query(
            "query($run: ID!) { runOrError(runId: $run) { ... on Run { tags { key value } } } }", run=run
        )
        tags = {tag["key"]: tag["value"] for tag in answer["runOrError"]["tags"]}
        return tags["hoser_kd/worker"].partition("@")[0]

    def resumed(self, run: str) -> str:
        """Return why and how often a run was resumed."""
        answer = self.cluster.query(
            "query($run: ID!) { logsForRun(runId: $run) { ... on EventConnection { events {"
            " ... on MessageEvent { message timestamp } } } } }",
            run=run,
        )
        messages = [event.get("message") or "" for event in answer["logsForRun"]["events"]]
        found = [text for text in messages if text.startswith("Detected run worker status")]
        return "; ".join(text.split("'")[1] for text in found) or "not resumed"

    def processes(self, worker: str) -> dict[int, str]:
        """Return the processes of the machine that a worker stands for, with their commands."""
        marker = f"TMPDIR={self.cluster.folder / worker}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and marker in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
        return found

    def wait(self, run: str, seconds: float) -> str:
        """Wait for the end of a run; the web server may be away, when its database is."""

        def ended() -> str:
            try:
                status = self.cluster.status(run)
            except (OSError, KeyError, TypeError):
                return ""
            return status if status in ENDED else ""

        return self.until(ended, seconds, f"the end of {run}")

    def until(self, condition: Callable, seconds: float, what: str):
        end = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > end:
                raise SystemExit(f"not within {seconds:.0f} s: {what}")
            time.sleep(0.1)
        return value


def parent_of(pid: int) -> int:
    """Return the process that has started a process."""
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])


if __name__ == "__main__":
    sys.exit(main())
