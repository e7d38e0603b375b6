"""A tiny city on disk and on an S3 server, with two machines, over the command line and Dagster: seconds and requests.

    python deploy/buckets/two_machines.py              # starts an S3 server of its own (moto); `pip install '.[test]'`
    python deploy/buckets/two_machines.py --dagster    # also runs the jobs of Dagster on a bucket of their own

A machine is a home folder of its own, hence a cache of its own. The first machine makes everything up to the labels,
the second one the rest; then the first one asks for the report that it has not made. Trips and metrics of both stores
must be equal. Times are those of the commands, CPU seconds with their child processes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOWN = """
city: town
source: {kind: synthetic, synthetic: {blocks: [6, 6], num_trips: 120}}
zones: {count: 6}
grid: {bounds: roads, cell_size_m: 80}
teacher: {preset: tiny, n_embd: 16, max_epochs: 2}
student: {hidden_dim: 16, road_id_dim: 8, attribute_dim: 2, max_epochs: 2, batch_size: 16, learning_rate: 0.01}
generation: {num_trips: 5, max_steps: 300}
"""
REQUEST = re.compile(r'"(GET|PUT|HEAD|POST|DELETE) (\S+)')


@dataclass
class Server:
    """An S3 server and its log of requests."""

    address: str
    log: Path
    _read: int = field(default=0)

    def new_requests(self) -> dict[str, int]:
        """Return the requests by method since the last call."""
        lines = self.log.read_text(errors="replace").splitlines()
        counts: dict[str, int] = {}
        for line in lines[self._read :]:
            if match := REQUEST.search(line):
                counts[match[1]] = counts.get(match[1], 0) + 1
        self._read = len(lines)
        return counts


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[Server]:
    """Yield an S3 server with the bucket `store`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "server.log"
    with log.open("wb") as output:
        command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-p", str(port)]
        process = subprocess.Popen(command, stdout=output, stderr=output)
    server = Server(f"http://127.0.0.1:{port}", log)
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server.address,
    }
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        import s3fs

        s3fs.S3FileSystem().mkdir("store")
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


@dataclass
class Cost:
    """Wall and CPU seconds of a command."""

    wall_s: float
    cpu_s: float


