"""Intentional faults: flipped bits in a store, and killed runs.

    python benchmarks/faults.py flips STORE [--per-file 8]
    python benchmarks/faults.py kills [config/demo.yaml] [--stage distilled_student] [--kills 30] [--command]

`flips` copies a store, flips single bits of every file of every artifact, and counts which of them are noticed when the
artifact is opened. `kills` makes a stage and all it depends on without a fault; then it makes them again and kills the
process and all its children at random times, until they are finished. It compares the digests of all weights, labels,
trips and tables with those of the run without a fault. Without a YAML it takes `small_town.yaml`. With `--command` each
run is the command `hoser-kd make`, which also runs stages side by side; otherwise it is a fork of this process. The
exit status is 1 if a flip is not noticed, or a digest differs.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from multiprocessing.context import ForkProcess
from pathlib import Path

from hoser_kd.config.loading import load_config
from hoser_kd.pipeline.parallel import PRELOAD
from hoser_kd.pipeline.run import make_with_inputs
from hoser_kd.pipeline.store import RECORD, Artifact, Store
from hoser_kd.pipeline.verification import verify_store

ROOT = Path(__file__).resolve().parents[1]
COMPARED = (".safetensors", ".arrow", ".parquet", ".npy", ".npz")
"""Kinds of files that two runs write alike, byte by byte; others hold times."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Flip bits of a store, or kill runs, and see what is noticed.")
    commands = parser.add_subparsers(required=True)
    flips = commands.add_parser("flips")
    flips.add_argument("store", type=Path)
    flips.add_argument("--per-file", type=int, default=8, help="flips per file: first byte, last byte, then random")
    flips.set_defaults(run=_flips)
    kills = commands.add_parser("kills")
    kills.add_argument("config", type=Path, nargs="?", default=Path(__file__).with_name("small_town.yaml"))
    kills.add_argument("--stage", default="distilled_student")
    kills.add_argument("--kills", type=int, default=30)
    kills.add_argument("--command", action="store_true", help="run `hoser-kd make` in place of a fork")
    kills.set_defaults(run=_kills)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    return options.run(options)


def _flips(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "store"
        shutil.copytree(options.store, copy, ignore=shutil.ignore_patterns(".work"))
        store, rng = Store(copy), random.Random(options.seed)
        old = [
            name for name, each in store.artifacts() if isinstance(each, Artifact) and each.files and not each.digests
        ]
        if old:
            print(f"{len(old)} artifacts without digests are left out, such as {old[0]}")
        flipped, silent = flip_all(store, set(old), options.per_file, rng)
    print(f"{'kind':<14}{'flips':>8}{'noticed':>9}")
    for kind, count in sorted(flipped.items()):
        print(f"{kind:<14}{count:>8}{count - sum(name.endswith(kind) for name in silent):>9}")
    for name in silent:
        print(f"not noticed: {name}")
    return 1 if silent else 0


def flip_all(store: Store, left_out: set[str], per_file: int, rng: random.Random) -> tuple[Counter[str], list[str]]:
    """Flip bits of all artifacts of a local store and restore them.

    Returns the number of flips by kind of file, and `<file>` for each flip after which the artifact still opened.
    """
    flipped: Counter[str] = Counter()
    silent: list[str] = []
    for name, artifact in store.artifacts():
        if name in left_out or not isinstance(artifact, Artifact):
            continue
        key = (artifact.stage, artifact.city, artifact.version, artifact.seed)
        assert store.find(*key) is not None, name
        for file in (*artifact.files, RECORD):
            for _ in flips_of(artifact.path / file, per_file, rng):
                flipped[Path(file).suffix or "other"] += 1
                if store.find(*key) is not None:
                    silent.append(f"{name}/{file}")
        assert store.find(*key) is not None, name
    return flipped, silent


def flips_of(file: Path, count: int, rng: random.Random) -> Iterator[int]:
    """Flip a bit of a file, yield its byte's place, and restore the file; `count` times."""
    whole = file.read_bytes()
    places = [0, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(count))] if whole else []
    for place in places[:count]:
        with file.open("r+b") as opened:
            opened.seek(place)
            opened.write(bytes([whole[place] ^ 1 << rng.randrange(8)]))
        yield place
        with file.open("r+b") as opened:
            opened.seek(place)
            opened.write(whole[place : place + 1])


