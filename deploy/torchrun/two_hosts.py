"""Train across two hosts, as two network namespaces of this machine: the same weights, and what a lost host means.

    sudo python deploy/torchrun/two_hosts.py

Each namespace has its own interfaces; a virtual cable (veth) is all that connects them. The first host runs
`hoser-kd make`, the second `hoser-kd join`. They share the file system, as on a cluster. Needs root and iproute2.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PORT = 29500
PARTS = ("lost", "student", "teacher")
TOWN = """
city: town
source: {kind: synthetic, synthetic: {blocks: [6, 6], num_trips: 120}}
zones: {count: 6}
grid: {bounds: roads, cell_size_m: 80}
teacher: {preset: tiny, n_embd: 16, dropout: 0.0, max_epochs: 2, num_processes: 1}
student: {hidden_dim: 16, road_id_dim: 8, attribute_dim: 2, max_epochs: EPOCHS, batch_size: 16, learning_rate: 0.01,
          road_updates: touched_rows, num_processes: PROCESSES}
torchrun: {join_timeout_s: 1800, silence_timeout_s: 1800}
"""


def why_not() -> str | None:
    """Return why namespaces cannot be made here, or None."""
    if shutil.which("ip") is None:
        return "there is no `ip` (package iproute2)"
    name = f"hk-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True, text=True)
    if made.returncode:
        return f"network namespaces are not permitted: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=False)
    return None


@dataclass(frozen=True)
class Host:
    """One namespace."""

    namespace: str
    interface: str
    address: str

    def start(self, arguments: list[str], log: Path, **variables: str) -> subprocess.Popen[bytes]:
        """Start `hoser-kd` in the namespace; its output goes to a file."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "HOSER_KD_JOBS": "1",
            "PYTHONWARNINGS": "ignore",
            "GLOO_SOCKET_IFNAME": self.interface,
            **variables,
        }
        command = ["ip", "netns", "exec", self.namespace, sys.executable, "-m", "hoser_kd.cli", *arguments]
        with log.open("ab") as output:
            return subprocess.Popen(command, env=environment, cwd=log.parent, stdout=output, stderr=output)

    def kill_all(self) -> None:
        """Kill every process of the namespace, as a power cut does."""
        pids = subprocess.run(["ip", "netns", "pids", self.namespace], check=True, capture_output=True, text=True)
        for pid in pids.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def sent_bytes(self) -> int:
        """Return the bytes that have left the interface."""
        file = f"/sys/class/net/{self.interface}/statistics/tx_bytes"
        text = subprocess.run(["ip", "netns", "exec", self.namespace, "cat", file], check=True, capture_output=True)
        return int(text.stdout)


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Yield two connected namespaces, which are removed afterwards with all their processes."""
    mark = f"{os.getpid() % 10_000}"
    hosts = tuple(Host(f"hk-{mark}-{end}", f"hk{mark}{end}", f"10.77.0.{n}") for n, end in ((1, "a"), (2, "b")))
    first, second = hosts
    try:
        for host in hosts:
            _ip("netns", "add", host.namespace)
        _ip("link", "add", first.interface, "type", "veth", "peer", "name", second.interface)
        for host in hosts:
            _ip("link", "set", host.interface, "netns", host.namespace)
            _ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", host.interface)
            _ip("-n", host.namespace, "link", "set", host.interface, "up")
            _ip("-n", host.namespace, "link", "set", "lo", "up")
        yield first, second
    finally:
        for host in hosts:
            with contextlib.suppress(subprocess.CalledProcessError):
                host.kill_all()
            subprocess.run(["ip", "netns", "del", host.namespace], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def write_town(folder: Path, *, epochs: int = 3, processes: int = 1) -> Path:
    """Write the settings of a tiny town and return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "town.yaml"
    file.write_text(TOWN.replace("EPOCHS", str(epochs)).replace("PROCESSES", str(processes)))
    return file


def start_both(
    hosts: tuple[Host, Host], stage: str, town: Path, store: Path
) -> tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]:
    """Start the stage on the first host, and the second one, which joins."""
    first, second = hosts
    together = {"HOSER_KD_NODES": "2", "HOSER_KD_RENDEZVOUS": f"{first.address}:{PORT}"}
    leader = first.start(
        ["make", stage, "--config", str(town), "--store", str(store), "--cuda", "-1"], town.parent / "a.log", **together
    )
    joined = second.start(
        ["join", "--node-rank", "1", "--cuda", "-1", "--once", "--wait", "1800"], town.parent / "b.log", **together
    )
    return leader, joined