def run(words: list[str], home: Path, store: str, **variables: str) -> Cost:
    """Run a module on the machine with this home. Raises RuntimeError with its output if it fails."""
    home.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "1",
        "HOSER_KD_JOBS": "1",
        "HOSER_KD_STORE": store,
        **variables,
    }
    before, started = os.times(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", *words], check=False, cwd=home, env=environment, capture_output=True, text=True
    )
    after = os.times()
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stdout[-2000:]}{done.stderr[-3000:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Cost(time.perf_counter() - started, cpu)


def make(stage: str, config: Path, home: Path, store: str) -> Cost:
    """Make a stage by the command line."""
    return run(["hoser_kd.cli", "make", stage, "--config", str(config), "--cuda", "-1"], home, store)


def row(what: str, cost: Cost, requests: dict[str, int] | None = None) -> None:
    """Print a row of the table."""
    counts = (
        ""
        if requests is None
        else f"{sum(requests.values())} ({', '.join(f'{v} {k}' for k, v in sorted(requests.items()))})"
    )
    print(f"| {what} | {cost.wall_s:.1f} | {cost.cpu_s:.1f} | {counts} |", flush=True)


def results(folder: Path) -> dict[str, object]:
    """Return what must be equal in two stores: digests of weights and trips, and the metrics, by stage."""
    found: dict[str, object] = {}
    for record in sorted(folder.glob("town/**/artifact.json")):
        content = json.loads(record.read_text())
        name = f"{content['stage']}"
        kept = {
            file: digest
            for file, digest in content["digests"].items()
            if Path(file).name in {"model.safetensors", "metrics.json"} or file.endswith((".arrow", ".parquet"))
        }
        found[name] = (content["version"], kept)
    return found


def on_disk_and_bucket(config: Path, folder: Path, server: Server) -> None:
    """Make the city on disk, then on the bucket with two machines, and compare."""
    print("| run | s | CPU s | requests |\n|---|---|---|---|")
    disk, bucket, one, two = folder / "disk", "s3://store/cli", folder / "one", folder / "two"
    row("disk, all stages", make("distillation_report", config, folder / "zero", str(disk)))
    row("disk, again (nothing to do)", make("distillation_report", config, folder / "zero", str(disk)))
    server.new_requests()
    row("bucket, machine 1: up to the labels", make("teacher_soft_labels", config, one, bucket), server.new_requests())
    row("bucket, machine 2: the rest", make("distillation_report", config, two, bucket), server.new_requests())
    row(
        "bucket, machine 1: report of machine 2",
        make("distillation_report", config, one, bucket),
        server.new_requests(),
    )
    row("bucket, machine 1: again", make("distillation_report", config, one, bucket), server.new_requests())
    row("`hoser-kd verify` of the bucket", run(["hoser_kd.cli", "verify", bucket], two, bucket), server.new_requests())
    copy = folder / "copy"
    import s3fs

    s3fs.S3FileSystem().get("store/cli/town", str(copy / "town"), recursive=True)
    ours, theirs = results(copy), results(disk)
    differing = [name for name in theirs if ours.get(name) != theirs[name]]
    print(
        f"\n{len(theirs)} artifacts on disk, {len(ours)} in the bucket; different: {', '.join(differing) or 'none'}",
        flush=True,
    )
    left = [name for name in s3fs.S3FileSystem().find("store/cli") if "/.work/" in name or "/.leases/" in name]
    print(f"leases and work in progress left in the bucket: {len(left)}\n", flush=True)


def over_dagster(config: Path, folder: Path, server: Server) -> None:
    """Run the jobs of Dagster on a bucket, then ask a second machine for the report by its link."""
    bucket, one, two = "s3://store/dagster", folder / "dagster_one", folder / "dagster_two"
    home = one / "home"
    home.mkdir(parents=True)
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    variables = {"DAGSTER_HOME": str(home), "HOSER_KD_CONFIG": str(config.parent)}
    server.new_requests()
    demo = ["dagster_project.demo", "--city", "town", "--seeds", "0"]
    row("bucket, all jobs of Dagster", run(demo, one, bucket, **variables), server.new_requests())
    links = json.loads(_output(_LINKS, one, bucket, **variables).splitlines()[-1])
    print(f"\nlinks in Dagster: {', '.join(f'{name} {link}' for name, link in links.items())}", flush=True)
    print(_output(_OPEN, two, bucket, links["report"], links["tensorboard"]).strip(), flush=True)


def _output(script: str, home: Path, store: str, *arguments: str, **variables: str) -> str:
    """Run a script on the machine with this home and return what it prints."""
    home.mkdir(parents=True, exist_ok=True)
    paths = {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(home / "cache"), "HOSER_KD_STORE": store}
    words = [sys.executable, "-W", "ignore", "-c", script, *arguments]
    done = subprocess.run(
        words, check=True, env={**os.environ, **paths, **variables}, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


_LINKS = """
import json
import dagster as dg
links = {}
for stage, names in (("distilled_student", ["tensorboard"]), ("distillation_report", ["report", "map", "files"])):
    event = dg.DagsterInstance.get().get_latest_materialization_event(dg.AssetKey(stage))
    links |= {name: event.asset_materialization.metadata[name].value for name in names}
print(json.dumps(links))
"""
"""Prints the links that the UI shows on two assets."""

_OPEN = """
import re, sys, threading, time, urllib.parse, urllib.request
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from dagster_project.files import store_server
from dagster_project.paths import local_store
server = store_server(0)
threading.Thread(target=server.serve_forever, daemon=True).start()
page = urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}" + sys.argv[1]).read()
assert b"<html" in page, page[:200]
print(f"the report's link, opened on another machine: {len(page):,} bytes of HTML")
query = urllib.parse.parse_qs(urllib.parse.urlsplit(sys.argv[2]).query)
began = time.monotonic()
while True:
    curves = EventMultiplexer().AddRunsFromDirectory(str(local_store())).Reload()
    shown = [run for run in curves.Runs() if re.search(query["runFilter"][0], run)]
    if shown or time.monotonic() - began > 120:
        break
    time.sleep(1)
tags = {tag for run in shown for tag in curves.Runs()[run]["tensors"]}
assert tags, (query, list(curves.Runs()))
print(f"TensorBoard's link: {len(shown)} of {len(curves.Runs())} runs with {len(tags)} curves")
"""
"""Opens both links on a machine that has computed nothing; arguments: the link of the report, that of TensorBoard."""


def main() -> None:
    """Run what the options say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dagster", action="store_true", help="also run the jobs of Dagster")
    parser.add_argument("--only-dagster", action="store_true", help="run only those")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="hoser-kd-bucket-"))
    config = folder / "config" / "town.yaml"
    config.parent.mkdir()
    config.write_text(TOWN)
    with s3_server(folder) as server:
        if not options.only_dagster:
            on_disk_and_bucket(config, folder, server)
        if options.dagster or options.only_dagster:
            over_dagster(config, folder, server)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
