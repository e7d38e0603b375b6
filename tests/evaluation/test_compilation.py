"""Compiling ahead: what is compiled for a small network serves the generation and evaluation of any city."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys
sys.path[:0] = ["tests", "tests/generation", "."]
import numpy as np
from small_city import grid_network, random_trips
from test_prior import make_model

from hoser_kd.evaluation import _similarity_kernels, compilation, metrics
from hoser_kd.generation import _search_kernels, generator
from hoser_kd.hoser import _path_kernels

MODULES = _similarity_kernels, _search_kernels, _path_kernels
def compiled():
    loops = {(module.__name__, name): loop for module in MODULES for name, loop in vars(module).items()}
    return {key: len(loop.signatures) for key, loop in loops.items() if hasattr(loop, "signatures")}

assert not any(compiled().values())
compilation.compile_loops()
before = compiled()
network = grid_network(6)
real = random_trips(network, 12)
for part in (real.offsets, real.road_ids, real.times):
    part.flags.writeable = False  # as in a mapped file
requests = real.origins, real.start_times, real.destinations
generated = generator.generate(make_model(network), *requests, concurrent=5)
metrics.evaluate(real, generated, network, paired=True, training=random_trips(network, 30, 1))
assert max(generated.expansions) > 32  # the tables of the search have grown
assert compiled() == before, (before, compiled())
"""


def test_nothing_is_compiled_after_compile_loops():
    # another process: in this one, other tests have compiled
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
