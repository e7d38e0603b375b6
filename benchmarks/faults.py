"""Intentional faults: flipped bits in a store, and killed runs.

    python benchmarks/faults.py flips STORE [--per-file 8]
    python benchmarks/faults.py kills config/demo.yaml [--stage vanilla_student] [--kills 20]

`flips` copies a store, flips single bits of every file of every artifact, and counts which of them are noticed when the
artifact is opened. `kills` makes a stage without a fault; then it makes it again and kills the process and all its
children at random times, until it is finished. It compares the digests of all weights, labels, trips and tables with
those of the run without a fault. The exit status is 1 if a flip is not noticed, or a digest differs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

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
    kills.add_argument("config", type=Path)
    kills.add_argument("--stage", default="vanilla_student")
    kills.add_argument("--kills", type=int, default=20)
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
    rng, killed, differing = random.Random(options.seed), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        started = time.monotonic()
        assert _process(options, whole).wait() == 0
        seconds = time.monotonic() - started
        expected = digests(whole)
        print(f"without a fault: {seconds:.0f} s, {len(expected)} files compared")
        number = 0
        while killed < options.kills:
            store = Path(folder) / f"store-{number}"
            kills = _run_with_kills(options, store, seconds, rng, options.kills - killed)
            killed, number = killed + kills, number + 1
            actual = digests(store)
            changed = sorted(name for name in expected.keys() | actual.keys() if expected.get(name) != actual.get(name))
            damaged = verify_store(Store(store)).damaged
            differing += len(changed) + len(damaged)
            print(f"store {number}: {kills} kills, {len(changed)} files differ", *changed, *damaged)
            shutil.rmtree(store)
    print(f"{killed} kills in {number} runs; {differing or 'no'} differences")
    return 1 if differing else 0


def _run_with_kills(options: argparse.Namespace, store: Path, seconds: float, rng: random.Random, most: int) -> int:
    """Start the stage again and again, each time killed within the time of a whole run; returns the number of kills."""
    kills = 0
    while True:
        process = _process(options, store)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0.1, 1.0) * seconds if kills < most else None)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            damaged = verify_store(Store(store)).damaged if store.is_dir() else []
            assert not damaged, damaged
        elif process.returncode == 0:
            return kills
        else:
            raise SystemExit(f"the resumed run failed with status {process.returncode}")


def _process(options: argparse.Namespace, store: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-W", "ignore", "-m", "hoser_kd.cli", "make", options.stage, "--config"]
    return subprocess.Popen(
        [*command, str(options.config), "--store", str(store), "--cuda", "-1"],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


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
