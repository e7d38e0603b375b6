"""Threads of the numerical libraries: their number and how they wait, chosen before torch is imported.

OpenMP reads its environment when torch is imported. Its default is one thread per core, and threads that wait by
spinning: with another process on the same cores, each parallel loop then waits until the spinning thread loses its time
slice. Here threads spin for some microseconds and then sleep. A process gets half of the cores, so that two stages run
side by side: a second thread shortens a training on two cores by an eighth, a second stage by half.

The number of threads changes the rounding of sums. It therefore depends on the machine and the environment only, not on
how many stages run at the same time.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path

NUM_THREADS = "OMP_NUM_THREADS"
JOBS = "HOSER_KD_JOBS"
"""Environment variable: number of stages that run side by side."""

_CHOSEN = "HOSER_KD_CHOSEN_THREADS"
"""Environment variable: the number of threads chosen here, to tell it from one that the user has set."""
_WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0", "GOMP_SPINCOUNT": "3000"}
"""Waiting that soon sleeps: for all OpenMP libraries, for the one of Intel and LLVM, which does not always derive its
block time from the policy, and for that of GNU, whose threads spin for about the time between two parallel loops."""


def choose_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set the number of threads and passive waiting, unless the user has set them; child processes inherit both.

    Call it before torch is imported; afterwards it does nothing.
    """
    if "torch" in sys.modules and environment is os.environ:
        return
    environment.update(thread_settings(environment))


def thread_settings(environment: Mapping[str, str], num_processes: int | None = None) -> dict[str, str]:
    """Return the environment variables for a process that shares the machine with others, `num_processes` in all.

    None: as many as run side by side by default.

    Variables that the user has set are not among them.
    """
    settings: dict[str, str] = {}
    number = environment.get(NUM_THREADS)
    if not number or number == environment.get(_CHOSEN):
        threads = str(max(1, available_cores() // (num_processes or _side_by_side())))
        settings |= {NUM_THREADS: threads, _CHOSEN: threads}
    if not any(environment.get(name) for name in _WAITING):
        settings |= _WAITING
    return settings


def num_jobs(environment: Mapping[str, str] = os.environ) -> int:
    """Return how many stages run side by side: HOSER_KD_JOBS, or as many as the cores have threads for."""
    jobs = _positive(environment.get(JOBS))
    if jobs is not None:
        return jobs
    threads = _positive(environment.get(NUM_THREADS)) or max(1, available_cores() // _side_by_side())
    return max(1, available_cores() // threads)


def _side_by_side() -> int:
    """Return how many stages run at the same time by default."""
    return 2 if available_cores() >= 2 else 1


def available_cores(limit: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Return the number of cores that this process can use: those of its affinity, within the container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = limit.read_text(encoding="ascii").split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no control groups, or no quota ("max")
        return cores


def _positive(text: str | None) -> int | None:
    """Return a number of 1 or more from the text of a variable; None for any other text."""
    first = (text or "").split(",")[0].strip()  # OpenMP allows one number per nesting level
    return int(first) if first.isdecimal() and int(first) > 0 else None
