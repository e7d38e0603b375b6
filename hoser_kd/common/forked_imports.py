"""Imports in a process from which others are forked."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def imports_before_fork() -> Iterator[None]:
    """Run imports without garbage collections, and keep what they leave out of later ones, also in forked processes.

    Modules stay, so a collection finds next to nothing to free among them, but takes a fifth of the time of heavy
    imports. A collection in a forked process would copy the pages of every object that it visits.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