def train_on_both(hosts: tuple[Host, Host], stage: str, town: Path, store: Path) -> None:
    """Train on both hosts. Raises RuntimeError, with the end of the output, if one fails."""
    processes = start_both(hosts, stage, town, store)
    for process, log in zip(processes, ("a.log", "b.log"), strict=True):
        if process.wait(1800):
            text = (town.parent / log).read_text()
            raise RuntimeError(f"{log}: exit status {process.returncode}\n{text[-3000:]}")


def weights(store: Path, stage: str) -> dict[str, object]:
    """Return the tensors of the only artifact of a stage."""
    from safetensors.torch import load_file

    [file] = (store / "town" / stage).rglob("model.safetensors")
    return load_file(file)


def _here(stage: str, town: Path, store: Path) -> None:
    command = [sys.executable, "-m", "hoser_kd.cli", "make", stage, "--config", str(town), "--store", str(store)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOSER_KD_JOBS": "1"}
    subprocess.run(
        [*command, "--cuda", "-1"], check=True, env={**environment, "PYTHONWARNINGS": "ignore"}, capture_output=True
    )


def _lost_host(hosts: tuple[Host, Host], town: Path, store: Path) -> tuple[float, str]:
    """Kill the second host in mid-training; returns the seconds until the first one ends, and its message."""
    leader, joined = start_both(hosts, "vanilla_student", town, store)
    deadline = time.monotonic() + 1800
    while not list((store / ".work").rglob("state.pt")):
        if time.monotonic() > deadline or leader.poll() is not None:
            raise RuntimeError((town.parent / "a.log").read_text()[-3000:])
        time.sleep(0.02)
    started = time.monotonic()
    hosts[1].kill_all()
    leader.wait(1800)
    joined.wait()
    return time.monotonic() - started, (town.parent / "a.log").read_text().strip().splitlines()[-1]


def main() -> int:
    """Run everything and print what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=4, help="epochs of the student, from 2")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to show (all)")
    options = parser.parse_args()
    if reason := why_not():
        sys.stderr.write(f"{reason}\n")
        return 1
    import torch

    def same(one: Path, other: Path, stage: str) -> str:
        ours, theirs = weights(one, stage), weights(other, stage)
        if all(torch.equal(ours[name], theirs[name]) for name in theirs):
            return "equal bit for bit"
        return f"largest difference {max(float((ours[name] - theirs[name]).abs().max()) for name in theirs):.1e}"

    folder = Path(tempfile.mkdtemp(prefix="hoser-kd-hosts-"))
    one, two, lost = folder / "one_machine", folder / "two_hosts", folder / "lost_host"
    many = {"epochs": options.epochs}
    with two_hosts() as hosts:
        _here("vanilla_student", write_town(one, **many, processes=2), one / "data")
        print("student, 2 processes on one machine: done", flush=True)
        for other in (two, lost):
            shutil.copytree(one / "data", other / "data", ignore=shutil.ignore_patterns("vanilla_student"))
        if "lost" in options.parts:
            seconds, message = _lost_host(hosts, write_town(lost, **many), lost / "data")
            print(f"student, second host killed after an epoch: the first ends after {seconds:.1f} s:", flush=True)
            print(f"  {message}", flush=True)
            train_on_both(hosts, "vanilla_student", write_town(lost, **many), lost / "data")
            print(
                f"student, the same commands again: {same(lost / 'data', one / 'data', 'vanilla_student')}", flush=True
            )
        if "student" in options.parts:
            sent = hosts[0].sent_bytes()
            train_on_both(hosts, "vanilla_student", write_town(two, **many), two / "data")
            sent = hosts[0].sent_bytes() - sent
            equal = same(two / "data", one / "data", "vanilla_student")
            print(f"student, 2 hosts: {equal}; {sent / 2**20:.1f} MiB sent", flush=True)
        if "teacher" in options.parts:
            _here("teacher", write_town(one, **many), one / "data")
            train_on_both(hosts, "teacher", write_town(two, **many), two / "data")
            print(f"teacher, 2 hosts against 1 process: {same(two / 'data', one / 'data', 'teacher')}", flush=True)
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
