"""Local copies of a bucket's artifacts for the servers of `make dev`, which serve a folder.

Belongs here: which artifacts are copied, and when. Does not belong here: the servers, and reading a store.
"""

from __future__ import annotations

import sys
import threading
import time

from hoser_kd.common.errors import HoserKdError
from hoser_kd.pipeline.store import Store

CURVES_S = 60.0
"""Seconds between two looks for new curves."""


class BucketFiles:
    """Copies an artifact to the cache when one of its files is requested."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._complete: set[tuple[str, ...]] = set()

    def provide(self, path: str) -> None:
        """Copy the artifact of a path `<city>/<stage>[/seed-<n>]/<version>/...`, once; other paths do nothing."""
        parts = [part for part in path.split("/") if part]
        seeded = len(parts) > 2 and parts[2].startswith("seed-")
        place = tuple(parts[: 4 if seeded else 3])
        if len(place) < (4 if seeded else 3) or any(part.startswith(".") for part in place):
            return
        number = place[2].removeprefix("seed-") if seeded else None
        if number is not None and not number.isdecimal():
            return
        with self._lock:
            if place in self._complete:
                return
            try:
                seed = None if number is None else int(number)
                if self._store.find(place[1], place[0], place[-1], seed) is not None:
                    self._complete.add(place)
            except HoserKdError as error:
                sys.stderr.write(f"{error}\n")

    def follow_curves(self) -> None:
        """Copy the curves of finished trainings from now on, in a thread that ends with the process."""
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        while True:
            try:
                self._store.copy_folders("tensorboard")
            except HoserKdError as error:
                sys.stderr.write(f"{error}\n")
            time.sleep(CURVES_S)
