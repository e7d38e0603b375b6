"""Killed runs and flipped bits, few of each; `benchmarks/faults.py` does the same with many, over whole pipelines."""

from __future__ import annotations

import importlib.util
import itertools
import multiprocessing
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
from tiny_town import tiny_town

from hoser_kd.pipeline.run import make_with_inputs
from hoser_kd.pipeline.store import Store
from hoser_kd.pipeline.verification import verify_store


@pytest.fixture(scope="module")
def faults():
    file = Path(__file__).resolve().parents[2] / "benchmarks" / "faults.py"
    spec = importlib.util.spec_from_file_location("faults", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A store with the zones' transitions of the town, and all they depend on."""
    root = tmp_path_factory.mktemp("finished")
    make_with_inputs("zone_transitions", tiny_town(), Store(root))
    return root


def test_every_flipped_bit_of_every_kind_of_file_is_noticed(finished, tmp_path, faults):
    shutil.copytree(finished, tmp_path / "store", ignore=shutil.ignore_patterns(".work"))
    flipped, silent = faults.flip_all(Store(tmp_path / "store"), set(), 4, random.Random(0))
    assert {".arrow", ".parquet", ".npy", ".json", ".png", ".csv"} <= set(flipped)
    assert not silent


def _killed_at_sync(root, number):
    """Make the trips; the process is killed when it syncs a file or folder for the n-th time."""
    real, count = os.fsync, itertools.count(1)

    def sync(handle):
        if next(count) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        real(handle)

    os.fsync = sync
    make_with_inputs("trajectories", tiny_town(), Store(root))


@pytest.mark.parametrize("number", [1, 4, 6])
def test_a_run_that_is_killed_leaves_no_damage_and_the_next_one_ends_with_the_same_files(
    finished, tmp_path, faults, number
):
    root = tmp_path / "store"
    shutil.copytree(finished, root, ignore=shutil.ignore_patterns(".work"))
    shutil.rmtree(root / "town" / "trajectories")
    # forked: the libraries are loaded already
    process = multiprocessing.get_context("fork").Process(target=_killed_at_sync, args=(root, number))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not verify_store(Store(root)).damaged
    make_with_inputs("trajectories", tiny_town(), Store(root))
    assert faults.digests(root) == faults.digests(finished)