def _kills(options: argparse.Namespace) -> int:
    # imported before the forks: a killed run then loses its work, not the time of imports
    for module in (PRELOAD, "torch.utils.tensorboard"):
        importlib.import_module(module)
    rng, killed, differing, number = random.Random(options.seed), 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        before = os.times()
        process = _start(options, whole)
        process.join()
        after = os.times()
        seconds = after.children_user + after.children_system - before.children_user - before.children_system
        if process.exitcode != 0:
            raise SystemExit(f"the run without a fault failed with status {process.exitcode}")
        expected = digests(whole)
        print(f"without a fault: {seconds:.1f} CPU seconds, {len(expected)} files compared", flush=True)
        while killed < options.kills:
            store = Path(folder) / f"store-{number}"
            times = _run_with_kills(options, store, seconds, rng, options.kills - killed)
            killed, number = killed + len(times), number + 1
            actual = digests(store)
            changed = sorted(name for name in expected.keys() | actual.keys() if expected.get(name) != actual.get(name))
            damaged = verify_store(Store(store)).damaged
            differing += len(changed) + len(damaged)
            at = ", ".join(f"{second:.1f}" for second in times)
            print(f"run {number}: killed after {at} CPU s; {len(changed)} files differ", *changed, *damaged, flush=True)
            shutil.rmtree(store)
    print(f"{killed} kills in {number} runs; {differing or 'no'} differences")
    return 1 if differing else 0


def _run_with_kills(
    options: argparse.Namespace, store: Path, seconds: float, rng: random.Random, most: int
) -> list[float]:
    """Start the stage again and again, each time killed within the CPU time of a whole run, until it is finished.

    Returns after how many CPU seconds each killed run was killed: unlike the time of day, they do not depend on what
    else the machine does.
    """
    times: list[float] = []
    while True:
        limit = rng.uniform(0.02, 0.4) * seconds if len(times) < most else float("inf")
        process = _start(options, store)
        assert process.pid is not None
        while process.exitcode is None and _cpu_seconds(process.pid) < limit:
            process.join(0.1)
        if process.exitcode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
            times.append(limit)
            print(f"  kill after {limit:.1f} CPU s", flush=True)
            damaged = verify_store(Store(store)).damaged if store.is_dir() else []
            assert not damaged, damaged
        elif process.exitcode == 0:
            return times
        else:
            raise SystemExit(f"the resumed run failed with status {process.exitcode}")


def _start(options: argparse.Namespace, store: Path) -> ForkProcess:
    """Start a run in a new process group."""
    process = multiprocessing.get_context("fork").Process(target=_run, args=(options, store))
    process.start()
    assert process.pid is not None
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.setpgid(process.pid, process.pid)
    return process


def _cpu_seconds(group: int) -> float:
    """Return the CPU time of all processes of a group that have not ended (Linux)."""
    ticks = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = file.read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15])) if int(fields[2]) == group else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def _run(options: argparse.Namespace, store: Path) -> None:
    """Make the stage, in this process or as the command `hoser-kd make`."""
    with contextlib.suppress(PermissionError):
        os.setpgid(0, 0)
    if not options.command:
        config = load_config(options.config)
        make_with_inputs(options.stage, config, Store(store), device="cpu")
        return
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.chdir(ROOT)
    command = [sys.executable, "-W", "ignore", "-m", "hoser_kd.cli", "make", options.stage]
    more = ["--config", str(options.config.absolute()), "--store", str(store), "--cuda", "-1"]
    os.execv(sys.executable, [*command, *more])


def digests(store: Path) -> dict[str, str]:
    """Return the recorded digests of the compared files of a store, by artifact and file."""
    return {
        f"{name}/{file}": digest
        for name, artifact in Store(store).artifacts()
        if isinstance(artifact, Artifact)
        for file, digest in artifact.digests.items()
        if file.endswith(COMPARED)
    }


if __name__ == "__main__":
    sys.exit(main())
