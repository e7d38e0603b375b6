"""A bounded queue of work for one model: what waits together is computed together, by one thread.

The queue is bounded in requests, so that memory is bounded and a client hears at once that the server is full. Work of
equal keys is merged into one call of the model, up to a number of items.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

Compute = Callable[[Sequence[Any]], list[Any]]
"""Computes the results of items, in their order."""


class QueueFullError(Exception):
    """As many requests wait as may."""


@dataclass
class _Work:
    key: Hashable
    items: Sequence[Any]
    compute: Compute
    result: asyncio.Future[list[Any]]
    queued_at: float = field(default_factory=time.monotonic)


class BatchQueue:
    """Runs work in one thread, batch by batch, in the order of arrival."""

    def __init__(self, max_waiting: int, max_items: int) -> None:
        self._max_waiting, self._max_items = max_waiting, max_items
        self._waiting: deque[_Work] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._task: asyncio.Task[None] | None = None
        self._is_closing = False
        self.batches = 0
        """Calls of the model so far."""
        self.items = 0
        """Items computed so far."""

    @property
    def num_waiting(self) -> int:
        """Requests that wait; those being computed do not count."""
        return len(self._waiting)

    def start(self) -> None:
        """Start in the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Cancel what waits, finish the batch in progress, and end the thread."""
        self._is_closing = True
        for work in self._waiting:
            work.result.cancel()
        self._arrived.set()
        if self._task is not None:
            await self._task
        self._thread.shutdown()

    async def submit(self, key: Hashable, items: Sequence[Any], compute: Compute) -> list[Any]:
        """Return the results of the items, in their order.

        Raises:
            QueueFullError: the maximum number of requests is waiting. Any error of `compute` is raised too.
        """
        if len(self._waiting) >= self._max_waiting or self._is_closing:
            raise QueueFullError
        work = _Work(key, items, compute, asyncio.get_running_loop().create_future())
        self._waiting.append(work)
        self._arrived.set()
        return await work.result

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            batch = self._next_batch()
            if not batch:
                if self._is_closing:
                    return
                self._arrived.clear()
                continue
            items = [item for work in batch for item in work.items]
            try:
                results = await loop.run_in_executor(self._thread, batch[0].compute, items)
            except Exception as error:  # noqa: BLE001  it belongs to the requests, not to the queue
                for work in batch:
                    if not work.result.done():
                        work.result.set_exception(error)
                continue
            self.batches += 1
            self.items += len(items)
            start = 0
            for work in batch:
                if not work.result.done():
                    work.result.set_result(results[start : start + len(work.items)])
                start += len(work.items)

    def _next_batch(self) -> list[_Work]:
        """Remove and return the first work and later work of the same key, as far as it fits."""
        while self._waiting and self._waiting[0].result.done():  # its client is gone, or its time is over
            self._waiting.popleft()
        if not self._waiting:
            return []
        batch, rest = [self._waiting.popleft()], deque[_Work]()
        size = len(batch[0].items)
        while self._waiting:
            work = self._waiting.popleft()
            if work.result.done():
                continue
            if work.key == batch[0].key and size + len(work.items) <= self._max_items:
                batch.append(work)
                size += len(work.items)
            else:
                rest.append(work)
        self._waiting = rest
        return batch
