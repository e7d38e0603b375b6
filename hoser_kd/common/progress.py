"""Progress of long work, as a callback: the library reports, whoever calls it shows.

A reporter is called as `report(stage, done, total, figures)`; `figures` holds the latest numbers worth
showing (a loss, an accuracy). `silent` is the default everywhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol


class Progress(Protocol):
    """Receives how far a stage of work has come."""

    def __call__(self, stage: str, done: int, total: int, figures: Mapping[str, float] | None = None) -> None:
        """Take note that `done` of `total` units of `stage` are finished."""


def silent(stage: str, done: int, total: int, figures: Mapping[str, float] | None = None) -> None:
    """Show nothing."""


class TimedLines:
    """Progress as occasional text lines with the time left, for logs that must stay short."""

    def __init__(self, write: Callable[[str], object], every_s: float = 10.0) -> None:
        """`write` receives a line at most once in `every_s` seconds a stage, and one when it ends."""
        self._write = write
        self._every_s = every_s
        self._started: dict[str, tuple[float, int]] = {}
        self._last: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int, figures: Mapping[str, float] | None = None) -> None:
        """Write a line if the last one of this stage is old enough, or the stage is done."""
        now = time.monotonic()
        if done >= total and stage not in self._started:
            return  # told already
        # a stage may go on from where an earlier run was: only what is done from here on tells the speed
        started, first = self._started.setdefault(stage, (now, done))
        last = self._last.setdefault(stage, now)
        if done < total and now - last < self._every_s:
            return
        self._last[stage] = now
        line = f"{stage}: {done}/{total}"
        if first < done < total:
            line += f", {duration((now - started) * (total - done) / (done - first))} left"
        if figures:
            line += ", " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self._write(line)
        if done >= total:
            self._started.pop(stage)
            self._last.pop(stage)


def duration(seconds: float) -> str:
    """Return seconds as a short text: `42 s`, `3 min 5 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
