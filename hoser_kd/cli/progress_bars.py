"""Progress on a terminal, or in a few lines of text."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from tqdm import tqdm

from hoser_kd.common.progress import TimedLines


class Bars:
    """Progress bars on a terminal, one at a time, with the remaining time; a few lines of text if there is none."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._task = ""
        self._lines = None if sys.stderr.isatty() else TimedLines(lambda line: sys.stderr.write(f"  {line}\n"))

    def __call__(self, task: str, done: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
        """Update the bar of `task`; it opens at the first call and closes when it is full."""
        if self._lines is not None:
            self._lines(task, done, total, metrics)
            return
        if task == self._task and self._bar is None and done >= total:
            return
        if self._bar is None or task != self._task:
            self.close()
            self._bar, self._task = tqdm(total=total, desc=task, leave=True, dynamic_ncols=True), task
        self._bar.total = total
        if metrics:
            self._bar.set_postfix({name: f"{value:.4g}" for name, value in metrics.items()}, refresh=False)
        self._bar.update(done - self._bar.n)
        if done >= total:
            self.close()

    def close(self) -> None:
        """Close the open bar, if any."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
