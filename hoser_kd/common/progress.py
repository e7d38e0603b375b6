"""Progress reporting by callback.

A callback is called as `progress(stage, done, total, metrics)`; `metrics` holds current values such as the loss.
`silent` is the default everywhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol


class Progress(Protocol):
    """Callback that receives the progress of a stage."""

    def __call__(self, stage: str, done: int, total: int, metrics: Mapping[str, float] | None = None, /) -> None:
        """Report that `done` of `total` units of `stage` are finished."""


def silent(stage: str, done: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
    """Ignore the report."""


class TimedLines:
    """Writes progress as occasional text lines with the remaining time, which keeps logs short."""

    def __init__(self, write: Callable[[str], object], every_s: float = 10.0) -> None:
        """`write` receives at most one line per stage in `every_s` seconds, and one when the stage ends."""
        self._write = write
        self._every_s = every_s
        self._started: dict[str, tuple[float, int]] = {}
        self._last: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
        """Write a line if the stage is finished or its last line is at least `every_s` seconds old."""
        now = time.monotonic()
        if done >= total and stage not in self._started:
            return  # its last line has been written
        # a resumed stage starts above 0, so only units finished since then count for its speed
        started, first = self._started.setdefault(stage, (now, done))
        last = self._last.setdefault(stage, now)
        if done < total and now - last < self._every_s:
            return
        self._last[stage] = now
        line = f"{stage}: {done}/{total}"
        if first < done < total:
            line += f", {duration((now - started) * (total - done) / (done - first))} left"
        if metrics:
            line += ", " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        self._write(line)
        if done >= total:
            self._started.pop(stage)
            self._last.pop(stage)


def duration(seconds: float) -> str:
    """Format seconds as a short text: `42 s`, `3 min 5 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
