"""Progress on a terminal, or in a few lines of text."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial

from tqdm import tqdm

from hoser_kd.common.progress import Progress, TimedLines


class Bars:
    """Progress bars on a terminal, one per stage, with the remaining time; a few lines of text if there is none."""

    def __init__(self) -> None:
        self._bars: dict[str, tuple[str, tqdm]] = {}
        self._finished: dict[str, str] = {}
        self._lines = None if sys.stderr.isatty() else TimedLines(lambda line: sys.stderr.write(f"  {line}\n"))

    def of(self, stage: str) -> Progress:
        """Return the callback of a stage that runs beside others; its name stands before its tasks."""
        return partial(self._update, stage)

    def __call__(self, task: str, done: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
        """Update the bar of `task`; it opens at the first call and closes when it is full."""
        self._update("", task, done, total, metrics)

    def _update(
        self, stage: str, task: str, done: int, total: int, metrics: Mapping[str, float] | None = None, /
    ) -> None:
        title = f"{stage}: {task}" if stage and stage != task else task
        if self._lines is not None:
            self._lines(title, done, total, metrics)
            return
        current, bar = self._bars.get(stage, ("", None))
        if task != current:
            if self._finished.get(stage) == task and done >= total:
                return
            self.close(stage)
            bar = tqdm(total=total, desc=title, leave=True, dynamic_ncols=True)
            self._bars[stage] = task, bar
        assert bar is not None
        bar.total = total
        if metrics:
            bar.set_postfix({name: f"{value:.4g}" for name, value in metrics.items()}, refresh=False)
        bar.update(done - bar.n)
        if done >= total:
            self.close(stage)

    def close(self, stage: str | None = None) -> None:
        """Close the open bar of a stage, or all of them."""
        for name in list(self._bars) if stage is None else self._bars.keys() & {stage}:
            self._finished[name], bar = self._bars.pop(name)
            bar.close()

    @staticmethod
    def write(line: str) -> None:
        """Write a line above the open bars."""
        tqdm.write(line, file=sys.stderr)

    def warn(self, message: str) -> None:
        """Write a warning above the open bars."""
        self.write(f"warning: {message}")
